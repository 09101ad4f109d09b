"""Comparisons on schedules, one at a time, until the process is told to end."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
import signal
import threading
import time

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from filelock import FileLock, Timeout
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.runner import Runner
from prefect.schedules import Schedule
from prefect.settings import PREFECT_API_URL, get_current_settings
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from .compare import compare
from .server import server

# How often a signal is looked for.
_LOOKS_S = 0.2
# A run that is told to end has three seconds to leave what it has, and its table is made then.
_GRACE_S = 60.0


class AlreadyServed(Exception):
    """Another process serves a comparison of that name."""


class ServerLost(Exception):
    """Prefect's server does not answer, or not any more."""


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
    ServerLost
    """
    ours = not PREFECT_API_URL.value()
    with ExitStack() as stack:
        for comparison in comparisons:
            stack.enter_context(_only_here(comparison.name))
        told = stack.enter_context(_told_to_end())
        url = stack.enter_context(server(scheduling=True))
        runner, served = Runner(limit=1), threading.Event()
        # In a thread, since it would take the signals and cancel the run that it meets, which is
        # told here to leave what it has. In this context, which knows the server.
        thread = ThreadPoolExecutor(1)
        work = _serve(runner, comparisons, served, ours)
        ended = thread.submit(contextvars.copy_context().run, asyncio.run, work)
        while not (served.wait(_LOOKS_S) or told.is_set() or ended.done()):
            pass
        if served.is_set():
            say(url.removesuffix("/api"))
        while not (told.wait(_LOOKS_S) or ended.done()):
            pass
        _end_runs()
        if runner.started:
            runner.execute_in_background(runner.astop)
        wait([ended], _GRACE_S)
        if not ended.done():
            os._exit(1)  # there is nothing to be lost, and the thread would be waited for
        if error := ended.exception():
            raise ServerLost(
                f"Prefect's server {url} is lost ({type(error).__name__}): start both again."
            )


async def _serve(
    runner: Runner, comparisons: Sequence[Served], served: threading.Event, ours: bool
) -> None:
    deployments = [
        await runner.aadd_flow(
            compare,
            name=each.name,
            schedule=Schedule(cron=each.cron, timezone=each.timezone),
            parameters=each.parameters,
            # By its file it would have no package, and find nothing beside it.
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for each in comparisons
    ]
    if ours:
        await _end_lost(deployments)
    served.set()
    await runner.start()


async def _end_lost(deployments: Sequence[UUID]) -> None:
    """End what Prefect still takes as running: what has served it was killed, since we serve it."""
    going_on = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    lost = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=list(deployments)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=going_on)),
    )
    async with get_client() as client:
        for run in await client.read_flow_runs(flow_run_filter=lost):
            state: State[Any] = Crashed(message="What served it was killed.")
            await client.set_flow_run_state(run.id, state, force=True)


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
