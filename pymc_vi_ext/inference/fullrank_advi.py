"""ADVI with a Gaussian of full covariance."""

from __future__ import annotations

from typing import Any

import pymc as pm

from pymc.variational import inference

from pymc_vi_ext.inference.base import EngineMethod, continuous_model
from pymc_vi_ext.method import NoOptions
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.python_only import python_only


class FullRankADVI(EngineMethod, inference.FullRankADVI):
    r"""ADVI with a Gaussian of full covariance, :math:`q = N(\mu, L L^T)`.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete.

    References
    ----------
    Kucukelbir, A. et al. (2017). Automatic differentiation variational inference. JMLR 18(14).

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.MvNormal("x", [0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])
    ...     approx = vix.FullRankADVI(random_seed=1).fit(5000, progressbar=False)
    >>> round(float(approx.cov.eval()[0, 1]), 1)
    0.8
    """

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
        **options: Any,
    ):
        self.options = NoOptions.bind(self.name, given, options)
        model = continuous_model(model, self.name, start, dense=True)
        with python_only():
            super().__init__(model=model, random_seed=random_seed, start=start)
        self.objective = PathELBO(self.approx)(None)
        self.seed = random_seed
