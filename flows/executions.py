"""Executions of comparisons in a workspace, and how a tracker comes to know of them."""

from __future__ import annotations

import warnings

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pymc_vi_ext.comparison import (
    Comparison,
    MethodResult,
    MethodSpec,
    ReferenceWarning,
    Status,
    summarise,
)
from pymc_vi_ext.comparison.config import (
    ComparisonConfig,
    build_model,
    config_type,
    reference_file,
    reference_of,
)
from pymc_vi_ext.comparison.data import file_digest
from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.references import convergence_problem
from pymc_vi_ext.comparison.runner import without_draws
from pymc_vi_ext.comparison.storage import DamagedResultError, load_result, result_status
from pymc_vi_ext.comparison.workspace import ExecutionFolder, Workspace
from pymc_vi_ext.tracking import (
    About,
    Execution,
    RunTracker,
    environment,
    folder_beside,
    open_tracker,
    report_comparison,
    report_interrupted,
    report_model,
    report_result,
    tracker_uri,
)
from pymc_vi_ext.tracking.rebuild import write_configuration

from . import regression

# Characters of a reason.
_MOST = 300


def tracker_at(uri: str) -> RunTracker:
    """Open the tracker at a URI that may have been stored without its password."""
    return open_tracker(tracker_uri(uri))


def execution_of(
    config: ComparisonConfig,
    path: str,
    allow_code: bool,
    tracking_uri: str,
    folder: str | None,
    token: str,
) -> tuple[ExecutionFolder, list[Run]]:
    """Return where an execution lies in its workspace, and its runs, a method after the other."""
    plain = config.model_dump(mode="json", exclude_unset=True)
    runs = [
        Run(plain, path, allow_code, method, seed)
        for method in range(len(config.methods))
        for seed in config.seeds
    ]
    workspace = Workspace(Path(folder) if folder else folder_beside(tracking_uri))
    reference = [config.reference, _digest_of_reference(config, path)]
    return workspace.execution(config.name, runs, reference, tracking_uri, token), runs


def _digest_of_reference(config: ComparisonConfig, path: str) -> str:
    file = reference_file(config, path)
    return "" if file is None else file_digest(file)


def not_converged(results: Iterable[MethodResult], must: Collection[str]) -> list[str]:
    """Return the runs that have not converged, of the methods which must."""
    return [
        f"{result.label} seed {result.seed}"
        for result in results
        if result.label in must
        and result.status is Status.FINISHED  # the others are told otherwise
        and convergence_problem(result)
    ]


def must_converge(ids: Mapping[str, Any]) -> list[str]:
    """Return the labels of the methods which must converge."""
    return list(ids["config"].get("must_converge", ()))


def failed_methods(rows: list[dict[str, Any]]) -> list[str]:
    """Return the methods of which a run failed, each once."""
    failed = (row["method"] for row in rows if row["status"] == Status.FAILED.value)
    return list(dict.fromkeys(failed))


def record_about(ids: Mapping[str, Any]) -> str:
    """Record what is known before anything runs; return why that cannot be done, empty if it can.

    Once more changes nothing.
    """
    return _tried(ids["uri"], partial(_describe, ids))


def _describe(ids: Mapping[str, Any], tracker: RunTracker) -> None:
    parsed = config_type().model_validate(ids["config"])
    settings = {
        "model": parsed.model,
        "draws": parsed.draws,
        "seeds": parsed.seeds,
        "reference": parsed.reference,
        **{f"parameter/{name}": value for name, value in parsed.parameters.items()},
    }
    parent = ids["parent"]
    tracker.log_params(parent, settings)
    tracker.log_text(parent, ids["text"], "config.yaml")
    tracker.log_text(parent, environment(), "environment.txt")
    write_configuration(tracker, parent, parsed)
    if (reference := reference_file(parsed, ids["path"])) is not None:
        tracker.log_file(parent, reference)
    model = build_model(parsed, ids["path"], allow_code=ids["allow_code"])
    report_model(tracker, [parent, *ids["children"]], model, parsed.model)


def record_result(execution: ExecutionFolder, number: int, ids: Mapping[str, Any]) -> str:
    """Record one run, once; return why that cannot be done, empty if it can."""
    run_id, folder = ids["children"][number], execution.results[number]
    ended = result_status(folder) in (Status.FINISHED, Status.FAILED)
    if not ended or execution.is_tracked(number):
        return ""

    def record(tracker: RunTracker) -> None:
        report_result(tracker, run_id, load_result(folder), folder)
        execution.mark_tracked(number)

    return _tried(ids["uri"], record)


