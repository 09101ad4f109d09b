"""Write a fit's progress to a store of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.callbacks.callback import Callback, Losses
from pymc_vi_ext.callbacks.tracker import Tracker

if TYPE_CHECKING:
    from pymc_vi_ext.tracking import tracker as tracking


class TrackerLogger(Callback):
    """Write the loss, and what a :class:`Tracker` records, to a store of runs while a fit goes on.

    Parameters
    ----------
    tracker : pymc_vi_ext.tracking.RunTracker
        The store, as :func:`pymc_vi_ext.tracking.open_tracker` gives it.
    run_id : str
        The run in it to write to.
    values : Tracker, optional
        A callback of the same fit, standing before this one. Single numbers are written under
        their statistic's name, elements of arrays under the name, a slash and their flat index.
    every : int
        Steps between two writes. ``loss`` is the mean over the finite losses between them, in
        nats; without losses it is left out.

    Raises
    ------
    ValueError
        If `every` is not a whole number from 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.callbacks import TrackerLogger
    >>> class Printer:
    ...     def log_series(self, run_id, key, steps, values):
    ...         print(run_id, key, steps, values)
    >>> logger = TrackerLogger(Printer(), "run", every=2)
    >>> for i in range(1, 5):
    ...     logger(None, np.arange(1.0, i + 1), i)
    run loss [2] [1.5]
    run loss [4] [3.5]
    """

    def __init__(
        self,
        tracker: tracking.RunTracker,
        run_id: str,
        values: Tracker | None = None,
        every: int = 1000,
    ):
        self.tracker = tracker
        self.run_id = run_id
        self.values = values
        super().__init__(every)

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        if losses is not None:
            recent = self._recent(losses, steps)
            if recent.size:
                self._write("loss", np.array([i]), recent.mean(keepdims=True))
        if self.values is None:
            return
        new = self.values.to_dataset()
        new = new.isel(step=new.step.values > i - steps)
        for name, array in new.data_vars.items():
            columns = array.values.reshape(new.sizes["step"], int(np.prod(array.shape[1:])))
            for j, column in enumerate(columns.T):
                self._write(f"{name}/{j}" if array.ndim > 1 else str(name), new.step.values, column)

    def _write(self, key: str, steps: np.ndarray, values: np.ndarray) -> None:
        if steps.size:
            self.tracker.log_series(self.run_id, key, steps, values)
