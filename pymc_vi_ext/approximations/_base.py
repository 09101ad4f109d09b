"""What the package's families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.approximations import SingleGroupApproximation
from pymc.variational.opvi import Approximation, Group, ParametrizationError, node_property
from pytensor import config
from pytensor.compile.sharedvalue import SharedVariable

LOG_2PI = float(np.log(2 * np.pi))


class Family(Group):
    """A PyMC group whose noise has its own width and whose start is a function of its options.

    A subclass gives `symbolic_random`, the names and shapes of its parameters, and its density.
    """

    has_density = True

    @property
    def noise_dim(self) -> int:
        """Standard normal numbers that make one draw."""
        return self.ddim

    def log_density(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        """Return log q(z), (draws,), for `parameters` in place of the group's own.

        A family that cannot (one whose draws have no inverse at hand) gives
        `symbolic_logq_not_scaled` instead, and says so by `has_density`.
        """
        raise NotImplementedError

    def start_values(self, **options: Any) -> dict[str, np.ndarray]:
        """Return the parameters at the start of a fit, for the options of the constructor."""
        raise NotImplementedError

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log standard deviations, (..., d), of parameters with leading axes."""
        raise NotImplementedError

    def __init_group__(self, group: Any) -> None:
        super().__init_group__(group)
        if not self._check_user_params(spec_kw=self._sizes()):
            values = self.start_values(**self._kwargs)
            self.shared_params: dict[str, SharedVariable] = {
                name: pytensor.shared(floatX(values[name]), name) for name in self.__param_spec__
            }
        # PyMC's own has a column for each variable.
        self.symbolic_initial = pt.tensor(
            f"{type(self).__name__}_noise", shape=(None, self.noise_dim), dtype=config.floatX
        )
        self._finalize_init()

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
    """

    def __init__(self, group: Group):
        # Past the constructor between, which makes the group itself.
        Approximation.__init__(self, [group], model=group.model)


def length(parameter: pt.TensorVariable, axis: int) -> int:
    """Return the length of a parameter, a shared variable or a user's expression."""
    if isinstance(parameter, SharedVariable):
        return int(parameter.get_value(borrow=True).shape[axis])
    return int(parameter.shape[axis].eval())


def at_least(name: str, value: Any, smallest: int) -> int:
    """Return `value` if it is a whole number from `smallest`.

    Raises
    ------
    ParametrizationError
        If not.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < smallest:
        raise ParametrizationError(
            f"`{name}` must be a whole number from {smallest}, not {value!r}."
        )
    return int(value)


def normal_log_density(standard: pt.TensorVariable) -> pt.TensorVariable:
    """Return the log density of standard normals, summed over the last axis."""
    return -0.5 * pt.sum(standard**2 + LOG_2PI, axis=-1)


def softplus_inverse(x: Any) -> np.ndarray:
    """Return what `softplus` maps to `x`."""
    return x + np.log(-np.expm1(-x))


def unpacked(packed: pt.TensorVariable, d: int) -> pt.TensorVariable:
    """Return lower triangular factors, (..., d, d), diagonals through a softplus as PyMC's."""
    rows, columns = np.tril_indices(d)
    positive = pt.switch(rows == columns, pt.softplus(packed), packed)
    batch = [packed.shape[i] for i in range(packed.ndim - 1)]
    return pt.set_subtensor(pt.zeros((*batch, d, d))[..., rows, columns], positive)


def packed_identity(d: int) -> np.ndarray:
    """Return PyMC's start of a packed factor, whose diagonal is softplus(1)."""
    return np.eye(d)[np.tril_indices(d)]


def log_sd_of_factor(packed: np.ndarray, d: int) -> np.ndarray:
    """Return half the log of the diagonal of L L', (..., d), of packed factors (..., d(d+1)/2)."""
    rows = np.arange(d)
    starts = rows * (rows + 1) // 2
    factor = packed.copy()
    factor[..., starts + rows] = np.logaddexp(0.0, factor[..., starts + rows])
    return 0.5 * np.log(np.add.reduceat(factor**2, starts, axis=-1))
