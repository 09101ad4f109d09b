"""Generalized linear models of choices and counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt


def wells_daae_c_model(data: Mapping[str, Any]) -> pm.Model:
    r"""Logistic regression of the decision to switch to another well.

    .. math::

        p(\alpha, \beta) \propto 1, \qquad
        y_i \sim \mathrm{Bernoulli}(\mathrm{logit}^{-1}(\alpha + x_i^\top \beta))

    where :math:`x_i` holds the distance in 100 m and the arsenic, both centred, their product, the
    membership in an association, and the education in units of four years, in this order.

    Parameters
    ----------
    data : mapping
        ``switched``, ``dist``, ``arsenic``, ``assoc``, ``educ``.

    Returns
    -------
    pymc.Model
        Free variables ``alpha`` and ``beta`` (5).

    References
    ----------
    Gelman, A. and Hill, J. (2006). Data Analysis Using Regression and Multilevel/Hierarchical
    Models, chapter 5.
    """
    distance, arsenic, association, education = (
        np.asarray(data[name], float) for name in ("dist", "arsenic", "assoc", "educ")
    )
    distance = (distance - distance.mean()) / 100.0
    arsenic = arsenic - arsenic.mean()
    x = np.column_stack([distance, arsenic, distance * arsenic, association, education / 4.0])
    with pm.Model() as model:
        alpha = pm.Flat("alpha")
        beta = pm.Flat("beta", shape=5)
        pm.Bernoulli("switched", logit_p=alpha + x @ beta, observed=data["switched"])
    return model


def glmm_poisson(data: Mapping[str, Any]) -> pm.Model:
    r"""Counts of peregrines over forty years: a cubic trend and an effect for each year.

    .. math::

        \alpha \sim \mathrm{Uniform}(-20, 20), \quad \beta_k \sim \mathrm{Uniform}(-10, 10), \quad
        \sigma \sim \mathrm{Uniform}(0, 5), \quad \varepsilon_i \sim \mathcal N(0, \sigma^2)

        C_i \sim \mathrm{Poisson}(\exp(\alpha + \beta_1 t_i + \beta_2 t_i^2 + \beta_3 t_i^3
        + \varepsilon_i))

    Parameters
    ----------
    data : mapping
        ``C`` (counts) and ``year`` (standardised).

    Returns
    -------
    pymc.Model
        Free variables ``alpha``, ``beta_1``, ``beta_2``, ``beta_3``, ``sigma`` and ``eps`` (40).

    References
    ----------
    Kéry, M. and Schaub, M. (2011). Bayesian Population Analysis using WinBUGS, chapter 4.
    """
    year = np.asarray(data["year"])
    with pm.Model() as model:
        alpha = pm.Uniform("alpha", -20.0, 20.0)
        beta_1 = pm.Uniform("beta_1", -10.0, 10.0)
        beta_2 = pm.Uniform("beta_2", -10.0, 10.0)
        beta_3 = pm.Uniform("beta_3", -10.0, 10.0)
        sigma = pm.Uniform("sigma", 0.0, 5.0)
        eps = pm.Normal("eps", 0.0, sigma, shape=len(year))
        log_rate = alpha + beta_1 * year + beta_2 * year**2 + beta_3 * year**3 + eps
        pm.Poisson("C", pt.exp(log_rate), observed=data["C"])
    return model
