"""The negative ELBO, with the gradient that has the least noise near the optimum."""

from typing import Any

import pytensor.tensor as pt

from pymc.variational.approximations import FullRankGroup, MeanFieldGroup
from pymc.variational.operators import KL
from pymc.variational.opvi import Group
from pytensor.gradient import disconnected_grad
from pytensor.tensor.linalg import solve_triangular


class PathELBO(KL):
    r"""Negative ELBO whose gradient follows the draws only ("sticking the landing").

    With :math:`z = T_\theta(\epsilon)` the gradient of :math:`\log q_\theta(z) - \log p(y, z)`
    is a sum: that through the draw :math:`z`, and the score :math:`\partial_\theta \log q_\theta`
    at fixed :math:`z`, whose expectation is 0. Dropping the score leaves the gradient unbiased,
    and without any noise where :math:`q` equals the posterior. The value, the loss, is PyMC's.

    Gaussian groups, mean field and full rank, get this gradient; other groups keep PyMC's.

    References
    ----------
    Roeder, G., Wu, Y. and Duvenaud, D. (2017). Sticking the landing: simple, lower-variance
    gradient estimators for variational inference. https://arxiv.org/abs/1703.09194
    """

    def apply(self, f: Any) -> pt.TensorVariable:
        """Return the loss, in nats, divided as PyMC divides it."""
        approx = self.approx
        logq = sum(_path_logq(group).mean(0) for group in approx.groups)
        logq = logq / approx.symbolic_normalizing_constant
        return -self.datalogp_norm + self.beta * (logq - self.varlogp_norm)


def _path_logq(group: Group) -> pt.TensorVariable:
    """Return log q of the group's draws, (draws,), with the gradient through the draws alone."""
    if type(group) not in _DENSITY_GRADIENTS:
        return group.symbolic_logq
    draws = group.symbolic_random
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
}