def record_results(execution: ExecutionFolder, ids: Mapping[str, Any]) -> str:
    """Record the runs that are not, up to the first that cannot be; return why."""
    problems = (record_result(execution, k, ids) for k in range(len(execution.results)))
    return next(filter(None, problems), "")


def record_comparison(
    execution: ExecutionFolder, ids: Mapping[str, Any], comparison: Comparison, cut_short: bool
) -> str:
    """Record what all runs together say; return why that cannot be done, empty if it can."""
    runs = Execution(ids["parent"], tuple(ids["children"]))
    about = About(**ids.get("about", {}))

    def record(tracker: RunTracker) -> None:
        if cut_short:
            report_interrupted(tracker, runs, comparison, about)
            return
        regression.record(tracker, runs.parent, execution, ids["config"]["name"])
        report_comparison(tracker, runs, comparison, about)
        execution.mark_tracked(None)

    return _tried(ids["uri"], record)


def scored(
    execution: ExecutionFolder, ids: Mapping[str, Any], lost: Mapping[int, str]
) -> Comparison:
    """Score the results of an execution; `lost` says why some could not be kept."""
    parsed = config_type().model_validate(ids["config"])
    runs = [(spec, seed) for spec in parsed.specs() for seed in parsed.seeds]
    with warnings.catch_warnings():
        # The table has it as a note, and the command line prints the notes.
        warnings.simplefilter("ignore", ReferenceWarning)
        results = [
            _result(folder, *run, lost.get(number, ""))
            for number, (folder, run) in enumerate(zip(execution.results, runs, strict=True))
        ]
        return summarise(results, reference_of(parsed, ids["path"]))


def _result(folder: Path, spec: MethodSpec, seed: int, why_lost: str) -> MethodResult:
    try:
        return load_result(folder)
    except DamagedResultError as error:
        return without_draws(spec, seed, Status.FAILED, why_lost or str(error))


def keep_table(execution: ExecutionFolder, rows: list[dict[str, Any]]) -> str:
    """Write the table; return why that cannot be done, empty if it can."""
    try:
        execution.keep_table(rows)
    except OSError as error:
        return reason(error)
    return ""


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of the table, as JSON can hold them."""
    rows: list[dict[str, Any]] = comparison.table.reset_index().to_dict(orient="records")
    for row, verdict in zip(rows, comparison.verdicts, strict=False):  # the noise floor has none
        row["verdict"] = verdict
    return rows


def waiting(workspace: Workspace, uri: str) -> list[ExecutionFolder]:
    """Return the executions that have come to an end and that the tracker does not have."""
    return [
        execution
        for execution in workspace.executions()
        if execution.ended
        and not execution.is_tracked(None)
        and execution.ids is not None
        and execution.ids["uri"] == uri
    ]


def catch_up(execution: ExecutionFolder) -> str:
    """Record what a tracker does not have yet; return why that cannot be done, empty if it can."""
    ids = execution.ids
    assert ids is not None
    # What it was run on may be gone by now.
    record_about(ids)
    if problem := record_results(execution, ids):
        return problem
    comparison = scored(execution, ids, {})
    return keep_table(execution, rows_of(comparison)) or record_comparison(
        execution, ids, comparison, cut_short=False
    )


def report_of(execution: ExecutionFolder) -> dict[str, Any] | None:
    """Return what a flow would that came to the end of an execution; None if it did not."""
    ids = execution.ids
    if ids is None or not execution.ended:
        return None
    comparison = scored(execution, ids, {})
    untracked = "" if execution.is_tracked(None) else "Prefect's server went away before"
    return {
        "table": rows_of(comparison),
        "untracked": untracked,
        "not_converged": not_converged(comparison.results, must_converge(ids)),
        "parent": ids["parent"],
    }


def reason(error: Exception) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST]}"


def _tried(uri: str, record: Callable[[RunTracker], None]) -> str:
    """Do it, and return what keeps it from being done: fits go on without a tracker."""
    try:
        tracker = tracker_at(uri)
        # In two seconds at most; requests to a server that hangs take far longer.
        tracker.check()
        record(tracker)
    except Exception as error:
        return reason(error)
    return ""
