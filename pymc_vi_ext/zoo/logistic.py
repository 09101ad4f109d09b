"""Logistic regression on simulated data."""

import numpy as np
import pymc as pm


def logistic(n: int = 10_000, k: int = 50, seed: int = 0) -> pm.Model:
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

    Returns
    -------
    pymc.Model
        Free variables ``a`` (scalar) and ``b`` (predictor).
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k))
    slopes = rng.normal(scale=0.3, size=k)
    y = rng.binomial(1, 1 / (1 + np.exp(-0.5 - x @ slopes)))
    with pm.Model(coords={"predictor": np.arange(k), "row": np.arange(n)}) as model:
        predictors = pm.Data("x", x, dims=("row", "predictor"))
        a = pm.Normal("a", 0.0, 1.0)
        b = pm.Normal("b", 0.0, 1.0, dims="predictor")
        pm.Bernoulli("y", logit_p=a + predictors @ b, observed=y, dims="row")
    return model
