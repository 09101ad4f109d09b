"""Hold corrected fits and a NUTS against reference posteriors: how right, how sure, how soon.

Run as ``python tests/benchmarks/trust.py --out DIR``, with ``POSTERIORDB`` the folder of the
reference posteriors. Every row is a process of its own, so that its seconds, from the model to the
verdict, are those of a user's first call; imports of PyMC and this package do not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pymc as pm
import xarray as xr

import pymc_vi_ext as vix

from pymc_vi_ext.diagnostics import distances

# Means within so many reference standard deviations, standard deviations within so much: right, and
# near.
RIGHT, NEAR = (0.1, np.log(1.1)), (0.3, np.log(1.43))
MAX_SECONDS = 60.0
TIMEOUT_S = 600


@dataclass
class Row:
    """One method on one posterior."""

    posterior: str
    method: str
    seed: int
    seconds: float = np.nan
    fit_s: float = np.nan
    verdict: str = ""
    how: str = ""
    khat: float = np.nan
    mean_error: float = np.nan
    sd_ratio: float = np.nan
    fit_mean_error: float = np.nan
    fit_sd_ratio: float = np.nan
    leapfrogs: float = np.nan
    error: str = ""

    def within(self, bounds: tuple[float, float]) -> bool:
        """Whether means and standard deviations are within bounds."""
        return self.mean_error <= bounds[0] and abs(np.log(self.sd_ratio)) <= bounds[1]


def corrected(method: str) -> Callable[[pm.Model, int, Row], xr.DataTree]:
    """Return what fits by `method` and corrects the fit."""

    def run(model: pm.Model, seed: int, row: Row) -> xr.DataTree:
        started = time.perf_counter()
        approx = vix.fit(method=method, model=model, random_seed=seed, progressbar=False)
        row.fit_s = time.perf_counter() - started
        tree = vix.correct(approx, max_seconds=MAX_SECONDS, random_seed=seed)
        row.how, row.khat = tree.attrs["correction"], tree.attrs["khat"]
        row.leapfrogs = tree.attrs.get("leapfrogs", np.nan)
        row.seconds = time.perf_counter() - started
        alone = vix.to_datatree(approx, 20_000, random_seed=seed)
        moments = vix.zoo.posteriordb.moments(row.posterior)
        apart = distances(alone, moments)
        row.fit_mean_error, row.fit_sd_ratio = apart.mean_error_sd_max, apart.sd_ratio_worst
        return tree

    return run


def auto(model: pm.Model, seed: int, row: Row) -> xr.DataTree:
    """Fit by ``method="auto"``, with no option."""
    started = time.perf_counter()
    approx = vix.fit(method="auto", model=model, random_seed=seed, progressbar=False)
    row.seconds = time.perf_counter() - started
    tree: xr.DataTree = approx.draws
    row.fit_s = approx.report.rungs[0].seconds
    row.how, row.khat = ", ".join(rung.name for rung in approx.report.rungs), tree.attrs["khat"]
    row.leapfrogs = tree.attrs.get("leapfrogs", np.nan)
    return tree


def nuts(model: pm.Model, seed: int, row: Row) -> xr.DataTree:
    """Draw 4 x 1,000 by nutpie's NUTS, compiled with numba, its default."""
    import nutpie

    started = time.perf_counter()
    compiled = nutpie.compile_pymc_model(model)
    tree: xr.DataTree = nutpie.sample(
        compiled, draws=1000, tune=1000, chains=4, seed=seed, progress_bar=False
    )
    row.seconds = time.perf_counter() - started
    return tree


METHODS = {
    "auto": auto,
    "advi, corrected": corrected("advi"),
    "fullrank_advi, corrected": corrected("fullrank_advi"),
    "dadvi, corrected": corrected("dadvi"),
    "nuts (nutpie)": nuts,
}


def measured(posterior: str, method: str, seed: int) -> Row:
    """Run one row in this process."""
    row = Row(posterior, method, seed)
    model = vix.zoo.posteriordb.build(posterior)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = METHODS[method](model, seed, row)
        row.verdict = vix.diagnose(tree).verdict.value
    apart = distances(tree, vix.zoo.posteriordb.moments(posterior))
    row.mean_error, row.sd_ratio = apart.mean_error_sd_max, apart.sd_ratio_worst
    return row


