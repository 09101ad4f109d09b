"""The table of a comparison as it is shown, in the terminal and in notebooks."""

from __future__ import annotations

import math

from collections.abc import Mapping, Sequence
from typing import Any

from pymc_vi_ext._show import ShortTable
from pymc_vi_ext.comparison.metrics import METRICS, Metric
from pymc_vi_ext.comparison.types import Status

STYLES = {
    Status.FINISHED.value: "bold",
    Status.FAILED.value: "bold red",
    Status.INTERRUPTED.value: "bold yellow",
    Status.NOT_RUN.value: "dim",
    "": "italic",  # the noise floor, which is no run
}
"""How a terminal shows what became of a run."""


def short_table(
    title: str, rows: Sequence[Mapping[str, Any]], *, legend: bool = True
) -> ShortTable:
    """Return the metrics that have a heading, a row per row of a comparison's table, and its notes.

    Parameters
    ----------
    title : str
    rows : sequence of mapping
        Of :attr:`pymc_vi_ext.Comparison.table`, as records.
    legend : bool
        Whether to say what the headings mean.
    """
    metrics = [metric for metric in METRICS.values() if metric.heading]
    several_seeds = len({row["seed"] for row in rows if row["status"]}) > 1
    cells, notes = [], []
    for row in rows:
        status = row["status"]
        name = [str(row["method"])]
        if several_seeds:
            name.append(str(row["seed"]) if status else "")
        if status in (Status.FAILED.value, Status.NOT_RUN.value):
            cells.append([*name, status])
        else:
            cells.append([*name, *(number(row[m.key], m.format) for m in metrics)])
        if row["note"]:
            seed = f" (seed {row['seed']})" * bool(several_seeds and status)
            notes.append((f"{row['method']}{seed}", str(row["note"])))
    return ShortTable(
        title,
        ["method", *["seed"] * several_seeds, *(metric.heading for metric in metrics)],
        cells,
        numbers=True,
        styles=[STYLES[row["status"]] for row in rows],
        caption=captions(metrics) if legend else "",
        notes=notes,
    )


def captions(metrics: Sequence[Metric]) -> str:
    """Say what the headings of metrics mean."""
    return "; ".join(f"{metric.heading}: {metric.caption}" for metric in metrics) + "."


def number(value: float, form: str) -> str:
    """Write a metric; a dash where it is not known."""
    return "-" if math.isnan(value) else format(value, form)
