"""Ctrl-C at moments of the package's choosing, so that it leaves nothing half done.

Python raises KeyboardInterrupt between any two instructions of the main thread: between a compiled
call that has consumed the state of a fit and the assignment of the next, for instance. While
:class:`held` is open an interrupt is noted instead, and acts at the next :func:`check`, inside of
:class:`allowed`, or at the end. It acts by the handler that was there before, whosever that is.

Other threads are never interrupted, and nothing here does anything in them.
"""

from __future__ import annotations

import _thread
import gc
import signal
import threading
import time

from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

# Modules whose functions open and close contexts: none of them is left half open.
_UNDIVIDED = {__name__, "pymc_vi_ext.python_only"}
# An import that is broken off may leave a package that cannot be imported again, as JAX does.
_IMPORTS = "<frozen importlib"
# Finalisers, callbacks of weak references (the library's and numba's) and of the garbage collector
# only print what is raised in them.
_FINALISERS = {"__del__", "_remove", "remove", "on_disposal"}
# How long something undivided is waited for.
_SOON_S = 0.02
# A second Ctrl-C acts at once if it comes so much later: shells and runners send the first twice.
_IMPATIENCE_S = 1.0


@dataclass
class _Keyboard:
    """What the handler knows; the main thread's.

    Attributes
    ----------
    before : callable
        The handler that ours stands for.
    at_once : bool
        Whether an interrupt acts where it comes.
    noted : float or None
        When the one came that has not acted yet.
    again : bool
        Whether the next is that one once more.
    acted : int
        How many have.
    """

    before: Callable[[int, FrameType | None], Any]
    at_once: bool = False
    noted: float | None = None
    again: bool = False
    acted: int = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        second, self.again = self.noted is not None and not self.again, False
        impatient = second and now - (self.noted or now) > _IMPATIENCE_S
        if impatient or (self.at_once and not _undivided(frame)):
            self.act(frame)
            return
        if self.noted is None:
            self.noted = now
        if self.at_once:
            # A plain thread: those of `threading` take locks, which this one may have interrupted.
            _thread.start_new_thread(self.come_again, ())

    def come_again(self) -> None:
        """Interrupt once more, soon, unless the interrupt has been answered by then."""
        time.sleep(_SOON_S)
        # Nothing is called, and so no other thread runs, between the question and the interrupt.
        if self.noted is not None:
            self.again = True
            _thread.interrupt_main()

    def act(self, frame: FrameType | None = None) -> None:
        """Do what an interrupt does: raise KeyboardInterrupt, as a rule."""
        before, self.at_once, self.noted = self.at_once, False, None
        self.acted += 1
        # Raised, it ends what was open to it: the next one is noted again.
        self.before(signal.SIGINT, frame)
        self.at_once = before


def _undivided(frame: FrameType | None) -> bool:
    """Tell whether what runs in `frame` must not be left in the middle."""
    if frame is not None and frame.f_globals.get("__name__") in _UNDIVIDED:
        return True
    collecting = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        code = frame.f_code
        if code.co_name in _FINALISERS or code in collecting:
            return True
        if code.co_filename.startswith(_IMPORTS):
            return True
        frame = frame.f_back
    return False


def _keyboard() -> _Keyboard | None:
    """Return the handler, if it is there and this is the thread that it interrupts."""
    if threading.get_ident() != threading.main_thread().ident:
        return None
    handler = signal.getsignal(signal.SIGINT)
    return handler if isinstance(handler, _Keyboard) else None


def pending() -> bool:
    """Tell whether there was an interrupt that has not acted yet."""
    keyboard = _keyboard()
    return keyboard is not None and keyboard.noted is not None


def check() -> None:
    """Raise KeyboardInterrupt here, if there was an interrupt: nothing is half done."""
    keyboard = _keyboard()
    if keyboard is not None and keyboard.noted is not None:
        keyboard.act()


def take() -> bool:
    """Tell whether there was an interrupt, which the caller answers: it will not act."""
    keyboard = _keyboard()
    if keyboard is None or keyboard.noted is None:
        return False
    keyboard.noted = None
    return True


def terminate(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does: a handler for SIGTERM, by which services are stopped."""
    _thread.interrupt_main(signal.SIGINT)


class held:  # read as a word: `with held():`
    """Note interrupts while this context is open.

    They act at its end, unless it is inside of another. A second one, more than a second after one
    that still waits, acts at once, whatever is lost by that. An interrupt that is ignored, or left
    to the system, stays so.

    Parameters
    ----------
    answer : callable, optional
        Called at the end in place of KeyboardInterrupt, where no exception ends the block: what
        came too late to stop anything must not take the result away.
    """

    def __init__(self, answer: Callable[[], None] | None = None):
        self._answer = answer
        self._keyboard: _Keyboard | None = None
        self._outermost = self._at_once = False

    def __enter__(self) -> None:
        if threading.get_ident() != threading.main_thread().ident:
            return
        handler = signal.getsignal(signal.SIGINT)
        if isinstance(handler, _Keyboard):
            self._at_once, handler.at_once = handler.at_once, False
            self._keyboard = handler
        elif callable(handler):
            keyboard = _Keyboard(handler)
            # From here on, and not before, there is something to take back.
            self._keyboard, self._outermost = keyboard, True
            signal.signal(signal.SIGINT, keyboard)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        keyboard = self._keyboard
        if keyboard is None:
            return
        if not self._outermost:
            keyboard.at_once = self._at_once
            if keyboard.at_once and keyboard.noted is not None:
                self._end(keyboard, kind)
            return
        came, keyboard.noted = keyboard.noted, None
        try:
            # Where somebody has set a handler meanwhile, it stays.
            now: Any = signal.getsignal(signal.SIGINT)
            if now is keyboard:
                signal.signal(signal.SIGINT, keyboard.before)
        except KeyboardInterrupt:
            # Between the last instructions: as if it had come an instruction before.
            came = time.monotonic()
        if came is not None or keyboard.noted is not None:
            self._end(keyboard, kind)

    def _end(self, keyboard: _Keyboard, kind: type[BaseException] | None) -> None:
        if kind is None and self._answer is not None:
            keyboard.noted = None
            self._answer()
        elif kind is None or not issubclass(kind, KeyboardInterrupt):
            keyboard.act()


class allowed:
    """Let interrupts act at once while this context is open, one that was noted before included.

    Where an exception cannot leave (a garbage collector's callback, a finaliser), Python prints
    KeyboardInterrupt and goes on. It is raised again at the end of the block then.

    Parameters
    ----------
    may_be_caught : bool
        Whether code in the block may catch KeyboardInterrupt on purpose, which is respected.

    Attributes
    ----------
    interrupted : bool
        Whether an interrupt came.
    """

    def __init__(self, *, may_be_caught: bool = False):
        self._may_be_caught = may_be_caught
        self._keyboard: _Keyboard | None = None
        self._at_once, self._acted = False, 0

    def __enter__(self) -> allowed:
        self._keyboard = keyboard = _keyboard()
        if keyboard is not None:
            self._at_once, self._acted = keyboard.at_once, keyboard.acted
            keyboard.at_once = True
            if keyboard.noted is not None:
                keyboard.act()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        keyboard = self._keyboard
        if keyboard is None:
            return
        keyboard.at_once = self._at_once
        lost = self.interrupted and not self._may_be_caught
        if kind is None and (lost or keyboard.noted is not None):
            keyboard.act()

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt acted in the block so far."""
        return self._keyboard is not None and self._keyboard.acted > self._acted
