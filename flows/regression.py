"""Tonight's table against the last good one: kept, said to Prefect, the tracker and a webhook."""

from __future__ import annotations

import json
import math
import re
import time

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pymc_vi_ext.comparison.regression import Regression, regressions
from pymc_vi_ext.comparison.storage import write_json
from pymc_vi_ext.comparison.workspace import ExecutionFolder, Workspace
from pymc_vi_ext.tracking import RunTracker, open_tracker, tracker_uri
from pymc_vi_ext.tracking.keys import keys_of

from .webhook import post

_FILE = "regression.json"
# Nights that the chart shows, and things that a message names.
_NIGHTS, _NAMED = 400, 10
_CHARTS = {"error": ("compare/mean_error_sd_max",), "seconds": ("time/compile_s", "time/run_s")}


@dataclass(frozen=True)
class Judgement:
    """What was said of the table of an execution.

    Attributes
    ----------
    execution : ExecutionFolder
        Whose file `regression.json` this is.
    at : float
        When, in seconds since 1970.
    against : float or None
        When the table was judged that it was held against; None if there was none.
    worse : tuple of Regression
    accepted : bool
        Whether a person has taken it as good all the same.
    """

    execution: ExecutionFolder
    at: float
    against: float | None
    worse: tuple[Regression, ...]
    accepted: bool = False

    @property
    def good(self) -> bool:
        """Whether later tables are held against this one."""
        return self.accepted or not self.worse

    @property
    def headline(self) -> str:
        """What is said first."""
        if self.against is None:
            return "There was no table to hold this one against."
        return f"{'Worse' if self.worse else 'Nothing is worse'} than on {_date(self.against)}."

    @property
    def date(self) -> str:
        """When, on this machine's clock."""
        return _date(self.at)

    def accept(self) -> None:
        """Take it as good."""
        replace(self, accepted=True).keep()

    def keep(self) -> None:
        """Write the file."""
        plain = asdict(self)
        del plain["execution"]
        write_json(self.execution.path / _FILE, plain)


def judge(execution: ExecutionFolder, name: str) -> Judgement:
    """Hold the table of an execution against the last good one of that name; keep what is found.

    Parameters
    ----------
    execution : ExecutionFolder
        Whose table there is.
    name : str
        Of the comparison: that of another configuration of the same name is held against too.

    Returns
    -------
    Judgement
        Of the first of a name there is nothing to say, and it is good.
    """
    rows = execution.table
    assert rows is not None
    others = [j for j in judgements(execution, name) if j.execution.path != execution.path]
    last = next((judgement for judgement in reversed(others) if judgement.good), None)
    before = None if last is None else last.execution.table
    found: tuple[Regression, ...] = () if before is None else regressions(rows, before)
    judgement = Judgement(execution, time.time(), last.at if last else None, found)
    judgement.keep()
    return judgement


def judgements(execution: ExecutionFolder, name: str) -> list[Judgement]:
    """Return all of a name in the workspace of an execution, the oldest first."""
    return judgements_in(Workspace(execution.path.parents[1]), name)


def judgements_in(workspace: Workspace, name: str) -> list[Judgement]:
    """Return all of a name in a workspace whose tables there are, the oldest first."""
    found = []
    for execution in workspace.executions():
        judgement = _load(execution)
        ids = execution.ids or {}
        if judgement and ids.get("config", {}).get("name") == name and execution.table is not None:
            found.append(judgement)
    return sorted(found, key=lambda judgement: judgement.at)


def record(tracker: RunTracker, run_id: str, execution: ExecutionFolder, name: str) -> None:
    """Give the run of an execution a tag, and charts over nights; nothing if it was not judged."""
    judgement = _load(execution)
    if judgement is None:
        return
    said = ", ".join(f"{found.method} {found.what}" for found in judgement.worse)
    tracker.log_tags(run_id, {"regression": said or "none"})
    nights = [j for j in judgements(execution, name) if j.at <= judgement.at][-_NIGHTS:]
    tables = [night.execution.table or [] for night in nights]
    labels = keys_of(dict.fromkeys(row["method"] for row in tables[-1] if row["status"]))
    for method, label in labels.items():
        for chart, keys in _CHARTS.items():
            points = [(night, _median(rows, method, keys)) for night, rows in enumerate(tables)]
            known = [(night, value) for night, value in points if not math.isnan(value)]
            if known:
                steps, values = (np.array(column) for column in zip(*known, strict=True))
                tracker.log_series(run_id, f"nights/{chart}/{label}", steps, values)


def announce(judgement: Judgement, name: str, ids: Mapping[str, Any], webhook: str | None) -> str:
    """Write an artifact of the flow run that this is called in, and call the webhook if need be.

    Parameters
    ----------
    judgement : Judgement
    name : str
        Of the comparison.
    ids : mapping
        Of its run in the tracker, ``parent`` at ``uri``.
    webhook : str or None
        Environment variable that holds an address.

    Returns
    -------
    str
        What could not be said, and why; empty if all was.
    """
    key = re.sub(r"[^a-z0-9]+", "-", f"regression {name}".lower()).strip("-")
    lines = [f"# {name}", judgement.headline, _table(judgement.worse)]
    problem = ""
    try:
        # Not above: who only looks at what has been judged needs no Prefect.
        from prefect.artifacts import create_markdown_artifact

        where = open_tracker(tracker_uri(ids["uri"])).dashboard()
        opened = f"[{where}]({where})" if where.startswith("http") else f"`{where}`"
        lines.append(f"Figures and posteriors: {opened}, run `{ids['parent']}`.")
        create_markdown_artifact("\n\n".join(filter(None, lines)), key=key)
    except Exception as error:  # the table is worth more
        problem = f"Prefect has no artifact of it: {type(error).__name__}. "
    if not (judgement.worse and webhook):
        return problem
    more = len(judgement.worse) - _NAMED
    said = [f"{name}: {judgement.headline}", *map(str, judgement.worse[:_NAMED])]
    said += [f"and {more} more"] if more > 0 else []
    return problem + post(webhook, "\n".join(said))


def _load(execution: ExecutionFolder) -> Judgement | None:
    path = execution.path / _FILE
    if not path.exists():
        return None
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    worse = tuple(Regression(**found) for found in plain.pop("worse"))
    return Judgement(execution, worse=worse, **plain)


def _table(worse: Sequence[Regression]) -> str:
    if not worse:
        return ""
    rows = [
        f"| {found.method} | {found.what} | {found.before} | {found.now} | {found.limit} |"
        for found in worse
    ]
    return "\n".join(["| method | what | before | now | limit |", "|---|---|--:|--:|---|", *rows])


def _median(rows: Sequence[dict[str, Any]], method: str, keys: Sequence[str]) -> float:
    """Return the median over seeds of a sum of metrics, in which what is not known is left out."""
    sums = [
        np.nansum([row[key] for key in keys])
        for row in rows
        if row["method"] == method and not math.isnan(row[keys[-1]])
    ]
    return float(np.median(sums)) if sums else math.nan


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
