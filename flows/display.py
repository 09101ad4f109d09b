"""A comparison in the terminal."""

from __future__ import annotations

import math
import statistics

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pymc_vi_ext.comparison import METRICS, Status
from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.shown import STYLES, captions, number, short_table
from pymc_vi_ext.comparison.workspace import ExecutionFolder

# What the table of a suite has of the metrics.
_OF_SUITES = (
    "compare/mean_error_sd_max",
    "compare/sd_ratio_worst",
    "compare/kde_overlap_min",
    "diag/khat",
    "diag/rhat_max",
    "time/run_s",
)


def print_table(
    console: Console, title: str, rows: Sequence[Mapping[str, Any]], *, legend: bool = True
) -> None:
    """Print the metrics that have a heading, a row per row of the table, and the notes below.

    Parameters
    ----------
    console : rich.console.Console
    title : str
    rows : sequence of mapping
    legend : bool
        Whether to say what the headings mean.
    """
    short_table(title, rows, legend=legend).print_on(console)


def print_suite(console: Console, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print a row per comparison and method, with the medians of its seeds."""
    shown = [METRICS[key] for key in _OF_SUITES]
    table = Table(
        title="All comparisons, medians of the seeds",
        title_style="bold",
        title_justify="left",
        caption=captions(shown),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("comparison", overflow="fold")
    table.add_column("method", overflow="fold")
    table.add_column("finished", justify="right", no_wrap=True)
    for metric in shown:
        table.add_column(metric.heading, justify="right", no_wrap=True)
    for name, rows in tables.items():
        runs = [row for row in rows if row["status"]]  # the noise floor is none
        for method in dict.fromkeys(row["method"] for row in runs):
            own = [row for row in runs if row["method"] == method]
            finished = [row for row in own if row["status"] == Status.FINISHED.value]
            style = "" if len(finished) == len(own) else STYLES[Status.FAILED.value]
            medians = [_median([row[m.key] for row in finished]) for m in shown]
            table.add_row(
                Text(name),
                Text(str(method)),
                Text(f"{len(finished)} of {len(own)}", style=style),
                *(number(value, m.format) for value, m in zip(medians, shown, strict=True)),
            )
    console.print(table)


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def print_plan(
    console: Console,
    title: str,
    runs: Sequence[Run],
    execution: ExecutionFolder,
    seconds: Sequence[float | None],
) -> None:
    """Print which runs would take place and roughly how long, and which are there already."""
    table = Table(
        title=escape(title), title_style="bold", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("method", no_wrap=True)
    table.add_column("seed", justify="right")
    table.add_column("")
    for run, place, finished, expected in zip(
        runs, execution.results, execution.finished, seconds, strict=True
    ):
        state = f"finished: {place}" if finished else f"would run{_about(expected)}"
        table.add_row(Text(run.spec.label), str(run.seed), Text(state, overflow="fold"))
    console.print(table)
    missing = [s for s, finished in zip(seconds, execution.finished, strict=True) if not finished]
    known = [expected for expected in missing if expected is not None]
    unknown = len(missing) - len(known)
    console.print(
        f"{len(missing)} of {len(runs)} runs would take place"
        + (_about(sum(known)) if known else "")
        + (f", one after the other; {unknown} have never run here" if unknown and known else "")
        + "."
    )


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", about {seconds:.0f} s" if seconds < 100 else f", about {seconds / 60:.0f} min"
