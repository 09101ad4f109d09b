"""The Pareto k diagnostic of variational inference."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pymc_vi_ext.diagnostics._weights import log_weights


def khat(dt: xr.DataTree) -> float:
    r"""Shape of the tail of the importance weights, :math:`\hat k`.

    Pareto smoothed importance sampling fits a generalised Pareto distribution to the largest of
    the weights :math:`p(x, \theta) / q(\theta)`. Below 0.5 the approximation is close; up to 0.7
    importance sampling can correct it; above, expectations under it may be far off.

    Parameters
    ----------
    dt : xarray.DataTree
        With ``lp`` and ``log_q`` (chain, draw) in ``/sample_stats``.

    Returns
    -------
    float
        Infinite if a weight is infinite or not a number.

    Raises
    ------
    ValueError
        If ``lp`` or ``log_q`` is absent, or there is no tail to fit: 25 draws or fewer, or
        largest weights that are all equal, as those of the exact posterior are.

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
    if np.isnan(ratios).any() or np.isposinf(ratios).any():
        return float("inf")
    tail = int(min(ratios.size / 5, 3 * np.sqrt(ratios.size)))  # ArviZ' choice
    if tail < 5:
        raise ValueError(f"k-hat needs the weights of at least 25 draws, not of {ratios.size}.")
    if np.unique(np.sort(ratios)[-tail:]).size == 1:
        raise ValueError("The largest weights are all equal, so k-hat finds no tail to fit.")
    # ArviZ takes log likelihoods, whose negatives are the log weights of leaving one out.
    shape = float(array_stats.psislw(-ratios)[1])
    if np.isnan(shape):
        raise ValueError(f"The {tail} largest weights are too few to fit k-hat to.")
    return shape
