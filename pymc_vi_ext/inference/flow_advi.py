"""ADVI with a normalizing flow."""

from __future__ import annotations

from typing import Any, ClassVar

import pymc as pm

from pymc.variational.opvi import Group

from pymc_vi_ext.approximations import FlowGroup
from pymc_vi_ext.approximations.flow import FlowOptions
from pymc_vi_ext.callbacks import StagedStop
from pymc_vi_ext.inference.base import FamilyMethod
from pymc_vi_ext.options import Options as AnyOptions

# Steps of a flow before it is judged: it gains some hundredths of a nat in a thousand.
_FIRST_CHECK = 2_000


class FlowADVI(FamilyMethod):
    """ADVI with a normalizing flow on top of a full-rank Gaussian, for curved posteriors.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, `kind` is unknown, or a size no whole number from 1.

    See Also
    --------
    pymc_vi_ext.approximations.FlowGroup : the family, with its references

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     y = pm.Normal("y", x**2, 0.5)
    ...     flow = vix.FlowADVI(kind="affine", couplings=2, random_seed=1)
    ...     approx = vix.fit(2000, method=flow, convergence=None, progressbar=False)
    >>> bool(-0.5 < -approx.hist[-500:].mean() < 0.1)
    True
    """

    Options: ClassVar[type[AnyOptions]] = FlowOptions
    options: FlowOptions
    unfit_rules = frozenset({"iterate_rhat", "matched"})
    default_draws = 32
    # Of a fit of exactly `n` steps: at the other methods' 0.05 large networks diverge.
    annealed_rate = 0.003

    def group(self, variables: Any, model: pm.Model, random_seed: int | None, start: Any) -> Group:
        """Return the group of all `variables`."""
        return FlowGroup(
            variables, model=model, random_seed=random_seed, start=start, **self.options.values()
        )

    def default_rule(self) -> StagedStop:
        """Return late stages of falling rate: networks learn slowly, but long."""
        return StagedStop(first_check=_FIRST_CHECK)
