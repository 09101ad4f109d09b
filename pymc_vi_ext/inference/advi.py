"""ADVI with independent Gaussians."""

from __future__ import annotations

from typing import Any

import pymc as pm

from pymc.variational import inference

from pymc_vi_ext.inference._start_values import flat_sigmas
from pymc_vi_ext.inference.base import EngineMethod, continuous_model
from pymc_vi_ext.method import NoOptions
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.python_only import python_only


class ADVI(EngineMethod, inference.ADVI):
    r"""Mean-field automatic differentiation variational inference.

    Minimises the negative ELBO :math:`-E_q[\log p(y, z) - \log q(z)]`, in nats, over
    :math:`q = \prod_i N(\mu_i, \log(1 + e^{\rho_i})^2)` on the unconstrained space.

    Parameters
    ----------
    {parameters}
    start_sigma : dict of str to array, optional
        Starting standard deviations, on the unconstrained space, by name of the variables.

    Raises
    ------
    TypeError
        If the model has no free variables.
    ValueError
        If `start` or `start_sigma` names no variable, or gives one another shape.
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
    ...     x = pm.Normal("x", 1.0, 0.5)
    ...     approx = pm.fit(5000, method=vix.ADVI(random_seed=1), progressbar=False)
    >>> round(float(approx.mean.eval()[0]), 1), round(float(approx.std.eval()[0]), 1)
    (1.0, 0.5)
    """

    unfit_rules = frozenset({"matched"})

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
        start_sigma: Any = None,
        **options: Any,
    ):
        self.options = NoOptions.bind(self.name, given, options)
        model = continuous_model(model, self.name, start)
        with python_only():
            sigmas = flat_sigmas(start_sigma, model)
            super().__init__(model=model, random_seed=random_seed, start=start, start_sigma=sigmas)
        self.objective = PathELBO(self.approx)(None)
        self.seed = random_seed
