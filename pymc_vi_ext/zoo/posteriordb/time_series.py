"""Time series: an autoregression and a changing variance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt


def ar_k(data: Mapping[str, Any]) -> pm.Model:
    r"""Autoregression of order `K`, given the first `K` values.

    .. math::

        \alpha, \beta_k \sim \mathcal N(0, 10^2), \quad
        \sigma \sim \mathrm{HalfCauchy}(2.5), \qquad
        y_t \sim \mathcal N\Bigl(\alpha + \sum_{k=1}^K \beta_k\, y_{t-k},\; \sigma^2\Bigr),
        \quad t > K

    Parameters
    ----------
    data : mapping
        ``y`` and ``K``.

    Returns
    -------
    pymc.Model
        Free variables ``alpha``, ``beta`` (5) and ``sigma``.
    """
    y, k = np.asarray(data["y"]), data["K"]
    # Row t: y[t - 1], ..., y[t - k].
    past = np.lib.stride_tricks.sliding_window_view(y[:-1], k)[:, ::-1]
    with pm.Model() as model:
        alpha = pm.Normal("alpha", 0.0, 10.0)
        beta = pm.Normal("beta", 0.0, 10.0, shape=k)
        sigma = pm.HalfCauchy("sigma", 2.5)
        pm.Normal("y", alpha + past @ beta, sigma, observed=y[k:])
    return model


def garch11(data: Mapping[str, Any]) -> pm.Model:
    r"""Autoregressive conditional heteroscedasticity, GARCH(1, 1).

    .. math::

        p(\mu, \alpha_0) \propto 1, \quad
        (\alpha_1, \beta_1) \sim \mathrm{Uniform}\{\alpha_1, \beta_1 > 0,\;
        \alpha_1 + \beta_1 < 1\}

        h_1 = \sigma_1^2, \quad
        h_t = \alpha_0 + \alpha_1 (y_{t-1} - \mu)^2 + \beta_1 h_{t-1}, \qquad
        y_t \sim \mathcal N(\mu, h_t)

    Parameters
    ----------
    data : mapping
        ``y`` and ``sigma1``, the standard deviation of the first value.

    Returns
    -------
    pymc.Model
        Free variables ``mu``, ``alpha0``, ``alpha1`` and ``beta1``.

    References
    ----------
    Bollerslev, T. (1986). Generalized autoregressive conditional heteroskedasticity.
    Journal of Econometrics 31, 307-327.
    """
    y = np.asarray(data["y"])
    with pm.Model() as model:
        mu = pm.Flat("mu")
        alpha0 = pm.HalfFlat("alpha0")
        # Uniform over the triangle: the margin of alpha1, and beta1 given it.
        alpha1 = pm.Beta("alpha1", 1.0, 2.0)
        beta1 = pm.Uniform("beta1", 0.0, 1.0 - alpha1)
        h = pt.concatenate([[data["sigma1"] ** 2], alpha0 + alpha1 * (y[:-1] - mu) ** 2])
        # The recurrence is linear. After the pass with lag s, h[t] reaches back over 2 s terms:
        # eight passes over the series instead of a loop along it.
        lag, decay = 1, beta1
        while lag < len(y):
            h = h + decay * pt.concatenate([np.zeros(lag), h[:-lag]])
            lag, decay = 2 * lag, decay**2
        pm.Normal("y", mu, pt.sqrt(h), observed=y)
    return model
