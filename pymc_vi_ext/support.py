"""Mass of an approximation where the model has no density, and what of the model it is that."""

from __future__ import annotations

import numpy as np
import pymc as pm

from pymc.variational.opvi import Approximation

from pymc_vi_ext.engine.python_mode import PYTHON_MODE
from pymc_vi_ext.engine.vectorize import vectorized_approximation
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import find_rng_nodes, reseed_rngs

_DRAWS = 5_000


def causes_of_infinity(approx: Approximation, seed: int = 0) -> list[str]:
    """Name the variables and Potentials that have no density at some draws of `approx`.

    Parameters
    ----------
    approx : Approximation
    seed : int
        Of the draws.

    Returns
    -------
    list of str
        "`name` (0.12 of the mass)", those of most mass first; empty where none of 5,000 draws
        shows it.
    """
    model = approx.model
    factors = [*model.basic_RVs, *model.potentials]
    view = vectorized_approximation(approx)
    with python_only():
        terms = [term.sum() for term in model.logp(factors, sum=False)]
        nodes = view.symbolic_sample_over_posterior(terms)
        nodes = view.set_size_and_deterministic(nodes, _DRAWS, 0)
        draw = pm.pytensorf.compile([], nodes, mode=PYTHON_MODE)
    reseed_rngs(find_rng_nodes(nodes), seed)
    with np.errstate(all="ignore"):
        shares = [float(np.mean(~np.isfinite(values))) for values in draw()]
    found = sorted(zip(shares, [factor.name for factor in factors], strict=True), reverse=True)
    return [f"`{name}` ({share:.2g} of the mass)" for share, name in found if share]
