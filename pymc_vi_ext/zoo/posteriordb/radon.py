"""Radon in the houses of Minnesota."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm


def radon_hierarchical_intercept_noncentered(data: Mapping[str, Any]) -> pm.Model:
    r"""Log radon with an intercept for each county, non-centered.

    .. math::

        \mu_\alpha, \beta_k \sim \mathcal N(0, 10^2), \quad
        \sigma_\alpha, \sigma_y \sim \mathrm{HalfNormal}(1), \quad
        z_j \sim \mathcal N(0, 1), \quad \alpha_j = \mu_\alpha + \sigma_\alpha z_j

        y_i \sim \mathcal N(\alpha_{j(i)} + \beta_1\, u_i + \beta_2\, \mathit{floor}_i,\;
        \sigma_y^2)

    with the log uranium :math:`u` of the county.

    Parameters
    ----------
    data : mapping
        ``log_radon``, ``log_uppm``, ``floor_measure`` (0 or 1), ``county_idx`` (from 1) and ``J``,
        the number of counties.

    Returns
    -------
    pymc.Model
        Free variables ``alpha_raw`` (85), the :math:`z` above, ``beta`` (2), ``mu_alpha``,
        ``sigma_alpha`` and ``sigma_y``; Deterministic ``alpha`` (85).

    References
    ----------
    Gelman, A. and Hill, J. (2006). Data Analysis Using Regression and Multilevel/Hierarchical
    Models, chapter 12.
    """
    county = np.asarray(data["county_idx"]) - 1
    uranium, floor = np.asarray(data["log_uppm"]), np.asarray(data["floor_measure"], float)
    with pm.Model() as model:
        mu_alpha = pm.Normal("mu_alpha", 0.0, 10.0)
        sigma_alpha = pm.HalfNormal("sigma_alpha", 1.0)
        alpha_raw = pm.Normal("alpha_raw", 0.0, 1.0, shape=data["J"])
        alpha = pm.Deterministic("alpha", mu_alpha + sigma_alpha * alpha_raw)
        beta = pm.Normal("beta", 0.0, 10.0, shape=2)
        sigma_y = pm.HalfNormal("sigma_y", 1.0)
        mean = alpha[county] + beta[0] * uranium + beta[1] * floor
        pm.Normal("y", mean, sigma_y, observed=data["log_radon"])
    return model
