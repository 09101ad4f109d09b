"""Pareto smoothed importance sampling, as ArviZ does it, without the second its import takes."""

from __future__ import annotations

import numpy as np

# A weakly informative prior of the shape: worth so many draws, with this mean.
_PRIOR_DRAWS, _PRIOR_SHAPE = 10, 0.5


def tail_length(n: int) -> int:
    """Return how many of `n` weights are their tail."""
    return int(min(n / 5, 3 * np.sqrt(n)))


def pareto_smoothed(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    r"""Return log weights with a smoothed tail, and the shape :math:`\hat k` of that tail.

    A generalised Pareto distribution is fitted to how far the largest weights are above the
    largest of the others; where it has a shape, the tail becomes its quantiles.

    Parameters
    ----------
    log_ratios : array of shape (n,)
        Finite, of at least 25 draws, those of the tail not all equal.

    Returns
    -------
    log_weights : array of shape (n,)
        Of weights that add up to 1.
    shape : float
        NaN where a quarter of the tail is equal to its least.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. https://arxiv.org/abs/1507.02646

    Zhang, J. and Stephens, M. A. (2009). A new and efficient estimation method for the
    generalized Pareto distribution. Technometrics 51(3).

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.psis import pareto_smoothed
    >>> log_ratios = 0.8 * np.random.default_rng(0).exponential(size=4000)
    >>> shape = pareto_smoothed(log_ratios)[1]  # of 189 weights: +- (1 + .8) / 189**.5
    >>> abs(shape - 0.8) < 3 * 0.13
    True
    """
    logs = log_ratios - log_ratios.max()
    order = np.argsort(logs)
    n = tail_length(logs.size)
    tail, cutoff = order[-n:], np.exp(logs[order[-n - 1]])
    shape, scale = _generalised_pareto(np.exp(logs[tail]) - cutoff)
    if np.isfinite(shape):
        p = (np.arange(n) + 0.5) / n
        with np.errstate(over="ignore"):  # tails of any length
            quantiles = -np.log1p(-p) if shape == 0 else np.expm1(-shape * np.log1p(-p)) / shape
            # None above the largest weight there was.
            logs[tail] = np.minimum(np.log(scale * quantiles + cutoff), 0.0)
    return logs - _log_sum(logs), shape


def _generalised_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Return the shape and scale of a generalised Pareto distribution, of sorted values.

    Means over a profile likelihood of the ratio of the two, as Zhang and Stephens have it.
    """
    n = excess.size
    quartile = excess[int(n / 4 + 0.5) - 1]
    if quartile <= excess[0]:
        return float("nan"), float("nan")
    m = 30 + int(np.sqrt(n))
    ratios = (1 - np.sqrt(m / (np.arange(m) + 0.5))) / (3 * quartile) + 1 / excess[-1]
    with np.errstate(all="ignore"):  # tails of any length
        shapes = np.log1p(-ratios[:, None] * excess).mean(axis=1)
        profile = n * (np.log(-ratios / shapes) - shapes - 1)
        weights = np.exp(profile - _log_sum(profile))
        kept = weights >= 10 * np.finfo(float).eps
        ratio = weights[kept] @ ratios[kept] / weights[kept].sum()
        shape = float(np.log1p(-ratio * excess).mean())
        scale = float(-shape / ratio)
    if np.isnan(shape):
        return float("inf"), float("nan")
    return (n * shape + _PRIOR_DRAWS * _PRIOR_SHAPE) / (n + _PRIOR_DRAWS), scale


def _log_sum(logs: np.ndarray) -> float:
    largest = logs.max()
    return float(largest + np.log(np.sum(np.exp(logs - largest))))
