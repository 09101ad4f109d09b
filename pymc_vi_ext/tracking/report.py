"""What of a comparison goes where in a tracker."""

from __future__ import annotations

import tempfile

from pathlib import Path

from pymc_vi_ext._names import key_name
from pymc_vi_ext.comparison import METRICS, Comparison, MethodResult, Status
from pymc_vi_ext.comparison.metrics import score
from pymc_vi_ext.comparison.storage import FILES
from pymc_vi_ext.plots import block_means, plot_kde
from pymc_vi_ext.plots._style import to_image
from pymc_vi_ext.tracking.tracker import Execution, RunStatus, RunTracker

# The metric that a run with losses has as a series instead.
_TRACE = "fit/elbo"
# Of what the noise floor is logged under with the execution: as `compare/...` it would look like a
# distance of the execution.
_FLOOR = "noise_floor"
_RUN_STATUS = {
    Status.FINISHED: RunStatus.FINISHED,
    Status.FAILED: RunStatus.FAILED,
    Status.INTERRUPTED: RunStatus.KILLED,
    Status.NOT_RUN: RunStatus.KILLED,
}
_WORST_FIRST = (RunStatus.KILLED, RunStatus.FAILED, RunStatus.FINISHED)
# Variables that get an image of their own in each run.
_MAX_IMAGES = 12


def report_result(tracker: RunTracker, run_id: str, result: MethodResult, folder: Path) -> None:
    """Record one run as far as it is known without the others, and close it if it has no draws.

    Parameters
    ----------
    tracker : RunTracker
    run_id : str
    result : MethodResult
    folder : Path
        Where :func:`pymc_vi_ext.comparison.storage.save_result` has written it.
    """
    tracker.log_params(
        run_id,
        {
            "method": result.name,
            "label": result.label,
            "seed": result.seed,
            "ran_on": result.backend,
            "stop_reason": result.stop_reason,
            **{f"option/{name}": value for name, value in result.options.items()},
            **{f"version/{name}": value for name, value in result.versions.items()},
        },
    )
    if result.losses.size:
        tracker.log_series(run_id, _TRACE, *block_means(result.losses))
    for name in FILES:
        if (folder / name).exists():
            tracker.log_file(run_id, folder / name)
    if result.datatree is None:
        tracker.log_metrics(run_id, _final(result, score(result, None)[0]))
        tracker.log_text(run_id, result.error or result.reason, "error.txt")
        tracker.end(run_id, _RUN_STATUS[result.status])


def report_comparison(tracker: RunTracker, execution: Execution, comparison: Comparison) -> None:
    """Record scores and figures of all runs, and close those that are open, parent last.

    Parameters
    ----------
    tracker : RunTracker
    execution : Execution
        Its children are the results of the comparison, in their order.
    comparison : Comparison
    """
    posteriors = comparison.posteriors()
    for run_id, name, result, (_, row) in zip(
        execution.children,
        comparison.names,
        comparison.results,
        comparison.table.iterrows(),
        strict=False,  # the noise floor is a row without a run
    ):
        if result.datatree is None:
            continue
        tracker.log_metrics(run_id, _final(result, {key: float(row[key]) for key in METRICS}))
        tracker.log_text(run_id, str(row["note"]), "note.txt")
        shown = {
            key: draws
            for key, draws in posteriors.items()
            if key in {comparison.reference_name, name}
        }
        for variable in _variables(result):
            figure = plot_kde(shown, [variable], labels=comparison.labels)
            tracker.log_image(run_id, f"kde/{key_name(variable)}", to_image(figure))
        tracker.end(run_id, _RUN_STATUS[result.status])
    parent = execution.parent
    _report_table(tracker, parent, comparison)
    if posteriors:
        variables = _variables(next(r for r in comparison.results if r.datatree is not None))
        for variable in variables:
            figure = plot_kde(posteriors, [variable], labels=comparison.labels)
            tracker.log_image(parent, f"kde/{key_name(variable)}", to_image(figure))
        tracker.log_image(parent, "kde", to_image(comparison.plot_kde()))
        tracker.log_image(parent, "forest", to_image(comparison.plot_forest()))
    if comparison.reference is not None:
        tracker.log_image(parent, "accuracy", to_image(comparison.plot_accuracy()))
    tracker.log_image(parent, "elbo", to_image(comparison.plot_elbo()))
    failed = [r for r in comparison.results if r.status is Status.FAILED]
    tracker.log_metrics(
        parent, {"runs/failed": float(len(failed)), "runs/total": float(len(comparison.results))}
    )
    floor = comparison.noise_floor.items()
    tracker.log_metrics(parent, {key.replace("compare", _FLOOR): value for key, value in floor})
    ends = {_RUN_STATUS[result.status] for result in comparison.results}
    tracker.end(parent, next(status for status in _WORST_FIRST if status in ends))


def report_interrupted(tracker: RunTracker, execution: Execution, comparison: Comparison) -> None:
    """Close all runs of an execution that may go on later, and record what the table says so far.

    Scores are left to the end, which may have another reference.

    Parameters
    ----------
    tracker : RunTracker
    execution : Execution
    comparison : Comparison
    """
    for run_id, result in zip(execution.children, comparison.results, strict=True):
        if result.status not in (Status.FINISHED, Status.FAILED):
            tracker.log_text(run_id, result.reason, "note.txt")
        tracker.end(run_id, _RUN_STATUS[result.status])
    _report_table(tracker, execution.parent, comparison)
    tracker.end(execution.parent, RunStatus.KILLED)


def _report_table(tracker: RunTracker, run_id: str, comparison: Comparison) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "summary.csv")
        comparison.table.to_csv(table)
        tracker.log_file(run_id, table)
    tracker.log_text(run_id, comparison.table.to_html(float_format="{:.4g}".format), "summary.html")


def _final(result: MethodResult, scores: dict[str, float]) -> dict[str, float]:
    """Return the scores without the ELBO where it has been recorded as a series."""
    return {k: v for k, v in scores.items() if k != _TRACE or not result.losses.size}


def _variables(result: MethodResult) -> list[str]:
    assert result.datatree is not None
    return [str(name) for name in result.datatree["posterior"].data_vars][:_MAX_IMAGES]
