"""Coordinates in which a hierarchical posterior is no funnel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pymc.distributions.timeseries import AutoRegressiveRV, RandomWalkRV
from pymc.logprob.transforms import LogTransform
from pymc.pytensorf import floatX
from pytensor.graph.basic import Variable
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import (
    CauchyRV,
    LaplaceRV,
    LogisticRV,
    LogNormalRV,
    NormalRV,
    StudentTRV,
)

from pymc_vi_ext.draws import at_points
from pymc_vi_ext.engine.density import in_one_vector
from pymc_vi_ext.engine.labels import in_plain_operations, plain
from pymc_vi_ext.python_only import building, python_only

# Distributions of a location and a scale on the unconstrained space, which are the last two of
# their parameters, and the transforms that lead there.
_OF_A_SCALE = {
    type(None): (CauchyRV, LaplaceRV, LogisticRV, NormalRV, StudentTRV),
    LogTransform: (LogNormalRV,),
}
# How far out of the centre an element may be.
_DEGREES = np.linspace(0.0, 1.0, 5)
# Draws that tell, at most.
_MOST_DRAWS = 4_000


@dataclass(frozen=True)
class _Scaled:
    """A free variable of unknown scale: its value, location and the logarithm of its scale.

    Where it walks these are of its increments along the last axis, the first from 0.
    """

    value: Variable
    location: Variable
    log_scale: Variable
    walks: bool


class Noncentring:
    r"""Coordinates :math:`y` in which variables of unknown scale depend less on it.

    Where :math:`x_i` has a prior of location :math:`m_i` and scale :math:`s_i`, which other free
    variables have a part in, and data say little of :math:`x_i`, the posterior is a funnel: no step
    size is right both where the scale is large and where it is small. In

    .. math::

        x_i = m_i + s_i^{\lambda_i} \left(y_i - (1 - \lambda_i) m_i\right), \qquad
        \left| \frac{\partial x}{\partial y} \right| = \prod_i s_i^{\lambda_i}

    it is none where :math:`\lambda_i = 1` (noncentred); where data say much of :math:`x_i`,
    :math:`\lambda_i = 0` (centred, :math:`y_i = x_i`) is right. Draws tell what lies between:
    :math:`\lambda_i` is such that a Gaussian of :math:`y_i` gives them the largest density,

    .. math::

        \lambda_i = \arg\min_\lambda \; \log \mathrm{sd}(y_i(\lambda)) + \lambda E \log s_i.

    Of random walks and autoregressive series the increments have the location and the scale, and
    :math:`x` is what they sum to (a map of volume 1), unless Gaussians of the series itself give
    the draws a larger density, as where data say much of each of its elements.

    Parameters
    ----------
    model : pymc.Model

    Attributes
    ----------
    y, x : Variable
        Vectors: coordinates, and the point of the unconstrained space that they stand for.
    log_jacobian : Variable
        Scalar: :math:`\sum_i \lambda_i \log s_i`.

    References
    ----------
    Papaspiliopoulos, O., Roberts, G. and Sköld, M. (2007). A general framework for the
    parametrization of hierarchical models. Statistical Science 22(1).

    Gorinova, M., Moore, D. and Hoffman, M. (2020). Automatic reparameterisation of probabilistic
    programs. ICML. https://arxiv.org/abs/1906.03028
    """

    def __init__(self, model: pm.Model):
        self._model = model
        with building(), python_only():
            start, places, self.y, parts = in_one_vector(model)
            found = [
                _scaled(model, *rv_and_part)
                for rv_and_part in zip(model.free_RVs, parts.values(), strict=True)
            ]
            self._scaled = [scaled for scaled in found if scaled is not None]
            where = [np.arange(len(start))[places[scaled.value.name]] for scaled in self._scaled]
            self._where: np.ndarray = np.concatenate([np.empty(0, dtype=int), *where])
            ends = np.cumsum([0, *map(len, where)])
            self._own = [slice(*ends[i : i + 2]) for i in range(len(where))]
            self._shapes = [parts[scaled.value].type.shape for scaled in self._scaled]
            self._walking = pytensor.shared(np.zeros(len(where), dtype=bool), "walking")
            self._degrees = pytensor.shared(floatX(np.zeros(len(self._where))), "degrees")
            self.x, self.log_jacobian = self._forward(parts)

    def choose(self, points: np.ndarray) -> None:
        """Take the degrees under which points (n, d) are most like draws of a Gaussian."""
        if not len(self._where):
            return
        some = points[:: -(-len(points) // _MOST_DRAWS)]
        walking = np.array([scaled.walks for scaled in self._scaled])
        own = self._own_of(some, walking)
        location, log_scale = self._parameters(some)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            each = [
                np.log(_out_of_centre(own, location, log_scale, degree).std(axis=0))
                + degree * log_scale.mean(axis=0)
                for degree in _DEGREES
            ]
            costs = np.where(np.isfinite(each), each, np.inf)
            degrees = _DEGREES[np.argmin(costs, axis=0)]
            for i in np.flatnonzero(walking):
                part = self._own[i]
                as_it_is = np.log(some[:, self._where[part]].std(axis=0))
                if not costs[:, part].min(axis=0).sum() < as_it_is.sum():
                    walking[i], degrees[part] = False, 0.0
        self._walking.set_value(walking)
        self._degrees.set_value(floatX(degrees))

    def coordinates_of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coordinates y, (n, d), of points (n, d), and log Jacobians there, (n,)."""
        degrees, walking = self._degrees.get_value().astype(float), self._walking.get_value()
        if not degrees.any() and not walking.any():
            return points, np.zeros(len(points))
        y = points.copy()
        own = self._own_of(points, walking)
        location, log_scale = self._parameters(points)
        y[:, self._where] = _out_of_centre(own, location, log_scale, degrees)
        return y, log_scale @ degrees

    def _own_of(self, points: np.ndarray, walking: np.ndarray) -> np.ndarray:
        """Return the elements that are scaled, (n, k), as increments where they are walking."""
        own: np.ndarray = points[:, self._where]
        for i in np.flatnonzero(walking):
            series = own[:, self._own[i]].reshape(-1, *self._shapes[i])
            own[:, self._own[i]] = np.diff(series, axis=-1, prepend=0.0).reshape(len(own), -1)
        return own

    def _parameters(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return locations and logarithms of scales, (n, k), at points (n, d)."""
        found = self._at_points(points)
        half = len(found) // 2
        location, log_scale = (
            np.concatenate([part.reshape(len(points), -1) for part in parts], axis=1).astype(float)
            for parts in (found[:half], found[half:])
        )
        return location, log_scale

    @cached_property
    def _at_points(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        parameters = [scaled.location for scaled in self._scaled]
        return at_points(self._model, parameters + [scaled.log_scale for scaled in self._scaled])

    def _forward(self, parts: dict[Variable, Variable]) -> tuple[Variable, Variable]:
        log_jacobian = pt.constant(0.0, dtype=self.y.dtype)
        if not self._scaled:
            return self.y, log_jacobian
        by_value = {scaled.value: (i, scaled) for i, scaled in enumerate(self._scaled)}
        moved: dict[Variable, Variable] = {}
        # Variables stand behind those that they depend on.
        for value, part in parts.items():
            moved[value] = part
            if value in by_value:
                i, scaled = by_value[value]
                parameters = [scaled.location, scaled.log_scale]
                location, log_scale = clone_replace(parameters, moved, rebuild_strict=False)
                degrees = self._degrees[self._own[i]].reshape(part.type.shape)
                own = location + pt.exp(degrees * log_scale) * (part - (1 - degrees) * location)
                if scaled.walks:
                    own = pt.switch(self._walking[i], pt.cumsum(own, axis=-1), own)
                moved[value] = own
                log_jacobian += pt.sum(degrees * log_scale)
        x = pt.concatenate([plain(moved[value]).ravel() for value in parts])
        x, log_jacobian = in_plain_operations([x.astype(self.y.dtype), log_jacobian])
        return x, log_jacobian


def _scaled(model: pm.Model, rv: Variable, part: Variable) -> _Scaled | None:
    """Return what is needed of a free variable, a part of y, if its scale depends on others."""
    shape, transform = part.type.shape, model.rvs_to_transforms[rv]
    walks = transform is None and isinstance(rv.owner.op, RandomWalkRV | AutoRegressiveRV)
    if walks:
        parameters = _of_increments(rv, shape)
    elif isinstance(rv.owner.op, _OF_A_SCALE.get(type(transform), ())):
        parameters = rv.owner.op.dist_params(rv.owner)[-2:]
    else:
        return None
    value = model.rvs_to_values[rv]
    location, scale = model.replace_rvs_by_values([pt.broadcast_to(v, shape) for v in parameters])
    if not {*model.value_vars} & {*ancestors([scale])}:
        return None
    return _Scaled(value, location, pt.log(scale), walks)


def _of_increments(rv: Variable, shape: tuple[int, ...]) -> list[Variable]:
    """Return locations and scales of the increments of a series; what is not known is 0 and 1.

    Those of the first elements never are: whatever the scale, the map is one.
    """
    *batch, n = shape
    op, location, scale = rv.owner.op, pt.zeros(()), pt.ones(())
    if isinstance(op, AutoRegressiveRV):
        first, scale = op.ar_order, rv.owner.inputs[1][..., None]
    else:
        first, innovation = 1, rv.owner.inputs[1].owner
        if isinstance(innovation.op, _OF_A_SCALE[type(None)]):
            # There the steps are in front.
            location, scale = (
                pt.moveaxis(pt.broadcast_to(v, (n - 1, *batch)), 0, -1)
                for v in innovation.op.dist_params(innovation)[-2:]
            )
    known = (*batch, n - first)
    return [
        pt.concatenate([fill((*batch, first)), pt.broadcast_to(v, known)], axis=-1)
        for v, fill in ((location, pt.zeros), (scale, pt.ones))
    ]


def _out_of_centre(
    x: np.ndarray, location: np.ndarray, log_scale: np.ndarray, degrees: np.ndarray | float
) -> np.ndarray:
    moved: np.ndarray = (x - location) * np.exp(-degrees * log_scale) + (1 - degrees) * location
    return moved
