"""A Gamma likelihood with both parameters unknown."""

import numpy as np
import pymc as pm

from pymc_vi_ext.zoo._parameters import Rows, Seed


def gamma(n: Rows = 200, seed: Seed = 0, y: np.ndarray | None = None) -> pm.Model:
    r"""Shape and rate of a Gamma distribution from independent draws.

    .. math::

        \alpha, \beta \sim \mathrm{Exponential}(0.1), \qquad
        y_i \sim \mathrm{Gamma}(\alpha, \beta), \quad i = 1 \dots n

    The data are `n` draws of Gamma(2, rate 2), that is scale 0.5. The posterior of
    :math:`(\alpha, \beta)` is strongly correlated, which a mean-field family cannot follow.

    Parameters
    ----------
    n : int
        Number of draws.
    seed : int
        Seed of the simulated data.
    y : numpy.ndarray, shape (rows,), optional
        Positive data of your own in their place.

    Returns
    -------
    pymc.Model
        Free variables ``alpha`` and ``beta`` (positive scalars).

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> [v.name for v in zoo.build("gamma", n=50).free_RVs]
    ['alpha', 'beta']
    """
    if y is None:
        y = np.random.default_rng(seed).gamma(shape=2.0, scale=0.5, size=n)
    with pm.Model() as model:
        alpha = pm.Exponential("alpha", 0.1)
        beta = pm.Exponential("beta", 0.1)
        pm.Gamma("y", alpha=alpha, beta=beta, observed=y)
    return model
