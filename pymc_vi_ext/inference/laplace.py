"""Laplace's approximation."""

from __future__ import annotations

from typing import Any

import pymc as pm

from pymc.variational.approximations import FullRank
from pymc.variational.inference import KLqp

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.inference._direct import DirectMethod
from pymc_vi_ext.inference.base import continuous_model
from pymc_vi_ext.method import Conclusion, Ending, NoOptions
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.starting_points import mode_of


class Laplace(DirectMethod, KLqp):
    """The Gaussian around the mode, of the negative inverse Hessian as covariance.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    ValueError
        If no proper mode is found.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.fit(method="laplace", progressbar=False)
    >>> approx.mean.eval().round(3).tolist(), approx.std.eval().round(3).tolist()
    ([3.0], [2.0])
    """

    needs_all_data = True

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        **options: Any,
    ):
        self.options = NoOptions.bind(self.name, given, options)
        model = continuous_model(model, "Laplace's approximation", dense=True)
        with python_only():
            super().__init__(FullRank(model=model, random_seed=random_seed))
        self.seed = random_seed

    def conclude(self, ending: Ending) -> Conclusion:
        """Climb to the mode, and set the Gaussian to the curvature there."""
        backend = None if self.session is None else self.session.request.backend
        mode = mode_of(self.approx.model, backend)
        [group] = self.approx.groups
        family_of(group).set_gaussian(mode.point, mode.cov)
        return Conclusion(
            f"log density at the mode {mode.logp:.6g}, log of the mass {mode.log_mass:.6g}"
        )
