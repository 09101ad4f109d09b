"""Item response theory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm


def irt_2pl(data: Mapping[str, Any]) -> pm.Model:
    r"""Two-parameter logistic model of answers to items, hierarchical in persons and items.

    .. math::

        \sigma_\theta, \sigma_a, \sigma_b \sim \mathrm{HalfCauchy}(2), \quad
        \mu_b \sim \mathcal N(0, 5^2)

        \theta_j \sim \mathcal N(0, \sigma_\theta^2), \quad
        a_i \sim \mathrm{LogNormal}(0, \sigma_a), \quad
        b_i \sim \mathcal N(\mu_b, \sigma_b^2), \qquad
        y_{ij} \sim \mathrm{Bernoulli}(\mathrm{logit}^{-1}(a_i (\theta_j - b_i)))

    Parameters
    ----------
    data : mapping
        ``y`` (items by persons).

    Returns
    -------
    pymc.Model
        Free variables ``sigma_theta``, ``theta`` (100), ``sigma_a``, ``a`` (20), ``mu_b``,
        ``sigma_b`` and ``b`` (20).
    """
    y = np.asarray(data["y"])
    items, persons = y.shape
    with pm.Model() as model:
        sigma_theta = pm.HalfCauchy("sigma_theta", 2.0)
        theta = pm.Normal("theta", 0.0, sigma_theta, shape=persons)
        sigma_a = pm.HalfCauchy("sigma_a", 2.0)
        a = pm.LogNormal("a", 0.0, sigma_a, shape=items)
        mu_b = pm.Normal("mu_b", 0.0, 5.0)
        sigma_b = pm.HalfCauchy("sigma_b", 2.0)
        b = pm.Normal("b", mu_b, sigma_b, shape=items)
        pm.Bernoulli("y", logit_p=a[:, None] * (theta - b[:, None]), observed=y)
    return model
