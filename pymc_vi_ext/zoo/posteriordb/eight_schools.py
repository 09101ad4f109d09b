"""Effects of coaching in eight schools, in both parametrisations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm


def eight_schools_centered(data: Mapping[str, Any]) -> pm.Model:
    r"""Eight schools, with the effects themselves as parameters.

    .. math::

        \mu \sim \mathcal N(0, 5^2), \quad \tau \sim \mathrm{HalfCauchy}(5), \quad
        \theta_j \sim \mathcal N(\mu, \tau^2), \qquad y_j \sim \mathcal N(\theta_j, \sigma_j^2)

    Parameters
    ----------
    data : mapping
        ``y``, ``sigma`` (estimates and their standard errors) and ``J``.

    Returns
    -------
    pymc.Model
        Free variables ``mu``, ``tau`` and ``theta`` (8).

    References
    ----------
    Rubin, D. B. (1981). Estimation in parallel randomized experiments.
    Journal of Educational Statistics 6, 377-401.
    """
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        theta = pm.Normal("theta", mu, tau, shape=data["J"])
        pm.Normal("y", theta, np.asarray(data["sigma"], float), observed=data["y"])
    return model


def eight_schools_noncentered(data: Mapping[str, Any]) -> pm.Model:
    r"""Eight schools, with standardised effects as parameters.

    The model of :func:`eight_schools_centered` with

    .. math:: \theta_j = \mu + \tau\, t_j, \qquad t_j \sim \mathcal N(0, 1)

    Parameters
    ----------
    data : mapping
        ``y``, ``sigma`` (estimates and their standard errors) and ``J``.

    Returns
    -------
    pymc.Model
        Free variables ``mu``, ``tau`` and ``theta_trans`` (8); Deterministic ``theta`` (8).

    References
    ----------
    Rubin, D. B. (1981). Estimation in parallel randomized experiments.
    Journal of Educational Statistics 6, 377-401.
    """
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        theta_trans = pm.Normal("theta_trans", 0.0, 1.0, shape=data["J"])
        theta = pm.Deterministic("theta", mu + tau * theta_trans)
        pm.Normal("y", theta, np.asarray(data["sigma"], float), observed=data["y"])
    return model
