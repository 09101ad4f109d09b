"""The comparison as a flow: a task per (method, seed), then one that scores them all.

Tasks take specifications and seeds and return run ids and paths. Nothing is cached or persisted by
Prefect, which would hash models and pickle results.
"""

from __future__ import annotations

import tempfile
import warnings

from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from pymc_vi_ext.comparison import (
    MethodSpec,
    ReferenceWarning,
    Status,
    not_run,
    run_method,
    summarise,
)
from pymc_vi_ext.comparison.config import build_model, config_type, load_config, reference_of
from pymc_vi_ext.comparison.storage import load_result, save_result
from pymc_vi_ext.errors import INTERRUPT
from pymc_vi_ext.interrupts import take
from pymc_vi_ext.tracking import (
    Execution,
    RunStatus,
    open_tracker,
    report_comparison,
    report_result,
)


class MethodsFailed(Exception):
    """Some methods failed; ``report`` is what the flow returns when none does."""

    def __init__(self, message: str, report: dict[str, Any]):
        super().__init__(message)
        self.report = report


class Interrupted(MethodsFailed):
    """Ctrl-C ended the comparison; ``report`` has what there is."""


@task(cache_policy=NO_CACHE, persist_result=False)
def begin(config: dict[str, Any], text: str, tracking_uri: str) -> dict[str, Any]:
    """Create the runs in the tracker; return their ids."""
    parsed = config_type().model_validate(config)
    tracker = open_tracker(tracking_uri)
    names = [f"{spec.label} seed {seed}" for spec in parsed.specs() for seed in parsed.seeds]
    execution = tracker.begin(parsed.name, names, {"model": parsed.model})
    settings = {
        "model": parsed.model,
        "draws": parsed.draws,
        "seeds": parsed.seeds,
        "reference": parsed.reference,
        **{f"parameter/{name}": value for name, value in parsed.parameters.items()},
    }
    tracker.log_params(execution.parent, settings)
    tracker.log_text(execution.parent, text, "config.yaml")
    return {"parent": execution.parent, "children": list(execution.children)}


@task(cache_policy=NO_CACHE, persist_result=False)
def run(
    path: str,
    config: dict[str, Any],
    allow_code: bool,
    index: int,
    seed: int,
    folder: str,
    tracking_uri: str,
    run_id: str,
    interrupted: bool,
) -> State:
    """Run a method with a seed unless `interrupted`, write the result to `folder`, record it."""
    parsed = config_type().model_validate(config)
    spec: MethodSpec = parsed.specs()[index]
    model = build_model(parsed, path, allow_code=allow_code)
    if interrupted:
        result = not_run(spec, seed)
    else:
        result = run_method(model, spec, seed, parsed.draws)
    save_result(result, folder)
    report_result(open_tracker(tracking_uri), run_id, result, Path(folder))
    if result.datatree is None:
        return Failed(message=result.reason)
    return Completed()


@task(cache_policy=NO_CACHE, persist_result=False)
def score(
    config: dict[str, Any], folders: list[str], ids: dict[str, Any], tracking_uri: str
) -> dict[str, Any]:
    """Score all results against the reference and record that; return the table."""
    parsed = config_type().model_validate(config)
    with warnings.catch_warnings():
        # The table has it as a note, and the command line prints the notes.
        warnings.simplefilter("ignore", ReferenceWarning)
        results = [load_result(folder) for folder in folders]
        comparison = summarise(results, reference_of(parsed))
    execution = Execution(ids["parent"], tuple(ids["children"]))
    report_comparison(open_tracker(tracking_uri), execution, comparison)
    return {"table": comparison.table.reset_index().to_dict(orient="records"), **ids}


@flow(name="compare", persist_result=False)
def compare(config: str, tracking_uri: str, allow_code: bool = False) -> State:
    """Run the comparison that a YAML file describes and keep it in a tracker.

    Parameters
    ----------
    config : str
        Path of the configuration.
    tracking_uri : str
        Of any backend in :data:`pymc_vi_ext.tracking.BACKENDS`, absolute.
    allow_code : bool
        Whether the model may be code outside the zoo.

    Returns
    -------
    prefect.states.State
        Its result is a dict with the ``table`` (records) and the run ids ``parent`` and
        ``children``. Failed, with MethodsFailed, if a method failed; the others are finished
        nevertheless. Failed, with Interrupted, after Ctrl-C, which ends the run that it meets.
    """
    parsed = load_config(config, allow_code=allow_code)
    plain = parsed.model_dump(mode="json", exclude_unset=True)
    ids = begin(plain, Path(config).read_text(encoding="utf-8"), tracking_uri)
    runs = [(index, seed) for index in range(len(parsed.methods)) for seed in parsed.seeds]
    open_runs = dict.fromkeys([*ids["children"], ids["parent"]])
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folders, interrupted = [], False
            # In sequence: PyTensor's compilation is not safe in threads.
            for number, (index, seed) in enumerate(runs):
                run_id, folder = ids["children"][number], str(Path(scratch, str(number)))
                named = run.with_options(task_run_name=f"{parsed.specs()[index].label} seed {seed}")
                state = named(
                    config,
                    plain,
                    allow_code,
                    index,
                    seed,
                    folder,
                    tracking_uri,
                    run_id,
                    interrupted,
                    return_state=True,
                )
                if not Path(folder, "result.json").exists():
                    state.result()  # raises: not the method failed, but what is around it
                folders.append(folder)
                ended_by = load_result(folder).status
                interrupted = interrupted or ended_by is Status.INTERRUPTED or take()
                if state.is_failed():
                    del open_runs[run_id]
            report = score(plain, folders, ids, tracking_uri)
            open_runs.clear()
    finally:
        for run_id in open_runs:
            open_tracker(tracking_uri).end(run_id, RunStatus.KILLED)
    if interrupted:
        return Failed(message=INTERRUPT, data=Interrupted(INTERRUPT, report))
    failed = dict.fromkeys(
        row["method"] for row in report["table"] if row["status"] == Status.FAILED.value
    )
    if failed:
        message = f"Failed: {', '.join(failed)}."
        return Failed(message=message, data=MethodsFailed(message, report))
    return Completed(message=f"{len(runs)} runs finished.", data=report)
