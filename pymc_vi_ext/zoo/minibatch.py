"""Linear regression on random batches of simulated data."""

import numpy as np
import pymc as pm

from pymc_vi_ext.zoo._parameters import Batch, Predictors, Rows, Seed


def minibatch(
    n: Rows = 40_000, k: Predictors = 100, batch_size: Batch = 500, seed: Seed = 0
) -> pm.Model:
    r"""Linear regression whose likelihood is estimated from a random batch at each step.

    .. math::

        a \sim \mathcal N(0, 1), \quad b_j \sim \mathcal N(0, 1), \quad
        \sigma \sim \mathrm{HalfNormal}(1), \qquad
        \log p(y \mid \theta) \approx \frac{n}{m} \sum_{i \in \mathrm{batch}}
        \log \mathcal N(y_i \mid a + x_i^\top b, \sigma^2)

    with batches of :math:`m` rows drawn with replacement. Only stochastic optimisation can fit
    it: a sampler would see another density at every evaluation.

    Parameters
    ----------
    n, k : int
        Number of observations and of predictors.
    batch_size : int
        Rows in a batch, :math:`m`.
    seed : int
        Seed of the simulated data.

    Returns
    -------
    pymc.Model
        Free variables ``a``, ``b`` (predictor) and ``sigma``.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> [v.name for v in zoo.build("minibatch", n=100, k=3, batch_size=10).free_RVs]
    ['a', 'b', 'sigma']
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k))
    slopes = rng.normal(size=k)
    y = rng.normal(0.5 + x @ slopes, 1.0)
    x_batch, y_batch = pm.Minibatch(x, y, batch_size=batch_size)
    with pm.Model(coords={"predictor": np.arange(k)}) as model:
        a = pm.Normal("a", 0.0, 1.0)
        b = pm.Normal("b", 0.0, 1.0, dims="predictor")
        sigma = pm.HalfNormal("sigma", 1.0)
        pm.Normal("y", a + x_batch @ b, sigma, observed=y_batch, total_size=n)
    return model
