"""How far verdicts can be trusted: ``method="auto"`` on the rogues' gallery and the zoo.

Run as ``python tests/benchmarks/verdicts.py [--out DIR]``. Each model is fitted with no option; its
draws are held against means and standard deviations in closed form or by quadrature, or, where
neither is known, those of a long NUTS. Exits with 1 where a PASS is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pymc as pm
import xarray as xr

from arviz_base import dict_to_dataset

import pymc_vi_ext as vix

from pymc_vi_ext.diagnostics import distances
from pymc_vi_ext.minibatches import has_minibatches

sys.path.append(str(Path(__file__).parents[1]))
from rogues import ROGUES, Moments
from trust import RIGHT

# Of the reference: chains, tuning and draws of each.
_CHAINS, _TUNE, _DRAWS = 8, 2_000, 5_000
# Means and standard deviations of each variable.
ByName = dict[str, tuple[np.ndarray, ...]]
# Models whose components may change places: the posterior is the same for any order.
_SYMMETRIC = {"label switching"}


@dataclass
class Row:
    """What ``auto`` said of a model, and what is true."""

    model: str
    verdict: str
    mean_error: float
    sd_ratio: float
    seconds: float
    flaws: str
    has_posterior: bool

    @property
    def right(self) -> bool:
        """Whether draws are those of the posterior, as far as means and sds tell."""
        near = self.mean_error <= RIGHT[0] and abs(np.log(self.sd_ratio)) <= RIGHT[1]
        return self.has_posterior and bool(near)


def nuts_moments(model: pm.Model, seed: int, symmetric: bool) -> ByName:
    """Return means and standard deviations, by variable, of a long NUTS.

    Raises
    ------
    RuntimeError
        If its chains disagree.
    """
    import nutpie

    tree = nutpie.sample(
        nutpie.compile_pymc_model(model),
        draws=_DRAWS,
        tune=_TUNE,
        chains=_CHAINS,
        seed=seed,
        target_accept=0.99,
        progress_bar=False,
    )
    found = {}
    for rv in model.free_RVs:
        draws = tree["posterior"][rv.name].to_numpy().astype(float)
        if symmetric:
            # Over all orders of the components.
            draws = np.moveaxis(draws, -1, 1).reshape(len(draws), -1, 1)
            draws = np.broadcast_to(draws, (*draws.shape[:2], tree["posterior"][rv.name].shape[-1]))
        found[rv.name] = draws.mean(axis=(0, 1)), draws.std(axis=(0, 1))
    rhat = float(vix.diagnostics.rhat_max(tree))
    if not symmetric and rhat > 1.01:
        raise RuntimeError(f"The reference has not converged: R-hat {rhat:.3f}.")
    return found


def by_variable(model: pm.Model, moments: Moments) -> ByName:
    """Return moments of all elements, one after the other, by variable."""
    found, used = {}, 0
    for rv in model.free_RVs:
        shape = rv.shape.eval()
        size = int(np.prod(shape))
        found[rv.name] = tuple(part[used : used + size].reshape(shape) for part in moments)
        used += size
    return found


def bimodal_moments() -> Moments:
    """Return those of .2 N(-.3, .1) + .8 N(.5, .1)."""
    return np.array([0.34]), np.array([np.sqrt(0.1**2 + 0.2 * 0.8 * 0.8**2)])


def models() -> dict[str, tuple[Callable[[], pm.Model], Callable[[], Moments] | None, bool]]:
    """Return how each model is built, its moments where they are known, and if it is improper."""
    found = {name: (r.build, r.moments, r.improper) for name, r in ROGUES.items()}
    for name, build in vix.zoo.MODELS.items():
        if has_minibatches(build()):
            # The gallery has those whose posterior is known.
            continue
        found[f"zoo: {name}"] = (build, bimodal_moments if name == "mixture" else None, False)
    return found


def measured(name: str, seed: int) -> Row:
    """Fit a model, and hold the draws against what is true."""
    build, moments, improper = models()[name]
    model = build()
    started = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            approx = vix.fit(method="auto", model=model, random_seed=seed, progressbar=False)
        except (ArithmeticError, ValueError) as error:
            # To refuse is to promise nothing.
            spent = time.perf_counter() - started
            return Row(name, "refused", np.nan, np.nan, spent, str(error)[:80], not improper)
        spent = time.perf_counter() - started
        error, ratio = np.nan, np.nan
        if not improper:
            true = (
                nuts_moments(model, seed, name in _SYMMETRIC)
                if moments is None
                else by_variable(model, moments())
            )
            error, ratio = apart_from(approx.draws, true)
    found = approx.report.correction
    flaws = ", ".join(
        f"{check.name} {check.shown}" for check in found.checks if check.verdict.value != "PASS"
    )
    return Row(name, found.verdict.value, error, ratio, spent, flaws, not improper)


def apart_from(tree: xr.DataTree, true: ByName) -> tuple[float, float]:
    """Return the largest error of a mean in sds, and the ratio of sds furthest from 1.

    No numbers where there are no moments: nothing is right there.
    """
    if not all(np.isfinite(part).all() for both in true.values() for part in both):
        return np.nan, np.nan
    columns = {name: np.stack(both) for name, both in true.items()}
    moments = dict_to_dataset(columns, sample_dims=["moment"])
    apart = distances(tree, moments.assign_coords(moment=["mean", "sd"]))
    return apart.mean_error_sd_max, apart.sd_ratio_worst


def as_markdown(rows: list[Row]) -> str:
    """Return the table of counts, and that of rows."""
    text = [
        "# What a verdict is worth",
        "",
        '`vix.fit(method="auto")`, no option, on the rogues\' gallery and the zoo. Right: every '
        "mean within .1 standard deviations of the posterior's, every standard deviation within "
        "10 %, by closed forms, quadrature or a long NUTS.",
        "",
        "| verdict | models | right | wrong, or nothing to be right about |",
        "|---|--:|--:|--:|",
    ]
    for verdict in ("PASS", "WARN", "FAIL", "refused"):
        own = [row.right for row in rows if row.verdict == verdict]
        text.append(f"| {verdict} | {len(own)} | {sum(own)} | {len(own) - sum(own)} |")
    text += [
        "",
        "| model | verdict | error of means (sd) | sd ratio | seconds | flaws |",
        "|---|---|--:|--:|--:|---|",
    ]
    for row in rows:
        mark = " **wrong**" if row.verdict == "PASS" and not row.right else ""
        known = np.isfinite(row.mean_error) and np.isfinite(row.sd_ratio) and row.sd_ratio > 0
        numbers = f"{row.mean_error:.2f} | {row.sd_ratio:.2f}" if known else "- | -"
        text.append(
            f"| {row.model} | {row.verdict}{mark} | {numbers} | {row.seconds:.1f} | {row.flaws} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure, and write ``verdicts.md`` after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=list(models()), choices=list(models()))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder that verdicts.md is written to")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.models:
        rows.append(measured(name, options.seed))
        print(rows[-1], flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "verdicts.md").write_text(as_markdown(rows))
    sys.exit(any(row.verdict == "PASS" and not row.right for row in rows))


if __name__ == "__main__":
    main()
