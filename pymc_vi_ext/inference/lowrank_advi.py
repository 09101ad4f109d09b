"""ADVI with a Gaussian of low rank plus diagonal."""

from __future__ import annotations

from typing import Any, ClassVar

import pymc as pm

from pymc.variational.opvi import Group

from pymc_vi_ext.approximations import LowRankGroup
from pymc_vi_ext.approximations.low_rank import LowRankOptions
from pymc_vi_ext.inference.base import FamilyMethod
from pymc_vi_ext.options import Options as AnyOptions


class LowRankADVI(FamilyMethod):
    r"""ADVI with a Gaussian of covariance :math:`\operatorname{diag}(\sigma^2) + W W^T`.

    Between mean field and full rank: correlations along `rank` directions, at a cost that grows
    with the dimension only.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, or `rank` is no whole number from 1 to the dimension.

    See Also
    --------
    pymc_vi_ext.approximations.LowRankGroup : the family, with its references

    Examples
    --------
    >>> import numpy as np, pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.MvNormal("x", np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
    ...     approx = pm.fit(3000, method=vix.LowRankADVI(rank=1, random_seed=1), progressbar=False)
    >>> round(float(approx.groups[0].cov.eval()[0, 1]), 1)
    0.8
    """

    Options: ClassVar[type[AnyOptions]] = LowRankOptions
    options: LowRankOptions

    def group(self, variables: Any, model: pm.Model, random_seed: int | None, start: Any) -> Group:
        """Return the group of all `variables`."""
        return LowRankGroup(
            variables, model=model, random_seed=random_seed, start=start, **self.options.values()
        )
