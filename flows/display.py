"""A comparison in the terminal."""

from __future__ import annotations

import math
import statistics

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
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
    shown = [metric for metric in METRICS.values() if metric.heading]
    several_seeds = len({row["seed"] for row in rows if row["status"]}) > 1
    table = Table(
        title=escape(title),
        title_style="bold",
        title_justify="left",
        caption=_caption(shown) if legend else None,
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


def print_suite(console: Console, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print a row per comparison and method, with the medians of its seeds."""
    shown = [METRICS[key] for key in _OF_SUITES]
    table = Table(
        title="All comparisons, medians of the seeds",
        title_style="bold",
        title_justify="left",
        caption=_caption(shown),
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
            style = "" if len(finished) == len(own) else _STYLES[Status.FAILED.value]
            medians = [_median([row[m.key] for row in finished]) for m in shown]
            table.add_row(
                Text(name),
                Text(str(method)),
                Text(f"{len(finished)} of {len(own)}", style=style),
                *(_number(value, m.format) for value, m in zip(medians, shown, strict=True)),
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


def _caption(shown: Sequence[Metric]) -> str:
    return "; ".join(f"{metric.heading}: {metric.caption}" for metric in shown) + "."


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
