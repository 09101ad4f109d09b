"""Hold default fits against the optimum of their family, moment by moment.

Run as ``python tests/benchmarks/accuracy.py --out DIR``. Nats hide what one parameter among others
is off by. The optimum of each family is found by L-BFGS on many fixed draws, and once more on
others, whose difference says how well it is known.
"""

from __future__ import annotations

import argparse
import time
import warnings

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pymc as pm

from stopping import METHODS, Family, models, packed, polished

import pymc_vi_ext as vix

MODELS: dict[str, Callable[[], pm.Model]] = {
    **{name: models()[name] for name in ("E1", "E2", "gamma", "eight schools")},
    "logistic, 100 rows": lambda: vix.zoo.build("logistic", n=100, k=10),
    "iris": vix.zoo.MODELS["iris"],
}
DRAWS = 100_000
OF_MEANS, OF_SDS = 0.03, 0.02
RULES = {"default": 0.01, "no last average": None}


def moments(family: Family, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations, (d,) each."""
    factor = np.asarray(family.factor(jnp.asarray(p)))
    return p[: family.d], np.sqrt((factor**2).sum(axis=1)) if family.full else factor


def distance(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Return the largest difference of means, in sds of `other`, and relative one of sds."""
    (mean, sd), (true_mean, true_sd) = one, other
    return np.max(abs(mean - true_mean) / true_sd), np.max(abs(sd / true_sd - 1))


def rows(name: str, make: Callable[[], pm.Model], method: str, seeds: int) -> list[str]:
    """Fit with every seed and both rules, and return their rows of the table."""
    model = make()
    family = Family(model, method, DRAWS)
    fits = {
        rule: [fitted(model, method, seed, accuracy, family) for seed in range(seeds)]
        for rule, accuracy in RULES.items()
    }
    start = fits["default"][0][0]
    optima = []
    for _ in range(2):
        optima.append(moments(family, polished(family, start, 600)))
        family.swap()
    optimum = tuple(np.mean(pair, axis=0) for pair in zip(*optima, strict=True))
    known = np.asarray(distance(optima[0], optima[1])) / 2
    found = []
    usual = np.median([seconds for _, _, seconds in fits["no last average"]])
    for rule, results in fits.items():
        off = np.asarray([distance(moments(family, p), optimum) for p, _, _ in results])
        within = (off < [OF_MEANS, OF_SDS]).all(axis=1).sum()
        steps, seconds = (np.median([r[i] for r in results]) for i in (1, 2))
        found.append(
            f"| {name} | {method} | {family.d} | {rule} | {within}/{seeds} "
            f"| {np.median(off[:, 0]):.3f} | {off[:, 0].max():.3f} "
            f"| {np.median(off[:, 1]):.1%} | {off[:, 1].max():.1%} "
            f"| {known[0]:.3f}, {known[1]:.1%} "
            f"| {steps:,.0f} | {seconds:.2f} | {seconds / usual:.2f} |"
        )
        print(found[-1], flush=True)
    return found


def fitted(
    model: pm.Model, method: str, seed: int, accuracy: float | None, family: Family
) -> tuple[np.ndarray, int, float]:
    """Return the parameters of a fit, its steps and its seconds from model to result."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        approx = vix.fit(
            method=method,
            model=model,
            random_seed=seed,
            progressbar=False,
            convergence=vix.callbacks.StagedStop(accuracy=accuracy),
        )
    seconds = time.perf_counter() - started
    return packed(approx, family), approx.report.steps, seconds


def main() -> None:
    """Measure, and write ``accuracy.md`` after every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Means and standard deviations of default fits",
        "",
        "Beside the optimum of the family, which L-BFGS finds on 100,000 fixed draws, and again on "
        "others (known to: half the difference of the two). Off: the worst variable of a fit; of "
        "means in standard deviations, of standard deviations relative. Within: fits with every "
        f"mean within {OF_MEANS} and every standard deviation within {OF_SDS:.0%}. Seconds from "
        "model to result, medians; times: over those without the last average "
        "(`StagedStop(accuracy=None)`), in the same run.",
        "",
        "| model | family | d | rule | within | means off, median | largest | sds off, median "
        "| largest | known to | steps | s | times |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in arguments.models:
        for method in arguments.methods:
            lines += rows(name, MODELS[name], method, arguments.seeds)
            (arguments.out / "accuracy.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