def in_a_process(posterior: str, method: str, seed: int) -> Row:
    """Run one row in a new process."""
    asked = [sys.executable, "-W", "ignore", __file__, "--row", posterior, method, str(seed)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Row(posterior, method, seed, error=f"no result in {TIMEOUT_S} s")
    if done.returncode:
        return Row(posterior, method, seed, error=done.stderr.strip().splitlines()[-1][:200])
    return Row(**json.loads(done.stdout.strip().splitlines()[-1]))


def as_markdown(rows: list[Row]) -> str:
    """Return the tables."""
    methods = [name for name in METHODS if any(row.method == name for row in rows)]
    sooner = {(r.posterior, r.seed): r.seconds for r in rows if r.method.startswith("nuts")}
    text = [
        "# Corrected fits beside NUTS",
        "",
        "Right: every mean within .1 reference standard deviations, every standard deviation "
        "within 10 %; near: .3 and 43 %. Seconds from model to verdict, in a fresh process, "
        "compilation included; 4 x 1,000 draws of NUTS. Rows are fits: a posterior and a seed "
        "each.",
        "",
        "| method | rows | right | near | PASS, right | PASS, wrong | WARN, right | WARN, wrong "
        "| FAIL, right | FAIL, wrong | median s | most s | median s over NUTS |",
        "|---|" + "--:|" * 12,
    ]
    for method in methods:
        own = [row for row in rows if row.method == method and not row.error]
        right = [row.within(RIGHT) for row in own]
        near = [row.within(NEAR) for row in own]
        counts = [
            sum(
                row.verdict == verdict and bool(is_right) is good
                for row, is_right in zip(own, right, strict=True)
            )
            for verdict in ("PASS", "WARN", "FAIL")
            for good in (True, False)
        ]
        seconds = [row.seconds for row in own]
        ratios = [row.seconds / sooner.get((row.posterior, row.seed), np.nan) for row in own]
        text.append(
            f"| {method} | {len(own)} | {sum(right)} | {sum(near)} | "
            + " | ".join(map(str, counts))
            + f" | {np.median(seconds):.1f} | {np.max(seconds):.1f} | {np.nanmedian(ratios):.2f} |"
        )
    text += [
        "",
        "Largest error of a mean in reference standard deviations / standard deviation ratio "
        "furthest from 1, verdict, seconds. The first row of a posterior and method, then others.",
        "",
        "| posterior | seed | " + " | ".join(methods) + " |",
        "|---|--:|" + "---|" * len(methods),
    ]
    cells = {(row.posterior, row.seed, row.method): row for row in rows}
    for posterior, seed in dict.fromkeys((row.posterior, row.seed) for row in rows):
        found = [_cell(cells.get((posterior, seed, method))) for method in methods]
        text.append(f"| {posterior.split('-')[-1]} | {seed} | " + " | ".join(found) + " |")
    return "\n".join(text) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.error:
        return row.error[:60].replace("|", "/")
    text = f"{row.mean_error:.2f} / {row.sd_ratio:.2f}"
    text = f"**{text}**" if row.within(RIGHT) else text
    known = np.isfinite(row.fit_mean_error)
    alone = f" (fit {row.fit_mean_error:.2f} / {row.fit_sd_ratio:.2f})" if known else ""
    return f"{text} {row.verdict}, {row.seconds:.1f} s{alone}"


def main() -> None:
    """Measure, and write ``trust.md`` and ``.json`` after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--models", nargs="+", help="all with a reference if not given")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        posterior, method, seed = arguments.row
        print(json.dumps(asdict(measured(posterior, method, int(seed)))))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in arguments.seeds:
        for name in arguments.models or vix.zoo.posteriordb.POSTERIORS:
            try:
                vix.zoo.posteriordb.moments(name)
            except LookupError:
                continue
            for method in arguments.methods:
                rows.append(in_a_process(name, method, seed))
                print(rows[-1], flush=True)
                numbers = json.dumps([asdict(row) for row in rows], indent=1)
                (arguments.out / "trust.json").write_text(numbers + "\n")
                (arguments.out / "trust.md").write_text(as_markdown(rows))


if __name__ == "__main__":
    main()
