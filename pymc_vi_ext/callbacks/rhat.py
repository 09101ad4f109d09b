"""Stop where the iterates are stationary, and average them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.parameters import flat_parameters, moments, set_parameters
from pymc_vi_ext.callbacks._statistics import split_rhat, standard_error
from pymc_vi_ext.callbacks.callback import Losses, Rule
from pymc_vi_ext.options import positive, whole_number
from pymc_vi_ext.schedules import Schedule
from pymc_vi_ext.state import running

# Trailing windows that are tried, as parts of the iterates kept, longest first. The first ones
# come from before the parameters settled.
_WINDOWS = (0.95, 0.8, 0.65, 0.5, 0.35, 0.2)
_BATCHES = 20
_FEWEST = 4 * _BATCHES  # iterates in a window
_LOOKS = 20  # while the iterates kept double
_BYTES = 100_000_000


class IterateRhat(Rule):
    r"""Stop where the parameters are stationary, and set them to the average of their iterates.

    With a constant learning rate the parameters end up scattering around the optimum. Whether they
    are there is asked of each parameter's iterates as of a Markov chain: the largest split
    :math:`\hat R` over a trailing window (95 % of the iterates down to 20 %) has to be below
    `rhat`. Over such a window the iterates are averaged. Once the Monte Carlo standard error of
    the average is below `mcse` for each mean (in units of the approximation's standard deviation)
    and each log standard deviation, the parameters are set to the average and the fit ends.

    Welandawe et al. use single iterates and thin them. Here memory is bounded by merging
    neighbours into their mean whenever `window` iterates are there, so that none is lost to the
    average, and :math:`\hat R` of such means sees a drift the better the longer the fit. Where
    another callback lowers the learning rate of :func:`pymc_vi_ext.fit`, the iterates before are
    forgotten.

    Parameters
    ----------
    every : int
        Steps between two iterates.
    window : int
        Most iterates kept, from 100. With many parameters it is lowered to keep 100 MB.
    rhat : float
        Threshold, above 1.
    mcse : float
        Threshold of the errors of the average.
    learning_rate : Schedule, optional
        The rate, if it is one of :mod:`pymc_vi_ext.schedules`, to be refused if it falls. In
        :func:`pymc_vi_ext.fit` the optimizer itself is asked.

    Raises
    ------
    ValueError
        If the learning rate falls: parameters then come to rest wherever they are. Or if a
        threshold makes no sense.
    TypeError
        At the first look, if the family is neither mean-field, full-rank nor particles.

    References
    ----------
    Dhaka, A. et al. (2020). Robust, accurate stochastic optimization for variational inference.
    https://arxiv.org/abs/2009.00666

    Welandawe, M. et al. (2024). A framework for improving the reliability of black-box variational
    inference. JMLR 25. https://arxiv.org/abs/2203.15945

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.callbacks import IterateRhat
    >>> rule = IterateRhat(mcse=0.05)
    >>> with pm.Model():
    ...     x = pm.Normal("x", 1.0, 2.0)
    ...     optimizer = pm.adam(learning_rate=0.05)
    ...     approx = vix.fit(
    ...         20_000,
    ...         convergence=None,
    ...         callbacks=[rule],
    ...         obj_optimizer=optimizer,
    ...         random_seed=1,
    ...         progressbar=False,
    ...     )
    >>> approx.report.stopped_by, approx.mean.eval().round()
    ('IterateRhat', array([1.]))
    """

    needs_constant_rate = True
    _saved = ("iterates", "filled", "stride", "sum", "summed", "rate_scale")

    def __init__(
        self,
        every: int = 10,
        window: int = 1000,
        rhat: float = 1.1,
        mcse: float = 0.02,
        learning_rate: Any = None,
    ):
        self.window = whole_number("window", window, least=5 * _LOOKS)
        self.rhat = positive("rhat", rhat)
        if self.rhat <= 1:
            raise ValueError(f"`rhat` must be above 1, its value at stationarity, not {rhat!r}.")
        self.mcse = positive("mcse", mcse)
        _refuse_falling(isinstance(learning_rate, Schedule) and learning_rate.decays)
        super().__init__(every)

    def _begin(self) -> None:
        self._iterates = np.empty((0, 0))
        self._filled = 0  # rows of `iterates` in use
        self._stride = 1  # iterates averaged in a row
        self._sum: np.ndarray | None = None
        self._summed = 0  # iterates in `sum`
        self._rate_scale: float | None = None

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        flat = flat_parameters(approx).astype(float)
        state = running(approx)
        scale = None if state is None else float(state.rate_scale.get_value())
        if scale != self._rate_scale:
            self._begin()
        if not self._iterates.size:
            self._rate_scale = scale
            if state is not None:
                _refuse_falling(state.optimizer.decays)
            moments(approx, flat)  # whether there are any is said at once
            self._iterates = np.empty((self._capacity(flat.size), flat.size))
        if not np.isfinite(flat).all():
            return
        self._sum = flat if self._sum is None else self._sum + flat
        self._summed += 1
        if self._summed < self._stride:
            return
        self._iterates[self._filled] = self._sum / self._summed
        self._filled += 1
        self._sum, self._summed = None, 0
        capacity = len(self._iterates)
        if self._filled == capacity:
            self._filled //= 2
            self._stride *= 2
            self._iterates[: self._filled] = (self._iterates[::2] + self._iterates[1::2]) / 2
        if self._filled % (capacity // _LOOKS) == 0:
            self._judge(approx, i)

    def _capacity(self, size: int) -> int:
        most = max(5 * _LOOKS, min(self.window, _BYTES // (8 * size)))
        return most - most % 2

    def _judge(self, approx: Approximation, i: int) -> None:
        lengths = [int(part * self._filled) // 2 * 2 for part in _WINDOWS]
        windows = [
            self._iterates[self._filled - length : self._filled]
            for length in lengths
            if length >= _FEWEST
        ]
        if not windows:
            return
        rhats = [float(split_rhat(window).max()) for window in windows]
        settled = [j for j, rhat in enumerate(rhats) if rhat < self.rhat]
        if not settled:
            self._status = f"rhat {min(rhats):.2f} ≥ {self.rhat:.2f}"
            return
        # What a window has of the descent before it shows in its error.
        error, best = min((_error(approx, windows[j]), j) for j in settled)
        window, rhat = windows[best], rhats[best]
        below = error < self.mcse
        self._status = (
            f"rhat {rhat:.2f} < {self.rhat:.2f}, mcse {error:.2g} {'<' if below else '≥'} "
            f"{self.mcse:g}"
        )
        if below:
            set_parameters(approx, window.mean(axis=0))
            raise StopIteration(
                f"R-hat of the iterates is {rhat:.3f}, below {self.rhat:g}, over the last "
                f"{len(window) * self._stride * self.every} steps before step {i}, and the "
                f"standard error of their average {error:.3g}, below {self.mcse:g}: the "
                "parameters are set to that average."
            )


def _error(approx: Approximation, iterates: np.ndarray) -> float:
    """Return the largest standard error of their average, in standard deviations and their logs."""
    means, log_sds = moments(approx, iterates)
    scaled = standard_error(means, _BATCHES) / np.exp(log_sds.mean(axis=0))
    return float(max(scaled.max(), standard_error(log_sds, _BATCHES).max()))


def _refuse_falling(decays: bool) -> None:
    if decays:
        raise ValueError(
            "IterateRhat needs a constant learning rate, because with a falling one parameters "
            "come to rest anywhere: take `obj_optimizer=pm.adam(learning_rate=0.01)`, for instance."
        )
