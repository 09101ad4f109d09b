r"""Coordinates in which a family's parameters are of one scale.

A step of .1 in a mean is much where the standard deviation is .001 and nothing where it is 1,000.
Measured in standard deviations of the approximation itself, and of logarithms for the scales, the
same step means the same everywhere: the Fisher information of a Gaussian is the identity there (2
for the logarithms), and rescaling the model's variables changes nothing (Amari, 1998).
"""

from collections.abc import Sequence

import numpy as np
import pytensor.tensor as pt

from pymc.variational.opvi import Group
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.linalg import solve_triangular

# A step of .1 in units of a standard deviation is one of .001 in a weight of a network.
_NETWORK_UNIT = 0.03

Tensors = Sequence[pt.TensorVariable]


class Coordinates:
    """Parameters as they are: the coordinates of a family that names no others.

    Parameters
    ----------
    group : pymc.Group

    Attributes
    ----------
    parameters : list of SharedVariable
    locations : tuple of SharedVariable
        Those whose travel widens the steps; see `moved`.

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.approximations import Coordinates
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     coordinates = Coordinates(pm.Group([x], vfam="mean_field"))
    >>> coordinates.shapes
    [(3,), (3,)]
    """

    locations: tuple[SharedVariable, ...] = ()

    def __init__(self, group: Group):
        self.group = group
        self.parameters: list[SharedVariable] = list(group.params_dict.values())

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the steps: of the parameters, unless there are more coordinates than these."""
        return [parameter.get_value(borrow=True).shape for parameter in self.parameters]

    def gradients(self, gradients: Tensors) -> list[pt.TensorVariable]:
        """Change gradients with respect to `parameters` to these coordinates."""
        return list(gradients)

    def moved(self, steps: Tensors, travels: Tensors) -> list[pt.TensorVariable]:
        """Return the parameters after `steps` in these coordinates.

        Parameters
        ----------
        steps : sequence of tensor
            Of the shapes in `shapes`.
        travels : sequence of tensor
            Per location, how far it has come of late, in its own units. A mean that travels
            far is moved by more than its standard deviation allows: far from the optimum that
            says little about the distance.
        """
        return [p + step for p, step in zip(self.parameters, steps, strict=True)]


class MeanFieldCoordinates(Coordinates):
    r"""Means in standard deviations, and logarithms of standard deviations."""

    def __init__(self, group: Group):
        super().__init__(group)
        self._mu, self._rho = group.params_dict["mu"], group.params_dict["rho"]
        self.parameters = [self._mu, self._rho]
        self.locations = (self._mu,)
        self._sigma = pt.softplus(self._rho)

    def gradients(self, gradients: Tensors) -> list[pt.TensorVariable]:
        """Scale by the standard deviations; the chain rule for their logarithms."""
        mu, rho = gradients
        return [self._sigma * mu, self._sigma / pt.sigmoid(self._rho) * rho]

    def moved(self, steps: Tensors, travels: Tensors) -> list[pt.TensorVariable]:
        """Return means and ``rho`` after `steps`."""
        unit = pt.sqrt(self._sigma**2 + travels[0] ** 2)
        return [self._mu + unit * steps[0], _softplus_inverse(self._sigma * pt.exp(steps[1]))]


class FullRankCoordinates(Coordinates):
    r"""Means :math:`\mu + L a` and factors :math:`L (I + B)`, `B` lower triangular.

    The diagonal of :math:`I + B` is :math:`e^{B_{ii}}`, so that it stays positive. A mixture's
    components have theirs side by side, on the first axis.
    """

    def __init__(self, group: Group):
        super().__init__(group)
        self._mu, self._packed = group.params_dict["mu"], group.params_dict["L_tril"]
        self.parameters = [self._mu, self._packed]
        self.locations = (self._mu,)
        self._rows, self._columns = np.tril_indices(group.ddim)
        self._on_diagonal = self._rows == self._columns
        self._L = group.L

    def _unpacked(self, packed: pt.TensorVariable) -> pt.TensorVariable:
        return pt.set_subtensor(pt.zeros_like(self._L)[..., self._rows, self._columns], packed)

    def gradients(self, gradients: Tensors) -> list[pt.TensorVariable]:
        """Multiply by the factor's transpose."""
        mu, packed = gradients
        # PyMC keeps the diagonal through a softplus.
        slope = pt.switch(self._on_diagonal, pt.sigmoid(self._packed), 1.0)
        transposed = pt.swapaxes(self._L, -1, -2)
        relative = pt.matmul(transposed, self._unpacked(packed / slope))
        return [_product(transposed, mu), relative[..., self._rows, self._columns]]

    def moved(self, steps: Tensors, travels: Tensors) -> list[pt.TensorVariable]:
        """Return means and packed factor after `steps`."""
        # In the coordinates of the means; the travel is in those of the model.
        travel = solve_triangular(self._L, travels[0], lower=True, b_ndim=1)
        mu = self._mu + _product(self._L, steps[0] * pt.sqrt(1 + travel**2))
        # A random triangular matrix of d (d + 1) / 2 entries has a norm that grows with sqrt(d).
        relative = steps[1] / np.sqrt((self.group.ddim + 1) / 2)
        relative = pt.switch(self._on_diagonal, pt.exp(relative), relative)
        factor = pt.matmul(self._L, self._unpacked(relative))[..., self._rows, self._columns]
        diagonal = _softplus_inverse(pt.switch(self._on_diagonal, factor, 1.0))
        return [mu, pt.switch(self._on_diagonal, diagonal, factor)]


