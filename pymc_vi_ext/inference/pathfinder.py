"""Pathfinder, by pymc-extras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pymc as pm

from pymc.pytensorf import floatX
from pymc.variational.inference import Inference
from pymc.variational.operators import KSD

from pymc_vi_ext.approximations.empirical import Empirical
from pymc_vi_ext.inference._direct import DirectMethod
from pymc_vi_ext.inference._kernels import as_kernel
from pymc_vi_ext.inference.base import continuous_model
from pymc_vi_ext.method import Conclusion, Ending
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import option
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.starting_points import pathfinder_points


@dataclass(frozen=True)
class PathfinderOptions(AnyOptions):
    """Options of Pathfinder."""

    n_draws: int = option(1_000, "Draws, which are the approximation.", ge=1, le=1_000_000)


class Pathfinder(DirectMethod, Inference):
    """Draws of pymc-extras' Pathfinder, as an empirical approximation.

    Parameters
    ----------
    {parameters}

    References
    ----------
    Zhang, L. et al. (2022). Pathfinder: parallel quasi-Newton variational inference. JMLR 23(306).

    Examples
    --------
    >>> import pymc as pm, pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=2)
    ...     pathfinder = vix.Pathfinder(n_draws=500, random_seed=1)  # its fit runs pymc-extras
    >>> pathfinder.approx.histogram.get_value().shape
    (500, 2)
    """

    Options: ClassVar[type[AnyOptions]] = PathfinderOptions
    options: PathfinderOptions

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        **options: Any,
    ):
        self.options = PathfinderOptions.bind(self.name, given, options)
        model = continuous_model(model, self.name)
        with python_only():
            approx = Empirical(size=self.options.n_draws, model=model, random_seed=random_seed)
            super().__init__(KSD, approx, as_kernel("rbf"))
        self.seed = random_seed

    def conclude(self, ending: Ending) -> Conclusion:
        """Run Pathfinder, and take its draws."""
        points = pathfinder_points(self.approx.model, self.seed, self.options.n_draws)
        self.approx.histogram.set_value(floatX(np.asarray(points)))
        return Conclusion(f"{len(points)} draws")
