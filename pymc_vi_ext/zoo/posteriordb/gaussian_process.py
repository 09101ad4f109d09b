"""A latent Gaussian process."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt


def gp_pois_regr(data: Mapping[str, Any]) -> pm.Model:
    r"""Counts whose log rate is a Gaussian process.

    .. math::

        \rho \sim \mathrm{Gamma}(25, 4), \quad \alpha \sim \mathrm{HalfNormal}(2), \quad
        z_i \sim \mathcal N(0, 1)

        f = L z, \quad (L L^\top)_{ij} = \alpha^2 \exp\Bigl(-\frac{(x_i - x_j)^2}{2 \rho^2}\Bigr)
        + 10^{-10}\, \delta_{ij}, \qquad k_i \sim \mathrm{Poisson}(\exp f_i)

    Parameters
    ----------
    data : mapping
        ``x`` and the counts ``k``.

    Returns
    -------
    pymc.Model
        Free variables ``rho``, ``alpha`` and ``f_tilde`` (11), the :math:`z` above; Deterministic
        ``f`` (11).
    """
    x = np.asarray(data["x"], float)
    squared_distances = np.subtract.outer(x, x) ** 2
    with pm.Model() as model:
        rho = pm.Gamma("rho", 25.0, 4.0)
        alpha = pm.HalfNormal("alpha", 2.0)
        f_tilde = pm.Normal("f_tilde", 0.0, 1.0, shape=len(x))
        covariance = alpha**2 * pt.exp(-0.5 * squared_distances / rho**2)
        factor = pt.linalg.cholesky(covariance + 1e-10 * np.eye(len(x)))
        f = pm.Deterministic("f", factor @ f_tilde)
        pm.Poisson("k", pt.exp(f), observed=data["k"])
    return model
