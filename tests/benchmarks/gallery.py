"""The rogues' gallery: what the default fit says of each model, and what is true.

Run as ``python tests/benchmarks/gallery.py [--out DIR]``. A line for each model and configuration:
stop reason, nats short of the mean field's optimum, and the sd that is most wrong over the
optimum's. Nothing may be CONVERGED and short by more than its model allows (.1 nat, .3 where losses
have heavy tails), or CONVERGED where there is nothing to converge to.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytensor

from stopping import Family, highest, packed

import pymc_vi_ext as vix

sys.path.append(str(Path(__file__).parents[1]))
from rogues import ROGUES, Rogue, by_quadrature

CONFIGURATIONS = {
    "jax": ("jax", "float64"),
    "jax, float32": ("jax", "float32"),
    "numba": ("numba", "float64"),
    "c": ("c", "float64"),
}


def judged(rogue: Rogue, approx: Any, seconds: float) -> tuple[float, float]:
    """Return nats short and the worst ratio of sds."""
    means, sds = (np.asarray(a.eval(), dtype=float) for a in (approx.mean, approx.std))
    if rogue.polished:
        family = Family(rogue.build(), "advi")
        start = packed(approx, family)
        best = max(highest(family, p, seconds) for p in (start, family.start))
        return best - float(family.elbo(jnp.asarray(start))), np.nan
    judge = rogue.judge or by_quadrature(rogue.build())
    nats, ratios = judge(means, sds)
    return nats, float(ratios[np.argmax(np.abs(np.log(ratios)))])


def row(name: str, configuration: str, seed: int, limit: int, seconds: float) -> dict[str, Any]:
    """Fit a rogue by the default and judge it."""
    rogue = ROGUES[name]
    backend, precision = CONFIGURATIONS[configuration]
    started = time.perf_counter()
    with warnings.catch_warnings(), pytensor.config.change_flags(floatX=precision):
        warnings.simplefilter("ignore")
        approx = vix.fit(
            limit, model=rogue.build(), backend=backend, random_seed=seed, progressbar=False
        )
    spent = time.perf_counter() - started
    short, ratio = (np.nan, np.nan) if rogue.never else judged(rogue, approx, seconds)
    wrong = approx.report.converged and (rogue.never or not short <= rogue.allowed)
    return {
        "model": name,
        "configuration": configuration,
        "stop": approx.report.stop_reason.value,
        "steps": approx.report.steps,
        "short": short,
        "ratio": ratio,
        "seconds": spent,
        "wrong": wrong,
        "evidence": approx.report.evidence,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| model | configuration | stop | steps | nats short | worst sd ratio | seconds |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        short = "-" if np.isnan(r["short"]) else f"{r['short']:.3f}"
        ratio = "-" if np.isnan(r["ratio"]) else f"{r['ratio']:.3f}"
        mark = " **wrong**" if r["wrong"] else ""
        lines.append(
            f"| {r['model']} | {r['configuration']} | {r['stop']}{mark} | {r['steps']:,} "
            f"| {short} | {ratio} | {r['seconds']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the gallery; exits with 1 where a fit says CONVERGED and is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(ROGUES), choices=list(ROGUES))
    parser.add_argument(
        "--configurations", nargs="+", default=["jax"], choices=list(CONFIGURATIONS)
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=100_000, help="steps at most")
    parser.add_argument("--polish", type=float, default=20.0, help="seconds a polish may take")
    parser.add_argument("--out", type=Path, help="folder that rogues.md is written to")
    options = parser.parse_args()
    rows = []
    for configuration in options.configurations:
        for name in options.models:
            if ROGUES[name].large and configuration in ("numba", "c"):
                continue
            rows.append(row(name, configuration, options.seed, options.limit, options.polish))
            print(table(rows[-1:]).split("\n")[-1], rows[-1]["evidence"][:100], flush=True)
    wrong = [r for r in rows if r["wrong"]]
    text = table(rows) + f"\n\n{len(wrong)} of {len(rows)} fits are CONVERGED and wrong.\n"
    print(text.rsplit("\n\n", 1)[-1])
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "rogues.md").write_text(text)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
