"""Stop where a number has not improved for some time, and go back to its best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pymc.variational import callbacks
from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.parameters import flat_parameters, set_parameters
from pymc_vi_ext.callbacks._signatures import call, number_of_arguments
from pymc_vi_ext.callbacks.callback import Callback, Losses
from pymc_vi_ext.callbacks.tracker import Tracker
from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.options import whole_number


class EarlyStopping(Callback):
    """Stop where a monitored number has not improved for some looks, and restore its best.

    The loss of a fit is noisy: its best value is partly luck, and the rule then fires early while
    the loss still falls slowly. It is meant for numbers computed on held-out data, or for means
    over many steps (a large `every`); :class:`LossPlateau` knows about noise.

    Parameters
    ----------
    monitor : str, callable, or pair of Tracker and str
        ``"loss"`` is the mean of the losses since the last look, in nats. A function of
        ``(approx)`` or ``(approx, losses, i)`` returns the number. ``(tracker, "name")``, or
        ``"name"`` with `tracker`, is the value a :class:`Tracker` recorded last.
    patience : int
        Looks in a row without improvement after which the fit ends.
    min_delta : float
        An improvement is one by more than this.
    every : int
        Steps between two looks.
    restore_best : bool
        Whether to set the variational parameters to those of the best look.
    mode : {"min", "max"}
        Whether less or more is better.
    tracker : Tracker, optional
        Whose values `monitor` names.

    Raises
    ------
    UnknownNameError
        A ValueError: if there is no such value to monitor, or `mode`, naming the known ones.
    ValueError
        If options contradict each other or make no sense, or the tracker has not recorded anything
        at the first look.
    TypeError
        If `monitor` cannot be called in either way; at the first look, if the loss is monitored
        and the fit records none, or a monitored value is not a number.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.callbacks import EarlyStopping
    >>> def held_out(approx):
    ...     return float((approx.groups[0].params_dict["mu"].get_value()[0] - 1.0) ** 2)
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0)
    ...     rule = EarlyStopping(held_out, patience=3, every=10)
    ...     approx = vix.fit(
    ...         1000, convergence=None, callbacks=[rule], random_seed=1, progressbar=False
    ...     )
    >>> approx.report.stopped_by
    'EarlyStopping'
    """

    _saved = ("best", "best_step", "best_parameters", "waited")

    def __init__(
        self,
        monitor: str | Callable[..., Any] | tuple[Any, str] = "loss",
        patience: int = 10,
        min_delta: float = 0.0,
        every: int = 100,
        restore_best: bool = True,
        mode: str = "min",
        tracker: Any = None,
    ):
        if mode not in ("min", "max"):
            raise UnknownNameError("mode", mode, ("min", "max"))
        if not 0 <= min_delta < np.inf:
            raise ValueError(f"`min_delta` must be a number from 0, not {min_delta!r}.")
        self._read = _reader(monitor, tracker)
        if self._read is None and mode == "max":
            raise ValueError('`mode="max"` contradicts `monitor="loss"`: a loss is better if less.')
        self.monitor = monitor
        self.patience = whole_number("patience", patience)
        self.min_delta = float(min_delta)
        self.restore_best = restore_best
        self.mode = mode
        super().__init__(every)

    def _begin(self) -> None:
        self._best: float | None = None
        self._best_step = 0
        self._best_parameters: np.ndarray | None = None
        self._waited = 0

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        if self._read is None:
            recent = self._recent(losses, steps)
            value = float(recent.mean()) if recent.size else np.nan
        else:
            value = _number(self._read(approx, losses, i))
        if not np.isfinite(value):
            return
        sign = 1.0 if self.mode == "min" else -1.0
        if self._best is None or sign * (self._best - value) > self.min_delta:
            self._best, self._best_step, self._waited = value, i, 0
            if self.restore_best:
                self._best_parameters = flat_parameters(approx)
        else:
            self._waited += 1
        self._status = f"best {self._best:.5g}, {self._waited} of {self.patience} looks ago"
        if self._waited >= self.patience:
            if self._best_parameters is not None:
                set_parameters(approx, self._best_parameters)
            raise StopIteration(
                f"No value better than {self._best:.5g} of step {self._best_step} in "
                f"{self.patience} looks up to step {i}"
                + (", whose parameters are restored." if self.restore_best else ".")
            )


def _reader(monitor: Any, tracker: Any) -> Callable[..., Any] | None:
    """Return ``(approx, losses, i) -> value``, or None for the loss."""
    if isinstance(monitor, str) and tracker is not None and monitor != "loss":
        return _tracked(tracker, monitor)
    if tracker is not None:
        raise ValueError(
            "`tracker` is where a monitor given by name is looked up: leave it out with "
            f"`monitor={monitor!r}`."
        )
    if isinstance(monitor, str):
        if monitor != "loss":
            raise UnknownNameError(
                "monitor", monitor, ["loss", "a value of a Tracker given as `tracker`"]
            )
        return None
    if isinstance(monitor, tuple) and len(monitor) == 2:
        return _tracked(*monitor)
    count = number_of_arguments(monitor, (1, 3), "`monitor`")
    return lambda *arguments: call(monitor, count, arguments)


def _tracked(tracker: Any, name: str) -> Callable[..., Any]:
    if not isinstance(tracker, Tracker | callbacks.Tracker):
        raise TypeError(f"The monitor {name!r} is looked up in a Tracker, not in {tracker!r}.")
    if name not in tracker.whatchdict:
        raise UnknownNameError("monitor", name, ["loss", *tracker.whatchdict])

    def last(*_: Any) -> Any:
        values = tracker[name]
        if not values:
            raise ValueError(
                f"The tracker of the monitor {name!r} has recorded nothing yet: it belongs among "
                "the callbacks too, before EarlyStopping and with an `every` that is no larger."
            )
        return values[-1]

    return last


def _number(value: Any) -> float:
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise TypeError(f"A monitored value must be a single number, not {value!r}.") from None
