"""Stein variational gradient descent, over particles and over a sampler's parameters."""

import warnings

from typing import Any

import numpy as np
import pymc as pm

from pymc.pytensorf import floatX
from pymc.variational import inference
from pymc.variational.approximations import FullRank

from pymc_vi_ext.inference._base import EngineFit, continuous_model
from pymc_vi_ext.inference._kernels import as_kernel
from pymc_vi_ext.inference._stein import SteinOperator
from pymc_vi_ext.python_only import python_only

# Of the posterior's variance; with less the particles are said to have collapsed.
_LEAST_VARIANCE = 0.5


class SVGD(EngineFit, inference.SVGD):
    r"""Stein variational gradient descent.

    Moves `n_particles` along :math:`\frac1n \sum_j k(x_j, x) \nabla \log p(x_j) +
    \nabla_{x_j} k(x_j, x)`. The loss in ``hist`` is the kernelised Stein discrepancy between
    particles and posterior, the norm of that direction (0 where they agree as far as the kernel
    sees; with the package's kernels). It is computed of all pairs of particles, each with itself
    too, and its bandwidth follows the particles.

    Where kernel matrices would be large (from some 3,000 particles on) they are made in blocks.
    ``objective=Tempered(...)`` anneals: the density's part of the direction rises from a fraction
    to all of it. The fit warns where the particles' variance ends at less than half the
    posterior's, by Stein's identity :math:`E\, (x - m)^T \nabla \log p = -d`.

    Parameters
    ----------
    n_particles : int
    jitter : float
        Standard deviation of the particles around `start`, on the unconstrained space.
    model : pymc.Model, optional
        By default the one on the context.
    start : dict of str to array, optional
    random_seed : int, optional
        Of the particles' start too (PyMC draws that from NumPy's global generator).
    kernel : {"rbf", "imq", "linear", "linear_rbf"} or callable
        Gaussian, inverse multiquadric, linear, or the sum of linear and Gaussian; or
        ``kernel(particles) -> (k, repulsion)``.
    temperature : float
        Divides the density's part of the direction.
    preconditioner : {None, "fisher", "hessian"}
        Metric in which the kernel measures distances and the particles move: the Fisher
        information by the covariances of particles and scores, or the mean negative Hessian with
        its eigenvalues made positive. For posteriors of very different scales or strong
        correlations; the rates that suit such a metric are those of ``pm.sgd``, near 0.5.

    Raises
    ------
    ValueError
        If there are fewer than two particles, or no kernel or preconditioner of this name.
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete.

    References
    ----------
    Liu, Q. and Wang, D. (2016). Stein variational gradient descent. https://arxiv.org/abs/1608.04471

    Liu, Q., Lee, J. and Jordan, M. (2016). A kernelized Stein discrepancy for goodness-of-fit
    tests. https://arxiv.org/abs/1602.03253

    Wang, D. et al. (2019). Stein variational gradient descent with matrix-valued kernels.
    https://arxiv.org/abs/1910.12794

    D'Angelo, F. and Fortuin, V. (2021). Annealed Stein variational gradient descent.
    https://arxiv.org/abs/2101.09815

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.SVGD(n_particles=100, random_seed=1).fit(500, progressbar=False)
    >>> approx.histogram.get_value().shape
    (100, 1)
    """

    def __init__(
        self,
        n_particles: int = 100,
        jitter: float = 1,
        model: pm.Model | None = None,
        start: Any = None,
        random_seed: Any = None,
        kernel: Any = "rbf",
        preconditioner: str | None = None,
        **kwargs: Any,
    ):
        if n_particles < 2:
            raise ValueError(f"SVGD needs at least two particles, not n_particles={n_particles}.")
        model = continuous_model(model, "SVGD")
        with python_only():
            super().__init__(
                n_particles=n_particles,
                jitter=0,
                model=model,
                start=start,
                random_seed=random_seed,
                kernel=as_kernel(kernel),
                estimator=SteinOperator,
                preconditioner=preconditioner,
                **kwargs,
            )
        self.seed = random_seed
        histogram = self.approx.histogram
        value = histogram.get_value()
        value += floatX(np.random.default_rng(random_seed).normal(0, jitter, value.shape))
        histogram.set_value(value)

    def check_result(self) -> None:
        """Warn where the particles' variance is less than half the posterior's."""
        ratio = float(self.objective.op.variance_ratio.get_value())
        if ratio < _LEAST_VARIANCE:
            warnings.warn(
                f"The particles have collapsed: by Stein's identity their variance is {ratio:.2g} "
                'of the posterior\'s. Take more n_particles, kernel="linear_rbf", or a method '
                "with a density.",
                stacklevel=5,
            )


class ASVGD(EngineFit, inference.ASVGD):
    r"""Amortized Stein variational gradient descent.

    Moves the parameters of an approximation so that its draws follow the Stein direction. The loss
    in ``hist`` is that of :class:`SVGD`, of the draws of each step.

    Parameters
    ----------
    approx : Approximation, optional
        By default full rank.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    kernel : {"rbf", "imq", "linear", "linear_rbf"} or callable
        As of :class:`SVGD`.
    temperature : float
        Divides the density's part of the direction. The default, 1, underestimates variances.

    References
    ----------
    Wang, D. and Liu, Q. (2016). Learning to draw samples. https://arxiv.org/abs/1611.01722

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.ASVGD(random_seed=1).fit(500, obj_n_mc=100, progressbar=False)
    >>> approx.mean.eval().shape
    (1,)
    """

    def __init__(
        self,
        approx: Any = None,
        model: pm.Model | None = None,
        random_seed: Any = None,
        kernel: Any = "rbf",
        **kwargs: Any,
    ):
        if approx is None:
            model = continuous_model(model, "ASVGD")
            with python_only():
                approx = FullRank(model=model, random_seed=random_seed)
        # Past inference.ASVGD, whose constructor only warns and makes the same default.
        super(inference.ASVGD, self).__init__(
            approx=approx, kernel=as_kernel(kernel), estimator=SteinOperator, **kwargs
        )
        self.seed = random_seed

    def fit(self, n: int = 10_000, *args: Any, obj_n_mc: int = 500, **kwargs: Any) -> Any:
        """As :meth:`SVGD.fit`, with `obj_n_mc` draws a step."""
        return super().fit(n, *args, obj_n_mc=obj_n_mc, **kwargs)
