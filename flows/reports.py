"""A comparison again, from its tracker."""

from __future__ import annotations

import warnings

from pathlib import Path

from rich.console import Console

from pymc_vi_ext.comparison import ReferenceWarning
from pymc_vi_ext.tracking import RunTracker, rebuild_comparison
from pymc_vi_ext.tracking.report import figures_of

from .display import print_table


def write_report(console: Console, tracker: RunTracker, run_id: str, folder: Path) -> None:
    """Print the table of an execution, and write it and its figures to a folder.

    Parameters
    ----------
    console : rich.console.Console
    tracker : RunTracker
    run_id : str
        Of the parent run.
    folder : Path
        For ``summary.csv``, ``kde.png``, ``forest.png``, ``elbo.png``, ``accuracy.png`` and all of
        it as ``comparison.nc``.

    Raises
    ------
    ValueError
        If the tracker has no such execution.
    """
    with console.status("Reading from the tracker ..."), warnings.catch_warnings():
        # The table has it as a note.
        warnings.simplefilter("ignore", ReferenceWarning)
        comparison = rebuild_comparison(tracker, run_id)
        folder.mkdir(parents=True, exist_ok=True)
        comparison.table.to_csv(folder / "summary.csv")
        comparison.to_netcdf(folder / "comparison.nc")
        for name, (_, figure) in figures_of(comparison).items():
            figure.savefig(folder / f"{name}.png")
    rows = comparison.table.reset_index().to_dict(orient="records")
    print_table(console, run_id, rows)
