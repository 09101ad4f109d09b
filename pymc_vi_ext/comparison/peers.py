"""Variational methods of other libraries, as they are, to compare ours with.

A peer is a row of :data:`PEERS`: the package that it is of, its options, and a function that goes
from a model to draws. :func:`pymc_vi_ext.fit` does not know them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
import warnings

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pymc_vi_ext.comparison.runnable import Runnable
from pymc_vi_ext.comparison.types import Status
from pymc_vi_ext.interrupts import allowed
from pymc_vi_ext.minibatches import has_minibatches
from pymc_vi_ext.options import Options, option


@dataclass(frozen=True)
class StepOptions(Options):
    """Options of optimisations."""

    n: int = option(10_000, "Optimisation steps.", ge=1)


@dataclass(frozen=True)
class RateOptions(Options):
    """Options of optimisers that have no default."""

    learning_rate: float = option(0.01, "Learning rate of Adam.", gt=0)


@dataclass(frozen=True)
class ParticleOptions(Options):
    """Options of particles."""

    n: int = option(1_000, "Optimisation steps.", ge=1)
    learning_rate: float = option(0.1, "Learning rate of Adam.", gt=0)
    n_particles: int = option(100, "Number of particles.", ge=2, le=5_000)


@dataclass(frozen=True)
class Fitted:
    """What a peer has found.

    Attributes
    ----------
    datatree : xarray.DataTree
        With a ``/posterior`` of one chain.
    losses : numpy.ndarray, shape (steps,)
        Negative ELBO in nats, of peers that give it.
    """

    datatree: xr.DataTree
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))


Fit = Callable[[pm.Model, Mapping[str, Any], int, int, bool], Fitted]
"""Function of a model, options, number of draws, seed, and whether to show progress."""


def _pymc_advi(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    from pymc_vi_ext.results import to_datatree

    approx = pm.fit(options["n"], model=model, random_seed=seed, progressbar=progressbar)
    # PyMC's losses of minibatches are not in nats of all data.
    batches = float(approx.symbolic_normalizing_constant.eval())
    return Fitted(to_datatree(approx, draws, seed), approx.hist * batches)


def _extras_advi(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    from pymc_extras.inference.advi import fit_advi

    # Its progress bar cannot be switched off.
    with contextlib.nullcontext() if progressbar else contextlib.redirect_stdout(io.StringIO()):
        tree = fit_advi(model, n_steps=options["n"], draws=draws, random_seed=seed)
    return Fitted(_posterior(tree), -tree["fit"]["elbo"].values)


def _extras_dadvi(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    from pymc_extras.inference import fit_dadvi

    tree = fit_dadvi(model, n_draws=draws, random_seed=seed, progressbar=progressbar)
    return Fitted(_posterior(tree))


def _extras_laplace(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    from pymc_extras.inference import fit_laplace

    tree = fit_laplace(
        model=model,
        draws=draws,
        random_seed=seed,
        progressbar=progressbar,
        include_transformed=False,
    )
    return Fitted(_posterior(tree))


def _extras_pathfinder(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    from pymc_extras.inference import fit_pathfinder

    tree = fit_pathfinder(
        model,
        num_draws=draws,
        random_seed=seed,
        progressbar=progressbar,
        # Processes that it spawns need a guarded main module.
        parallel=False,
    )
    return Fitted(_posterior(tree))


def _posterior(tree: xr.DataTree) -> xr.DataTree:
    return xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset()})


def _numpyro_svi(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    import jax
    import numpyro

    from numpyro.infer import SVI, Trace_ELBO, init_to_value
    from numpyro.infer.autoguide import AutoNormal

    from pymc_vi_ext.comparison._jax_density import jax_density, numpyro_model

    density = jax_density(model)
    program = numpyro_model(density)
    guide = AutoNormal(program, init_loc_fn=init_to_value(values={"x": density.start}))
    svi = SVI(program, guide, numpyro.optim.Adam(options["learning_rate"]), Trace_ELBO())
    steps_key, draws_key = jax.random.split(jax.random.key(seed))
    found = svi.run(steps_key, options["n"], density.data, progress_bar=progressbar)
    points = guide.sample_posterior(draws_key, found.params, density.data, sample_shape=(draws,))
    return Fitted(_at(model, points["x"]), np.asarray(found.losses))


def _blackjax_meanfield(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    import blackjax
    import jax
    import optax

    logp, start = _of_all_data(model)
    method = blackjax.meanfield_vi(logp, optax.adam(options["learning_rate"]))
    steps_key, draws_key = jax.random.split(jax.random.key(seed))

    @jax.jit
    def run(key: Any) -> tuple[Any, Any]:
        def step(state: Any, key: Any) -> tuple[Any, Any]:
            state, info = method.step(key, state)
            return state, info.elbo

        return jax.lax.scan(step, method.init(start), jax.random.split(key, options["n"]))

    # What BlackJAX calls the ELBO is the loss.
    state, losses = run(steps_key)
    return Fitted(_at(model, method.sample(draws_key, state, draws)), np.asarray(losses))


def _blackjax_svgd(
    model: pm.Model, options: Mapping[str, Any], draws: int, seed: int, progressbar: bool
) -> Fitted:
    import blackjax
    import jax
    import optax

    logp, start = _of_all_data(model)
    method = blackjax.svgd(jax.grad(logp), optax.adam(options["learning_rate"]))
    rng = np.random.default_rng(seed)
    particles = start + rng.normal(size=(options["n_particles"], start.size))

    @jax.jit
    def run(particles: Any) -> Any:
        def step(state: Any, _: Any) -> tuple[Any, None]:
            return method.step(state), None

        return jax.lax.scan(step, method.init(particles), length=options["n"])[0].particles

    points = np.asarray(run(particles))
    return Fitted(_at(model, points[rng.integers(len(points), size=draws)]))


def refuse_minibatches(name: str, model: pm.Model) -> None:
    """Raise ValueError if a model has minibatches, for a method that takes none."""
    if has_minibatches(model):
        raise ValueError(f"{name} takes no minibatches: give the model all data.")


def _of_all_data(model: pm.Model) -> tuple[Callable[[Any], Any], np.ndarray]:
    """Return the log density as a JAX function of one vector, and where it starts."""
    from pymc_vi_ext.comparison._jax_density import jax_density

    density = jax_density(model)
    if density.sources:
        raise ValueError("BlackJAX' methods take no minibatches: give the model all data.")
    return lambda x: density.logp(x, [], density.data), density.start


def _at(model: pm.Model, points: Any) -> xr.DataTree:
    """Return points of the unconstrained space, (draws, d), as draws of the model's variables."""
    from pymc_vi_ext.draws import as_datatree, values_of

    values = values_of(model)(np.asarray(points, dtype=float))
    return as_datatree(model, {name: value[None] for name, value in values.items()}, {})


