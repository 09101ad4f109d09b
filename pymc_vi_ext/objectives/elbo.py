"""The negative ELBO, with the gradient that has the least noise near the optimum."""

import math

from typing import Any

import pytensor.tensor as pt

from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation, Group
from pytensor.gradient import disconnected_grad
from pytensor.graph.replace import graph_replace
from pytensor.tensor.linalg import solve_triangular

from pymc_vi_ext.approximations import (
    Family,
    FlowGroup,
    FullRankMixtureGroup,
    LowRankGroup,
    MixtureGroup,
)


class PathELBO(KL):
    r"""Negative ELBO whose gradient follows the draws only ("sticking the landing").

    With :math:`z = T_\theta(\epsilon)` the gradient of :math:`\log q_\theta(z) - \log p(y, z)`
    is a sum: that through the draw :math:`z`, and the score :math:`\partial_\theta \log q_\theta`
    at fixed :math:`z`, whose expectation is 0. Dropping the score leaves the gradient unbiased,
    and without any noise where :math:`q` equals the posterior. The value, the loss, is PyMC's.

    PyMC's Gaussian groups and the package's families get this gradient; other groups keep PyMC's.

    A mixture's draws are stratified: each draw of the noise is made once for each component, and
    the losses are averaged with the weights, whose gradient is then exact but for the noise of the
    components' own draws. `obj_n_mc` counts draws of each component.

    References
    ----------
    Roeder, G., Wu, Y. and Duvenaud, D. (2017). Sticking the landing: simple, lower-variance
    gradient estimators for variational inference. https://arxiv.org/abs/1703.09194
    """

    def apply(self, f: Any) -> pt.TensorVariable:
        """Return the loss, in nats, divided as PyMC divides it."""
        approx = self.approx
        if stratified(approx):
            logq = sum(path_logq(group) for group in approx.groups)
            prior, data = approx.sized_symbolic_varlogp, approx.sized_symbolic_datalogp
            losses = -data + self.beta * (logq - prior)
            return _stratified_mean(losses, approx) / approx.symbolic_normalizing_constant
        logq = sum(path_logq(group).mean(0) for group in approx.groups)
        logq = logq / approx.symbolic_normalizing_constant
        return -self.datalogp_norm + self.beta * (logq - self.varlogp_norm)


def stratified(approx: Approximation) -> list[Group]:
    """Return the groups of `approx` that are mixtures."""
    return [g for g in approx.groups if isinstance(g, MixtureGroup | FullRankMixtureGroup)]


def _stratified_mean(losses: pt.TensorVariable, approx: Approximation) -> pt.TensorVariable:
    """Return the mean of `losses`, (draws,), over draws and components."""
    mixtures = stratified(approx)
    strata = math.prod(group.K for group in mixtures)
    weights = math.prod(group.K * group.weights[group.component] for group in mixtures)
    mean = pt.mean(weights * losses)
    noise = {}
    for group in approx.groups:
        initial = group.symbolic_initial
        rows = pt.repeat(initial[:, None, :], strata, axis=1)
        noise[initial] = rows.reshape((-1, initial.shape[1]))
    # Of the rows of the noise once that is repeated, by the second replacement.
    index = pt.arange(mixtures[0].symbolic_initial.shape[0])
    components = {}
    for group in mixtures:
        components[group.component] = index % group.K
        index = index // group.K
    mean = graph_replace(mean, components, strict=False)
    return graph_replace(mean, noise, strict=False)


def has_path(group: Group) -> bool:
    """Tell whether the gradient of log q through the draws alone is known of `group`."""
    return type(group) in _DENSITY_GRADIENTS or (isinstance(group, Family) and group.has_density)


def path_logq(group: Group) -> pt.TensorVariable:
    """Return log q of the group's draws, (draws,), with the gradient through the draws alone."""
    if not has_path(group):
        return group.symbolic_logq
    draws = group.symbolic_random
    if type(group) not in _DENSITY_GRADIENTS:
        fixed = {name: disconnected_grad(p) for name, p in group.params_dict.items()}
        return group.log_density(draws, fixed)
    gradient = disconnected_grad(_DENSITY_GRADIENTS[type(group)](group))
    # The second term is 0; it carries the gradient.
    path = pt.sum((draws - disconnected_grad(draws)) * gradient, axis=-1)
    return disconnected_grad(group.symbolic_logq) + path


def _mean_field_gradient(group: Group) -> pt.TensorVariable:
    return -group.symbolic_initial / group.std


def _full_rank_gradient(group: Group) -> pt.TensorVariable:
    return -solve_triangular(group.L, group.symbolic_initial.T, lower=True, trans=1).T


# d log q / d z at the draws, (draws, d)
_DENSITY_GRADIENTS = {
    MeanFieldGroup: _mean_field_gradient,
    FullRankGroup: _full_rank_gradient,
    # Autodiff would go back through the Cholesky factor for a gradient that is dropped.
    LowRankGroup: LowRankGroup.density_gradient,
    # Their density at a given point would need their inverse.
    FlowGroup: FlowGroup.density_gradient,
}
