"""Judge the families and methods: on reference posteriors, curved densities and modes, by speed.

Run as ``python tests/benchmarks/families.py --out DIR``. ``POSTERIORDB`` names the folder of the
reference posteriors; without it their table is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
import warnings

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import WallTime
from pymc_vi_ext.diagnostics import distances

SEED = 1
DRAWS = 20_000
# Within these the best family of a posterior counts as right.
MEAN_ERROR, SD_ERROR = 0.1, 0.1
QUIET = {"progressbar": False, "random_seed": SEED}


@dataclass
class Row:
    """One method on one model."""

    model: str
    dimension: int
    method: str
    mean_error: float = np.nan
    sd_ratio: float = np.nan
    wasserstein: float = np.nan
    elbo: float = np.nan
    steps: int = 0
    seconds: float = np.nan
    compile_s: float = np.nan
    stopped: str = ""

    @property
    def right(self) -> bool:
        """Whether means and standard deviations are within the bounds."""
        return self.mean_error <= MEAN_ERROR and 1 - SD_ERROR <= self.sd_ratio <= 1 + SD_ERROR


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds."""

    def alarm(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def plain(method: str, n: int = 100_000, **options: Any) -> Callable[..., Any]:
    """Return the fit of `method` with its defaults, or `options` for its constructor."""

    def fit(model: pm.Model, limit: float) -> Any:
        stops = {} if method in DIRECT else {"callbacks": [WallTime(limit)]}
        return vix.fit(n, method, model, inf_kwargs=options, **stops, **QUIET)

    return fit


DIRECT = ("laplace", "pathfinder")
METHODS: Mapping[str, Callable[..., Any]] = {
    "mean field": plain("advi"),
    "low rank": plain("lowrank_advi"),
    "full rank": plain("fullrank_advi"),
    "student t": plain("studentt_advi"),
    "mixture": plain("mixture_advi", K=3, full_rank=True),
    "flow": plain("flow_advi", n=20_000),
    "bam": plain("bam", n=5_000),
    "dadvi": plain("dadvi", n=1_000),
    "laplace": plain("laplace"),
    "pathfinder": plain("pathfinder"),
}


def judged(
    name: str,
    method: str,
    model: pm.Model,
    limit: float,
    reference: xr.DataTree | xr.Dataset | None = None,
) -> Row:
    """Fit and compare with reference draws, or their published moments, where there are any."""
    d = sum(v.size for v in model.initial_point().values())
    row = Row(name, int(d), method)
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(), at_most(int(10 * limit)):
            warnings.simplefilter("ignore")
            approx = METHODS[method](model, limit)
            row.seconds = time.perf_counter() - started
            tree = vix.to_datatree(approx, DRAWS, random_seed=SEED)
    except TimeoutError:
        row.stopped = f"no result in {int(10 * limit)} s"
        return row
    except Exception as error:
        row.stopped = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
        return row
    report = approx.report
    row.steps, row.stopped = report.steps, report.stop_reason.value
    row.compile_s = report.timings.graph_s + report.timings.compile_s
    if "log_q" in tree["sample_stats"]:
        stats = tree["sample_stats"]
        row.elbo = float((stats["lp"] - stats["log_q"]).mean())
    if reference is not None:
        apart = distances(tree, reference)
        row.mean_error, row.sd_ratio = apart.mean_error_sd_max, apart.sd_ratio_worst
        row.wasserstein = apart.wasserstein_mean
    return row


def banana() -> pm.Model:
    """A ridge along a parabola; log Z = 0."""
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Normal("y", x**2, 0.1)
    return model


def two_moons() -> pm.Model:
    """Two crescents, normalised only up to a constant (its log Z is by quadrature)."""
    with pm.Model() as model:
        x = pm.Flat("x", shape=2)
        radius = pt.sqrt(pt.sum(x**2))
        left, right = -0.5 * ((x[0] + 2) / 0.6) ** 2, -0.5 * ((x[0] - 2) / 0.6) ** 2
        pm.Potential("moons", -0.5 * ((radius - 2) / 0.4) ** 2 + pt.logaddexp(left, right))
    return model


def funnel() -> pm.Model:
    """Neal's funnel in ten dimensions; log Z = 0."""
    with pm.Model() as model:
        v = pm.Normal("v", 0.0, 3.0)
        pm.Normal("x", 0.0, pt.exp(v / 2), shape=9)
    return model


def moons_log_z() -> float:
    """Return log Z of `two_moons`, by the trapezoid rule."""
    grid = np.linspace(-5, 5, 2001)
    x, y = np.meshgrid(grid, grid)
    logp = -0.5 * ((np.hypot(x, y) - 2) / 0.4) ** 2
    logp += np.logaddexp(-0.5 * ((x + 2) / 0.6) ** 2, -0.5 * ((x - 2) / 0.6) ** 2)
    return float(np.log(np.trapezoid(np.trapezoid(np.exp(logp), grid), grid)))


CURVED = {"banana": (banana, 0.0), "two moons": (two_moons, moons_log_z()), "funnel": (funnel, 0.0)}


def step_ms(method: vix.inference.EngineFit, draws: int, steps: int = 300) -> tuple[float, float]:
    """Return milliseconds a step, best of three runs, and seconds until the first is over."""
    started = time.perf_counter()
    method.fit(1, obj_n_mc=draws, progressbar=False)
    cold, found = time.perf_counter() - started, []
    for _ in range(3):
        method.fit(steps, obj_n_mc=draws, progressbar=False)
        found.append(method.approx.report.timings.run_s / steps * 1e3)
    return min(found), cold


def speeds() -> list[str]:
    """Measure the steps that have a target."""
    with pm.Model() as large:
        pm.Normal("x", 0.0, 1.0, shape=10_000)
    with pm.Model() as middling:
        pm.Normal("x", 0.0, 1.0, shape=50)
    mean_field, _ = step_ms(vix.ADVI(model=large), 1)
    low_rank, _ = step_ms(vix.LowRankADVI(10, model=large), 1)
    lines = [
        f"- low rank (10) in 10,000 dimensions: {low_rank:.2f} ms a step, mean field "
        f"{mean_field:.2f} ms: {low_rank / mean_field:.1f} times."
    ]
    for kind in ("spline", "affine"):
        flow = vix.FlowADVI(kind, couplings=8, width=64, model=middling)
        found, cold = step_ms(flow, 32, 100)
        lines.append(
            f"- {kind} flow, 8 couplings of width 64, 50 dimensions, 32 draws: {found:.1f} ms a "
            f"step; {cold:.1f} s until the first."
        )
    particles = vix.SVGD(1_000, model=vix.zoo.build("mixture"), random_seed=1)
    started = time.perf_counter()
    particles.fit(300, progressbar=False)
    elapsed = time.perf_counter() - started
    lines.append(f"- SVGD, 1,000 particles x 300 steps on mixture: {elapsed:.1f} s.")
    return lines


def bimodal(seeds: int = 20) -> list[str]:
    """Count the seeds from which a mixture finds .2 N(-.3, .1) + .8 N(.5, .1)."""
    lines = []
    for components in (2, 5):
        found, worst = 0, 0.0
        for seed in range(seeds):
            options = {"K": components}
            model = vix.zoo.build("mixture")
            approx = vix.fit(
                method="mixture_advi",
                model=model,
                random_seed=seed,
                inf_kwargs=options,
                progressbar=False,
            )
            tree = vix.to_datatree(approx, DRAWS, random_seed=SEED)
            group = approx.groups[0]
            weights, means = group.weights.eval(), group.params_dict["mu"].get_value()[:, 0]
            share = float(weights[means < 0.1].sum())
            stats = tree["sample_stats"]
            divergence = float((stats["log_q"] - stats["lp"]).mean())
            worst = max(worst, divergence)
            found += abs(share - 0.2) <= 0.01 and divergence <= 0.01
        lines.append(
            f"- bimodal model, {components} components: weights within .01 and KL <= .01 nat from "
            f"{found} of {seeds} seeds, the largest KL {worst:.4f}."
        )
    return lines


def as_markdown(rows: list[Row], lines: list[str]) -> str:
    """Return the tables."""
    text = ["# Families and methods", ""]
    references = [row for row in rows if row.model not in CURVED]
    if references:
        names = list(dict.fromkeys(row.model for row in references))
        best = {
            name: min(
                (row for row in references if row.model == name and row.mean_error >= 0),
                key=_badness,
                default=None,
            )
            for name in names
        }
        right = sum(row is not None and row.right for row in best.values())
        text += [
            "## Reference posteriors",
            "",
            "Largest error of a mean in reference standard deviations / the standard deviation "
            "ratio furthest from 1; bold where within .1 and 10 %. Then the best method's mean "
            "Wasserstein distance over the sd, and its seconds from model to result.",
            "",
            f"The best method is right on {right} of {len(names)}.",
            "",
            "| posterior | d | " + " | ".join(METHODS) + " | best | W1 | s |",
            "|---|--:|" + "---|" * len(METHODS) + "---|--:|--:|",
        ]
        for name in names:
            own = {row.method: row for row in references if row.model == name}
            cells = [_cell(own.get(method)) for method in METHODS]
            top = best[name]
            end = ["-", "-", "-"]
            if top is not None:
                distance = f"{top.wasserstein:.3f}" if top.wasserstein >= 0 else "-"
                end = [top.method, distance, f"{top.seconds:.1f}"]
            d = next(iter(own.values())).dimension
            text.append(f"| {name.split('-')[-1]} | {d} | " + " | ".join([*cells, *end]) + " |")
        text += ["", "Seconds from model to result, median over these posteriors:", ""]
        for method in METHODS:
            found = [row.seconds for row in references if row.method == method]
            cold = [row.compile_s for row in references if row.method == method]
            if not np.isfinite(found).any():
                continue
            text.append(
                f"- {method}: {np.nanmedian(found):.1f} s, the most of compiling "
                f"{np.nanmax(cold):.1f} s."
            )
        text.append("")
    curved = [row for row in rows if row.model in CURVED]
    if curved:
        text += [
            "## Curved densities",
            "",
            "ELBO less log Z in nats (0 is the posterior itself), standard error about .01.",
            "",
            "| density | d | " + " | ".join(_ELBO_METHODS) + " |",
            "|---|--:|" + "--:|" * len(_ELBO_METHODS),
        ]
        for name in dict.fromkeys(row.model for row in curved):
            own = {row.method: row for row in curved if row.model == name}
            cells = [f"{own[m].elbo - CURVED[name][1]:.2f}" for m in _ELBO_METHODS if m in own]
            d = next(iter(own.values())).dimension
            text.append(f"| {name} | {d} | " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join([*text, "## Speed and modes", "", *lines]) + "\n"


_ELBO_METHODS = [name for name in METHODS if name not in DIRECT and name != "dadvi"]


def _badness(row: Row) -> float:
    return max(row.mean_error / MEAN_ERROR, abs(np.log(row.sd_ratio)) / SD_ERROR)


def _cell(row: Row | None) -> str:
    if row is None or not np.isfinite(row.mean_error):
        return "-"
    text = f"{row.mean_error:.2f} / {row.sd_ratio:.2f}"
    return f"**{text}**" if row.right else text


def main() -> None:
    """Measure, and write ``families.md`` and ``.json`` after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--models", nargs="+", help="all if not given")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of steps of a fit")
    parser.add_argument("--keep", action="store_true", help="rows measured before stay")
    parser.add_argument("--no-speed", action="store_true", help="leave the speeds as they are")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    numbers = arguments.out / "families.json"
    rows: dict[tuple[str, str], Row] = {}
    lines: list[str] = []
    if arguments.keep and numbers.exists():
        kept = json.loads(numbers.read_text())
        lines = kept["speed"]
        rows = {(r["model"], r["method"]): Row(**r) for r in kept["rows"]}

    def write() -> None:
        content = {"rows": [asdict(row) for row in rows.values()], "speed": lines}
        numbers.write_text(json.dumps(content, indent=1) + "\n")
        (arguments.out / "families.md").write_text(as_markdown(list(rows.values()), lines))

    if not arguments.no_speed:
        lines = [*speeds(), *bimodal()]
        print(*lines, sep="\n", flush=True)
    cases: dict[str, Callable[[], pm.Model]] = {name: make for name, (make, _) in CURVED.items()}
    references: dict[str, xr.DataTree | xr.Dataset] = {}
    if os.environ.get("POSTERIORDB"):
        posteriordb = vix.zoo.posteriordb
        for name, posterior in posteriordb.POSTERIORS.items():
            if posterior.draws is not None:
                references[name] = xr.DataTree.from_dict({"posterior": posteriordb.reference(name)})
            else:
                try:
                    references[name] = posteriordb.moments(name)
                except LookupError:
                    continue
            cases[name] = lambda name=name: posteriordb.build(name)
    for name, make in cases.items():
        if arguments.models and name not in arguments.models:
            continue
        for method in arguments.methods:
            if arguments.keep and (name, method) in rows:
                continue
            if name in CURVED and method not in _ELBO_METHODS:
                continue
            row = judged(name, method, make(), arguments.limit, references.get(name))
            rows[name, method] = row
            print(row, flush=True)
            write()
    write()


if __name__ == "__main__":
    main()
