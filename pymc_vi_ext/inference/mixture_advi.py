"""ADVI with a mixture of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pymc as pm

from pymc.variational.opvi import Group

from pymc_vi_ext.approximations import FullRankMixtureGroup, MixtureGroup
from pymc_vi_ext.approximations.mixture import MixtureOptions
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.inference.base import FamilyMethod
from pymc_vi_ext.modes import MOST_CURVED, find_modes
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import option

# Points, besides the components' own, from which modes are sought.
_CLIMBS_PER_COMPONENT = 8


@dataclass(frozen=True)
class MixtureMethodOptions(MixtureOptions):
    """Options of ADVI with a mixture of Gaussians."""

    full_rank: bool = option(False, "Components of full covariance; or of diagonal.")


class MixtureADVI(FamilyMethod):
    """ADVI with a mixture of Gaussians, for posteriors of several modes.

    The components start at the modes that L-BFGS finds from points around the start, with their
    curvature as scales and their masses as weights (in up to 300 dimensions; beyond, they start
    scattered). Where there are fewer modes than components
    the others join them, beside their centres.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, or `K` is no whole number from 1.

    See Also
    --------
    pymc_vi_ext.approximations.MixtureGroup : the family, with its references

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.NormalMixture("x", w=[0.3, 0.7], mu=[-1.0, 2.0], sigma=0.5)
    ...     approx = vix.fit(method=vix.MixtureADVI(K=2, random_seed=1), progressbar=False)
    >>> sorted(approx.groups[0].weights.eval().round(1).tolist())
    [0.3, 0.7]
    """

    Options: ClassVar[type[AnyOptions]] = MixtureMethodOptions
    options: MixtureMethodOptions
    unfit_rules = frozenset({"matched"})

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self._start_at_modes()

    def group(self, variables: Any, model: pm.Model, random_seed: int | None, start: Any) -> Group:
        """Return the group of all `variables`."""
        family = FullRankMixtureGroup if self.options.full_rank else MixtureGroup
        options = {"K": self.options.K, "spread": self.options.spread}
        return family(variables, model=model, random_seed=random_seed, start=start, **options)

    def _start_at_modes(self) -> None:
        [group] = self.approx.groups
        if group.K == 1 or group.ddim > MOST_CURVED:
            return
        # Components that start side by side end up in one mode. The first points are where they
        # are now; the others lie about there.
        means = group.params_dict["mu"].get_value()
        more = group.rng.normal(size=(_CLIMBS_PER_COMPONENT * group.K, group.ddim))
        starts = np.concatenate([means, means.mean(axis=0) + self.options.spread * more])
        density = LogDensity(group.model)
        # With minibatches there is no one density to climb.
        modes = [] if density.random else find_modes(density, starts)
        if modes:
            masses = np.exp([mode.log_mass - modes[0].log_mass for mode in modes])
            group.set_components(
                [mode.point for mode in modes], [mode.cov for mode in modes], masses
            )
