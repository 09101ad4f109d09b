"""Hold methods against reference posteriors: how right, how sure, how soon.

Run as ``python tests/benchmarks/trust.py --out DIR``, with ``POSTERIORDB`` the folder of the
reference posteriors; the methods are those of ``configs/suites/posteriordb.yaml``. Every row is a
process of its own, with empty folders for what PyTensor, Numba and JAX keep, so that its seconds,
from the model to the verdict, are those of a user's first call, or with ``--warm`` of the second,
in another process. Imports of PyMC and this package do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

import pymc_vi_ext as vix

from pymc_vi_ext.comparison import SAMPLERS, MethodSpec, make_spec, run_method
from pymc_vi_ext.diagnostics import distances

# Means within so many reference standard deviations, standard deviations within so much: right, and
# near.
RIGHT, NEAR = (0.1, np.log(1.1)), (0.3, np.log(1.43))
TIMEOUT_S = 600
# What a process finds of earlier ones.
_KEPT = ("no cache of an earlier process", "the caches of an earlier process of the same row")
# Draws of each chain of a sampler, and of an approximation.
_OF_CHAINS, _OF_FITS = 1_000, 4_000
_SUITE = yaml.safe_load(
    (Path(__file__).parents[2] / "configs/suites/posteriordb.yaml").read_text(encoding="utf-8")
)
METHODS: dict[str, MethodSpec] = {spec.label: spec for spec in map(make_spec, _SUITE["methods"])}


@dataclass
class Row:
    """One method on one posterior."""

    posterior: str
    method: str
    seed: int
    seconds: float = np.nan
    verdict: str = ""
    mean_error: float = np.nan
    sd_ratio: float = np.nan
    error: str = ""

    def within(self, bounds: tuple[float, float]) -> bool:
        """Whether means and standard deviations are within bounds."""
        return self.mean_error <= bounds[0] and abs(np.log(self.sd_ratio)) <= bounds[1]


def measured(posterior: str, method: str, seed: int) -> Row:
    """Run one row in this process."""
    row = Row(posterior, method, seed)
    model, spec = vix.zoo.posteriordb.build(posterior), METHODS[method]
    draws = _OF_CHAINS if spec.name in SAMPLERS else _OF_FITS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        result = run_method(model, spec, seed, draws)
        row.seconds = time.perf_counter() - started
        if result.datatree is None:
            row.error = result.reason[:200]
            return row
        row.verdict = vix.diagnose(result.datatree).verdict.value
    apart = distances(result.datatree, vix.zoo.posteriordb.moments(posterior))
    row.mean_error, row.sd_ratio = apart.mean_error_sd_max, apart.sd_ratio_worst
    return row


def in_a_process(posterior: str, method: str, seed: int, processes: int = 1) -> Row:
    """Run one row in a new process, or in several after each other, of which the last counts."""
    asked = [sys.executable, "-W", "ignore", __file__, "--row", posterior, method, str(seed)]
    try:
        with tempfile.TemporaryDirectory() as kept:
            for _ in range(processes):
                done = subprocess.run(
                    asked,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_S,
                    env=os.environ | _caches_in(kept),
                )
    except subprocess.TimeoutExpired:
        return Row(posterior, method, seed, error=f"no result in {TIMEOUT_S} s")
    if done.returncode:
        return Row(posterior, method, seed, error=done.stderr.strip().splitlines()[-1][:200])
    return Row(**json.loads(done.stdout.strip().splitlines()[-1]))


def _caches_in(folder: str) -> dict[str, str]:
    """Return the environment in which what is compiled is kept in a folder."""
    flags = os.environ.get("PYTENSOR_FLAGS", "")
    return {
        "PYTENSOR_FLAGS": f"{flags},base_compiledir={folder}/pytensor".lstrip(","),
        "NUMBA_CACHE_DIR": f"{folder}/numba",
        "PYMC_VI_EXT_CACHE": "off",
        "XDG_CACHE_HOME": f"{folder}/cache",
    }


def as_markdown(rows: list[Row], processes: int = 1) -> str:
    """Return the tables."""
    methods = [name for name in METHODS if any(row.method == name for row in rows)]
    sooner = {(r.posterior, r.seed): r.seconds for r in rows if r.method.startswith("nuts")}
    text = [
        "# Reference posteriors",
        "",
        "Right: every mean within .1 reference standard deviations, every standard deviation "
        "within 10 %; near: .3 and 43 %. Seconds from model to verdict, in a fresh process, "
        f"compilation included, {_KEPT[min(processes, 2) - 1]}; 4 x 1,000 draws of NUTS. Rows are "
        "fits: a posterior and a seed each.",
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
        ratio = f"{np.nanmedian(ratios):.2f}" if sooner else "-"
        text.append(
            f"| {method} | {len(own)} | {sum(right)} | {sum(near)} | "
            + " | ".join(map(str, counts))
            + f" | {np.median(seconds):.1f} | {np.max(seconds):.1f} | {ratio} |"
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
        found = [cell(cells.get((posterior, seed, method))) for method in methods]
        text.append(f"| {posterior.split('-')[-1]} | {seed} | " + " | ".join(found) + " |")
    return "\n".join(text) + "\n"


def cell(row: Row | None) -> str:
    """Return errors, bold where right, the verdict and seconds."""
    if row is None:
        return "-"
    if row.error:
        return row.error[:60].replace("|", "/")
    text = f"{row.mean_error:.2f} / {row.sd_ratio:.2f}"
    text = f"**{text}**" if row.within(RIGHT) else text
    return f"{text} {row.verdict}, {row.seconds:.1f} s"


def main() -> None:
    """Measure, and write ``trust.md`` and ``.json`` after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--models", nargs="+", help="all with a reference if not given")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=_SUITE["seeds"])
    parser.add_argument(
        "--warm", action="store_true", help="seconds of a second process, with what the first kept"
    )
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        posterior, method, seed = arguments.row
        print(json.dumps(asdict(measured(posterior, method, int(seed)))))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    processes = 2 if arguments.warm else 1
    for seed in arguments.seeds:
        for name in arguments.models or vix.zoo.posteriordb.POSTERIORS:
            try:
                vix.zoo.posteriordb.moments(name)
            except LookupError:
                continue
            for method in arguments.methods:
                rows.append(in_a_process(name, method, seed, processes))
                print(rows[-1], flush=True)
                numbers = json.dumps([asdict(row) for row in rows], indent=1)
                (arguments.out / "trust.json").write_text(numbers + "\n")
                (arguments.out / "trust.md").write_text(as_markdown(rows, processes))


if __name__ == "__main__":
    main()
