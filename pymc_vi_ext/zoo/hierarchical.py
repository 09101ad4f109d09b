"""A hierarchical regression of the size of the radon study, simulated."""

import numpy as np
import pymc as pm

from pymc_vi_ext.zoo._parameters import Groups, Rows, Seed


def hierarchical(groups: Groups = 85, rows: Rows = 919, seed: Seed = 0) -> pm.Model:
    r"""Varying intercepts over groups, non-centered, with one predictor.

    .. math::

        \mu \sim \mathcal N(0, 1), \quad \tau \sim \mathrm{HalfNormal}(1), \quad
        z_g \sim \mathcal N(0, 1), \quad b \sim \mathcal N(0, 1), \quad
        \sigma \sim \mathrm{HalfNormal}(1)

        a_g = \mu + \tau z_g, \qquad y_i \sim \mathcal N(a_{g(i)} + b\, x_i, \sigma^2)

    The data are simulated with the sizes of the radon measurements of Minnesota (919 houses in 85
    counties, a predictor that is 0 or 1).

    Parameters
    ----------
    groups, rows : int
        Number of groups and of observations.
    seed : int
        Seed of the simulated data.

    Returns
    -------
    pymc.Model
        Free variables ``mu``, ``tau``, ``z`` (group), ``b``, ``sigma``; Deterministic ``a``
        (group).

    References
    ----------
    Gelman, A. and Hill, J. (2006). Data Analysis Using Regression and Multilevel/Hierarchical
    Models, chapter 12.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> [v.name for v in zoo.build("hierarchical", groups=5, rows=50).free_RVs]
    ['mu', 'tau', 'z', 'b', 'sigma']
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=rows)
    floor = rng.binomial(1, 0.17, size=rows).astype(float)
    effects = rng.normal(1.5, 0.33, size=groups)
    y_observed = rng.normal(effects[group] - 0.7 * floor, 0.75)
    with pm.Model(coords={"group": np.arange(groups), "row": np.arange(rows)}) as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        tau = pm.HalfNormal("tau", 1.0)
        z = pm.Normal("z", 0.0, 1.0, dims="group")
        b = pm.Normal("b", 0.0, 1.0)
        sigma = pm.HalfNormal("sigma", 1.0)
        a = pm.Deterministic("a", mu + tau * z, dims="group")
        pm.Normal("y", a[group] + b * floor, sigma, observed=y_observed, dims="row")
    return model
