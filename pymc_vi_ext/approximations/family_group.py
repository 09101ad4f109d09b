"""The package's families as PyMC groups, and the approximation of one group."""

from __future__ import annotations

import textwrap

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.opvi import Approximation, Group
from pytensor import config
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.gradient import disconnected_grad

from pymc_vi_ext.approximations.family import Family
from pymc_vi_ext.options import Options, documented
from pymc_vi_ext.upstream import (
    SingleGroupApproximation,
    end_construction,
    group_options,
    node_property,
    takes_user_params,
)

# Keywords of a group that are PyMC's, besides those that `Group.__init__` names.
_PYMCS_OWN = ("start",)


class FamilyGroup[O: Options](Family, Group):
    r"""A family that is its own PyMC group, whose noise has its own width.

    A subclass gives

    - ``short_name``, and ``__param_spec__``: names and shapes of its parameters, as PyMC has it;
    - ``Options``, the dataclass of its options, and :meth:`start_values`;
    - ``symbolic_random``, its draws as a function of ``symbolic_initial``, standard normal numbers
      of shape (draws, :attr:`noise_dim`);
    - :meth:`log_density`, its moments, and the Gaussian nearest to it.

    A row in :data:`~pymc_vi_ext.approximations.FAMILIES` makes it known to PyMC. In its docstring
    a line ``{options}`` becomes the entries of its options.
    """

    has_path = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before, marker, after = (cls.__doc__ or "").partition("{options}")
        if marker:
            indent = before.rpartition("\n")[2]
            entries = textwrap.indent(documented(cls.Options), indent).lstrip()
            cls.__doc__ = before + entries + after

    @classmethod
    def group_type(cls) -> type[Group]:
        """Return the class itself."""
        return cls

    @property
    def pymc_group(self) -> Group:
        """Itself."""
        return self

    @property
    def noise_dim(self) -> int:
        """Standard normal numbers that make one draw."""
        return int(self.ddim)

    @abstractmethod
    def start_values(self, start: Any, options: O) -> dict[str, np.ndarray]:
        """Return the parameters by name at the start of a fit.

        Parameters
        ----------
        start : dict of str to array, optional
            Starting means, by name of the variables.
        options : Options
            Those of the constructor, checked.
        """

    def log_density(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        """Return log q(z), (draws,), for `parameters` in place of the group's own.

        A family that cannot (one whose draws have no inverse at hand) gives
        `symbolic_logq_not_scaled` and :meth:`path_logq` instead.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no `log_density`: a family gives it, or both "
            "`symbolic_logq_not_scaled` and `path_logq`."
        )

    def path_logq(self) -> pt.TensorVariable:
        """Return log q of the draws, (draws,), at parameters that are held fixed."""
        fixed = {name: disconnected_grad(p) for name, p in self.params_dict.items()}
        return self.log_density(self.symbolic_random, fixed)

    def __init_group__(self, group: Any) -> None:
        super().__init_group__(group)
        keywords = group_options(self)
        given = {name: value for name, value in keywords.items() if name not in _PYMCS_OWN}
        options: Any = self.Options.bind(f'The family "{self.short_name}"', (), given)
        if not self._takes_params():
            values = self.start_values(keywords.get("start"), options)
            self.shared_params: dict[str, SharedVariable] = {
                name: pytensor.shared(floatX(values[name]), name) for name in self.__param_spec__
            }
        # PyMC's own has a column for each variable.
        self.symbolic_initial = pt.tensor(
            f"{type(self).__name__}_noise", shape=(None, self.noise_dim), dtype=config.floatX
        )
        end_construction(self)

    def _takes_params(self) -> bool:
        """Tell whether the parameters are the user's own, which are then checked."""
        return takes_user_params(self, self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Return the names in `__param_spec__` besides ``d``; -1 is as many as there are."""
        return {}

    def _new_initial_shape(self, size: Any, dim: Any, more_replacements: Any = None) -> Any:
        return pt.stack([size, self.noise_dim])

    @node_property
    def symbolic_logq_not_scaled(self) -> pt.TensorVariable:
        """Log q of the draws."""
        return self.log_density(self.symbolic_random, self.params_dict)


class OneGroup(SingleGroupApproximation):
    """Approximation of one group, whose attributes (`mean`, `std`, `cov` ...) are its own.

    Parameters
    ----------
    group : pymc.Group
        Of all free variables of its model.

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.approximations import OneGroup
    >>> with pm.Model() as model:
    ...     x = pm.Normal("x", shape=3)
    ...     approx = OneGroup(pm.Group([x], vfam="low_rank", rank=1))
    >>> approx.ddim, approx.mean.ndim  # of the group
    (3, 1)
    """

    def __init__(self, group: Group):
        # Past the constructor between, which makes the group itself.
        Approximation.__init__(self, [group], model=group.model)
