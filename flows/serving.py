"""Comparisons on schedules, one at a time, until the process is told to end."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import signal
import threading
import time

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect.runner import Runner
from prefect.schedules import Schedule
from prefect.settings import PREFECT_API_URL, get_current_settings
from prefect.types.entrypoint import EntrypointType

from .compare import compare
from .server import server

# How often a signal is looked for.
_LOOKS_S = 0.2
# A run that is told to end has three seconds to leave what it has, and its table is made then.
_GRACE_S = 20.0


class AlreadyServed(Exception):
    """Another process serves a comparison of that name."""


@dataclass(frozen=True)
class Served:
    """A comparison and when it runs.

    Attributes
    ----------
    name : str
        Of the comparison, and so of its deployment.
    cron, timezone : str
    parameters : dict
        What the flow is called with.
    """

    name: str
    cron: str
    timezone: str
    parameters: dict[str, Any]


def serve(comparisons: Sequence[Served], say: Callable[[str], None]) -> None:
    """Run comparisons on their schedules until SIGTERM or Ctrl-C.

    Parameters
    ----------
    comparisons : sequence of Served
    say : callable
        Called with the address of Prefect's page once they are served.

    Raises
    ------
    AlreadyServed
        If another process of this machine serves one of that name.
    """
    with ExitStack() as stack:
        for comparison in comparisons:
            stack.enter_context(_only_here(comparison.name))
        told = stack.enter_context(_told_to_end())
        url = stack.enter_context(server(scheduling=True))
        runner, served = Runner(limit=1), threading.Event()
        # In a thread, since it would take the signals and cancel the run that it meets, which is
        # told here to leave what it has. In this context, which knows the server.
        work = asyncio.run, _serve(runner, comparisons, served)
        thread = threading.Thread(target=contextvars.copy_context().run, args=work, daemon=True)
        thread.start()
        while not served.wait(_LOOKS_S) and thread.is_alive() and not told.is_set():
            pass
        if served.is_set():
            say(url.removesuffix("/api"))
        while not told.wait(_LOOKS_S) and thread.is_alive():
            pass
        _end_runs()
        if runner.started:
            runner.execute_in_background(runner.astop)
        thread.join(_GRACE_S)


async def _serve(runner: Runner, comparisons: Sequence[Served], served: threading.Event) -> None:
    for each in comparisons:
        await runner.aadd_flow(
            compare,
            name=each.name,
            schedule=Schedule(cron=each.cron, timezone=each.timezone),
            parameters=each.parameters,
            # By its file it would have no package, and find nothing beside it.
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    served.set()
    await runner.start()


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and Ctrl-C set."""
    told = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: told.set()) for number in signals]
    try:
        yield told
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _end_runs() -> None:
    """End the run in progress as Ctrl-C ends `compare`: it keeps and scores what it has."""
    runs = multiprocessing.active_children()
    for run in runs:
        run.terminate()
    deadline = time.monotonic() + _GRACE_S
    for run in runs:
        run.join(max(0.0, deadline - time.monotonic()))
        run.kill()


@contextmanager
def _only_here(name: str) -> Iterator[None]:
    """Keep other processes from serving a comparison of that name on the same Prefect server.

    They would be one deployment, whose parameters are those of the last.
    """
    key = sha256(f"{PREFECT_API_URL.value()} {name}".encode()).hexdigest()[:16]
    path = Path(get_current_settings().home, f"serves-{key}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The system gives it up with the process, however that ends.
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise AlreadyServed(
            f"Another process serves the comparison {name!r}: end that one, or give this one "
            "another name."
        ) from None
    try:
        yield
    finally:
        lock.release()
