"""The negative ELBO, with the gradient that has the least noise near the optimum."""

import math

from typing import Any

import pytensor.tensor as pt

from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation
from pytensor.graph.replace import graph_replace

from pymc_vi_ext.approximations import families_of
from pymc_vi_ext.probe import Probe


class ProbedKL(KL):
    """A negative ELBO whose gradient can be held against its values.

    Parameters
    ----------
    approx : Approximation

    Attributes
    ----------
    probe : Probe
        At its gate's 0 the gradient is that of the loss, exactly and for each draw.
    """

    def __init__(self, approx: Approximation):
        super().__init__(approx)
        self.probe = Probe(approx.params)


class PathELBO(ProbedKL):
    r"""Negative ELBO whose gradient follows the draws only ("sticking the landing").

    With :math:`z = T_\theta(\epsilon)` the gradient of :math:`\log q_\theta(z) - \log p(y, z)`
    is a sum: that through the draw :math:`z`, and the score :math:`\partial_\theta \log q_\theta`
    at fixed :math:`z`, whose expectation is 0. Dropping the score leaves the gradient unbiased,
    and without any noise where :math:`q` equals the posterior. The value, the loss, is PyMC's.

    PyMC's Gaussian groups and the package's families get this gradient; other groups keep PyMC's.

    A mixture's draws are stratified: each draw of the noise is made once for each component, and
    the losses are averaged with the weights, whose gradient is then exact but for the noise of the
    components' own draws. `obj_n_mc` counts draws of each component.

    Parameters
    ----------
    approx : Approximation

    References
    ----------
    Roeder, G., Wu, Y. and Duvenaud, D. (2017). Sticking the landing: simple, lower-variance
    gradient estimators for variational inference. https://arxiv.org/abs/1703.09194

    Examples
    --------
    >>> import pymc as pm, pymc_vi_ext as vix
    >>> from pymc_vi_ext.objectives import PathELBO
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     advi = vix.ADVI(random_seed=1)
    >>> type(advi.objective.op) is PathELBO
    True
    """

    def apply(self, f: Any) -> pt.TensorVariable:
        """Return the loss, in nats, divided as PyMC divides it."""
        approx = self.approx
        families = families_of(approx)
        if any(family.stratified for family in families):
            logq = sum(family.path_logq() for family in families)
            prior, data = approx.sized_symbolic_varlogp, approx.sized_symbolic_datalogp
            losses = -data + self.beta * (self.probe.gate * logq - prior)
            return _stratified_mean(losses, approx) / approx.symbolic_normalizing_constant
        logq = sum(family.path_logq().mean(0) for family in families)
        logq = logq / approx.symbolic_normalizing_constant
        return -self.datalogp_norm + self.beta * (self.probe.gate * logq - self.varlogp_norm)


def _stratified_mean(losses: pt.TensorVariable, approx: Approximation) -> pt.TensorVariable:
    """Return the mean of `losses`, (draws,), over draws and components."""
    mixtures = [family for family in families_of(approx) if family.stratified]
    strata = [found for family in mixtures if (found := family.strata()) is not None]
    total = math.prod(own.K for own in strata)
    weights = math.prod(own.K * own.weights[own.component] for own in strata)
    mean = pt.mean(weights * losses)
    noise = {}
    for group in approx.groups:
        initial = group.symbolic_initial
        rows = pt.repeat(initial[:, None, :], total, axis=1)
        noise[initial] = rows.reshape((-1, initial.shape[1]))
    # Of the rows of the noise once that is repeated, by the second replacement.
    index = pt.arange(mixtures[0].pymc_group.symbolic_initial.shape[0])
    components = {}
    for own in strata:
        components[own.component] = index % own.K
        index = index // own.K
    mean = graph_replace(mean, components, strict=False)
    return graph_replace(mean, noise, strict=False)
