"""A comparison in the terminal."""

from __future__ import annotations

import math

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pymc_vi_ext.comparison import METRICS, Metric, Status
from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.workspace import ExecutionFolder

_STYLES = {
    Status.FINISHED.value: "bold",
    Status.FAILED.value: "bold red",
    Status.INTERRUPTED.value: "bold yellow",
    Status.NOT_RUN.value: "dim",
    "": "italic",  # the noise floor, which is no run
}


def print_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the metrics that have a heading, a row per row of the table, and the notes below."""
    shown = [metric for metric in METRICS.values() if metric.heading]
    several_seeds = len({row["seed"] for row in rows if row["status"]}) > 1
    table = Table(
        title=title,
        title_style="bold",
        title_justify="left",
        caption=_caption(shown),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)
    if several_seeds:
        table.add_column("seed", justify="right", no_wrap=True)
    for metric in shown:
        table.add_column(metric.heading, justify="right", no_wrap=True)
    for row in rows:
        status = row["status"]
        failed = status in (Status.FAILED.value, Status.NOT_RUN.value)
        cells = [Text(str(row["method"]), style=_STYLES[status])]
        if several_seeds:
            cells.append(Text(str(row["seed"]) if status else ""))
        if failed:
            cells.append(Text(status, style=_STYLES[status]))
        else:
            cells += [Text(_number(row[metric.key], metric.format)) for metric in shown]
        table.add_row(*cells)
    # rich would shorten the numbers to fit a narrow terminal; better that the lines wrap.
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    wide = Console(file=console.file, width=max(needed, console.width))
    wide.print(table)
    for row in rows:
        if row["note"]:
            several = several_seeds and row["status"]
            name = f"{row['method']} (seed {row['seed']})" if several else row["method"]
            console.print(Text.assemble((f"{name}: ", "bold"), row["note"]), soft_wrap=True)


def print_plan(
    console: Console, title: str, runs: Sequence[Run], execution: ExecutionFolder
) -> None:
    """Print which runs would take place, and which are there already."""
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    table.add_column("seed", justify="right")
    table.add_column("")
    for run, place, finished in zip(runs, execution.results, execution.finished, strict=True):
        state = f"finished: {place}" if finished else "would run"
        table.add_row(run.spec.label, str(run.seed), Text(state, overflow="fold"))
    console.print(table)
    there = sum(execution.finished)
    console.print(f"{len(runs) - there} of {len(runs)} runs would take place.")


def _caption(shown: Sequence[Metric]) -> str:
    return "; ".join(f"{metric.heading}: {metric.caption}" for metric in shown) + "."


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
