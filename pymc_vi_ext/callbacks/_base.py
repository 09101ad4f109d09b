"""What all callbacks share: when they are due, starting anew, their state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pymc.variational import callbacks
from pymc.variational.opvi import Approximation


class Callback(callbacks.Callback):
    """A callback of a fit.

    It is called as ``callback(approx, losses, i)`` after step ``i`` (from 1): at least at each
    multiple of `every`, and it does its work at these only, so that :func:`pymc.fit`, which calls
    at every step, gives the same. `losses` are those of the steps so far in nats, or None where
    the method has none; they may be fewer than ``i`` (PyMC's ``refine`` begins a new array), so
    they are counted from their end. ``raise StopIteration(reason)`` ends the fit.

    One object may serve several fits: where ``i`` is not larger than at its last work, it starts
    anew.

    Parameters
    ----------
    every : int
        Steps between two times of work, at least 1.

    Raises
    ------
    ValueError
        If `every` is not a whole number from 1.
    """

    # Names of what `_begin` sets, without their underscore: all that a restart needs.
    _saved: ClassVar[tuple[str, ...]] = ()
    # Of these, lists of arrays, which are saved as the rows of one.
    _rows: ClassVar[tuple[str, ...]] = ()
    # Whether its StopIteration says that the fit converged; whether it changes the learning rate,
    # or needs one that nothing changes.
    finds_convergence: ClassVar[bool] = False
    changes_rate: ClassVar[bool] = False
    needs_constant_rate: ClassVar[bool] = False
    _last: int
    _status: str

    def __init__(self, every: int):
        self.every = whole_number("every", every)
        self.clear()

    def __call__(self, approx: Approximation, losses: np.ndarray | None, i: int) -> None:
        """Do the work of step `i`, if it is due."""
        if i <= self._last:
            self.clear()
        if not self._due(i):
            return
        steps = i - self._last
        self._last = i
        self._work(approx, losses, i, steps)

    @property
    def status(self) -> str:
        """What was measured last against its threshold; empty before that."""
        return self._status

    def clear(self) -> None:
        """Forget everything seen, as at the start of a fit."""
        self._last = 0
        self._status = ""
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Return all that :meth:`load_state_dict` needs to go on as if nothing had happened.

        Returns
        -------
        dict of str to None, bool, int, float, str, list of these or numpy.ndarray
        """
        state = {name: _copy(getattr(self, f"_{name}")) for name in self._names}
        return state | {name: np.asarray(state[name]) for name in self._rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` of an object with the same options returned.

        Parameters
        ----------
        state : mapping

        Raises
        ------
        ValueError
            If it is the state of another kind of callback.
        """
        self._check_names(state, self._names)
        for name, value in state.items():
            setattr(self, f"_{name}", list(value) if name in self._rows else _copy(value))

    @property
    def _names(self) -> tuple[str, ...]:
        return "last", "status", *self._saved

    def _check_names(self, state: Mapping[str, Any], names: tuple[str, ...]) -> None:
        if set(state) != set(names):
            raise ValueError(
                f"The state of a {type(self).__name__} consists of {', '.join(names)}, "
                f"not of {', '.join(state) or 'nothing'}."
            )

    def _due(self, i: int) -> bool:
        return i % self.every == 0

    def _begin(self) -> None:
        """Set the attributes of `_saved` to their values before the first step."""

    @abstractmethod
    def _work(self, approx: Approximation, losses: np.ndarray | None, i: int, steps: int) -> None:
        """Do the work of step `i`, `steps` after the last time."""

    def _recent(self, losses: np.ndarray | None, steps: int) -> np.ndarray:
        """Return the finite ones of the last `steps` losses."""
        if losses is None:
            raise TypeError(
                f"{type(self).__name__} reads losses, and this fit records none (score=False, or "
                "a method of particles)."
            )
        recent = losses[-steps:]
        return recent[np.isfinite(recent)]


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int, or raise a ValueError where it is not one from `least`."""
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` must be a whole number from {least}, not {value!r}.")
    return int(value)


def positive(name: str, value: Any) -> float:
    """Return `value` as a float, or raise a ValueError where it is not above zero and finite."""
    if not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise ValueError(f"`{name}` must be a positive number, not {value!r}.")
    return float(value)


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    return list(value) if isinstance(value, list | tuple) else value
