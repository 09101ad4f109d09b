"""The comparison as a flow: a task per (method, seed), then one that scores them all.

Tasks take specifications and seeds and return run ids and paths. Nothing is cached or persisted by
Prefect, which would hash models and pickle results: what there is lies in a workspace, and a flow
that is started again goes on from it.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import shlex
import signal
import threading
import time

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from pymc_vi_ext.comparison import Status
from pymc_vi_ext.comparison.config import ComparisonConfig, config_type, load_config
from pymc_vi_ext.comparison.durations import keep_seconds
from pymc_vi_ext.comparison.processes import Run, run_in_process
from pymc_vi_ext.comparison.storage import result_status
from pymc_vi_ext.comparison.workspace import ExecutionFolder
from pymc_vi_ext.errors import INTERRUPT
from pymc_vi_ext.interrupts import held, pending, take, terminate
from pymc_vi_ext.tracking import (
    DEFAULT_URI,
    URI_VARIABLE,
    About,
    absolute_uri,
    without_password,
)

from . import regression
from .configurations import examples
from .executions import (
    execution_of,
    failed_methods,
    keep_table,
    must_converge,
    not_converged,
    reason,
    record_about,
    record_comparison,
    record_result,
    record_results,
    rows_of,
    scored,
    tracker_at,
)
from .live import Live
from .missed import reason_to_skip, skipped
from .runners import Runner, runner_of

EACH_TIME = "each time"
"""The token of flows that run everything anew; one that Prefect tries again goes on."""
# How often the flow looks for Ctrl-C, and how long it may take once what serves it has ended.
_LOOKS_S, _GRACE_S = 0.2, 60.0


class MethodsFailed(Exception):
    """Some methods failed; ``report`` is what the flow returns when none does."""

    def __init__(self, message: str, report: dict[str, Any]):
        super().__init__(message)
        self.report = report


class Regressed(MethodsFailed):
    """The table is worse than the last good one; ``report`` has ``worse``, a sentence for each."""


class Interrupted(MethodsFailed):
    """Ctrl-C ended the comparison; ``report`` has what there is."""


def may_pass(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Tell whether a tracker may take later what it does not take now: it is away, or locked."""
    cause = getattr(state.data, "__cause__", None)
    return not isinstance(cause, ValueError | TypeError | ImportError)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=may_pass,
)
def begin(
    config: dict[str, Any], tracking_uri: str, about: dict[str, Any], token: str
) -> dict[str, Any]:
    """Create the runs in the tracker that there are not yet by that token; return their ids."""
    parsed = config_type().model_validate(config)
    try:
        return _begin(parsed, tracking_uri, About(**about), token)
    except Exception as error:
        raise ConnectionError(f"The tracker began no runs: {reason(error)}") from error


def _begin(parsed: ComparisonConfig, uri: str, about: About, token: str) -> dict[str, Any]:
    tracker = tracker_at(uri)
    tracker.check()
    names = [f"{spec.label} seed {seed}" for spec in parsed.specs() for seed in parsed.seeds]
    execution = tracker.begin(parsed.name, names, about.tags(), token)
    return {"parent": execution.parent, "children": list(execution.children)}


@task(cache_policy=NO_CACHE, persist_result=False)
def describe(ids: dict[str, Any]) -> None:
    """Record what is known before anything runs; without a tracker, `sync` does."""
    record_about(ids)


@task(cache_policy=NO_CACHE, persist_result=False)
def run(
    path: str,
    config: dict[str, Any],
    allow_code: bool,
    method: int,
    seed: int,
    folder: str,
    stop: str,
) -> State:
    """Run a method with a seed in a process of its own, which writes its result to `folder`."""
    work = Run(config, path, allow_code, method, seed)
    limit = work.parsed.limits()[method]
    started = time.monotonic()
    result = run_in_process(work, folder, max_seconds=limit, stop=Path(stop).exists)
    if result.status is not Status.FINISHED:
        return Failed(message=result.reason)
    keep_seconds(work, Path(folder), time.monotonic() - started)
    return Completed()


