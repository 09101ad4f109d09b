"""Gaussian approximations fitted by maximising the ELBO."""

from typing import Any

import pymc as pm

from pymc.variational import inference

from pymc_vi_ext.inference._base import EngineFit, continuous_model
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.python_only import python_only


class ADVI(EngineFit, inference.ADVI):
    r"""Mean-field automatic differentiation variational inference.

    Minimises the negative ELBO :math:`-E_q[\log p(y, z) - \log q(z)]`, in nats, over
    :math:`q = \prod_i N(\mu_i, \log(1 + e^{\rho_i})^2)` on the unconstrained space.

    Parameters
    ----------
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    start : dict of str to array, optional
        Starting means, by name of the variables.
    start_sigma : dict of str to array, optional
        Starting standard deviations, on the unconstrained space.

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
    ...     x = pm.Normal("x", 1.0, 0.5)
    ...     approx = pm.fit(5000, method=vix.ADVI(random_seed=1), progressbar=False)
    >>> round(float(approx.mean.eval()[0]), 1), round(float(approx.std.eval()[0]), 1)
    (1.0, 0.5)
    """

    def __init__(self, *, model: pm.Model | None = None, random_seed: Any = None, **kwargs: Any):
        model = continuous_model(model, "ADVI")
        with python_only():
            super().__init__(model=model, random_seed=random_seed, **kwargs)
        self.objective = PathELBO(self.approx)(None)
        self.seed = random_seed


class FullRankADVI(EngineFit, inference.FullRankADVI):
    r"""ADVI with a Gaussian of full covariance, :math:`q = N(\mu, L L^T)`.

    Parameters
    ----------
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    start : dict of str to array, optional
        Starting means, by name of the variables.

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

    def __init__(self, *, model: pm.Model | None = None, random_seed: Any = None, **kwargs: Any):
        model = continuous_model(model, "FullRankADVI")
        with python_only():
            super().__init__(model=model, random_seed=random_seed, **kwargs)
        self.objective = PathELBO(self.approx)(None)
        self.seed = random_seed