class LowRankCoordinates(Coordinates):
    r"""Means :math:`\mu + \sigma a + W b`, factors :math:`W + \sigma A`, and logarithms of sigma.

    The columns of `W` are directions of their own: along them the posterior may be far longer than
    :math:`\sigma` says.
    """

    def __init__(self, group: Group):
        super().__init__(group)
        names = ("mu", "rho", "W")
        self.parameters = [group.params_dict[name] for name in names]
        self._mu, self._rho, self._factors = self.parameters
        self.locations = (self._mu,)
        self._sigma = pt.softplus(self._rho)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """One more than the parameters: the means move along `W` too."""
        d, rank = self._factors.get_value(borrow=True).shape
        return [(d,), (rank,), (d,), (d, rank)]

    def gradients(self, gradients: Tensors) -> list[pt.TensorVariable]:
        """Gradients along the coordinates, the factors, and of the two kinds of scales."""
        mu, rho, factors = gradients
        return [
            self._sigma * mu,
            self._factors.T.dot(mu),
            self._sigma / pt.sigmoid(self._rho) * rho,
            self._sigma[:, None] * factors,
        ]

    def moved(self, steps: Tensors, travels: Tensors) -> list[pt.TensorVariable]:
        """Return means, ``rho`` and factors after `steps`."""
        unit = pt.sqrt(self._sigma**2 + travels[0] ** 2)
        return [
            self._mu + unit * steps[0] + self._factors.dot(steps[1]),
            _softplus_inverse(self._sigma * pt.exp(steps[2])),
            # As many entries move together as in a column of a full factor.
            self._factors + self._sigma[:, None] * steps[3] / np.sqrt((self.group.ddim + 1) / 2),
        ]


class NetworkCoordinates(Coordinates):
    """Weights of a flow's networks, in a unit of their own."""

    def __init__(self, group: Group):
        super().__init__(group)
        self.parameters = [group.params_dict["weights"]]

    def moved(self, steps: Tensors, travels: Tensors) -> list[pt.TensorVariable]:
        """Return the weights after `steps`."""
        return [self.parameters[0] + _NETWORK_UNIT * steps[0]]


class ParticleCoordinates(Coordinates):
    """Particles in standard deviations over the particles."""

    def __init__(self, group: Group):
        super().__init__(group)
        # A variable on which all particles agree has no scale of its own.
        self._spread = pt.std(self.parameters[0], axis=0) + 1e-12

    def gradients(self, gradients: Tensors) -> list[pt.TensorVariable]:
        """Scale by the spread."""
        return [self._spread * gradients[0]]

    def moved(self, steps: Tensors, travels: Tensors) -> list[pt.TensorVariable]:
        """Return the particles after `steps`."""
        return [self.parameters[0] + self._spread * steps[0]]


def _softplus_inverse(x: pt.TensorVariable) -> pt.TensorVariable:
    return x + pt.log(-pt.expm1(-x))


def _product(matrix: pt.TensorVariable, vector: pt.TensorVariable) -> pt.TensorVariable:
    return pt.matmul(matrix, vector[..., None])[..., 0]
