"""What of a comparison goes where in a tracker."""

from __future__ import annotations

import math
import tempfile
import time

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pymc_vi_ext._names import key_name
from pymc_vi_ext.comparison import METRICS, Comparison, MethodResult, Status
from pymc_vi_ext.comparison.live import Snapshot
from pymc_vi_ext.comparison.metrics import score
from pymc_vi_ext.comparison.outcomes import outcome_of
from pymc_vi_ext.comparison.storage import FILES
from pymc_vi_ext.plots import plot_kde
from pymc_vi_ext.plots._style import to_image
from pymc_vi_ext.traces import growing_blocks
from pymc_vi_ext.tracking.about import About
from pymc_vi_ext.tracking.headlines import headline_metrics, headline_tags
from pymc_vi_ext.tracking.keys import keys_of
from pymc_vi_ext.tracking.notes import comparison_note, result_note
from pymc_vi_ext.tracking.page import report_page
from pymc_vi_ext.tracking.tracker import Execution, RunStatus, RunTracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRACE = "fit/elbo"
"""The metric that a run with losses has as a series, from its first steps on."""
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
_UNKNOWN = About()
# Variables that get an image of their own in each run.
_MAX_IMAGES = 12


def report_result(tracker: RunTracker, run_id: str, result: MethodResult, folder: Path) -> None:
    """Record one run as far as it is known without the others, and close it.

    Parameters
    ----------
    tracker : RunTracker
    run_id : str
    result : MethodResult
    folder : Path
        Where :func:`pymc_vi_ext.comparison.storage.save_result` has written it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext.comparison import make_spec, not_run
    >>> from pymc_vi_ext.tracking import open_tracker, report_result
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> tracker = open_tracker(f"jsonl:{folder}/runs")
    >>> [run] = tracker.begin("demo", ["advi seed 1"], {}).children
    >>> report_result(tracker, run, not_run(make_spec("advi"), 1), folder)
    >>> tracker.fetch(run, "error.txt", folder).read_text()
    'not run, keyboard interrupt before it'
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
    tracker.log_tags(run_id, _tags(result))
    if result.losses.size:
        tracker.log_series(run_id, TRACE, *growing_blocks(result.losses))
    for name in FILES:
        if (folder / name).exists():
            tracker.log_file(run_id, folder / name)
    if result.datatree is None:
        tracker.log_metrics(run_id, _final(result, score(result, None)[0]))
        tracker.log_text(run_id, result.error or result.reason, "error.txt")
        tracker.log_note(run_id, result_note(result, ""))
    _end(tracker, run_id, result)


def report_progress(tracker: RunTracker, run_id: str, snapshot: Snapshot, after: int) -> None:
    """Record how far a run is that goes on; the record of its result agrees with it.

    Parameters
    ----------
    tracker : RunTracker
    run_id : str
    snapshot : Snapshot
    after : int
        Step up to which the tracker has the ELBO.
    """
    steps, elbo = snapshot.after(after)
    if steps.size:
        tracker.log_series(run_id, TRACE, steps, elbo)
    tracker.log_tags(run_id, {"progress": snapshot.status})


def report_comparison(
    tracker: RunTracker, execution: Execution, comparison: Comparison, about: About = _UNKNOWN
) -> None:
    """Record scores and figures of all runs, and close those that are open, parent last.

    Parameters
    ----------
    tracker : RunTracker
    execution : Execution
        Its children are the results of the comparison, in their order.
    comparison : Comparison
    about : About

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext.comparison import make_spec, not_run, summarise
    >>> from pymc_vi_ext.tracking import open_tracker, report_comparison
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> tracker = open_tracker(f"jsonl:{folder}/runs")
    >>> execution = tracker.begin("demo", ["advi seed 1"], {})
    >>> report_comparison(tracker, execution, summarise([not_run(make_spec("advi"), 1)], None))
    >>> tracker.fetch(execution.parent, "summary.csv", folder).name
    'summary.csv'
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
        tracker.log_note(run_id, result_note(result, str(row["note"])))
        shown = {
            key: draws
            for key, draws in posteriors.items()
            if key in {comparison.reference_name, name}
        }
        for variable in _variables(result):
            figure = plot_kde(shown, [variable], labels=comparison.labels)
            tracker.log_image(run_id, f"kde/{key_name(variable)}", to_image(figure))
        _end(tracker, run_id, result)
    parent = execution.parent
    images = {}
    for key, (caption, figure) in figures_of(comparison).items():
        images[caption] = to_image(figure)
        tracker.log_image(parent, f"comparison/{key}", images[caption])
    _report_table(tracker, parent, comparison, about, images)
    tracker.log_metrics(parent, headline_metrics(comparison))
    _report_traces(tracker, parent, comparison)
    if posteriors:
        variables = _variables(next(r for r in comparison.results if r.datatree is not None))
        for variable in variables:
            figure = plot_kde(posteriors, [variable], labels=comparison.labels)
            tracker.log_image(parent, f"kde/{key_name(variable)}", to_image(figure))
    failed = [r for r in comparison.results if r.status is Status.FAILED]
    tracker.log_metrics(
        parent, {"runs/failed": float(len(failed)), "runs/total": float(len(comparison.results))}
    )
    floor = comparison.noise_floor.items()
    tracker.log_metrics(parent, {key.replace("compare", _FLOOR): value for key, value in floor})
    ends = {_RUN_STATUS[result.status] for result in comparison.results}
    tracker.end(parent, next(status for status in _WORST_FIRST if status in ends))


