"""A PyMC model's log density as a JAX function of one vector, for peers written in JAX."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm

from pytensor.compile.mode import get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.type import TensorType

from pymc_vi_ext.upstream import (
    JAX_STATE,
    REMOVE_CHECK,
    collect_default_updates,
    jax_funcify,
)

# Larger constants become arguments: XLA would fold them into the program.
LARGEST_CONSTANT = 4_096  # bytes


@dataclass(frozen=True)
class Density:
    """A log density on the unconstrained space.

    Attributes
    ----------
    logp : callable
        ``logp(x, keys, data) -> float``: `x` of shape (d,), a key per random source of the graph
        (the indices of a minibatch), `data` as below. In nats, Jacobians included.
    start : array of shape (d,)
        The model's initial point.
    sources : int
        How many keys `logp` takes.
    data : tuple of array
        Data of more than a few kB.
    normalizer : float
        PyMC divides its loss by it: 1, and total size / batch size with minibatches.
    """

    logp: Callable[..., Any]
    start: np.ndarray
    sources: int
    data: tuple[jax.Array, ...]
    normalizer: float


def jax_density(model: pm.Model) -> Density:
    """Lower the log density of `model` to JAX."""
    logp = model.logp()
    generators = list(collect_default_updates(inputs=model.value_vars, outputs=[logp]))
    shared = [
        v for v in graph_inputs([logp]) if isinstance(v, SharedVariable) and v not in generators
    ]
    large = [v for v in ancestors([logp]) if isinstance(v, Constant) and _is_large(v)]
    arrays = [*(v.get_value() for v in shared), *(v.data for v in large)]

    inputs: dict[Variable, Variable] = {v: v.type() for v in generators}
    for variable, value in zip([*shared, *large], arrays, strict=True):
        inputs[variable] = variable.type.clone(shape=value.shape)()
    outputs = clone_replace([logp], replace=inputs, rebuild_strict=False)
    graph = FunctionGraph([*model.value_vars, *inputs.values()], outputs, clone=True)
    # JAX leaves the checks of parameters out, and warns of each.
    get_mode("JAX").including(REMOVE_CHECK).optimizer.rewrite(graph)
    function = jax_funcify(graph)

    point = model.initial_point()
    values = [np.asarray(point[v.name], dtype=float) for v in model.value_vars]
    ends = np.cumsum([v.size for v in values])

    def flat_logp(x: jax.Array, keys: Any, data: Any) -> jax.Array:
        parts = [
            x[end - value.size : end].reshape(value.shape)
            for end, value in zip(ends, values, strict=True)
        ]
        value: jax.Array = function(*parts, *({JAX_STATE: key} for key in keys), *data)[0]
        return value

    return Density(
        logp=flat_logp,
        start=np.concatenate([v.ravel() for v in values]),
        sources=len(generators),
        data=tuple(jnp.asarray(a) for a in arrays),
        normalizer=float(pm.MeanField(model=model).symbolic_normalizing_constant.eval()),
    )


def _is_large(constant: Constant) -> bool:
    return isinstance(constant.type, TensorType) and constant.data.nbytes > LARGEST_CONSTANT


def numpyro_model(density: Density) -> Callable[[Any], None]:
    """Return a NumPyro model of the density: a vector ``x``, its log density as a factor.

    The model takes the density's `data`.
    """
    import numpyro
    import numpyro.distributions as dist

    def model(data: Any) -> None:
        flat = dist.ImproperUniform(dist.constraints.real_vector, (), density.start.shape)
        x = numpyro.sample("x", flat)
        keys = [numpyro.prng_key() for _ in range(density.sources)]
        numpyro.factor("logp", density.logp(x, keys, data))

    return model
