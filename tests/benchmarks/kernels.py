"""Chains of ``vix.correct`` beside BlackJAX' adaptive kernels of many chains, from the same starts.

Run as ``python tests/benchmarks/kernels.py [--out DIR]``, with ``POSTERIORDB`` the folder of the
reference posteriors. Each kernel begins at the same 64 draws of one deterministic ADVI, four chains
at each, in units of its covariance. Ours ends when it has settled; BlackJAX' have no rule that ends
them, and take 500 transitions to adapt and 500 more. Seconds are with compilation.
"""

from __future__ import annotations

import argparse
import time
import warnings

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pymc as pm

from trust import RIGHT

import pymc_vi_ext as vix

from pymc_vi_ext.comparison._jax_density import jax_density
from pymc_vi_ext.correction._covariance import factors_of, times
from pymc_vi_ext.correction._hmc import ManyChains, Path
from pymc_vi_ext.correction._settling import settle
from pymc_vi_ext.diagnostics import distances
from pymc_vi_ext.diagnostics.chains import log_sd_error
from pymc_vi_ext.draws import as_datatree, draw, values_of
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.upstream import array_stats

POSTERIORS = (
    "eight_schools-eight_schools_centered",
    "eight_schools-eight_schools_noncentered",
    "nes1972-nes",
    "arK-arK",
    "garch-garch11",
    "gp_pois_regr-gp_pois_regr",
)
_GROUPS, _OF_GROUP = 16, 4
_ADAPTING, _DRAWS = 500, 500


@dataclass(frozen=True)
class Run:
    """Chains: points (chains, draws, d), gradients of each chain in all, seconds."""

    points: np.ndarray
    gradients: float
    seconds: float


@dataclass(frozen=True)
class Start:
    """A model, draws of its fit, and which of them chains begin at."""

    model: pm.Model
    draws: np.ndarray
    chosen: np.ndarray
    superchain: np.ndarray
    seed: int


Kernel = Callable[[Start], Run]


def ours(start: Start) -> Run:
    """Settle, as ``vix.correct`` does."""
    rng = np.random.default_rng(start.seed)
    values = values_of(start.model)

    def sd_error(path: Path) -> float:
        points = path.points
        found = values(points.reshape(-1, points.shape[-1])).values()
        return max(log_sd_error(v.reshape(len(points), -1, *v.shape[1:])) for v in found)

    started = time.perf_counter()
    chains = ManyChains(LogDensity(start.model), len(start.chosen))
    found = settle(chains, start.chosen, start.superchain, start.draws, sd_error, rng)
    return Run(found.path.points, chains.leaps, time.perf_counter() - started)


def by_blackjax(adapt: Callable[..., tuple[Any, Callable[..., Any], Any]]) -> Kernel:
    """Return what runs one of BlackJAX' adaptations in units of the fit, and then its kernel."""

    def run(start: Start) -> Run:
        centre = start.draws.mean(axis=0)
        factor, inverse = factors_of(start.draws, dense=True)
        density = jax_density(start.model)
        started = time.perf_counter()

        def logp(u: jax.Array) -> jax.Array:
            value: jax.Array = density.logp(centre + factor @ u, [], density.data)
            return value

        @jax.jit
        def sample(key: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
            warm, key = jax.random.split(key)
            state, step, before = adapt(logp, warm, positions)

            def transition(state: Any, key: jax.Array) -> tuple[Any, Any]:
                state, info = jax.vmap(step)(jax.random.split(key, len(positions)), state)
                return state, (state.position, _gradients(info))

            _, (points, taken) = jax.lax.scan(transition, state, jax.random.split(key, _DRAWS))
            return points, before + taken.sum()

        points, taken = sample(jax.random.key(start.seed), times(start.chosen - centre, inverse))
        points = times(np.swapaxes(np.asarray(points), 0, 1), factor) + centre
        return Run(points, float(taken), time.perf_counter() - started)

    return run


def _gradients(info: Any) -> jax.Array:
    """Return how many gradients a transition took: all chains wait for the longest."""
    steps = getattr(info, "num_integration_steps", None)
    return jnp.ones(()) if steps is None else steps.max().astype(float)


def chees(logp: Callable[..., jax.Array], key: jax.Array, positions: jax.Array) -> Any:
    """HMC whose length maximises the change of squares (Hoffman et al., 2021)."""
    warmup = blackjax.chees_adaptation(logp, len(positions), mass_matrix_estimation="diagonal")
    (states, parameters), info = warmup.run(key, positions, 0.1, optax.adam(0.05), _ADAPTING)
    before = info.info.num_integration_steps.max(axis=1).sum()
    return states, blackjax.dynamic_hmc(logp, **parameters).step, before


def meads(logp: Callable[..., jax.Array], key: jax.Array, positions: jax.Array) -> Any:
    """Generalised HMC that takes everything from the other chains (Hoffman and Sountsov, 2022)."""
    warmup = blackjax.meads_adaptation(logp, len(positions))
    (states, parameters), _ = warmup.run(key, positions, _ADAPTING)
    return states, blackjax.ghmc(logp, **parameters).step, float(_ADAPTING)


KERNELS: dict[str, Kernel] = {
    "vix.correct": ours,
    "BlackJAX ChEES": by_blackjax(chees),
    "BlackJAX MEADS": by_blackjax(meads),
}


def row(posterior: str, kernel: str, start: Start) -> str:
    """Run a kernel and return its row of the table."""
    run = KERNELS[kernel](start)
    values = values_of(start.model)(run.points.reshape(-1, run.points.shape[-1]))
    shaped = {name: v.reshape(*run.points.shape[:2], *v.shape[1:]) for name, v in values.items()}
    tree = as_datatree(start.model, shaped, {})
    apart = distances(tree, vix.zoo.posteriordb.moments(posterior))
    ess = np.min(array_stats.ess(run.points, chain_axis=0, draw_axis=1, method="bulk"))
    rhat = array_stats.rhat_nested(
        np.moveaxis(run.points, -1, 0), superchain_ids=start.superchain, method="rank"
    ).max()
    error, ratio = apart.mean_error_sd_max, apart.sd_ratio_worst
    text = f"{error:.2f} / {ratio:.2f}"
    right = error <= RIGHT[0] and abs(np.log(ratio)) <= RIGHT[1]
    return (
        f"| {posterior.split('-')[-1]} | {kernel} | {f'**{text}**' if right else text} "
        f"| {rhat:.3f} | {ess:,.0f} | {run.gradients:,.0f} | {run.seconds:.1f} "
        f"| {ess / run.seconds:,.0f} |"
    )


def main() -> None:
    """Measure, and write ``kernels.md``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=FilePath)
    parser.add_argument("--models", nargs="+", default=list(POSTERIORS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    lines = [
        "| posterior | chains | error of a mean (sd) / sd ratio | nested R-hat | least ESS "
        "| gradients of a chain | seconds | ESS a second |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    warnings.simplefilter("ignore")
    for posterior in options.models:
        model = vix.zoo.posteriordb.build(posterior)
        fitted = vix.fit(method="dadvi", model=model, random_seed=options.seed, progressbar=False)
        draws = draw(fitted, 4_000, options.seed).points
        superchain = np.repeat(np.arange(_GROUPS), _OF_GROUP)
        start = Start(model, draws, draws[:_GROUPS][superchain], superchain, options.seed)
        for kernel in KERNELS:
            lines.append(row(posterior, kernel, start))
            print(lines[-1], flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernels.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