def _peer(
    package: str, extra: str, fit: Fit, *options: type[Options], all_data: bool = False
) -> Runnable:
    """Return the row of a peer; one of `all_data` takes no minibatches."""

    def require(_: Mapping[str, Any]) -> None:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"This method needs {package}, which is not installed: "
                f"pip install 'pymc-vi-ext[{extra}]'."
            )

    def run(
        model: pm.Model,
        name: str,
        options: Mapping[str, Any],
        draws: int,
        seed: int,
        progressbar: bool,
        folder: Path | None,
    ) -> dict[str, Any]:
        start = time.perf_counter()
        with (
            warnings.catch_warnings(record=True) as caught,
            # Some catch KeyboardInterrupt and return what they have.
            allowed(may_be_caught=True) as keyboard,
        ):
            warnings.simplefilter("always")
            fitted = fit(model, options, draws, seed, progressbar)
        versions = {of: version(of) for of in ("pymc", package.replace("_", "-"))}
        fitted.datatree["posterior"].attrs |= {
            "inference_library": package,
            "inference_library_version": versions[package.replace("_", "-")],
        }
        return {
            "status": Status.INTERRUPTED if keyboard.interrupted else Status.FINISHED,
            "datatree": fitted.datatree,
            "losses": fitted.losses,
            # With the compilation, which only its package could tell apart.
            "fit_s": time.perf_counter() - start,
            "steps": options.get("n", 0),
            "backend": package,
            "versions": versions,
            "warnings": tuple(str(w.message) for w in caught if w.category is UserWarning),
        }

    def suit(model: pm.Model, _: Mapping[str, Any]) -> None:
        if all_data:
            refuse_minibatches(package, model)

    return Runnable(options, run, require, suit)


PEERS: dict[str, Runnable] = {
    "pymc_advi": _peer("pymc", "", _pymc_advi, StepOptions),
    "extras_advi": _peer("pymc_extras", "extras", _extras_advi, StepOptions),
    "extras_dadvi": _peer("pymc_extras", "extras", _extras_dadvi),
    "extras_laplace": _peer("pymc_extras", "extras", _extras_laplace),
    "extras_pathfinder": _peer("pymc_extras", "extras", _extras_pathfinder),
    "numpyro_svi": _peer("numpyro", "samplers", _numpyro_svi, StepOptions, RateOptions),
    "blackjax_meanfield": _peer(
        "blackjax", "samplers", _blackjax_meanfield, StepOptions, RateOptions, all_data=True
    ),
    "blackjax_svgd": _peer("blackjax", "samplers", _blackjax_svgd, ParticleOptions, all_data=True),
}
"""Name -> method of another library."""
