"""Comparisons from what a tracker holds of them."""

from __future__ import annotations

import json
import tempfile

from pathlib import Path
from typing import TYPE_CHECKING

from pymc_vi_ext.comparison import Comparison, MethodResult, Status, summarise
from pymc_vi_ext.comparison.runner import without_draws
from pymc_vi_ext.comparison.storage import FILES, RESULT, load_result
from pymc_vi_ext.tracking.tracker import RunTracker

if TYPE_CHECKING:
    from pymc_vi_ext.comparison.config import ComparisonConfig

CONFIGURATION = "configuration.json"
"""What the execution was asked for, whatever the file and the command line said, as an artifact."""


def rebuild_comparison(tracker: RunTracker, run_id: str) -> Comparison:
    """Score the results that a tracker holds of an execution, as they were scored then.

    Parameters
    ----------
    tracker : RunTracker
    run_id : str
        Of the execution, the parent run.

    Returns
    -------
    Comparison
        Runs of which the tracker has no result are NOT_RUN.

    Raises
    ------
    ValueError
        If there is no such run, or it is no execution of a comparison.

    Warns
    -----
    ReferenceWarning
        As for :func:`pymc_vi_ext.compare`.
    """
    from pymc_vi_ext.comparison.config import config_type, reference_file, reference_of

    if not tracker.has(run_id):
        raise ValueError(f"The tracker has no run {run_id!r}.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = tracker.fetch(run_id, CONFIGURATION, folder)
        if file is None:
            raise ValueError(
                f"The run {run_id!r} is no execution of a comparison: it has no {CONFIGURATION}. "
                "Give the id of a parent run."
            )
        config = config_type().model_validate_json(file.read_text(encoding="utf-8"))
        if (reference := reference_file(config, folder / CONFIGURATION)) is not None:
            config = config.model_copy(update={"reference": reference.name})
            tracker.fetch(run_id, reference.name, folder)
        found = {}
        for number, child in enumerate(tracker.children(run_id)):
            result = _result(tracker, child, folder / str(number))
            if result is not None:
                found[result.label, result.seed] = result
        return summarise(_in_order(config, found), reference_of(config, folder / CONFIGURATION))


def _result(tracker: RunTracker, run_id: str, folder: Path) -> MethodResult | None:
    folder.mkdir()
    for name in FILES:
        tracker.fetch(run_id, name, folder)
    return load_result(folder) if (folder / RESULT).exists() else None


def _in_order(
    config: ComparisonConfig, found: dict[tuple[str, int], MethodResult]
) -> list[MethodResult]:
    reason = "the tracker has no result of it"
    return [
        found.get((spec.label, seed)) or without_draws(spec, seed, Status.NOT_RUN, reason)
        for spec in config.specs()
        for seed in config.seeds
    ]


def write_configuration(tracker: RunTracker, run_id: str, config: ComparisonConfig) -> None:
    """Record what an execution was asked for, from which it can be rebuilt.

    Parameters
    ----------
    tracker : RunTracker
    run_id : str
    config : ComparisonConfig
    """
    plain = config.model_dump(mode="json", exclude_unset=True)
    tracker.log_text(run_id, json.dumps(plain, indent=1), CONFIGURATION)
