"""The bimodal model: a mixture of two Gaussians without data."""

import numpy as np
import pymc as pm

WEIGHTS, MEANS, SD = (0.2, 0.8), (-0.3, 0.5), 0.1


def mixture() -> pm.Model:
    r"""Two well separated modes of unequal weight, and two functions of the variable.

    .. math::

        x \sim 0.2\, \mathcal N(-0.3, 0.1^2) + 0.8\, \mathcal N(0.5, 0.1^2)

    with :math:`x^2` and :math:`\sin x` as Deterministics. The density is normalised, so the log
    evidence is 0 and the ELBO of an exact approximation too. A single Gaussian covers one mode at
    most (ELBO :math:`\log 0.8 = -0.22` at the larger one), and chains of NUTS tend to stay in the
    mode where they start.

    Returns
    -------
    pymc.Model
        Free variable ``x`` (scalar); Deterministics ``x2`` and ``sin_x``.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> [v.name for v in zoo.build("mixture").unobserved_RVs]
    ['x', 'x2', 'sin_x']
    """
    with pm.Model() as model:
        x = pm.NormalMixture("x", w=WEIGHTS, mu=MEANS, sigma=[SD, SD])
        pm.Deterministic("x2", x**2)
        pm.Deterministic("sin_x", pm.math.sin(x))
    return model


def mixture_draws(draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw from the model: a mode, and a point of it.

    Parameters
    ----------
    draws : int
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to numpy.ndarray, shape (draws,)
    """
    x = rng.normal(rng.choice(MEANS, size=draws, p=WEIGHTS), SD)
    return {"x": x, "x2": x**2, "sin_x": np.sin(x)}