def report_interrupted(
    tracker: RunTracker, execution: Execution, comparison: Comparison, about: About = _UNKNOWN
) -> None:
    """Close all runs of an execution that may go on later, and record what the table says so far.

    Scores are left to the end, which may have another reference.

    Parameters
    ----------
    tracker : RunTracker
    execution : Execution
    comparison : Comparison
    about : About

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext.comparison import make_spec, not_run, summarise
    >>> from pymc_vi_ext.tracking import open_tracker, report_interrupted
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> tracker = open_tracker(f"jsonl:{folder}/runs")
    >>> execution = tracker.begin("demo", ["advi seed 1"], {})
    >>> report_interrupted(tracker, execution, summarise([not_run(make_spec("advi"), 1)], None))
    >>> tracker.fetch(execution.parent, "report.html", folder).name
    'report.html'
    """
    for run_id, result in zip(execution.children, comparison.results, strict=True):
        if result.status not in (Status.FINISHED, Status.FAILED):
            tracker.log_tags(run_id, _tags(result))
            tracker.log_note(run_id, result_note(result, ""))
        _end(tracker, run_id, result)
    _report_table(tracker, execution.parent, comparison, about, {})
    tracker.end(execution.parent, RunStatus.KILLED)


def figures_of(comparison: Comparison) -> dict[str, tuple[str, Figure]]:
    """Return the figures of all methods that there can be, each with its caption, by key.

    Parameters
    ----------
    comparison : Comparison
    """
    found = {}
    if comparison.posteriors():
        found["kde"] = "Marginal densities", comparison.plot_kde()
        found["forest"] = "Intervals", comparison.plot_forest()
    if comparison.reference is not None:
        found["accuracy"] = "Error against seconds", comparison.plot_accuracy()
    found["elbo"] = "ELBO by step", comparison.plot_elbo()
    return found


def _report_traces(tracker: RunTracker, run_id: str, comparison: Comparison) -> None:
    """Record the ELBO of all runs with the execution: by step, or of their draws at step 0."""
    keys = keys_of(comparison.names)
    of_draws = comparison.table["diag/elbo"].to_numpy(float)
    for name, result, elbo in zip(comparison.names, comparison.results, of_draws, strict=False):
        key = f"elbo/{keys[name]}"
        if result.losses.size:
            tracker.log_series(run_id, key, *growing_blocks(result.losses))
        elif not math.isnan(elbo):
            tracker.log_metrics(run_id, {key: elbo})


def _report_table(
    tracker: RunTracker,
    run_id: str,
    comparison: Comparison,
    about: About,
    figures: dict[str, np.ndarray],
) -> None:
    """Record what a person reads, which another attempt may write anew."""
    tracker.log_tags(run_id, headline_tags(comparison))
    tracker.log_note(run_id, comparison_note(comparison, about))
    page = report_page(about.title, comparison, about, figures)
    tracker.log_text(run_id, page, "report.html")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "summary.csv")
        comparison.table.to_csv(table)
        tracker.log_file(run_id, table)


def _tags(result: MethodResult) -> dict[str, str]:
    """Return what a run is found by; a dashboard has a column for each."""
    outcome, reason = outcome_of(result)
    tags = {"method": result.label, "outcome": outcome.value, "message": reason}
    tags["progress"] = f"{result.steps:,} steps" if result.steps else "ended"
    if result.datatree is not None:
        tags["verdict"] = str(result.datatree.attrs.get("verdict", ""))
    if not math.isnan(result.began):
        tags["began"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(result.began))
    return {key: value for key, value in tags.items() if value}


def _end(tracker: RunTracker, run_id: str, result: MethodResult) -> None:
    seconds = None if math.isnan(result.seconds) else result.seconds
    tracker.end(run_id, _RUN_STATUS[result.status], seconds)


def _final(result: MethodResult, scores: dict[str, float]) -> dict[str, float]:
    """Return the scores without the ELBO where it has been recorded as a series."""
    return {k: v for k, v in scores.items() if k != TRACE or not result.losses.size}


def _variables(result: MethodResult) -> list[str]:
    assert result.datatree is not None
    return [str(name) for name in result.datatree["posterior"].data_vars][:_MAX_IMAGES]
