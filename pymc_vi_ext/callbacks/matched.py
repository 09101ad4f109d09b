"""The rule behind ``convergence="default"`` for methods that take large steps: matched averages."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.approximations.start import gaussian, set_gaussian
from pymc_vi_ext.callbacks._base import Callback, positive

# Steps between two looks, before the first check, and how much later each next one is.
_EVERY, _FIRST_CHECK, _GROWTH = 2, 12, 1.25
# Points kept.
_MOST_POINTS = 512


class MatchedStop(Callback):
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

    finds_convergence = True
    wait_until = 0
    _saved = ("means", "covs", "next_check", "gap")

    _rows = ("means", "covs")

    def __init__(self, tolerance: float = 0.01, trust: SharedVariable | None = None):
        self.tolerance = positive("tolerance", tolerance)
        self.trust = trust
        super().__init__(_EVERY)

    def updates(self, approx: Approximation) -> dict[SharedVariable, Any]:
        """Return nothing: the program needs no more than its steps."""
        return {}

    def begin(self, approx: Approximation) -> None:
        """Begin at the present parameters."""

    def average(self) -> np.ndarray | None:
        """Return None: there is no average of parameters but at the end."""
        return None

    @property
    def shortfall(self) -> str:
        """How far the last check was from letting the fit stop."""
        return self._gap or f"fewer than {_FIRST_CHECK} steps"

    def _begin(self) -> None:
        self._means: list[np.ndarray] = []
        self._covs: list[np.ndarray] = []
        self._next_check = _FIRST_CHECK
        self._gap = ""

    def _work(self, approx: Approximation, losses: np.ndarray | None, i: int, steps: int) -> None:
        [group] = approx.groups
        approx.fit_state.sync()
        mean, cov = gaussian(group)
        if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
            return
        if self.trust is not None and self.trust.get_value() < 1:
            self._gap = "the last step was held back: the one before made the loss far higher"
            return
        self._means.append(mean)
        self._covs.append(cov)
        if len(self._means) > _MOST_POINTS:
            del self._means[: _MOST_POINTS // 2], self._covs[: _MOST_POINTS // 2]
        if i < self._next_check or len(self._means) * self.every < _FIRST_CHECK:
            return
        self._next_check = int(i * _GROWTH)
        half, last = len(self._means) // 2, (3 * len(self._means)) // 4
        early, late = self._average(half, last), self._average(last, None)
        change = max(_divergence(early, late), _divergence(late, early))
        self._status = f"averages {change:.2g} nat apart > {self.tolerance:.2g}"
        self._gap = f"averages {change:.2g} nat apart, to be below {self.tolerance:.2g}"
        if change < self.tolerance:
            set_gaussian(group, *self._average(half, None))
            raise StopIteration(
                f"averages over two stretches of {(len(self._means) - last) * self.every} steps "
                f"are {change:.2g} nat apart"
            )

    def _average(self, start: int, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
        return np.mean(self._means[start:stop], axis=0), np.mean(self._covs[start:stop], axis=0)


def _divergence(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> float:
    """Return KL(first || second) of Gaussians, in nats."""
    (m1, c1), (m2, c2) = first, second
    ratio = np.linalg.solve(c2, c1)
    away = np.linalg.solve(c2, m2 - m1) @ (m2 - m1)
    return 0.5 * float(np.trace(ratio) - len(m1) + away - np.linalg.slogdet(ratio)[1])
