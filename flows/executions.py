"""Executions of comparisons in a workspace, and how a tracker comes to know of them."""

from __future__ import annotations

import warnings

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pymc_vi_ext.comparison import Comparison, ReferenceWarning, Status, summarise
from pymc_vi_ext.comparison.config import (
    ComparisonConfig,
    config_type,
    reference_file,
    reference_of,
)
from pymc_vi_ext.comparison.data import file_digest
from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.references import convergence_problem
from pymc_vi_ext.comparison.storage import load_result
from pymc_vi_ext.comparison.workspace import ExecutionFolder, Workspace
from pymc_vi_ext.tracking import (
    Execution,
    RunTracker,
    folder_beside,
    open_tracker,
    report_comparison,
    report_interrupted,
    report_result,
    tracker_uri,
)

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


def not_converged(execution: ExecutionFolder, config: ComparisonConfig) -> list[str]:
    """Return the runs that have not converged, of methods which have to."""
    results = map(load_result, execution.results)
    return [
        f"{result.label} seed {result.seed}"
        for result in results
        if result.label in config.must_converge
        and result.status is Status.FINISHED  # the others are told otherwise
        and convergence_problem(result)
    ]


def failed_methods(rows: list[dict[str, Any]]) -> list[str]:
    """Return the methods of which a run failed, each once."""
    failed = (row["method"] for row in rows if row["status"] == Status.FAILED.value)
    return list(dict.fromkeys(failed))


def record_result(execution: ExecutionFolder, number: int, ids: Mapping[str, Any]) -> str:
    """Record one run, once; return why that cannot be done, empty if it can."""
    result = load_result(execution.results[number])
    ended = result.status in (Status.FINISHED, Status.FAILED)
    if not ended or execution.is_tracked(number):
        return ""
    run_id, folder = ids["children"][number], execution.results[number]
    problem = _tried(lambda: report_result(tracker_at(ids["uri"]), run_id, result, folder))
    if not problem:
        execution.mark_tracked(number)
    return problem


def record_comparison(
    execution: ExecutionFolder, ids: Mapping[str, Any], comparison: Comparison, interrupted: bool
) -> str:
    """Record what all runs together say; return why that cannot be done, empty if it can."""
    runs = Execution(ids["parent"], tuple(ids["children"]))
    report = report_interrupted if interrupted else report_comparison
    problem = _tried(lambda: report(tracker_at(ids["uri"]), runs, comparison))
    if not (problem or interrupted):
        execution.mark_tracked(None)
    return problem


def scored(execution: ExecutionFolder, config: Mapping[str, Any], path: str) -> Comparison:
    """Score the results of an execution, and keep the table."""
    parsed = config_type().model_validate(config)
    with warnings.catch_warnings():
        # The table has it as a note, and the command line prints the notes.
        warnings.simplefilter("ignore", ReferenceWarning)
        results = [load_result(folder) for folder in execution.results]
        comparison = summarise(results, reference_of(parsed, path))
    execution.keep_table(comparison.table.reset_index().to_dict(orient="records"))
    return comparison


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
    for number in range(len(execution.results)):
        if problem := record_result(execution, number, ids):
            return problem
    return record_comparison(
        execution, ids, scored(execution, ids["config"], ids["path"]), interrupted=False
    )


def _tried(record: Callable[[], None]) -> str:
    """Do it, and return what keeps it from being done: fits go on without a tracker."""
    try:
        record()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST]}"
    return ""
