"""The noise floor: how far draws of the reference are from the reference."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pymc_vi_ext.comparison.metrics import METRICS, score
from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.diagnostics import ess_min, is_sampled

NOISE_FLOOR = "noise floor"
"""Its row in tables."""
SEED = 0
# One split of few elements says little; of many, their worst is nearly the same each time.
_MOST_SPLITS, _ELEMENTS = 15, 50
COMPARED = "compare/"
"""How the keys of distances begin."""


def noise_floor(reference: xr.DataTree, draws: int) -> tuple[dict[str, float], int]:
    """Score draws of the reference against the rest of it, as those of a method.

    Chains are thinned to their effective draws, so that what is left is nearly independent. Of few
    elements up to 15 random splits are looked at, and the one in the middle is told.

    Parameters
    ----------
    reference : xarray.DataTree
    draws : int
        How many draws a method has.

    Returns
    -------
    scores : dict of str to float
        By the keys of the distances in :data:`METRICS`.
    draws : int
        How many draws they are of: half of the reference's effective ones at most, 0 where it has
        too few to be split.
    """
    pool = _independent(reference)
    keys = [key for key in METRICS if key.startswith(COMPARED)]
    draws = min(draws, pool.sizes["draw"] // 2)
    if draws < 2:
        return dict.fromkeys(keys, float("nan")), 0
    elements = sum(array.size for array in pool.isel(draw=0).data_vars.values())
    rng = np.random.default_rng(SEED)
    scores = []
    for _ in range(max(1, min(_MOST_SPLITS, _ELEMENTS // max(1, elements)))):
        order = rng.permutation(pool.sizes["draw"])
        scores.append(_score(pool.isel(draw=order[:draws]), pool.isel(draw=order[draws:])))
    if len(scores) == 1:
        return scores[0], draws
    best = _score(pool, pool)
    return {key: _middle([split[key] for split in scores], best[key]) for key in keys}, draws


def _independent(reference: xr.DataTree) -> xr.Dataset:
    """Return as many draws as are worth independent ones, at equal distances, as a single chain."""
    posterior = reference["posterior"].to_dataset()
    along = [name for name, c in posterior.coords.items() if {"chain", "draw"} & set(c.dims)]
    chain = posterior.drop_vars(along).stack(sample=("chain", "draw"), create_index=False)
    chain = chain.rename(sample="draw")
    draws = chain.sizes["draw"]
    effective = ess_min(reference) if is_sampled(reference) else float(draws)
    kept = 0 if np.isnan(effective) else min(draws, int(effective))
    return chain.isel(draw=np.linspace(0, draws - 1, kept).astype(int))


def _score(draws: xr.Dataset, reference: xr.Dataset) -> dict[str, float]:
    one, other = (
        xr.DataTree.from_dict({"posterior": part.expand_dims("chain")})
        for part in (draws, reference)
    )
    result = MethodResult(NOISE_FLOOR, NOISE_FLOOR, SEED, Status.FINISHED, datatree=one)
    return score(result, other, COMPARED)[0]


def _middle(values: list[float], best: float) -> float:
    """Return the value in the middle by how far they are from the best one."""
    known = sorted((v for v in values if not np.isnan(v)), key=lambda v: abs(v - best))
    return known[len(known) // 2] if known else float("nan")
