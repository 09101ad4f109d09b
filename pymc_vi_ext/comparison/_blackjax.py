"""NUTS of BlackJAX on a PyMC model.

Written against BlackJAX itself because :func:`pymc.sample` passes an argument (``progress_bar``)
that BlackJAX 1.7 no longer takes.
"""

from __future__ import annotations

import time

from typing import Any

import numpy as np
import pymc as pm
import xarray as xr


def sample_blackjax(
    model: pm.Model, draws: int, tune: int, chains: int, seed: int, target_accept: float
) -> xr.DataTree:
    """Draw from the posterior with BlackJAX' window adaptation and NUTS.

    Parameters
    ----------
    model : pymc.Model
        Continuous variables only.
    draws, tune : int
        Kept and discarded transitions of a chain.
    chains : int
    seed : int
    target_accept : float
        Acceptance rate the step size is tuned to, between 0 and 1.

    Returns
    -------
    xarray.DataTree
        ``/posterior`` and ``/sample_stats`` (chain, draw); the attribute ``sampling_time`` of the
        posterior is in seconds, compilation included.

    References
    ----------
    Cabezas, A. et al. (2024). BlackJAX: Composable Bayesian inference in JAX.
    https://arxiv.org/abs/2402.10797
    """
    import blackjax
    import jax

    from arviz_base import from_dict

    from pymc_vi_ext.upstream import (
        coords_and_dims_for_inferencedata,
        get_default_varnames,
        get_jaxified_graph,
        get_jaxified_logp,
    )

    logp = get_jaxified_logp(model)
    keys = jax.random.split(jax.random.PRNGKey(seed), chains)

    def run_chain(key: Any, position: Any) -> Any:
        warmup_key, draw_key = jax.random.split(key)
        adaptation = blackjax.window_adaptation(
            blackjax.nuts, logp, target_acceptance_rate=target_accept
        )
        (state, parameters), _ = adaptation.run(warmup_key, position, num_steps=tune)
        step = blackjax.nuts(logp, **parameters).step

        def transition(state: Any, key: Any) -> Any:
            state, info = step(key, state)
            stats = {
                "lp": state.logdensity,
                "diverging": info.is_divergent,
                "acceptance_rate": info.acceptance_rate,
                "n_steps": info.num_integration_steps,
            }
            return state, (state.position, stats)

        return jax.lax.scan(transition, state, jax.random.split(draw_key, draws))[1]

    start = time.perf_counter()
    points = _initial_points(model, logp, chains, seed)
    wait: Any = jax.block_until_ready  # without types
    positions, stats = jax.jit(jax.vmap(run_chain))(keys, points)
    wait(positions)
    sampling_time = time.perf_counter() - start

    kept = get_default_varnames(model.unobserved_value_vars, include_transformed=False)
    to_model_space = get_jaxified_graph(inputs=model.value_vars, outputs=kept)
    values = jax.vmap(jax.vmap(to_model_space))(*positions)
    coords, dims = coords_and_dims_for_inferencedata(model)
    datatree = from_dict(
        {
            "posterior": {v.name: np.asarray(x) for v, x in zip(kept, values, strict=True)},
            "sample_stats": {name: np.asarray(x) for name, x in stats.items()},
        },
        coords=coords,
        dims=dims,
    )
    datatree["posterior"].attrs["sampling_time"] = sampling_time
    return datatree


def _initial_points(model: pm.Model, logp: Any, chains: int, seed: int) -> list[np.ndarray]:
    """Return PyMC's initial point with jitter, stacked over chains, of finite density."""
    rng = np.random.default_rng(seed)
    start = model.initial_point(seed)
    points = []
    for _ in range(chains):
        for _ in range(20):
            point = [
                start[value.name] + rng.uniform(-1, 1, np.shape(start[value.name]))
                for value in model.value_vars
            ]
            if np.isfinite(logp(point)):
                break
        else:
            raise ValueError("Found no starting point of finite density within 20 attempts.")
        points.append(point)
    return [np.stack(values) for values in zip(*points, strict=True)]
