"""PyMC's own groups as families: mean field, full rank, particles, and any that it may yet have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytensor.tensor as pt

from pymc.variational.opvi import Group
from pytensor.tensor.linalg import solve_triangular

from pymc_vi_ext.approximations._algebra import (
    LOG_2PI,
    log_sd_of_factor,
    mean_field_scales,
    packed_factor,
    softplus_inverse,
)
from pymc_vi_ext.approximations.coordinates import (
    Coordinates,
    FullRankCoordinates,
    MeanFieldCoordinates,
    ParticleCoordinates,
)
from pymc_vi_ext.approximations.family import Family, with_gradient
from pymc_vi_ext.approximations.gaussians import Dense
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.upstream import EmpiricalGroup, FullRankGroup, MeanFieldGroup


class PyMCFamily(Family):
    """Adapter of a group that says nothing of itself, known by the names of its parameters.

    Subclasses know more, of the class of groups in `adapts`.

    Parameters
    ----------
    group : pymc.Group

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.approximations import PyMCFamily
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     family = PyMCFamily(pm.Group([x], vfam="mean_field"))
    >>> sorted(family.parameter_names), family.entropy()
    (['mu', 'rho'], None)
    """

    adapts: ClassVar[type[Group]] = Group

    def __init__(self, group: Group):
        self._group = group

    @classmethod
    def group_type(cls) -> type[Group]:
        """Return the class of groups that this adapts."""
        return cls.adapts

    @property
    def pymc_group(self) -> Group:
        """The group."""
        return self._group

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Raise: nothing is known of the parameters but their names."""
        raise NotImplementedError(
            f"{type(self._group).__name__} cannot start from a Gaussian; PyMC's and the package's "
            "families can."
        )

    def place(self, point: np.ndarray) -> None:
        """Move ``mu``, or the particles of a ``histogram``, to `point`."""
        self._shift("histogram" if "histogram" in self.parameter_names else "mu", point)

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log standard deviations, (..., d), by the parameters' names."""
        if values.keys() == {"mu", "rho"}:
            return values["mu"], np.log(np.logaddexp(0.0, values["rho"]))
        if values.keys() == {"mu", "L_tril"}:
            return values["mu"], log_sd_of_factor(values["L_tril"], self._group.ddim)
        if "histogram" in values:
            particles = values["histogram"]
            with np.errstate(divide="ignore"):  # a single particle has no spread
                return particles.mean(axis=-2), np.log(particles.std(axis=-2))
        raise TypeError(
            f"{type(self._group).__name__} has the parameters {', '.join(values) or '(none)'}: "
            "means and standard deviations are known of the package's families, and of groups "
            "with `mu` and `rho`, `mu` and `L_tril`, or a `histogram`."
        )


class MeanFieldFamily(PyMCFamily):
    r"""Independent Gaussians, :math:`N(\mu, \operatorname{diag}(\sigma^2))`.

    Parameters
    ----------
    group : pymc.Group

    Examples
    --------
    >>> import numpy as np, pymc as pm
    >>> from pymc_vi_ext.approximations import MeanFieldFamily
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=2)
    ...     group = pm.Group([x], vfam="mean_field")
    >>> MeanFieldFamily(group).set_gaussian(np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
    >>> group.std.eval().round(3)  # of the nearest in KL: the square root of 1 - .8 ** 2
    array([0.6, 0.6])
    """

    adapts = MeanFieldGroup
    has_path = True

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return the mean, and the scales of the mean field closest in KL(q || p)."""
        return {"mu": mean, "rho": softplus_inverse(mean_field_scales(cov))}

    def coordinates(self) -> list[Coordinates]:
        """Return means in standard deviations, and logarithms of these."""
        return [MeanFieldCoordinates(self._group)]

    def path_logq(self) -> pt.TensorVariable:
        """Return log q of the draws, (draws,), with the gradient through the draws alone."""
        group = self._group
        gradient = -group.symbolic_initial / group.std
        return with_gradient(group.symbolic_logq, group.symbolic_random, gradient)

    def entropy(self) -> pt.TensorVariable:
        """Return the entropy, in nats."""
        return _gaussian_entropy(pt.log(self._group.std), self._group.ddim)


class FullRankFamily(PyMCFamily):
    r"""Gaussian of any covariance, :math:`N(\mu, L L^T)`.

    Parameters
    ----------
    group : pymc.Group

    Examples
    --------
    >>> import numpy as np, pymc as pm
    >>> from pymc_vi_ext.approximations import FullRankFamily
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=2)
    ...     group = pm.Group([x], vfam="full_rank")
    >>> FullRankFamily(group).set_gaussian(np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
    >>> group.cov.eval().round(3)
    array([[1. , 0.8],
           [0.8, 1. ]])
    """

    adapts = FullRankGroup
    has_path = True

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return the Gaussian itself."""
        return {"mu": mean, "L_tril": packed_factor(cov)}

    def gaussian_kind(self) -> type[Dense]:
        """Return that of a full covariance."""
        return Dense

    def coordinates(self) -> list[Coordinates]:
        """Return means and factors in units of the factor."""
        return [FullRankCoordinates(self._group)]

    def path_logq(self) -> pt.TensorVariable:
        """Return log q of the draws, (draws,), with the gradient through the draws alone."""
        group = self._group
        noise = group.symbolic_initial
        gradient = -solve_triangular(group.L, noise.T, lower=True, trans=1).T
        return with_gradient(group.symbolic_logq, group.symbolic_random, gradient)

    def entropy(self) -> pt.TensorVariable:
        """Return the entropy, in nats."""
        return _gaussian_entropy(pt.log(pt.diagonal(self._group.L)), self._group.ddim)


@dataclass(frozen=True)
class EmpiricalOptions(Options):
    """Options of :class:`EmpiricalFamily`."""

    size: int | None = option(None, "Number of particles, where there is no trace.", ge=1)
    jitter: float = option(1.0, "Standard deviation of the particles around the start.")


class EmpiricalFamily(PyMCFamily):
    """Particles, all of the same weight.

    Parameters
    ----------
    group : pymc.Group

    Examples
    --------
    >>> import numpy as np, pymc as pm, pymc_vi_ext as vix
    >>> from pymc_vi_ext.approximations import EmpiricalFamily
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=2)
    ...     [group] = vix.SVGD(n_particles=50, random_seed=1).approx.groups
    >>> EmpiricalFamily(group).place(np.array([1.0, 2.0]))
    >>> group.mean.eval().round(6)
    array([1., 2.])
    """

    adapts = EmpiricalGroup
    Options = EmpiricalOptions

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return draws of the Gaussian, as many as there are particles."""
        group = self._group
        shape = group.params_dict["histogram"].get_value(borrow=True).shape
        noise = group.rng.normal(size=shape)
        return {"histogram": mean + noise @ np.linalg.cholesky(cov).T}

    def coordinates(self) -> list[Coordinates]:
        """Return particles in standard deviations over the particles."""
        return [ParticleCoordinates(self._group)]


def _gaussian_entropy(log_scales: pt.TensorVariable, d: int) -> pt.TensorVariable:
    return pt.sum(log_scales) + 0.5 * d * (1 + LOG_2PI)
