"""How long runs took, and so how long others like them will take, roughly."""

from __future__ import annotations

import contextlib
import json
import statistics

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.storage import write_json

_SECONDS = "seconds.json"
# What makes runs alike, the more the better; seeds, versions and data do not count.
_ALIKE = ("model", "method", "options", "draws", "parameters")
_AT_LEAST = 2


def keep_seconds(run: Run, folder: Path, seconds: float) -> None:
    """Write how long a run took, from the start of its process to its end, beside its result.

    Parameters
    ----------
    run : Run
    folder : Path
        Of its result.
    seconds : float
    """
    write_json(folder / _SECONDS, {**_traits(run), "seconds": seconds})


def expected_seconds(runs: Sequence[Run], folders: Iterable[Path]) -> list[float | None]:
    """Return roughly how long runs will take.

    Parameters
    ----------
    runs : sequence of Run
    folders : iterable of Path
        Of all results that there are.

    Returns
    -------
    list of float or None
        For each run the median of the runs of its method on its model, of those that agree with
        it in most of options, draws and parameters; None where there has been none.
    """
    notes = []
    for folder in folders:
        # A folder that something else has written to says nothing of seconds.
        with contextlib.suppress(OSError, ValueError):
            notes.append(json.loads((folder / _SECONDS).read_text(encoding="utf-8")))
    return [_expected(_traits(run), notes) for run in runs]


def _expected(traits: dict[str, Any], notes: Sequence[dict[str, Any]]) -> float | None:
    for count in range(len(_ALIKE), _AT_LEAST - 1, -1):
        wanted = _ALIKE[:count]
        found = [n["seconds"] for n in notes if all(n[key] == traits[key] for key in wanted)]
        if found:
            return float(statistics.median(found))
    return None


def _traits(run: Run) -> dict[str, Any]:
    spec = run.spec
    traits = {
        "model": run.config["model"],
        "method": spec.name,
        "options": spec.all_options,
        "draws": run.draws,
        "parameters": run.config.get("parameters", {}),
    }
    # As it is when it has been written and read.
    plain: dict[str, Any] = json.loads(json.dumps(traits, default=str))
    return plain
