"""The rule behind ``convergence="default"`` for methods that take large steps: matched averages."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.approximations.gaussians import kind_of
from pymc_vi_ext.callbacks.callback import Losses, Rule
from pymc_vi_ext.options import positive
from pymc_vi_ext.state import running

# Steps between two looks, before the first check, and how much later each next one is.
_EVERY, _FIRST_CHECK, _GROWTH = 2, 12, 1.25
# Points kept.
_MOST_POINTS = 512


class MatchedStop(Rule):
    r"""Stop when the averages over two stretches of steps are the same Gaussian.

    Of the steps so far the third and the last quarter are averaged, means and covariances. The fit
    stops when the larger of the two Kullback-Leibler divergences between these Gaussians is below
    the tolerance; the average over both is the result.

    Parameters
    ----------
    tolerance : float
        In nats.
    trust : SharedVariable, optional
        Steps that leave it below 1 were held back, and do not count.

    Attributes
    ----------
    every : int
        2: steps between two looks.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.fit(method="bam", random_seed=1, progressbar=False)
    >>> approx.report.stop_reason.value, approx.report.stopped_by
    ('converged', 'MatchedStop')
    """

    _saved = ("points", "next_check", "gap")

    _rows = ("points",)

    def __init__(self, tolerance: float = 0.01, trust: SharedVariable | None = None):
        self.tolerance = positive("tolerance", tolerance)
        self.trust = trust
        super().__init__(_EVERY)

    @property
    def shortfall(self) -> str:
        """How far the last check was from letting the fit stop."""
        return self._gap or f"fewer than {_FIRST_CHECK} steps"

    def _begin(self) -> None:
        self._points: list[np.ndarray] = []
        self._next_check = _FIRST_CHECK
        self._gap = ""

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        [group] = approx.groups
        if state := running(approx):
            state.sync()
        kind: Any = kind_of(group)
        point = np.concatenate([part.ravel() for part in kind.of(group)])
        if not np.isfinite(point).all():
            return
        if self.trust is not None and self.trust.get_value() < 1:
            self._gap = "the last step was held back: the one before made the loss far higher"
            return
        self._points.append(point)
        if len(self._points) > _MOST_POINTS:
            del self._points[: _MOST_POINTS // 2]
        if i < self._next_check or len(self._points) * self.every < _FIRST_CHECK:
            return
        self._next_check = int(i * _GROWTH)
        half, last = len(self._points) // 2, (3 * len(self._points)) // 4
        points = [kind.from_flat(flat, group.ddim) for flat in self._points[half:]]
        early, late = kind.average(points[: last - half]), kind.average(points[last - half :])
        try:
            change = max(early.divergence(late), late.divergence(early))
        except np.linalg.LinAlgError:
            change = np.inf
        self._status = f"averages {change:.2g} nat apart > {self.tolerance:.2g}"
        self._gap = f"averages {change:.2g} nat apart, to be below {self.tolerance:.2g}"
        if change < self.tolerance:
            kind.average(points).set(group)
            raise StopIteration(
                f"averages over two stretches of {(len(self._points) - last) * self.every} steps "
                f"are {change:.2g} nat apart"
            )
