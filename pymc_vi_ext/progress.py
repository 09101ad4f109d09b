"""What a fit, and chains, show of how far they are, and in the end of how it went.

In a terminal one line is drawn anew, at most five times a second; in a notebook one output, which
needs no widgets. Elsewhere (a file, a pipe, the log of a CI) there are lines of plain text: after
ten seconds, then every thirty. The last line stays everywhere: how it ended, steps, loss, seconds.
"""

from __future__ import annotations

import sys
import time

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from pymc_vi_ext._show import seconds_shown, shown
from pymc_vi_ext.upstream import default_progress_theme

if TYPE_CHECKING:
    from pymc_vi_ext.callbacks import Callback
    from pymc_vi_ext.results import FitReport

# All is drawn in the fit's own thread and rarely, so that it takes nothing from the fit.
_SECONDS_BETWEEN_DRAWINGS = 0.2
_SECONDS_BEFORE_LINES, _SECONDS_BETWEEN_LINES = 10.0, 30.0
_MOST_STEPS_OF_MEAN, _SHARE_OF_MEAN = 1_000, 10
_BAR = 40  # columns


def mean_at_end(losses: np.ndarray | None) -> float:
    """Return the mean of the last tenth of the losses, of 1,000 at most, NaN where there is none.

    Those that are not finite are left out.
    """
    if losses is None or not len(losses):
        return float("nan")
    last = losses[-max(min(_MOST_STEPS_OF_MEAN, len(losses) // _SHARE_OF_MEAN), 1) :]
    last = last[np.isfinite(last)]
    return float(last.mean()) if len(last) else float("nan")


@dataclass(frozen=True)
class _Line:
    """What is shown at a moment: words, and a bar where it is known how much there is to do."""

    words: str
    done: int = 0
    total: int = 0


class _Screen(Protocol):
    """Where lines are shown; `first` and `pause` are seconds before and between those drawn."""

    first: float
    pause: float

    def show(self, line: _Line) -> None: ...

    def end(self, words: str) -> None: ...


class _Terminal:
    """A line that is drawn anew; what callbacks print goes above it."""

    first = pause = _SECONDS_BETWEEN_DRAWINGS

    def __init__(self, console: Console):
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, line: _Line) -> None:
        words = Text(line.words, no_wrap=True, overflow="ellipsis")
        if not line.total:
            self._live.update(words, refresh=True)
            return
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=line.total, completed=line.done, width=_BAR)
        grid.add_row(bar, words)
        self._live.update(grid, refresh=True)

    def end(self, words: str) -> None:
        self._live.update(Text(words))
        self._live.stop()


class _Notebook:
    """One output of a cell, which is replaced; it takes the colours of its page."""

    first = pause = _SECONDS_BETWEEN_DRAWINGS

    def __init__(self) -> None:
        self._output: Any = None

    def show(self, line: _Line) -> None:
        bar = ""
        if line.total:
            bar = f'<progress value="{line.done}" max="{line.total}"></progress> '
        self._display(bar, line.words)

    def end(self, words: str) -> None:
        self._display("", words)

    def _display(self, bar: str, words: str) -> None:
        from IPython.display import display

        style = "font-family:monospace; white-space:pre-wrap"
        data = {
            "text/plain": words,
            "text/html": f'<div style="{style}">{bar}{escape(words)}</div>',
        }
        if self._output is None:
            self._output = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._output.update(data, raw=True)


class _Log:
    """Lines of plain text, few of them."""

    first, pause = _SECONDS_BEFORE_LINES, _SECONDS_BETWEEN_LINES

    def show(self, line: _Line) -> None:
        print(line.words, flush=True)

    def end(self, words: str) -> None:
        print(words, flush=True)


def _screen(theme: Theme) -> _Screen:
    console = Console(theme=theme)
    if console.is_jupyter:
        return _Notebook()
    # Settings may make rich take a file for a terminal, for its colours: no cursor moves there.
    if console.is_interactive and sys.stdout is not None and sys.stdout.isatty():
        return _Terminal(console)
    return _Log()


class _Progress:
    """Lines on a screen, now and then, and one at the end."""

    def __init__(self, screen: _Screen, name: str):
        self.name = name
        self.ended = False
        self._screen = screen
        self._started = time.perf_counter()
        self._next = self._started + screen.first

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._started

    def end(self, words: str) -> None:
        """Leave a last line, after the name; only the first call does."""
        if not self.ended:
            self.ended = True
            self._screen.end(f"{self.name}: {words}")

    def _due(self, *, at_once: bool = False) -> bool:
        """Tell whether it is time to draw, `at_once` where that is done all the time."""
        now = time.perf_counter()
        if now < self._next and not (at_once and self._screen.pause < 1):
            return False
        self._next = now + self._screen.pause
        return True


class FitProgress(_Progress):
    """Steps, loss, what rules measure; the time left where the number of steps is known."""

    _before = _total = 0
    _is_bound = False

    def say(self, doing: str) -> None:
        """Show what the fit is at before and between its steps."""
        if self._due(at_once=True):
            self._screen.show(_Line(f"{self.name}: {doing}"))

    def begin(self, before: int, n: int, *, is_bound: bool) -> None:
        """Begin with `n` steps, or as many at most, after others that lie before them."""
        self._before, self._total, self._is_bound = before, n, is_bound
        self._begun = time.perf_counter()
        self.say("first steps" if n else "at work")

    def update(
        self, done: int, losses: np.ndarray | None, callbacks: Sequence[Callback] = ()
    ) -> None:
        """Show that `done` steps are taken.

        `losses` are those of all steps so far, in nats. The `callbacks` say
        what they measure against their thresholds.
        """
        if not self._due():
            return
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        of = f" of at most {self._total:,}" if self._is_bound else f" of {self._total:,}"
        left = "" if self._is_bound else _clock(seconds / done * (self._total - done)) + " left"
        loss = mean_at_end(losses)
        parts = [
            f"{self.name}: {done:,}{of} steps",
            _clock(seconds),
            left,
            f"{done / seconds:,.0f} steps/s",
            "" if losses is None or not len(losses) else f"loss {shown(loss)}",
            "; ".join(filter(None, (callback.status for callback in callbacks))),
        ]
        total = 0 if self._is_bound else self._total
        self._screen.show(_Line("  ".join(filter(None, parts)), done, total))

    def finish(self, report: FitReport, seconds: float) -> None:
        """Say how the fit went that took so many seconds."""
        steps = f"{report.steps:,} steps"
        if self._before:
            steps = f"{report.steps - self._before:,} more steps, {steps} in all"
        loss = "" if np.isnan(report.mean_loss) else f"mean loss {shown(report.mean_loss)}"
        parts = [report.outcome, steps if report.steps else "", loss, seconds_shown(seconds)]
        self.end(", ".join(filter(None, parts)))


class ChainProgress(_Progress):
    """What chains are at, and the seconds since they began."""

    _doing = ""

    def say(self, doing: str) -> None:
        """Show what chains are at."""
        self._doing = doing
        self._show(at_once=True)

    def tick(self) -> None:
        """Let the seconds go on."""
        self._show(at_once=False)

    def finish(self, found: str) -> None:
        """Say what came out."""
        self.end(f"{found}, {seconds_shown(self.seconds)}")

    def _show(self, *, at_once: bool) -> None:
        if self._due(at_once=at_once):
            line = f"{self.name}: {self._doing}  {_clock(self.seconds)}"
            self._screen.show(_Line(line))


class NoProgress:
    """What shows nothing."""

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def say(self, doing: str) -> None:
        """Do nothing."""

    def tick(self) -> None:
        """Do nothing."""

    def finish(self, *args: Any) -> None:
        """Do nothing."""


@contextmanager
def fit_progress(
    name: str, show: bool, theme: Theme = default_progress_theme
) -> Iterator[FitProgress | NoProgress]:
    """Show how far a fit is while the context is open, or nothing where `show` is False."""
    if not show:
        yield NoProgress()
        return
    progress = FitProgress(_screen(theme), name)
    with _ending(progress):
        yield progress


@contextmanager
def chain_progress(name: str, show: bool) -> Iterator[ChainProgress | NoProgress]:
    """Show what chains are at while the context is open, or nothing where `show` is False."""
    if not show:
        yield NoProgress()
        return
    progress = ChainProgress(_screen(default_progress_theme), name)
    with _ending(progress):
        yield progress


@contextmanager
def _ending(progress: _Progress) -> Iterator[None]:
    """See that the last line is true too where nobody came to write it."""
    try:
        yield
    except KeyboardInterrupt:
        progress.end(f"interrupted, {seconds_shown(progress.seconds)}")
        raise
    except BaseException as error:
        progress.end(f"failed: {type(error).__name__}, {seconds_shown(progress.seconds)}")
        raise


def _clock(seconds: float) -> str:
    """Write seconds that go on, as 0:01:05."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
