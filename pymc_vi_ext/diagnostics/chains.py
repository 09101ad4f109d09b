"""What only the chains of a sampler tell: R-hat, effective draws, divergences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr

# What short chains have settled by: nested R-hat; by how much pooled means move from one stretch to
# the next, in standard deviations, and logarithms of standard deviations; effective draws; standard
# errors of logarithms of standard deviations.
SETTLED_RHAT, SETTLED_MEANS, SETTLED_SDS, SETTLED_ESS = 1.01, 0.05, 0.07, 1_000
SETTLED_SD_ERROR = 0.05
# What approximations give of each draw; a sampler adds statistics of its transitions.
_OF_A_DRAW = {"lp", "log_q"}


def is_sampled(dt: xr.DataTree) -> bool:
    """Whether the draws are Markov chains: several of them, or with statistics of transitions.

    Parameters
    ----------
    dt : xarray.DataTree
        Draws of an approximation are one chain, with ``lp`` and ``log_q`` at most.

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np, arviz as az
    >>> from pymc_vi_ext.diagnostics import is_sampled
    >>> draws = np.random.default_rng(1).normal(size=(4, 100))
    >>> [is_sampled(az.from_dict({"posterior": {"x": x}})) for x in (draws, draws[:1])]
    [True, False]
    """
    stats = dt.children.get("sample_stats")
    transitions = stats is not None and bool({str(v) for v in stats.data_vars} - _OF_A_DRAW)
    return dt["posterior"].sizes["chain"] > 1 or transitions


def rhat_max(dt: xr.DataTree) -> float:
    """Largest rank-normalised R-hat of all elements; nested R-hat of chains that began together.

    Parameters
    ----------
    dt : xarray.DataTree
        With a ``/posterior`` of dims (chain, draw, ...); its coordinate ``superchain`` says which
        chains began together, if some did.

    Returns
    -------
    float
        NaN for a single chain, and where no element has an R-hat: with fewer than four draws of
        a chain, draws that are NaN, or only constants.

    References
    ----------
    Vehtari, A. et al. (2021). Rank-normalization, folding, and localization: an improved R-hat.
    Bayesian Analysis 16(2). https://doi.org/10.1214/20-BA1221

    Margossian, C. et al. (2024). Nested R-hat: assessing the convergence of Markov chain Monte
    Carlo when running many short chains. https://arxiv.org/abs/2110.13017

    Examples
    --------
    >>> import numpy as np, arviz as az
    >>> from pymc_vi_ext.diagnostics import rhat_max
    >>> draws = np.random.default_rng(1).normal(size=(4, 100))
    >>> apart = draws + [[0.0], [0.0], [0.0], [3.0]]
    >>> [rhat_max(az.from_dict({"posterior": {"x": x}})) > 1.05 for x in (draws, apart)]
    [False, True]
    """
    import arviz_stats

    if dt["posterior"].sizes["chain"] < 2:
        return float("nan")
    if "superchain" not in dt["posterior"].coords:
        return _extreme(dt, arviz_stats.rhat, np.nanmax)
    groups = dt["posterior"]["superchain"].values
    return _extreme(dt, partial(arviz_stats.rhat_nested, superchain_ids=groups), np.nanmax)


def ess_min(dt: xr.DataTree) -> float:
    """Smallest bulk effective sample size of all elements.

    Parameters
    ----------
    dt : xarray.DataTree
        With a ``/posterior`` of dims (chain, draw, ...).

    Returns
    -------
    float
        NaN where no element has one: with fewer than four draws of a chain, or draws that are NaN.

    References
    ----------
    Vehtari, A. et al. (2021). Rank-normalization, folding, and localization: an improved R-hat.
    Bayesian Analysis 16(2). https://doi.org/10.1214/20-BA1221

    Examples
    --------
    >>> import numpy as np, arviz as az
    >>> from pymc_vi_ext.diagnostics import ess_min
    >>> draws = np.random.default_rng(1).normal(size=(4, 100))
    >>> 200 < ess_min(az.from_dict({"posterior": {"x": draws}})) < 800
    True
    """
    import arviz_stats

    return _extreme(dt, arviz_stats.ess, np.nanmin)


def divergences(dt: xr.DataTree) -> int:
    """Return the number of divergent transitions after tuning; 0 if not recorded.

    Parameters
    ----------
    dt : xarray.DataTree
        With ``diverging`` in ``/sample_stats``, where a sampler has recorded it.

    Returns
    -------
    int

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pymc_vi_ext.diagnostics import divergences
    >>> diverging = xr.DataArray(np.array([[False, True, True]]), dims=("chain", "draw"))
    >>> divergences(xr.DataTree.from_dict({"sample_stats": xr.Dataset({"diverging": diverging})}))
    2
    """
    stats = dt.children.get("sample_stats")
    return int(stats["diverging"].sum()) if stats is not None and "diverging" in stats else 0


def log_sd_error(draws: np.ndarray) -> float:
    r"""Return the largest standard error of the logarithms of standard deviations.

    By how much the chains differ in their mean squares about the common mean, :math:`q_c`:
    :math:`\operatorname{sd}(q_c) / (2 \sqrt C \, \bar q)`. R-hat and effective draws go by ranks,
    and do not see what a few far draws do to a standard deviation; this does.

    Parameters
    ----------
    draws : array of shape (chains, n, ...)

    Returns
    -------
    float
        0 where all draws are the same; infinite if one is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.diagnostics.chains import log_sd_error
    >>> draws = np.random.default_rng(1).normal(size=(64, 100))
    >>> bool(abs(log_sd_error(draws) - 1 / np.sqrt(2 * 6_400)) < 0.002)
    True
    """
    chains = len(draws)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.mean((draws - draws.mean(axis=(0, 1))) ** 2, axis=1).reshape(chains, -1)
        mean = squares.mean(axis=0)
        errors = squares.std(axis=0, ddof=1) / (2 * np.sqrt(chains) * np.where(mean > 0, mean, 1))
    return float(np.max(np.where(np.isnan(errors), np.inf, errors), initial=0.0))


def _extreme(
    dt: xr.DataTree,
    statistic: Callable[[xr.Dataset], xr.Dataset],
    choose: Callable[[np.ndarray], float],
) -> float:
    # ArviZ warns of a chain of a single draw, and divides by the variance of a constant.
    if dt["posterior"].sizes["draw"] < 4:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        found = statistic(dt["posterior"].to_dataset())
    values = np.concatenate([np.ravel(array) for array in found.data_vars.values()])
    # Elements that are constant by construction have no R-hat.
    return float(choose(values)) if np.isfinite(values).any() else float("nan")
