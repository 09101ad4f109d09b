"""Mixtures of two normal distributions, of independent and of dependent observations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pymc.distributions.transforms import Chain, log, ordered


def low_dim_gauss_mix(data: Mapping[str, Any]) -> pm.Model:
    r"""Mixture of two normal distributions.

    .. math::

        \mu_k \sim \mathcal N(0, 2^2), \; \mu_1 < \mu_2, \quad
        \sigma_k \sim \mathrm{HalfNormal}(2), \quad \theta \sim \mathrm{Beta}(5, 5)

        y_i \sim \theta\, \mathcal N(\mu_1, \sigma_1^2)
        + (1 - \theta)\, \mathcal N(\mu_2, \sigma_2^2)

    Parameters
    ----------
    data : mapping
        ``y``.

    Returns
    -------
    pymc.Model
        Free variables ``mu`` (2), ``sigma`` (2) and ``theta``.
    """
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 2.0, shape=2, transform=ordered, initval=[-1.0, 1.0])
        sigma = pm.HalfNormal("sigma", 2.0, shape=2)
        theta = pm.Beta("theta", 5.0, 5.0)
        weights = pt.stack([theta, 1.0 - theta])
        pm.NormalMixture("y", w=weights, mu=mu, sigma=sigma, observed=data["y"])
    return model


def hmm_example(data: Mapping[str, Any]) -> pm.Model:
    r"""Hidden Markov chain with two states and normal emissions.

    .. math::

        \theta_1, \theta_2 \sim \mathrm{Dirichlet}(1, 1), \quad
        \mu_1 \sim \mathcal N(3, 1), \; \mu_2 \sim \mathcal N(10, 1), \; 0 < \mu_1 < \mu_2

        s_t \mid s_{t-1} = j \sim \mathrm{Categorical}(\theta_j), \qquad
        y_t \sim \mathcal N(\mu_{s_t}, 1)

    The states are summed out. The first one has no distribution of its own: both its values count
    with weight 1.

    Parameters
    ----------
    data : mapping
        ``y``.

    Returns
    -------
    pymc.Model
        Free variables ``theta1`` (2), ``theta2`` (2), the rows of the transition matrix, and
        ``mu`` (2); the likelihood is the Potential ``y``.
    """
    y = np.asarray(data["y"])
    with pm.Model() as model:
        theta1 = pm.Dirichlet("theta1", np.ones(2))
        theta2 = pm.Dirichlet("theta2", np.ones(2))
        centers = [3.0, 10.0]
        mu = pm.Normal("mu", centers, 1.0, transform=Chain([log, ordered]), initval=centers)
        emission = pm.logp(pm.Normal.dist(mu, 1.0), y[:, None])
        transition = pt.log(pt.stack([theta1, theta2]))
        steps = transition + emission[1:, None, :]
        total = emission[0][:, None] + _log_product(steps, len(y) - 1)
        pm.Potential("y", pt.logsumexp(total))
    return model


def _log_product(matrices: Any, n: int) -> Any:
    """Multiply `n` matrices given by their logarithms, neighbours in pairs until one is left."""
    while n > 1:
        left, right = matrices[0 : n - 1 : 2], matrices[1:n:2]
        pairs = pt.logsumexp(left[:, :, :, None] + right[:, None, :, :], axis=2)
        # The last of an odd number waits for the next round.
        matrices = pt.concatenate([pairs, matrices[n - n % 2 : n]])
        n = n // 2 + n % 2
    return matrices[0]
