"""What a leapfrog step, and the way to a verdict, cost by the number of chains: on a CPU, on a GPU.

Run as ``python tests/benchmarks/leapfrogs.py [--out DIR]``, with ``POSTERIORDB`` the folder of the
reference posteriors, and ``JAX_PLATFORMS`` the device. Chains begin at one draw of a deterministic
ADVI each. Transitions are with all that is done between trajectories; those of `vix.correct` are
counted with compilation.
"""

from __future__ import annotations

import argparse
import time
import warnings

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pymc as pm

from trust import Row, cell

import pymc_vi_ext as vix

from pymc_vi_ext.correction._hmc import ManyChains
from pymc_vi_ext.diagnostics import distances
from pymc_vi_ext.draws import draw
from pymc_vi_ext.engine.density import LogDensity

POSTERIORS = (
    "eight_schools-eight_schools_noncentered",
    "nes1972-nes",
    "diamonds-diamonds",
    "gp_pois_regr-gp_pois_regr",
    "irt_2pl-irt_2pl",
)
CHAINS = (64, 1024)
_LEAPS, _REPEATS = 100, 3


def leapfrogs(model: pm.Model, points: np.ndarray, chains: int) -> tuple[float, float]:
    """Return microseconds of a leapfrog step of all chains, and of a transition of one step."""
    moving = ManyChains(LogDensity(model), chains)
    rng = np.random.default_rng(1)
    moving.adapt_to(points)
    moving.begin(points[:chains])
    moving.step_size = 1e-3
    moving.run(3, rng, adapting=False)
    steps = np.full(chains, 1e-3)
    moving._take(steps, _LEAPS)
    leap = min(_seconds(lambda: moving._take(steps, _LEAPS)) for _ in range(_REPEATS)) / _LEAPS
    moving.step_size = 10.0
    one = min(_seconds(lambda: moving.run(10, rng, adapting=False)) for _ in range(_REPEATS)) / 10
    return 1e6 * leap, 1e6 * one


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Measure, and write ``leapfrogs-DEVICE.md`` after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--models", nargs="+", default=POSTERIORS)
    parser.add_argument("--chains", nargs="+", type=int, default=CHAINS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0]
    lines = [
        f"# Many chains on {device.device_kind}",
        "",
        "Microseconds of a leapfrog step of all chains, and of a transition of one step; "
        "`vix.correct` of one fit with so many chains: largest error of a mean in reference "
        "standard deviations / standard deviation ratio furthest from 1 (bold: right), verdict, "
        "seconds with compilation, and transitions, 0 where weights did.",
        "",
        "| posterior | chains | leapfrog, us | transition, us | transitions | correct |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name in arguments.models:
        model = vix.zoo.posteriordb.build(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            approx = vix.fit(method="dadvi", model=model, random_seed=1, progressbar=False)
        points = draw(approx, max(arguments.chains), 1).points
        for chains in arguments.chains:
            leap, transition = leapfrogs(model, points, chains)
            started = time.perf_counter()
            tree = vix.correct(
                approx, chains=chains, max_seconds=40, random_seed=1, progressbar=False
            )
            seconds = time.perf_counter() - started
            apart = distances(tree, vix.zoo.posteriordb.moments(name))
            row = Row(name, "correct", 1, seconds, tree.attrs["verdict"])
            row.mean_error, row.sd_ratio = apart.mean_error_sd_max, apart.sd_ratio_worst
            lines.append(
                f"| {name.split('-')[-1]} | {chains:,} | {leap:,.0f} | {transition:,.0f} | "
                f"{tree.attrs.get('transitions', 0):,} | {cell(row)} |"
            )
            print(lines[-1], flush=True)
            (arguments.out / f"leapfrogs-{device.platform}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
