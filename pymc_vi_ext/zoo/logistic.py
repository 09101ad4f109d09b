"""Logistic regression on simulated data."""

import numpy as np
import pymc as pm

from pymc_vi_ext.zoo._parameters import Predictors, Rows, Seed


def logistic(
    n: Rows = 10_000,
    k: Predictors = 50,
    seed: Seed = 0,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
) -> pm.Model:
    r"""Build a regression of a binary outcome on `k` predictors and an intercept.

    .. math::

        a \sim \mathcal N(0, 1), \quad b_j \sim \mathcal N(0, 1), \qquad
        y_i \sim \mathrm{Bernoulli}(\mathrm{logit}^{-1}(a + x_i^\top b))

    Parameters
    ----------
    n, k : int
        Number of observations and of predictors.
    seed : int
        Seed of the simulated data.
    x, y : numpy.ndarray, shapes (rows, predictors) and (rows,), optional
        Predictors and outcomes, 0 or 1, of your own in their place.

    Returns
    -------
    pymc.Model
        Free variables ``a`` (scalar) and ``b`` (predictor).

    Raises
    ------
    ValueError
        If one of `x` and `y` is given without the other, or they do not have as many rows.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> len(zoo.build("logistic", n=100, k=3).coords["predictor"])
    3
    """
    if (x is None) != (y is None):
        raise ValueError("`x` and `y` come together: give both or neither.")
    if x is None or y is None:
        x, y = _simulated(n, k, np.random.default_rng(seed))
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"`x` is (rows, predictors) and `y` (rows,), not {x.shape} and {y.shape}.")
    n, k = x.shape
    with pm.Model(coords={"predictor": np.arange(k), "row": np.arange(n)}) as model:
        predictors = pm.Data("x", x, dims=("row", "predictor"))
        a = pm.Normal("a", 0.0, 1.0)
        b = pm.Normal("b", 0.0, 1.0, dims="predictor")
        pm.Bernoulli("y", logit_p=a + predictors @ b, observed=y, dims="row")
    return model


def _simulated(n: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(n, k))
    slopes = rng.normal(scale=0.3, size=k)
    return x, rng.binomial(1, 1 / (1 + np.exp(-0.5 - x @ slopes)))
