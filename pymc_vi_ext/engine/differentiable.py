"""What of a model has no gradient, said in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pymc as pm
import pytensor.tensor as pt

from pytensor.gradient import NullTypeGradError
from pytensor.graph.utils import MethodNotDefined

from pymc_vi_ext.engine.labels import in_plain_operations
from pymc_vi_ext.errors import NoGradientError

# What PyTensor says of an Op without a gradient, and of one that has none there.
REFUSALS = (NullTypeGradError, NotImplementedError, MethodNotDefined)


@contextmanager
def gradient_of(model: pm.Model) -> Iterator[None]:
    """Say in place of PyTensor which variables or Potentials of `model` have no gradient.

    Raises
    ------
    NoGradientError
        Where a gradient that is taken within fails for their sake.
    """
    try:
        yield
    except REFUSALS as error:
        causes = _without_gradient(model)
        if not causes:
            raise
        raise NoGradientError(
            f"The log density of {', '.join(causes)} has no gradient, which variational inference "
            "follows: use pm.sample_smc, or pm.sample with a step that needs none (pm.Slice, "
            "pm.DEMetropolisZ); or give an Op of your own a `pullback`."
        ) from error


def _without_gradient(model: pm.Model) -> list[str]:
    """Name the variables and Potentials without a gradient."""
    factors = [*model.basic_RVs, *model.potentials]
    found = []
    for factor, term in zip(factors, model.logp(factors, sum=False), strict=True):
        try:
            pt.grad(
                in_plain_operations([term.sum()])[0],
                model.continuous_value_vars,
                disconnected_inputs="ignore",
            )
        except REFUSALS:
            found.append(f"`{factor.name}`")
    return found
