"""Predators and prey: a differential equation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

STEPS = 8
"""Runge-Kutta steps a year: errors of the log populations below 2e-5 over the posterior."""


def lotka_volterra(data: Mapping[str, Any]) -> pm.Model:
    r"""Pelts of hares and lynxes over twenty years, with the equations of Lotka and Volterra.

    .. math::

        \theta_1, \theta_3 \sim \mathcal N^+(1, 0.5^2), \quad
        \theta_2, \theta_4 \sim \mathcal N^+(0.05, 0.05^2), \quad
        \sigma_k \sim \mathrm{LogNormal}(-1, 1), \quad
        z_k(0) \sim \mathrm{LogNormal}(\log 10, 1)

        \dot z_1 = (\theta_1 - \theta_2 z_2)\, z_1, \quad
        \dot z_2 = (-\theta_3 + \theta_4 z_1)\, z_2, \qquad
        y_k(t) \sim \mathrm{LogNormal}(\log z_k(t), \sigma_k), \quad t = 0, 1, \dots

    Parameters
    ----------
    data : mapping
        ``ts`` (whole years from the start), ``y_init`` (2) and ``y`` (years by 2).

    Returns
    -------
    pymc.Model
        Free variables ``theta`` (4), ``z_init`` (2) and ``sigma`` (2).

    References
    ----------
    Hewitt, C. G. (1921). The Conservation of the Wild Life of Canada.
    """
    with pm.Model() as model:
        theta = pm.TruncatedNormal(
            "theta", mu=[1.0, 0.05, 1.0, 0.05], sigma=[0.5, 0.05, 0.5, 0.05], lower=0.0
        )
        sigma = pm.LogNormal("sigma", -1.0, 1.0, shape=2)
        z_init = pm.LogNormal("z_init", np.log(10.0), 1.0, shape=2)
        log_z_init = pt.log(z_init)
        # A loop, not an unrolled graph: XLA fuses the stages of successive steps into each other
        # and takes time exponential in their number.
        log_states = pytensor.scan(
            _runge_kutta,
            outputs_info=[log_z_init],
            non_sequences=[
                pt.stack([theta[0], -theta[2]]),
                pt.stack([-theta[1], theta[3]]),
            ],
            n_steps=int(max(data["ts"])) * STEPS,
            return_updates=False,
        )
        log_z = log_states[np.asarray(data["ts"]) * STEPS - 1]
        pm.LogNormal("y_init", log_z_init, sigma, observed=np.asarray(data["y_init"], float))
        pm.LogNormal("y", log_z, sigma, observed=data["y"])
    return model


def _runge_kutta(log_z: Any, growth: Any, interaction: Any) -> Any:
    # On the log scale no step makes a population negative, however wild the parameters.
    def slope(log_z: Any) -> Any:
        return growth + interaction * pt.exp(log_z[::-1])

    h = 1.0 / STEPS
    k1 = slope(log_z)
    k2 = slope(log_z + h / 2 * k1)
    k3 = slope(log_z + h / 2 * k2)
    k4 = slope(log_z + h * k3)
    return log_z + h / 6 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
