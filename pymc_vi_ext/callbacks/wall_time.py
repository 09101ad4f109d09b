"""Stop after some time."""

from __future__ import annotations

import time

from pymc.variational.opvi import Approximation

from pymc_vi_ext.callbacks.callback import Callback, Losses
from pymc_vi_ext.options import positive


class WallTime(Callback):
    """End a fit after some seconds.

    Parameters
    ----------
    seconds : float
        Wall-clock time from the first call in a fit: in :func:`pymc.fit` after the first step, in
        :func:`pymc_vi_ext.fit`, which compiles before that, after the first `every`.
    every : int
        Steps between two looks at the clock.

    Raises
    ------
    ValueError
        If `seconds` is not positive or `every` not a whole number from 1.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.callbacks import WallTime
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     approx = vix.fit(10**7, convergence=None, callbacks=[WallTime(0.1)], progressbar=False)
    >>> approx.report.stopped_by
    'WallTime'
    """

    _saved = ("elapsed",)

    def __init__(self, seconds: float, every: int = 100):
        self.seconds = positive("seconds", seconds)
        super().__init__(every)

    def _begin(self) -> None:
        self._elapsed: float | None = None
        self._now: float | None = None

    def _due(self, i: int) -> bool:
        return self._elapsed is None or super()._due(i)

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        now = time.monotonic()
        # After a restart the clock goes on from the seconds before it.
        self._elapsed = (self._elapsed or 0.0) + (0.0 if self._now is None else now - self._now)
        self._now = now
        self._status = f"{self._elapsed:.0f} s of {self.seconds:g} s"
        if self._elapsed >= self.seconds:
            raise StopIteration(
                f"{self._elapsed:.1f} s have passed at step {i}, of the {self.seconds:g} s given."
            )
