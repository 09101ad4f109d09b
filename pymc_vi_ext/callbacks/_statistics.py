"""Errors of averages over steps that depend on each other."""

from __future__ import annotations

import numpy as np


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of independent values, (n,), and its standard error."""
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def batch_means(values: np.ndarray, batches: int) -> np.ndarray:
    """Average over batches of consecutive values; a remainder at the beginning is left out.

    Parameters
    ----------
    values : array of shape (n, ...), n >= batches
    batches : int

    Returns
    -------
    array of shape (batches, ...)
    """
    length = len(values) // batches
    kept = values[len(values) - batches * length :]
    return kept.reshape(batches, length, *values.shape[1:]).mean(axis=1)


def standard_error(values: np.ndarray, batches: int) -> np.ndarray:
    r"""Return the standard error of the mean over the first axis, by batch means.

    Means :math:`b_j` of batches much longer than the autocorrelation are nearly independent, so
    :math:`\sqrt{\operatorname{var}(b_j) / k}` is the error of the mean of all :math:`k`.

    Parameters
    ----------
    values : array of shape (n, ...)
    batches : int

    Returns
    -------
    array of shape (...)

    References
    ----------
    Flegal, J. and Jones, G. (2010). Batch means and spectral variance estimators in Markov chain
    Monte Carlo. Ann. Statist. 38(2). https://arxiv.org/abs/0811.1729
    """
    error: np.ndarray = batch_means(values, batches).std(axis=0, ddof=1) / batches**0.5
    return error


def split_rhat(values: np.ndarray) -> np.ndarray:
    r"""Return the split :math:`\hat R` of each column of one chain.

    The chain is cut into halves, and their variance between and within compared,

    .. math:: \hat R^2 = \frac{n - 1}{n} + \frac{B}{n W}

    for halves of length :math:`n`. 1 for columns that do not move.

    Parameters
    ----------
    values : array of shape (2 n, d)

    Returns
    -------
    array of shape (d,)

    References
    ----------
    Gelman, A. et al. (2013). Bayesian Data Analysis, third edition, section 11.4.
    """
    halves = np.stack(np.split(values, 2))
    n = halves.shape[1]
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = np.sqrt((n - 1) / n + between / within)
    return np.where(between == 0, 1.0, rhat)
