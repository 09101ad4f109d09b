"""The Pareto k diagnostic of variational inference."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pymc_vi_ext.diagnostics._weights import log_weights

# Log weights nearer than this, which is above what rounding makes of equal ones, are equal.
_EQUAL = 1e-9
# Log of the ratio of two weights beside the larger of which the smaller is 0 to a float.
_NOTHING = 700.0


def khat(dt: xr.DataTree) -> float:
    r"""Shape of the tail of the importance weights, :math:`\hat k`.

    Pareto smoothed importance sampling fits a generalised Pareto distribution to the largest of
    the weights :math:`p(x, \theta) / q(\theta)`. Below 0.5 the approximation is close; up to 0.7
    importance sampling can correct it; above, expectations under it may be far off.

    Draws of weight 0, where the density is (``lp`` of minus infinity), count for nothing: the tail
    is that of the others, as an average weighted by them is. What they say of the approximation is
    in its ELBO, which is minus infinity.

    Parameters
    ----------
    dt : xarray.DataTree
        With ``lp`` and ``log_q`` (chain, draw) in ``/sample_stats``.

    Returns
    -------
    float
        Infinite if a weight is infinite or not a number, if all are 0, or if a quarter of the tail
        is nothing beside its largest weight. Minus infinity, the limit for a tail of no length, if
        the largest weights are equal, as those of the exact posterior are.

    Raises
    ------
    ValueError
        If ``lp`` or ``log_q`` is absent, or there is no tail to fit: fewer than 25 draws of a
        weight above 0, or largest weights of which too many are equal and not all.

    References
    ----------
    Yao, Y., Vehtari, A., Simpson, D. and Gelman, A. (2018). Yes, but did it work?: Evaluating
    variational inference. https://arxiv.org/abs/1802.02538

    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. https://arxiv.org/abs/1507.02646

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pymc_vi_ext.diagnostics import khat
    >>> x = np.random.default_rng(0).normal(size=(1, 4000))
    >>> lp = xr.DataArray(-0.5 * x**2, dims=("chain", "draw"))
    >>> log_q = xr.DataArray(-0.5 * (x / 1.0) ** 2 + 1e-3 * x, dims=("chain", "draw"))
    >>> khat(xr.DataTree.from_dict({"sample_stats": xr.Dataset({"lp": lp, "log_q": log_q})})) < 0.3
    True
    """
    from pymc_vi_ext.upstream import array_stats

    ratios = log_weights(dt)
    if np.isnan(ratios).any() or np.isposinf(ratios).any() or np.isneginf(ratios).all():
        return float("inf")
    zeros = int(np.isneginf(ratios).sum())
    ratios = ratios[np.isfinite(ratios)]
    length = int(min(ratios.size / 5, 3 * np.sqrt(ratios.size)))  # ArviZ' choice
    if length < 5:
        besides = f", besides {zeros:,} of weight 0" if zeros else ""
        raise ValueError(
            f"k-hat needs the weights of at least 25 draws, not of {ratios.size}{besides}."
        )
    tail = np.sort(ratios)[-length:]
    if tail[-1] - tail[0] < _EQUAL:
        return float("-inf")
    if tail[-1] - tail[length // 4] > _NOTHING:
        return float("inf")
    # ArviZ takes log likelihoods, whose negatives are the log weights of leaving one out.
    shape = float(array_stats.psislw(-ratios)[1])
    if np.isnan(shape):
        raise ValueError(
            f"Of the {length} largest weights too many are equal to fit k-hat to the others."
        )
    return shape
