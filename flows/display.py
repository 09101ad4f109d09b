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

# heading, keys that are added up, format
_COLUMNS = (
    ("ELBO", ("diag/elbo",), ".3f"),
    ("k-hat", ("diag/khat",), ".2f"),
    ("R-hat", ("diag/rhat_max",), ".2f"),
    ("error", ("compare/mean_error_sd_max",), ".3f"),
    ("sd", ("compare/sd_ratio_worst",), ".3f"),
    ("W1", ("compare/wasserstein_mean",), ".3f"),
    ("overlap", ("compare/kde_overlap_min",), ".2f"),
    ("compile s", ("time/compile_s",), ".1f"),
    ("run s", ("time/fit_s", "time/sample_s"), ".1f"),
)
_CAPTION = (
    "ELBO in nats. Against the reference, over all elements: largest error of a mean in reference "
    "sds, sd ratio furthest from 1, mean 1-Wasserstein distance in sds, least overlap of densities."
)


def print_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the scores, a row per (method, seed), and the notes below."""
    several_seeds = len({row["seed"] for row in rows}) > 1
    table = Table(
        title=title,
        title_style="bold",
        title_justify="left",
        caption=_CAPTION,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)
    if several_seeds:
        table.add_column("seed", justify="right", no_wrap=True)
    for heading, _, _ in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        failed = row["status"] != "FINISHED"
        cells = [Text(str(row["method"]), style="bold red" if failed else "bold")]
        if several_seeds:
            cells.append(Text(str(row["seed"])))
        if failed:
            cells.append(Text("FAILED", style="bold red"))
        else:
            cells += [Text(_number(row, keys, form)) for _, keys, form in _COLUMNS]
        table.add_row(*cells)
    # rich would shorten the numbers to fit a narrow terminal; better that the lines wrap.
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    wide = Console(file=console.file, width=max(needed, console.width))
    wide.print(table)
    for row in rows:
        if row["note"]:
            name = f"{row['method']} (seed {row['seed']})" if several_seeds else row["method"]
            console.print(Text.assemble((f"{name}: ", "bold"), row["note"]), soft_wrap=True)


def _number(row: Mapping[str, Any], keys: tuple[str, ...], form: str) -> str:
    values = [row[key] for key in keys if not math.isnan(row[key])]
    return format(sum(values), form) if values else "-"
