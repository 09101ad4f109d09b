"""PyMC's rule: stop where the parameters hardly change."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.parameters import flat_parameters, moments
from pymc_vi_ext.callbacks.callback import Losses, Rule
from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.options import positive, whole_number
from pymc_vi_ext.upstream import absolute, relative

_DIFFERENCES = ("absolute", "relative", "scaled")


class CheckParametersConvergence(Rule):
    r"""Stop where the parameters change by less than a tolerance between two looks.

    Takes the place of PyMC's callback of that name, stops where that stops, and has one difference
    more. Noise moves parameters for ever, by about the learning rate; a falling rate makes any
    such rule fire. :class:`IterateRhat` is for fits with a constant rate, and :class:`LossPlateau`
    for any.

    Parameters
    ----------
    every : int
        Steps between two looks.
    tolerance : float
        The rule fires where the norm of the change is below it.
    diff : {"relative", "absolute", "scaled"}
        ``"relative"`` is :math:`(|\Delta\lambda| + 10^{-6}) / (|\lambda| + 10^{-6})` and
        ``"absolute"`` :math:`|\Delta\lambda|` over all variational parameters :math:`\lambda`, as
        in PyMC. ``"scaled"`` takes the change of the means in units of the standard deviations of
        the approximation, and of the logarithms of these: no unit of the model enters, and a mean
        near zero is not harder than another.
    ord : int, float or str
        Which norm, as in :func:`numpy.linalg.norm`; by default the largest change counts.

    Raises
    ------
    UnknownNameError
        If there is no such `diff`; a ValueError and a KeyError.
    ValueError
        If `tolerance` is not positive or `every` not a whole number from 1.
    TypeError
        At the first look, with ``"scaled"`` and a family whose means and standard deviations are
        not known: neither mean-field, full-rank nor particles.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.callbacks import CheckParametersConvergence
    >>> rule = CheckParametersConvergence(tolerance=0.05, diff="scaled")
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     approx = vix.fit(
    ...         10_000, convergence=None, random_seed=1, callbacks=[rule], progressbar=False
    ...     )
    >>> approx.report.stopped_by
    'CheckParametersConvergence'
    """

    _saved = ("prev", "prev_step")

    def __init__(
        self, every: int = 100, tolerance: float = 1e-3, diff: str = "relative", ord: Any = np.inf
    ):
        if diff not in _DIFFERENCES:
            raise UnknownNameError("diff", diff, _DIFFERENCES)
        self.tolerance = positive("tolerance", tolerance)
        self.diff = diff
        self.ord = ord
        super().__init__(whole_number("every", every))

    def _begin(self) -> None:
        self._prev: np.ndarray | None = None
        self._prev_step = 0

    def _due(self, i: int) -> bool:
        # PyMC's takes its first parameters wherever it is called first: after step 1 in pm.fit.
        return self._prev is None or super()._due(i)

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        current, previous = flat_parameters(approx), self._prev
        since, self._prev, self._prev_step = self._prev_step, current, i
        if previous is None:
            if self.diff == "scaled":
                moments(approx, current)  # whether there are any is said at once
            return
        if self.diff == "scaled":
            change = _scaled(approx, current, previous)
        else:
            change = (relative if self.diff == "relative" else absolute)(current, previous)
        norm = float(np.linalg.norm(change, self.ord))
        below = norm < self.tolerance
        self._status = f"change {norm:.2g} {'<' if below else '≥'} {self.tolerance:g}"
        if below:
            raise StopIteration(
                f"The parameters changed by {norm:.3g} ({self.diff}) from step {since} to {i}, "
                f"less than the tolerance {self.tolerance:g}."
            )


def _scaled(approx: Approximation, current: np.ndarray, previous: np.ndarray) -> np.ndarray:
    means, log_sds = moments(approx, np.stack([previous, current]))
    # Without spread there is no unit: the change is not finite, and the rule does not fire.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.abs(
            np.concatenate([(means[1] - means[0]) / np.exp(log_sds[1]), log_sds[1] - log_sds[0]])
        )
