"""The contract of callbacks and of stopping rules, and the adapter for anybody else's functions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from pymc.variational import callbacks
from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.interrupts import allowed
from pymc_vi_ext.options import whole_number


class Unsettled(StopIteration):
    """What a rule raises to end a fit that would not converge, however long it went on.

    Parameters
    ----------
    reason : str
    outside : bool
        Whether it is that some of the result's mass has an infinite loss.

    Examples
    --------
    >>> from pymc_vi_ext.callbacks.callback import Unsettled
    >>> reason = Unsettled("half of the mass has no density", outside=True)
    >>> str(reason), reason.outside
    ('half of the mass has no density', True)
    """

    def __init__(self, reason: str, outside: bool = False):
        super().__init__(reason)
        self.outside = outside


class OutOfTime(StopIteration):
    """What a callback raises to end a fit wherever it is, in the middle of another callback too.

    Parameters
    ----------
    callback : Callback
        Which ends it.
    reason : str

    Examples
    --------
    >>> from pymc_vi_ext.callbacks import WallTime
    >>> from pymc_vi_ext.callbacks.callback import OutOfTime
    >>> OutOfTime(WallTime(60), "60.1 s have passed").callback.name
    'WallTime'
    """

    def __init__(self, callback: Callback, reason: str):
        super().__init__(reason)
        self.callback = callback


Losses = np.ndarray | None
"""Losses of the steps so far in nats, of shape (i,); None where the method has none."""


class Callback(callbacks.Callback):
    """A callback of a fit.

    It is called as ``callback(approx, losses, i)`` after step ``i`` (from 1): at least at each
    multiple of `every`, and it does its work at these only, so that :func:`pymc.fit`, which calls
    at every step, gives the same. `losses` are those of the steps so far in nats, or None where
    the method has none; they may be fewer than ``i`` (PyMC's ``refine`` begins a new array), so
    they are counted from their end. ``raise StopIteration(reason)`` ends the fit.

    Ctrl-C waits until it returns, so that what it remembers belongs together. (In a plain function
    it acts at once.)

    One object may serve several fits: where ``i`` is not larger than at its last work, it starts
    anew.

    A subclass gives `_work`, and `_begin` for what it remembers; the names of that in `_saved` make
    :class:`Checkpoint` keep it.

    Parameters
    ----------
    every : int
        Steps between two times of work, at least 1.

    Attributes
    ----------
    finds_convergence : bool
        Whether its StopIteration says that the fit has converged.
    changes_rate, needs_constant_rate : bool
        Whether it changes the learning rate, or needs one that nothing changes.
    keeps_state : bool
        Whether a checkpoint saves its state.
    comes_last : bool
        Whether it is called after all others of a step, whose states belong to that step then.
    at_pauses : bool
        Whether it is called wherever the steps pause by themselves, about ten times a second, and
        not at multiples of `every`; it makes them pause nowhere.

    Raises
    ------
    ValueError
        If `every` is not a whole number from 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.callbacks import Callback
    >>> class Announce(Callback):
    ...     def _work(self, approx, losses, i, steps):
    ...         print(f"step {i}: {losses[-1]} nats")
    >>> announce = Announce(every=2)
    >>> announce(None, np.array([3.0]), 1)
    >>> announce(None, np.array([3.0, 2.5]), 2)
    step 2: 2.5 nats
    """

    # Names of what `_begin` sets, without their underscore: all that a restart needs.
    _saved: ClassVar[tuple[str, ...]] = ()
    # Of these, lists of arrays, which are saved as the rows of one.
    _rows: ClassVar[tuple[str, ...]] = ()
    finds_convergence: ClassVar[bool] = False
    changes_rate: ClassVar[bool] = False
    needs_constant_rate: ClassVar[bool] = False
    keeps_state: ClassVar[bool] = True
    comes_last: ClassVar[bool] = False
    at_pauses: bool = False
    _last: int
    _status: str

    def __init__(self, every: int):
        self.every = whole_number("every", every)
        self.clear()

    def __call__(self, approx: Approximation, losses: Losses, i: int) -> None:
        """Do the work of step `i`, if it is due."""
        if i <= self._last:
            self._begin_again()
        if not self._due(i):
            return
        steps = i - self._last
        self._last = i
        self._work(approx, losses, i, steps)

    @property
    def name(self) -> str:
        """What reports and messages call it."""
        return type(self).__name__

    @property
    def status(self) -> str:
        """What was measured last against its threshold; empty before that."""
        return self._status

    def begin_steps(self) -> None:
        """Know that steps begin: those of a fit, of ``refine``, or after a checkpoint."""

    def check_time(self, i: int) -> None:
        """Raise :class:`OutOfTime` where the fit has to end now.

        Asked wherever the steps pause, about ten times a second, and between the calls of the
        engine in which a rule evaluates losses.

        Parameters
        ----------
        i : int
            The last step.
        """

    def recover(self, approx: Approximation, losses: Losses, i: int, problem: str) -> bool:
        """Go back to where the fit was sound; the fit asks each callback in turn after a NaN.

        Parameters
        ----------
        approx : Approximation
        losses : array or None
        i : int
            The step of the NaN.
        problem : str
            Names the variables and indices.

        Returns
        -------
        bool
            Whether it did. The fit fails where nobody does.
        """
        return False

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

    def _begin_again(self) -> None:
        """Begin another fit; what is kept of those before is the subclass's choice."""
        self.clear()

    def _due(self, i: int) -> bool:
        return i % self.every == 0

    def _begin(self) -> None:
        """Set the attributes of `_saved` to their values before the first step."""

    @abstractmethod
    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        """Do the work of step `i`, `steps` after the last time."""

    def _recent(self, losses: Losses, steps: int) -> np.ndarray:
        """Return the finite ones of the last `steps` losses."""
        if losses is None:
            raise TypeError(
                f"{type(self).__name__} reads losses, and this fit records none (score=False, or "
                "a method of particles)."
            )
        recent = losses[-steps:]
        return recent[np.isfinite(recent)]


class Rule(Callback):
    """A callback that judges whether a fit has converged: what ``convergence=`` takes.

    It raises StopIteration where it finds that, and may have set the variational parameters to the
    result before. All that a rule may say besides has a default here.

    Parameters
    ----------
    every : int
        Steps between two judgements, at least 1.

    Attributes
    ----------
    part_of_step : bool
        Whether it adds to the step (`updates`), and so has to be known before that is compiled. A
        fit has one such rule at most, ``convergence=`` or one of its callbacks.
    looks_outside : bool
        Whether it finds no convergence where mass of the result has an infinite loss. The fit looks
        itself after those that do not.
    wait_until : int
        Until this step the objective itself changes, and there is nothing to judge; the fit sets
        it.
    """

    finds_convergence = True
    part_of_step: ClassVar[bool] = False
    looks_outside: ClassVar[bool] = False
    wait_until: int = 0

    def updates(self, approx: Approximation) -> dict[SharedVariable, Any]:
        """Return what a step adds for it: shared variables and their next values."""
        return {}

    def serves(self, approx: Approximation) -> bool:
        """Tell whether its last `updates` were for `approx`: one object may serve several."""
        return True

    def begin(self, approx: Approximation) -> None:
        """Begin a fit at the present parameters."""

    def average(self) -> np.ndarray | None:
        """Return the best flat vector of parameters so far, (size,); None for those of the step.

        The fit asks for it wherever it ends and no callback has set the parameters: after its last
        step, after Ctrl-C, where another callback stops it, or fails.
        """
        return None

    @property
    def shortfall(self) -> str:
        """How far the last look was from letting the fit stop."""
        return self.status or "no look yet"


class Plain(Callback):
    """Anybody's ``f(approx, losses, i)``, PyMC's callbacks included, as a callback of this package.

    Parameters
    ----------
    function : callable
        Called at every step, or at every multiple of its attribute `every` where it has one.

    Raises
    ------
    TypeError
        If it cannot be called.
    ValueError
        If its `every` is not a whole number from 1.
    """

    keeps_state = False

    def __init__(self, function: Callable[[Approximation, Losses, int], Any]):
        if not callable(function):
            raise TypeError(
                f"A callback is called as f(approx, losses, i); {function!r} cannot be."
            )
        self.function = function
        # What a function of the user's may say of itself, and all that is ever asked of one.
        every = getattr(function, "every", 1)
        self._name = getattr(function, "__name__", type(function).__name__)
        if not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(
                f"{self._name}.every must be a whole number of steps from 1, not {every!r}."
            )
        super().__init__(int(every))

    @property
    def name(self) -> str:
        """Name of the function, or of the class of the object."""
        return self._name

    def __call__(self, approx: Approximation, losses: Losses, i: int) -> None:
        """Call the function, which may hang: Ctrl-C acts in it at once."""
        with allowed(may_be_caught=True):
            self.function(approx, losses, i)

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        """Do nothing: `__call__` is all."""


def as_callbacks(given: Sequence[Any] | None) -> list[Callback]:
    """Return callbacks as the fit calls them, whoever's they are.

    Raises
    ------
    TypeError
        If one cannot be called.
    ValueError
        If an `every` is no whole number from 1.
    """
    return [c if isinstance(c, Callback) else Plain(c) for c in given or ()]


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    return list(value) if isinstance(value, list | tuple) else value
