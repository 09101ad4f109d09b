"""What a fit, and chains, show of how far they are."""

from __future__ import annotations

import time

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.theme import Theme

from pymc_vi_ext.upstream import default_progress_theme

if TYPE_CHECKING:
    from pymc_vi_ext.callbacks import Callback

# The bar is drawn in the fit's own thread and rarely, so that it takes nothing from the fit.
_SECONDS_BETWEEN_DRAWINGS = 0.2
_STEPS_OF_AVERAGE = 1_000


class FitProgress:
    """A bar with the loss, the steps per second and the time left."""

    def __init__(self, progress: Progress, n: int):
        self._progress = progress
        self._task = progress.add_task("Fitting", total=n, loss="", speed="", rules="")
        self._drawn = self._started = time.perf_counter()

    def update(
        self,
        done: int,
        losses: np.ndarray | None,
        callbacks: Sequence[Callback] = (),
        *,
        last: bool = False,
    ) -> None:
        """Show that `done` steps are taken.

        `losses` are those of all steps so far, in nats. The `callbacks` say
        what they measure against their thresholds.
        """
        now = time.perf_counter()
        if not last and now - self._drawn < _SECONDS_BETWEEN_DRAWINGS:
            return
        self._drawn = now
        loss = ""
        if losses is not None and len(losses):
            recent = losses[-_STEPS_OF_AVERAGE:]
            recent = recent[np.isfinite(recent)]
            loss = f"loss {recent.mean():,.5g}" if len(recent) else "loss not finite"
        speed = f"{done / max(now - self._started, 1e-9):,.0f} steps/s"
        rules = "; ".join(filter(None, (c.status for c in callbacks)))
        self._progress.update(self._task, completed=done, loss=loss, speed=speed, rules=rules)
        self._progress.refresh()


class ChainProgress:
    """A line that says what chains are at, and the seconds since they began."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._task = progress.add_task("")
        self._drawn = 0.0

    def say(self, doing: str) -> None:
        """Show what chains are at."""
        self._progress.update(self._task, description=doing)
        self._drawn = 0.0
        self.tick()

    def tick(self) -> None:
        """Let the seconds go on."""
        now = time.perf_counter()
        if now - self._drawn > _SECONDS_BETWEEN_DRAWINGS:
            self._drawn = now
            self._progress.refresh()


class NoProgress:
    """What shows nothing."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def say(self, doing: str) -> None:
        """Do nothing."""

    def tick(self) -> None:
        """Do nothing."""


@contextmanager
def fit_progress(
    n: int, show: bool, theme: Theme = default_progress_theme
) -> Iterator[FitProgress | NoProgress]:
    """Show a bar of `n` steps while the context is open, or nothing where `show` is False."""
    if not show:
        yield NoProgress()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rules]}"),
    )
    console = Console(theme=theme)
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        yield FitProgress(progress, n)


@contextmanager
def chain_progress(show: bool) -> Iterator[ChainProgress | NoProgress]:
    """Show a line while the context is open, or nothing where `show` is False."""
    if not show:
        yield NoProgress()
        return
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(theme=default_progress_theme)
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        yield ChainProgress(progress)
