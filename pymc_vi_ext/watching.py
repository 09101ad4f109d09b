"""Who looks on while fits run: what a dashboard shows of them comes from there.

A watcher is asked for nothing, and a fit is the same bits with and without it: it is shown what the
progress bar is shown, between two calls of the engine, and one that raises is not asked again.
"""

from __future__ import annotations

import contextlib
import functools
import logging

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from pymc.variational.opvi import Approximation

if TYPE_CHECKING:
    from pymc_vi_ext.callbacks import Callback

logger = logging.getLogger(__name__)


class Watcher:
    """What looks on while fits run; each method does nothing by default.

    Of one call of :func:`pymc_vi_ext.fit` steps may begin several times: of several starts, of
    ``method="auto"``, after a NaN.
    """

    def fit_begins(self, given: dict[str, Any]) -> None:
        """See that a fit begins, and what it was given by name."""

    def steps_begin(self, approx: Approximation) -> None:
        """See that the steps of a fit begin, whose state is ``approx.fit_state``."""

    def look(self, losses: np.ndarray | None, steps: int, status: str) -> None:
        """See losses in nats, steps so far, and what rules measure against their thresholds."""

    def fit_ends(self, approx: Approximation | None, error: BaseException | None) -> None:
        """See the result of a fit, with its report, or what it has raised."""


_watchers: list[Watcher] = []
# A fit by `auto` is made of others, which are not the user's.
_inside: ContextVar[bool] = ContextVar("inside a fit", default=False)


def watch(watcher: Watcher) -> None:
    """Let a watcher see all fits of this process from now on."""
    _watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Let a watcher see no more fits."""
    with contextlib.suppress(ValueError):
        _watchers.remove(watcher)


@contextlib.contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let a watcher see the fits of the block."""
    watch(watcher)
    try:
        yield
    finally:
        unwatch(watcher)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Let no watcher see the fits of the block: they are parts of something else."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def is_watched[**P](
    names: Callable[..., dict[str, Any]],
) -> Callable[[Callable[P, Approximation]], Callable[P, Approximation]]:
    """Return a decorator of what fits, whose arguments `names` gives names to."""

    def decorate(fit: Callable[P, Approximation]) -> Callable[P, Approximation]:
        @functools.wraps(fit)
        def watched(*args: P.args, **kwargs: P.kwargs) -> Approximation:
            if not _watchers or _inside.get():
                return fit(*args, **kwargs)
            token = _inside.set(True)
            _tell("fit_begins", names(*args, **kwargs))
            try:
                approx = fit(*args, **kwargs)
            except BaseException as error:
                _tell("fit_ends", getattr(error, "approx", None), error)
                raise
            finally:
                _inside.reset(token)
            _tell("fit_ends", approx, None)
            return approx

        return watched

    return decorate


class Shown:
    """A progress bar, and watchers beside it.

    Parameters
    ----------
    bar : object
        With `update`, as :class:`pymc_vi_ext.progress.FitProgress` has it.
    approx : Approximation
    before : int
        Steps that lie before those of the bar.
    """

    def __init__(self, bar: Any, approx: Approximation, before: int):
        self._bar, self._before = bar, before
        _tell("steps_begin", approx)

    def update(self, done: int, losses: np.ndarray | None, callbacks: Sequence[Callback]) -> None:
        """Show that `done` steps are taken."""
        self._bar.update(done, losses, callbacks)
        if _watchers:
            status = "; ".join(filter(None, (callback.status for callback in callbacks)))
            _tell("look", losses, self._before + done, status)


def _tell(what: str, *found: Any) -> None:
    for watcher in tuple(_watchers):
        try:
            getattr(watcher, what)(*found)
        except Exception:
            logger.warning("%s does not look on any more:", type(watcher).__name__, exc_info=True)
            unwatch(watcher)
