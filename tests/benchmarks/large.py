"""Time and memory of fits of 10^4 to 10^6 variables.

Run as ``python tests/benchmarks/large.py --out DIR --sizes 10000 100000 1000000``. Each fit has a
process of its own. ``ratio`` is processor seconds of a step, with all that the default rule does,
over those of the bare gradient: JAX's ``value_and_grad`` of the negative ELBO of the same family
with its entropy in closed form, draws included, as one would write it by hand, and no optimizer.
``checks`` is the part of the rule.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

RNG = np.random.default_rng(0)


def random_walk(d: int) -> pm.Model:
    y = np.cumsum(RNG.normal(0, 0.1, d - 1)) + RNG.normal(0, 0.5, d - 1)
    with pm.Model() as model:
        step = pm.HalfNormal("step", 1.0)
        x = pt.cumsum(step * pm.Normal("z", shape=d - 1))
        pm.Normal("y", x, 0.5, observed=y)
    return model


def matrix_factorisation(d: int) -> pm.Model:
    """Rows and columns of rank 8, and 10 ratings of each row."""
    rank = 8
    n = d // (2 * rank)
    rows, columns = np.repeat(np.arange(n), 10), RNG.integers(0, n, 10 * n)
    with pm.Model() as model:
        u, v = pm.Normal("u", shape=(n, rank)), pm.Normal("v", shape=(n, rank))
        pm.Normal("y", (u[rows] * v[columns]).sum(axis=1), 1.0, observed=RNG.normal(size=10 * n))
    return model


def latent_regression(d: int) -> pm.Model:
    """A latent ability for each person, with ten predictors and two scores."""
    n = d - 11
    x = RNG.normal(size=(n, 10))
    ability = x @ RNG.normal(size=10) + RNG.normal(size=n)
    with pm.Model() as model:
        beta, sd = pm.Normal("beta", shape=10), pm.HalfNormal("sd", 1.0)
        z = pm.Normal("z", pt.dot(x, beta), sd, shape=n)
        pm.Normal("y", z[:, None], 1.0, observed=ability[:, None] + RNG.normal(size=(n, 2)))
    return model


def hierarchy(d: int) -> pm.Model:
    y = RNG.normal(RNG.normal(size=d - 2), 0.5)
    with pm.Model() as model:
        mu, tau = pm.Normal("mu", 0, 3), pm.HalfNormal("tau", 2)
        pm.Normal("y", pm.Normal("theta", mu, tau, shape=d - 2), 0.5, observed=y)
    return model


MODELS: dict[str, Callable[[int], pm.Model]] = {
    model.__name__: model
    for model in (random_walk, matrix_factorisation, latent_regression, hierarchy)
}
METHODS = ("advi", "lowrank_advi")
# That of `lowrank_advi` by default.
RANK = 5


def bare_seconds(model: pm.Model, method: str, repeats: int) -> float:
    """Return processor seconds of one gradient of the family's negative ELBO."""
    import jax
    import jax.numpy as jnp

    from pymc_vi_ext.comparison._jax_density import jax_density

    jax.config.update("jax_enable_x64", True)
    density = jax_density(model)
    rank = RANK if method == "lowrank_advi" else 0

    def negative_elbo(mu: Any, log_sd: Any, W: Any, key: Any, data: Any) -> Any:
        sd, noise = jnp.exp(log_sd), jax.random.normal(key, (len(mu) + rank,))
        z = mu + sd * noise[rank:]
        entropy = log_sd.sum()
        if rank:
            z += W @ noise[:rank]
            whitened = W / sd[:, None]
            entropy += 0.5 * jnp.linalg.slogdet(jnp.eye(rank) + whitened.T @ whitened)[1]
        return -density.logp(z, [], data) - entropy

    gradient = jax.jit(jax.value_and_grad(negative_elbo, argnums=(0, 1, 2)))
    mu = jnp.asarray(density.start)
    W = jnp.full((len(mu), rank), 0.01)
    given = (mu, jnp.zeros_like(mu), W, jax.random.key(0), density.data)
    jax.block_until_ready(gradient(*given))
    started = time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(gradient(*given))
    return (time.process_time() - started) / repeats


def measure(name: str, method: str, d: int, steps: int) -> dict[str, Any]:
    """Fit once, and time the gradient after that: the peak of memory is the fit's."""
    import pymc_vi_ext as vix

    from pymc_vi_ext.state import FitState

    model = MODELS[name](d)
    spent = {"checks": 0.0}
    losses_at = FitState.losses_at

    def timed(*args: Any) -> Any:
        began = time.process_time()
        try:
            return losses_at(*args)
        finally:
            spent["checks"] += time.process_time() - began

    FitState.losses_at = timed  # type: ignore[method-assign]
    began: list[float] = []

    def begin(approx: Any, losses: Any, i: int) -> None:
        began.append(time.process_time())

    begin.every = 25  # type: ignore[attr-defined]
    vix.fit(steps, method, model, random_seed=1, progressbar=False, callbacks=[begin])
    seconds = (began[-1] - began[0]) / (25 * (len(began) - 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    bare = bare_seconds(model, method, max(3, int(1e6 / d)))
    return {
        "model": name,
        "method": method,
        "d": d,
        "step_ms": 1e3 * seconds,
        "bare_ms": 1e3 * bare,
        "ratio": seconds / bare,
        "checks": spent["checks"] / (began[-1] - began[0]),
        "peak_gb": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--one", action="store_true", help="in this process, as JSON")
    given = parser.parse_args()
    if given.one:
        found = measure(given.models[0], given.methods[0], given.sizes[0], given.steps)
        print(json.dumps(found))
        return
    lines = ["| model | method | d | step, ms | bare, ms | ratio | checks | peak, GB |"]
    lines.append("|" + "---|" * 8)
    print("\n".join(lines))
    for d in given.sizes:
        for name in given.models:
            for method in given.methods:
                asked = ["--sizes", str(d), "--models", name, "--methods", method]
                command = [sys.executable, "-W", "ignore", __file__, "--one", *asked]
                command += ["--steps", str(given.steps)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                row = json.loads(done.stdout.splitlines()[-1])
                lines.append(
                    f"| {row['model']} | {row['method']} | {d:,} | {row['step_ms']:.3g} "
                    f"| {row['bare_ms']:.3g} | {row['ratio']:.2f} | {row['checks']:.0%} "
                    f"| {row['peak_gb']:.2f} |"
                )
                print(lines[-1], flush=True)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "large.md").write_text("\n".join(["# Large models", "", *lines, ""]))


if __name__ == "__main__":
    main()
