"""Stop after some time."""

from __future__ import annotations

import time

from pymc.variational.opvi import Approximation

from pymc_vi_ext.callbacks.callback import Callback, Losses, OutOfTime
from pymc_vi_ext.options import positive


class WallTime(Callback):
    """End a fit after some seconds.

    In :func:`pymc_vi_ext.fit` it looks at the clock after each call of the engine, which takes
    a tenth of a second or one step, and also while a rule evaluates losses between two steps. So a
    fit ends within about a step of its time, however long a step takes. What a method computes
    after its last step (its `conclude`) is not broken off.

    Parameters
    ----------
    seconds : float
        Wall-clock time of the steps, with all that callbacks do between them: from where they begin
        in :func:`pymc_vi_ext.fit`, once all is compiled, and in ``refine``; after the first step
        in :func:`pymc.fit`.
    every : int
        Steps between two looks at the clock, where :func:`pymc.fit` runs them.

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

    at_pauses = True
    _saved = ("elapsed",)

    def __init__(self, seconds: float, every: int = 100):
        self.seconds = positive("seconds", seconds)
        super().__init__(every)

    def _begin(self) -> None:
        self._elapsed: float | None = None
        self._now: float | None = None

    def begin_steps(self) -> None:
        """Count from now."""
        self.clear()
        self._elapsed, self._now = 0.0, time.monotonic()

    def _due(self, i: int) -> bool:
        return self._elapsed is None or super()._due(i)

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        self.check_time(i)

    def check_time(self, i: int) -> None:
        """Add the seconds since the last look; raise OutOfTime where they are too many."""
        now = time.monotonic()
        # After a restart the clock goes on from the seconds before it.
        self._elapsed = (self._elapsed or 0.0) + (0.0 if self._now is None else now - self._now)
        self._now = now
        self._status = f"{self._elapsed:.0f} s of {self.seconds:g} s"
        if self._elapsed >= self.seconds:
            raise OutOfTime(
                self,
                f"{self._elapsed:.1f} s have passed at step {i}, of the {self.seconds:g} s given.",
            )