@task(cache_policy=NO_CACHE, persist_result=False)
def score(
    folders: list[str],
    place: str,
    ids: dict[str, Any],
    cut_short: bool,
    lost: dict[int, str],
    judged: bool,
) -> dict[str, Any]:
    """Score all results against the reference, judge the table, record them; return the table."""
    execution = ExecutionFolder(Path(place), tuple(map(Path, folders)))
    comparison = scored(execution, ids, lost)
    rows = rows_of(comparison)
    untracked = keep_table(execution, rows)
    found = {}
    if judged and not (cut_short or untracked):
        found = _judged(execution, ids)
    # All of its runs before what they say together, which concludes it.
    untracked = (
        untracked
        or record_results(execution, ids)
        or record_comparison(execution, ids, comparison, cut_short)
    )
    missed = not_converged(comparison.results, must_converge(ids))
    return {
        "table": rows,
        "untracked": untracked,
        "not_converged": missed,
        "regression": found,
    }


def _judged(execution: ExecutionFolder, ids: dict[str, Any]) -> dict[str, Any]:
    """Hold the table against the last good one, and say what is found to all who are to know."""
    name, webhook = ids["config"]["name"], ids["config"].get("webhook")
    judgement = regression.judge(execution, name)
    problem = regression.announce(judgement, name, ids, webhook)
    if problem:
        # For those who watch `serve`; `compare` prints it below the table.
        get_run_logger().warning(problem)
    worse = [str(each) for each in judgement.worse]
    return {"headline": judgement.headline, "worse": worse, "problem": problem}


@flow(name="compare", persist_result=False, task_runner=runner_of(Runner.SEQUENTIAL))
def compare(
    config: str,
    tracking_uri: str = "",
    allow_code: bool = False,
    folder: str | None = None,
    token: str = "",
    changes: list[str] | None = None,
    only: list[str] | None = None,
    comparison: str | None = None,
    judged: bool = False,
) -> State:
    """Run the comparison that a YAML file describes and keep it in a tracker.

    Parameters
    ----------
    config : str
        Path of the configuration.
    tracking_uri : str
        Of any backend in :data:`pymc_vi_ext.tracking.BACKENDS`. One with a password is given
        without it, and as ``MLFLOW_TRACKING_URI`` in the environment with it. By default what is
        there, and :data:`pymc_vi_ext.tracking.DEFAULT_URI` where it is not set.
    allow_code : bool
        Whether the model may be code outside the zoo.
    folder : str, optional
        Workspace, in which results lie as soon as there are any, and serve again; by default beside
        the tracker's.
    token : str
        Results with another token do not serve; :data:`EACH_TIME` stands for one of this flow run.
    changes, only : list of str, optional
        As for :func:`pymc_vi_ext.comparison.load_config`.
    comparison : str, optional
        Which one of a suite.
    judged : bool
        Whether the table is held against the last good one of the same name.

    Returns
    -------
    prefect.states.State
        Its result is a dict with the ``table`` (records), the run ids ``parent`` and ``children``,
        ``not_converged``, which runs have not though they must, ``regression``, what has become
        worse, and ``untracked``, why the tracker does not have all of it, empty if it has. Failed,
        with MethodsFailed, if a method failed or has not converged though it must; the others are
        finished nevertheless. Failed, with Regressed, if the table has become worse. Failed, with
        Interrupted, after Ctrl-C, which ends the runs that it meets. Skipped, where its scheduled
        time has passed.
    """
    _end_with_parent()
    if passed := reason_to_skip():
        return skipped(passed)
    parsed = load_config(
        config,
        allow_code=allow_code,
        changes=changes or (),
        only=only or (),
        comparison=comparison,
    )
    plain = parsed.model_dump(mode="json", exclude_unset=True)
    uri = tracking_uri or os.environ.get(URI_VARIABLE, DEFAULT_URI)
    tracking_uri = without_password(absolute_uri(uri))
    if token == EACH_TIME:
        token = str(runtime.flow_run.id)
    execution, runs = execution_of(parsed, config, allow_code, tracking_uri, folder, token)
    execution.stop.unlink(missing_ok=True)
    ids = execution.ids
    # What has been concluded stays as it is, and another attempt has runs of its own.
    concluded = execution.is_tracked(None)
    if ids is None or concluded or not tracker_at(tracking_uri).has(ids["parent"]):
        mark = execution.begin_token()
        command = _command(config, allow_code, changes or [], only or [], comparison)
        about = asdict(About(parsed.name, parsed.model, config, command))
        made = begin(plain, tracking_uri, about, mark)
        ids = {
            **made,
            "uri": tracking_uri,
            "config": plain,
            "path": config,
            "text": Path(config).read_text(encoding="utf-8"),
            "about": about,
            "allow_code": allow_code,
            "token": mark,
        }
        execution.keep_ids(ids)
    # What decides no result may be another than when it began: who must converge, who is told.
    ids |= {"config": plain}
    describe(ids)
    futures: dict[int, PrefectFuture[Any]] = {}
    for number, (work, finished) in enumerate(zip(runs, execution.finished, strict=True)):
        # One that failed is over, too, once the tracker has it.
        there = result_status(execution.results[number]) is not None
        if finished or (there and execution.is_tracked(number)):
            continue
        named = run.with_options(task_run_name=_called(f"{work.spec.label} seed {work.seed}"))
        place, stop = str(execution.results[number]), str(execution.stop)
        futures[number] = named.submit(
            config, plain, allow_code, work.method, work.seed, place, stop
        )
    with held(lambda: None), _sigterm_as_interrupt(), Live(execution, ids) as live:
        lost = _follow(execution, futures, ids, live)
        interrupted = take() or execution.stop.exists()
    folders = list(map(str, execution.results))
    cut_short = interrupted or bool(lost)
    report = score(folders, str(execution.path), ids, cut_short, lost, judged)
    report |= {key: ids[key] for key in ("parent", "children")}
    execution.stop.unlink(missing_ok=True)
    if interrupted:
        return Failed(message=INTERRUPT, data=Interrupted(INTERRUPT, report))
    if report["regression"].get("worse"):
        message = " ".join([report["regression"]["headline"], *report["regression"]["worse"]])
        return Failed(message=message, data=Regressed(message, report))
    failed = failed_methods(report["table"])
    if failed or report["not_converged"]:
        parts = {"Failed": failed, "Not converged": report["not_converged"]}
        message = "; ".join(f"{what}: {', '.join(who)}" for what, who in parts.items() if who)
        return Failed(message=message, data=MethodsFailed(message, report))
    return Completed(message=f"{len(runs)} runs finished.", data=report)


