"""Comparisons run from the terminal, one after the other, on one Prefect server."""

from __future__ import annotations

import os
import signal
import uuid

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape

from pymc_vi_ext.interrupts import held, terminate
from pymc_vi_ext.tracking import open_tracker

from .asked import INTERRUPTED, METHOD_FAILED, Asked, refuse
from .display import print_suite, print_table
from .runners import Runner, runner_of

_GOES_ON = "What has finished is kept, and the same command goes on."


def run_all(
    console: Console,
    asked: Sequence[Asked],
    *,
    fresh: bool,
    judged: bool = False,
    runner: Runner = Runner.SEQUENTIAL,
    address: str | None = None,
) -> int:
    """Run comparisons, or go on with them, and print their tables; return the exit status.

    Parameters
    ----------
    console : rich.console.Console
    asked : sequence of Asked
        With the same tracker.
    fresh : bool
        Whether to run again what has finished before.
    judged : bool
        Whether to run it again, and hold its table against the last good one.
    runner : Runner
    address : str, optional
        Of a cluster.
    """
    # Prefect would print each failure twice; the table tells it. Before the import of Prefect.
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL"):
        os.environ.setdefault(name, "CRITICAL")
    fresh = fresh or judged
    known = [None if fresh else _known(one) for one in asked]
    missing = [one for one, report in zip(asked, known, strict=True) if report is None]
    reports: dict[str, Mapping[str, Any]] = {}
    status = 0
    with _flow(console, runner, address) if missing else nullcontext() as flow:
        for one, report in zip(asked, known, strict=True):
            if report is None:
                ended, report = _run(console, one, flow, fresh, judged)
            else:
                ended = METHOD_FAILED if report["not_converged"] else 0
            status = max(status, ended)
            reports[one.parsed.name] = report
            print_table(console, one.parsed.name, report["table"], legend=len(asked) == 1)
            if report["not_converged"]:
                missed = ", ".join(report["not_converged"])
                console.print(f"Not converged, but must: {missed}.", markup=False, soft_wrap=True)
            _say_worse(console, report.get("regression"))
            if ended == INTERRUPTED:
                break
    if len(asked) > 1:
        print_suite(console, {name: report["table"] for name, report in reports.items()})
    _say_where(console, asked[0].uri, reports)
    if not missing:
        console.print("\nAll of it was there already: --fresh runs it again.")
    if status == INTERRUPTED:
        again = "the same command again goes on from what has finished."
        console.print(f"\nInterrupted: {'--fresh begins anew each time.' if fresh else again}")
    return status


@contextmanager
def _flow(console: Console, runner: Runner, address: str | None) -> Iterator[Any]:
    """Yield the flow, while there is a server for it."""
    try:
        where = runner_of(runner, address)
    except (ImportError, ValueError) as error:
        refuse(error)
    signal.signal(signal.SIGTERM, terminate)
    with console.status("Starting Prefect ..."):
        from .compare import compare
        from .server import server

    # Ctrl-C ends the runs that it meets, and never Prefect's own work around them.
    with held(lambda: None), server(scheduling=False):
        yield compare.with_options(task_runner=where)


def _run(
    console: Console, asked: Asked, flow: Any, fresh: bool, judged: bool
) -> tuple[int, Mapping[str, Any]]:
    """Return the exit status of a comparison, and its report."""
    from httpx import TransportError

    from .compare import Interrupted, MethodsFailed
    from .executions import failed_methods, report_of

    token = uuid.uuid4().hex if fresh else asked.data
    with console.status(f"Comparing methods on {escape(asked.parsed.name)} ..."):
        try:
            return 0, flow(**asked.parameters(token), judged=judged)
        except Interrupted as error:
            return INTERRUPTED, error.report
        except MethodsFailed as error:
            return METHOD_FAILED, error.report
        except OSError as error:
            refuse(OSError(f"{str(error).removesuffix('.')}. {_GOES_ON}"))
        except TransportError as error:
            away = f"Prefect's server has gone away ({error})"
    report = report_of(asked.execution(token)[0])
    if report is None:
        refuse(ConnectionError(f"{away}. {_GOES_ON}"))
    console.print(f"{away}, and does not know how this ended.", soft_wrap=True)
    failed = report["not_converged"] or failed_methods(report["table"])
    return (METHOD_FAILED if failed else 0), report


def _known(asked: Asked) -> Mapping[str, Any] | None:
    """Return the report of what has been concluded before; None where it has not."""
    from pymc_vi_ext.comparison.storage import load_result

    from .executions import not_converged

    execution, _ = asked.execution(asked.data)
    if not execution.done:
        return None
    missed = []
    if must := asked.parsed.must_converge:
        missed = not_converged(map(load_result, execution.results), must)
    known = {"table": execution.table, "untracked": "", "not_converged": missed}
    return {**(execution.ids or {}), **known}


def _say_worse(console: Console, found: Mapping[str, Any] | None) -> None:
    """Print what the last good table was held against, if it was."""
    if found:
        for line in filter(None, ["", found["headline"], *found["worse"], found["problem"]]):
            console.print(line, markup=False, soft_wrap=True, highlight=False)


def _say_where(console: Console, uri: str, reports: Mapping[str, Mapping[str, Any]]) -> None:
    reasons = list(filter(None, (report["untracked"] for report in reports.values())))
    if reasons:
        console.print("\nThe tracker does not have all of it: ", end="")
        console.print(reasons[0], markup=False, soft_wrap=True, highlight=False)
        console.print("`sync` brings the rest once it can.")
        return
    console.print("\nFigures and posteriors:")
    tracker = open_tracker(uri)
    # Of several the page of each is in the tracker's own.
    [parent, *others] = [report["parent"] for report in reports.values()]
    page = [] if others or not tracker.has(parent) else [tracker.address(parent)]
    for where in (tracker.dashboard(), *page):
        console.print(f"  {where}", markup=False, soft_wrap=True, highlight=False, style="bold")
