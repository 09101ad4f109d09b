"""The Pareto k diagnostic of variational inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pymc_vi_ext.diagnostics._weights import log_weights
from pymc_vi_ext.psis import pareto_smoothed, tail_length

# Below this the approximation is close, and draws by their weights are trusted.
TRUSTED_KHAT = 0.5
# Above this means and standard deviations may be far off.
GOOD_KHAT = 0.7
# Share of the draws that weights are worth, from which a heavy tail is one of nearly equal weights:
# by Cauchy and Schwarz these move no mean by more than sqrt(1 / .95 - 1) = .23 standard deviations.
NEARLY_EQUAL = 0.95
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
    return smoothed_weights(log_weights(dt))[1]


def smoothed_weights(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    r"""Return importance weights with a smoothed tail, and the shape of that tail.

    Parameters
    ----------
    log_ratios : array of shape (n,)
        ``lp - log_q`` of each draw, in nats.

    Returns
    -------
    weights : array of shape (n,)
        They add up to 1; 0 where the density is. Where :math:`\hat k` is infinite they are the raw
        ones, and all alike if there are none.
    khat : float
        As :func:`khat` returns it.

    Raises
    ------
    ValueError
        If there is no tail to fit, as :func:`khat`.
    """
    n = log_ratios.size
    known = np.isfinite(log_ratios)
    if not known.any() or not (known | np.isneginf(log_ratios)).all():
        return np.full(n, 1 / n), float("inf")
    ratios = log_ratios[known]
    length = tail_length(ratios.size)
    if length < 5:
        zeros = n - ratios.size
        besides = f", besides {zeros:,} of weight 0" if zeros else ""
        raise ValueError(
            f"k-hat needs the weights of at least 25 draws, not of {ratios.size}{besides}."
        )
    tail = np.sort(ratios)[-length:]
    logs, shape = ratios, float("-inf")
    if tail[-1] - tail[length // 4] > _NOTHING:
        shape = float("inf")
    elif tail[-1] - tail[0] >= _EQUAL:
        logs, shape = pareto_smoothed(ratios)
    if np.isnan(shape):
        raise ValueError(
            f"Of the {length} largest weights too many are equal to fit k-hat to the others."
        )
    weights = np.zeros(n)
    weights[known] = np.exp(logs - logs.max())
    return weights / weights.sum(), shape


def khat_of(log_ratios: np.ndarray) -> float:
    """Return what :func:`smoothed_weights` does of the tail; NaN where there is none to fit."""
    try:
        return smoothed_weights(log_ratios)[1]
    except ValueError:
        return float("nan")


def effective_draws(weights: np.ndarray) -> float:
    """Return Kish's effective number of draws, of weights that add up to 1."""
    return float(1 / np.sum(weights**2))


def worth(log_ratios: np.ndarray) -> float:
    """Return the share of the draws that their importance weights are worth, from 0 to 1.

    Kish's effective number over the number, of the weights as they are; NaN where there are none.
    """
    largest = np.max(log_ratios, initial=-np.inf)
    if not np.isfinite(largest):
        return float("nan")
    weights = np.exp(log_ratios - largest)
    share: float = effective_draws(weights / weights.sum()) / weights.size
    return share


def moved_by(weights: np.ndarray, columns: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return by how much weights move moments most: what they say that the draws are off by.

    Parameters
    ----------
    weights : array of shape (n,)
        They add up to 1.
    columns : sequence of array of shape (n, ...)
        Of numbers; others are left out, as are columns that do not vary.

    Returns
    -------
    means, log_sds : float
        Changes of means, in standard deviations, and of logarithms of standard deviations.
    """
    means, log_sds = 0.0, 0.0
    for values in columns:
        if not np.issubdtype(values.dtype, np.number):
            continue
        x = values.reshape(len(weights), -1).astype(float)
        x = x[:, np.ptp(x, axis=0) > 0]
        mean = weights @ x
        with np.errstate(divide="ignore", invalid="ignore"):
            sd = np.sqrt(weights @ (x - mean) ** 2)
            away = abs(x.mean(axis=0) - mean) / sd
            ratio = abs(np.log(x.std(axis=0) / sd))
        means = max(means, float(np.max(np.nan_to_num(away, nan=np.inf), initial=0.0)))
        log_sds = max(log_sds, float(np.max(np.nan_to_num(ratio, nan=np.inf), initial=0.0)))
    return means, log_sds