def _end_with_parent() -> None:
    """Take the end of the process that serves this flow, however that ended, as a SIGTERM."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        # The server has ended too, and the flow would go on asking for it.
        time.sleep(_GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _command(
    config: str, allow_code: bool, changes: list[str], only: list[str], comparison: str | None
) -> str:
    """Return what runs a comparison, or the suite that it is in, in a terminal."""
    options = ["--allow-code"] * allow_code
    options += [word for change in changes for word in ("--set", change)]
    options += [word for label in only for word in ("--only", label)]
    path = Path(config)
    if path == examples().get(path.stem):
        config = path.stem
    elif path.is_relative_to(Path.cwd()):
        config = str(path.relative_to(Path.cwd()))
    verb = "compare" if comparison is None else "suite"
    return shlex.join(["pymc-vi", verb, config, *options])


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does; Prefect's own handler would leave the flow at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow(
    execution: ExecutionFolder,
    futures: dict[int, PrefectFuture[Any]],
    ids: dict[str, Any],
    live: Live,
) -> dict[int, str]:
    """Record results as they come, and pass Ctrl-C on; return why some were not kept."""
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(execution.results)):
        if number in futures:
            futures[number].add_done_callback(partial(_put, done, number))
        else:
            done.put(number)
    untracked, lost, waiting = "", {}, set(range(len(execution.results)))
    while waiting:
        if pending():
            execution.stop.touch()
        try:
            number = done.get(timeout=_LOOKS_S)
        except queue.Empty:
            continue
        waiting.remove(number)
        live.leave(number)
        if result_status(execution.results[number]) is None:
            # Not the method failed, but what is around it: the disk, a worker.
            lost[number] = f"its result could not be kept: {_problem(futures.get(number))}"
            continue
        # The rest waits for the end, when there is another try.
        untracked = untracked or record_result(execution, number, ids)
    return lost


def _problem(future: PrefectFuture[Any] | None) -> str:
    try:
        if future is not None:
            future.result()
    except Exception as error:
        return reason(error)
    return "it is not there"


def _called(name: str) -> Callable[[], str]:
    """Return what names a task run: a text would be a format of its parameters."""
    return lambda: name


def _put(done: queue.SimpleQueue[int], number: int, future: PrefectFuture[Any]) -> None:
    done.put(number)
