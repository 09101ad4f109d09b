"""The bimodal model: a mixture of two Gaussians without data."""

import pymc as pm


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
    """
    with pm.Model() as model:
        x = pm.NormalMixture("x", w=[0.2, 0.8], mu=[-0.3, 0.5], sigma=[0.1, 0.1])
        pm.Deterministic("x2", x**2)
        pm.Deterministic("sin_x", pm.math.sin(x))
    return model
