"""PyTensor's own work: one thread at a time, interruptible, without compilers where it can be."""

from __future__ import annotations

import functools
import gc
import threading

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytensor

from pymc_vi_ext.interrupts import allowed, held

if TYPE_CHECKING:
    from pymc.variational.opvi import Approximation

# PyTensor rewrites graphs and compiles in one thread of a process, and its settings are the
# process's. Whoever holds this may take it again.
_LOCK = threading.RLock()
# New objects between two looks for garbage while graphs are built, whose parts refer to each other
# and stay: with Python's own number a tenth of a cold fit is spent on looking.
_BETWEEN_LOOKS = 10_000


class building:  # read as a word: `with building():`
    """Let one thread write graphs and compile them while this context is open.

    Ctrl-C acts at once in it: what is half built is thrown away. Steps run outside of it, so that
    fits in several threads run side by side.
    """

    def __init__(self) -> None:
        self._flags: AbstractContextManager[Any] = nullcontext()
        self._held, self._allowed = held(), allowed()
        self._thresholds = (0, 0, 0)

    def __enter__(self) -> None:
        self._held.__enter__()
        try:
            _LOCK.acquire()
        except BaseException as error:
            self._held.__exit__(type(error))
            raise
        self._thresholds = often, *others = gc.get_threshold()
        if 0 < often < _BETWEEN_LOOKS:
            gc.set_threshold(_BETWEEN_LOOKS, *others)
        self._flags.__enter__()
        try:
            self._allowed.__enter__()
        except BaseException as error:
            self._close(type(error))
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._allowed.__exit__(kind)
        finally:
            self._close(kind)

    def _close(self, kind: type[BaseException] | None) -> None:
        self._flags.__exit__(None, None, None)
        gc.set_threshold(*self._thresholds)
        _LOCK.release()
        self._held.__exit__(kind)


class _Compiler(str):
    """The path of a C++ compiler, empty to one thread for a while.

    PyTensor itself empties ``config.cxx`` for moments in whichever thread writes a model, and puts
    back what it found. A moment that begins while ours is hidden and ends later puts back this,
    which is the path again by then.
    """

    hidden_from: int | None = None

    def __bool__(self) -> bool:
        return len(self) > 0 and self.hidden_from != threading.get_ident()

    def __str__(self) -> str:
        return self  # PyTensor converts what it is given to a string


class _without_compiler:
    """Hide the compiler from this thread, if there is one to hide, and trace no variables."""

    def __init__(self) -> None:
        self._flags = pytensor.config.change_flags(traceback__limit=0)
        self._hidden: _Compiler | None = None

    def __enter__(self) -> None:
        self._flags.__enter__()
        if pytensor.config.cxx:
            self._hidden = _Compiler(pytensor.config.cxx)
            self._hidden.hidden_from = threading.get_ident()
            pytensor.config.cxx = self._hidden

    def __exit__(self, *_: object) -> None:
        self._flags.__exit__()
        if self._hidden is not None:
            self._hidden.hidden_from = None
            if pytensor.config.cxx is self._hidden:
                pytensor.config.cxx = str.__str__(self._hidden)


class python_only(building):
    """Build, and keep PyTensor from calling a C++ compiler in this thread meanwhile.

    What it evaluates while it rewrites a graph, and functions called once, are quicker in Python
    than any compiler starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._flags = _without_compiler()


def sample_alone(approx: Approximation) -> None:
    """Let ``approx.sample``, whose first call compiles, run in one thread at a time."""
    approx.sample = functools.update_wrapper(functools.partial(_sample, approx), approx.sample)


def _sample(approx: Approximation, *arguments: Any, **options: Any) -> Any:
    with building():
        return type(approx).sample(approx, *arguments, **options)
