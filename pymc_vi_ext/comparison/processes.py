"""A run in a process of its own: it may hang, crash or be killed, and is one row of the table."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymc_vi_ext.comparison.checkpoints import forget_checkpoints
from pymc_vi_ext.comparison.live import LIVE, LiveFile
from pymc_vi_ext.comparison.methods import MethodSpec
from pymc_vi_ext.comparison.runner import not_run, run_method, without_draws
from pymc_vi_ext.comparison.storage import RESULT, clear_parts, load_result, save_result
from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.errors import INTERRUPT
from pymc_vi_ext.interrupts import terminate
from pymc_vi_ext.watching import watched_by

if TYPE_CHECKING:
    from pymc_vi_ext.comparison.config import ComparisonConfig

# What all processes have in common, imported once. JAX has no threads before its first use.
_PRELOADED = [
    "pymc_vi_ext.comparison.processes",
    "pymc_vi_ext.comparison.config",
    "pymc_vi_ext.fitting",
    "jax",
    # PyTensor's translations to JAX, and what xarray looks for when it writes draws: half a second
    # of each run.
    "pytensor.link.jax.dispatch",
    "sparse",
    "h5netcdf",
]
# How often the parent looks whether it should go on, and how long a run that is interrupted may
# take to leave what it has.
_LOOKS_S, _GRACE_S = 0.1, 3.0
# Before a process that was killed is run once more: memory may be free again by then.
_PAUSE_S = 5.0
OUTPUT = "output.txt"
"""What the process printed, in the folder of the run."""
# So much of its end is told where there is nothing else to tell.
_LAST = 2_000


@dataclass(frozen=True)
class Run:
    """One method with one seed, of a configuration.

    Attributes
    ----------
    config : mapping
        The configuration, as JSON has it.
    path : str
        Of its file, beside which models are looked for.
    allow_code : bool
        Whether its model may be code outside the zoo.
    method : int
        Which of its methods.
    seed : int
    """

    config: Mapping[str, Any]
    path: str
    allow_code: bool
    method: int
    seed: int

    @property
    def spec(self) -> MethodSpec:
        """The method with its options."""
        return self.parsed.specs()[self.method]

    @property
    def draws(self) -> int:
        """Draws of an approximation, and of each chain."""
        return self.parsed.draws

    @property
    def parsed(self) -> ComparisonConfig:
        """The configuration."""
        # Not above: it needs pydantic.
        from pymc_vi_ext.comparison.config import config_type

        return config_type().model_validate(self.config)


def run_in_process(
    run: Run,
    folder: str | Path,
    *,
    max_seconds: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> MethodResult:
    """Run a method in a process of its own, which writes its result to a folder.

    A process that is killed (SIGKILL, which the system sends for want of memory) is run once more
    after five seconds, and goes on from its checkpoint, if it has one. Nothing else is tried again:
    a method that raises, crashes or takes too long would do so again.

    Parameters
    ----------
    run : Run
    folder : str or Path
        Made if it does not exist. :func:`pymc_vi_ext.comparison.storage.load_result` reads what is
        in it then, whatever happened to the process.
    max_seconds : float, optional
        Wall-clock seconds after which the process is killed, and not run again; the result is
        FAILED then.
    stop : callable
        Asked ten times a second; once it is true the run is interrupted, and has three seconds to
        leave what it has got by then. The result is INTERRUPTED, or NOT_RUN where it had not begun.

    Returns
    -------
    MethodResult
        FAILED where the process ended without one, with what it printed last as `error`.

    Raises
    ------
    RuntimeError
        In a process that may have no children.
    OSError
        If nothing can be written to the folder, not even that the run failed.
    """
    if multiprocessing.current_process().daemon:
        raise RuntimeError(
            "This process is a daemon, and may not start that of a run: start Dask's workers "
            "with DASK_DISTRIBUTED__WORKER__DAEMON=False."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec, seed = run.spec, run.seed
    if stop():
        return _kept(not_run(spec, seed), folder)
    for left in (RESULT, LIVE):
        (folder / left).unlink(missing_ok=True)
    clear_parts(folder)
    began, started = time.time(), time.monotonic()
    deadline = started + (float("inf") if max_seconds is None else max_seconds)
    late, exitcode = _attempt(run, folder, deadline, stop)
    if late is None and exitcode == -signal.SIGKILL and not (folder / RESULT).exists():
        late = _pause(deadline, stop)
        if late is None:
            late, exitcode = _attempt(run, folder, deadline, stop)
    if (folder / RESULT).exists() and late is not Status.FAILED:
        return load_result(folder)
    spent = {"began": began, "seconds": time.monotonic() - started}
    if late is Status.INTERRUPTED:
        return _kept(without_draws(spec, seed, late, INTERRUPT, **spent), folder)
    said = _last_words(folder)
    if late is Status.FAILED:
        reason = f"not done after {max_seconds:g} s (max_seconds)"
    else:
        reason = f"{_how_it_ended(exitcode)} after {time.monotonic() - started:.0f} s"
        reason += f": {said.splitlines()[-1]}" if said else ""
    return _kept(without_draws(spec, seed, Status.FAILED, reason, error=said, **spent), folder)


def _attempt(
    run: Run, folder: Path, deadline: float, stop: Callable[[], bool]
) -> tuple[Status | None, int | None]:
    """Run the process until it has ended; what made it end sooner, if anything, and how it did."""
    process = _context().Process(target=_work, args=(run, str(folder)), name=run.spec.label)
    with _sigterm_blocked():
        process.start()
    try:
        late = _late(process, deadline, stop)
    finally:
        if process.is_alive():
            process.kill()
        process.join()
    return late, process.exitcode


def _pause(deadline: float, stop: Callable[[], bool]) -> Status | None:
    """Wait for some seconds, with the same result as :func:`_late`."""
    end = time.monotonic() + _PAUSE_S
    while time.monotonic() < end:
        if time.monotonic() > deadline:
            return Status.FAILED
        if stop():
            return Status.INTERRUPTED
        time.sleep(_LOOKS_S)
    return None


def _late(process: BaseProcess, deadline: float, stop: Callable[[], bool]) -> Status | None:
    """Wait until the process has ended; what made it end sooner, FAILED being the time."""
    while not wait([process.sentinel], timeout=_LOOKS_S):
        if time.monotonic() > deadline:
            return Status.FAILED
        if stop():
            if process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
            wait([process.sentinel], timeout=_GRACE_S)
            return Status.INTERRUPTED
    return None


def _kept(result: MethodResult, folder: Path) -> MethodResult:
    save_result(result, folder)
    # What has come to an end does not go on; what was interrupted may.
    if result.status in (Status.FINISHED, Status.FAILED):
        forget_checkpoints(folder)
    return result


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return "the process was killed twice (by the system perhaps, for want of memory)"
    if exitcode is not None and exitcode < 0:
        return f"the process was ended by {signal.Signals(-exitcode).name}"
    return f"the process ended with status {exitcode} and no result"


def _last_words(folder: Path) -> str:
    try:
        return (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")[-_LAST:].strip()
    except OSError:
        return ""


@functools.cache
def _context() -> Any:
    """Return how processes are started: forked from one that has imported what all need."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Let what is started here not end by a SIGTERM that is sent to all processes of a service.

    That is the process that others are forked from: they are lost to their parent without it.
    """
    # It unblocks the signal again where it has to start.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(run: Run, folder: str) -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Those who stop a service send it to all of its processes.
    signal.signal(signal.SIGTERM, terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _end_with_parent()
    output = os.open(Path(folder, OUTPUT), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)

    from pymc_vi_ext.comparison.config import build_model

    spec = run.spec
    try:
        model = build_model(run.parsed, run.path, allow_code=run.allow_code)
        # What `auto` returns is made of draws, and its fits are several.
        with watched_by(LiveFile(Path(folder), traced=spec.name != "auto")):
            result = run_method(model, spec, run.seed, run.draws, folder=Path(folder))
    except KeyboardInterrupt:
        result = without_draws(spec, run.seed, Status.INTERRUPTED, INTERRUPT)
    _kept(result, Path(folder))


def _end_with_parent() -> None:
    """End this process when the one that has started it ends, however that was."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
