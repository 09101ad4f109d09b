"""What the package asks of a variational family: one contract, which each family answers itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import pytensor.tensor as pt

from pymc.variational.opvi import Group
from pytensor.gradient import disconnected_grad

from pymc_vi_ext.approximations._algebra import set_values
from pymc_vi_ext.approximations.coordinates import Coordinates
from pymc_vi_ext.options import Options as AnyOptions

if TYPE_CHECKING:
    from pymc_vi_ext.approximations.gaussians import Dense, LowRank


class Strata(NamedTuple):
    """Components that each draw of the noise is made in once, for losses without their choice.

    Attributes
    ----------
    K : int
        Number of components.
    weights : tensor of shape (K,)
    component : tensor of shape (draws,)
        Component of each draw; a node of the draws' graph, which an objective replaces.

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.approximations import family_of
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     family = family_of(pm.Group([x], vfam="mixture", K=3))
    >>> family.strata().K
    3
    """

    K: int
    weights: pt.TensorVariable
    component: pt.TensorVariable


class Family(ABC):
    """A group of PyMC's together with what the package has to know of it.

    :func:`~pymc_vi_ext.approximations.family_of` gives the family of a group. A family of the
    package is its own group (:class:`~pymc_vi_ext.approximations.FamilyGroup`); PyMC's groups have
    adapters beside them. What a family does not say is answered for it: no path gradient, no
    closed entropy, draws that are not stratified, parameters as they are for coordinates.

    Attributes
    ----------
    Options : type of Options
        Options of the family's constructor besides PyMC's own.
    has_path : bool
        Whether :meth:`path_logq` has the gradient through the draws alone.
    """

    Options: ClassVar[type[AnyOptions]] = AnyOptions
    has_path: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def group_type(cls) -> type[Group]:
        """Return the class of the groups that are of this family."""

    @property
    @abstractmethod
    def pymc_group(self) -> Group:
        """The group, which PyMC fits."""

    @property
    def name(self) -> str:
        """Name for ``vfam`` and for ``groups``."""
        return str(self.pymc_group.short_name)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(self.pymc_group.params_dict)

    @abstractmethod
    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return the parameters by name of the member nearest to N(mean, cov).

        Parameters
        ----------
        mean : array of shape (d,)
        cov : array of shape (d, d)
            Positive definite.

        Raises
        ------
        NotImplementedError
            If the family has none.
        """

    def set_gaussian(self, mean: np.ndarray, cov: np.ndarray) -> None:
        """Set the parameters to those nearest to N(mean, cov); see :meth:`gaussian_values`."""
        set_values(self.pymc_group, self.gaussian_values(mean, cov))

    def gaussian_kind(self) -> type[Dense] | type[LowRank] | None:
        """Return what reads the group as a Gaussian and sets it to one, None if it is none."""
        return None

    def place(self, point: np.ndarray) -> None:
        """Move the family so that its means are at `point`, (d,); its scales stay.

        Raises
        ------
        NotImplementedError
            If no parameter is known to hold the means.
        """
        self._shift("mu", point)

    def scatter(self, rng: np.random.Generator) -> None:
        """Move the locations by standard normal draws: another start of the same fit."""
        for coordinates in self.coordinates():
            for location in coordinates.locations:
                value = location.get_value()
                location.set_value((value + rng.normal(size=value.shape)).astype(value.dtype))

    def coordinates(self) -> list[Coordinates]:
        """Return natural coordinates; parameters that none of them holds are taken as they are."""
        return [Coordinates(self.pymc_group)]

    def path_logq(self) -> pt.TensorVariable:
        """Return log q of the draws, (draws,), with the gradient through the draws alone.

        Where that is not known (`has_path`), with the whole gradient.
        """
        return self.pymc_group.symbolic_logq

    def entropy(self) -> pt.TensorVariable | None:
        """Return the entropy in nats, None where it has no closed form."""
        return None

    @property
    def stratified(self) -> bool:
        """Whether the draws come from components, see :meth:`strata`."""
        return self.strata() is not None

    def strata(self) -> Strata | None:
        """Return the components that draws are made in, None where there is one way to draw."""
        return None

    @abstractmethod
    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log standard deviations, (..., d), of parameters with leading axes.

        Parameters
        ----------
        values : mapping of str to array
            Parameters by name, with the same leading axes before their own.

        Raises
        ------
        TypeError
            If they are no function of the parameters in closed form.
        """

    def _shift(self, name: str, point: np.ndarray) -> None:
        """Move a parameter so that it, or the mean of its rows, is at `point`."""
        if name not in self.parameter_names:
            raise NotImplementedError(
                f"{type(self.pymc_group).__name__} cannot be moved to a point: none of its "
                f"parameters ({', '.join(self.parameter_names) or 'none'}) is known to be a mean."
            )
        value = self.pymc_group.params_dict[name].get_value()
        around = value.mean(axis=0) if value.ndim > 1 else value
        set_values(self.pymc_group, {name: value + point - around})


def with_gradient(
    logq: pt.TensorVariable, draws: pt.TensorVariable, gradient: pt.TensorVariable
) -> pt.TensorVariable:
    """Return `logq`, (draws,), whose gradient goes through `draws`, where it is `gradient`.

    Parameters
    ----------
    logq : tensor of shape (draws,)
    draws, gradient : tensor of shape (draws, d)
    """
    # The second term is 0; it carries the gradient.
    path = pt.sum((draws - disconnected_grad(draws)) * disconnected_grad(gradient), axis=-1)
    return disconnected_grad(logq) + path
