"""What many fits side by side cost, over one fit and over fits in a loop.

Run as ``python tests/benchmarks/map.py [--fits 1000] [--loop 20]``: gamma models of 200 data.
One fit, and each of the loop, is that of a new model, compiled anew; of the loop some are timed,
and their mean counted as often as there are fits. On a busy machine only CPU seconds say much.
"""

from __future__ import annotations

import argparse
import time
import warnings

from collections.abc import Callable
from typing import Any

import numpy as np

import pymc_vi_ext as vix

from pymc_vi_ext import zoo
from pymc_vi_ext.errors import FitWarning


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds."""
    started = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=1_000)
    parser.add_argument("--loop", type=int, default=20)
    given = parser.parse_args()
    warnings.simplefilter("ignore", FitWarning)
    rng = np.random.default_rng(0)
    rows = rng.gamma(2.0, 0.5, size=(given.fits, 200))

    def alone(y: np.ndarray) -> tuple[float, float]:
        options = {"random_seed": 1, "progressbar": False}
        return seconds(lambda: vix.fit(model=zoo.build("gamma", y=y), **options))

    alone(rows[0])  # imports
    each = np.array([alone(y) for y in rows[: given.loop]])
    one = np.median(each, axis=0)
    fits: list[vix.MappedFits] = []
    model = zoo.build("gamma", y=rows[0])
    options = {"data": {"y": rows}, "random_seed": 1, "progressbar": False}
    many = np.array(seconds(lambda: fits.append(vix.map(model, **options))))
    loop = each.mean(axis=0) * given.fits
    converged = sum(report.converged for report in fits[0].reports)
    print(f"{given.fits:,} fits, of which {converged:,} converged")
    print("                       wall s    CPU s")
    for name, found in {"one fit": one, "side by side": many, "in a loop": loop}.items():
        print(f"{name:20} {found[0]:8.1f} {found[1]:8.1f}")
    print(f"{'over one fit':20} {(many / one)[0]:8.1f} {(many / one)[1]:8.1f}")
    print(f"{'loop over that':20} {(loop / many)[0]:8.1f} {(loop / many)[1]:8.1f}")


if __name__ == "__main__":
    main()
