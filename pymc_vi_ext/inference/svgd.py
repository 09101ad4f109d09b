"""Stein variational gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pymc as pm

from pymc.pytensorf import floatX
from pymc.variational import inference

from pymc_vi_ext.inference._kernels import as_kernel
from pymc_vi_ext.inference._stein import SteinOperator
from pymc_vi_ext.inference.base import EngineMethod, continuous_model
from pymc_vi_ext.method import Conclusion, Ending
from pymc_vi_ext.objectives import Objective, Tempered
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import option
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import ObjectiveFunction

# Of the posterior's variance; with less the particles are said to have collapsed. On standard
# Gaussians, 200 particles end at .95 of it in 2 dimensions and at .50 in 10; 50 particles at .87 in
# 2, .3 to .4 in 10 and .08 in 50.
_LEAST_VARIANCE = 0.7


class SteinMethod(EngineMethod):
    """What methods share that follow the Stein direction."""

    def _objective_of(self, objective: Objective, own: ObjectiveFunction) -> ObjectiveFunction:
        if not isinstance(objective, Tempered):
            return super()._objective_of(objective, own)
        return own.op.tempered(objective.first, objective.steps)(own.tf)


@dataclass(frozen=True)
class SVGDOptions(AnyOptions):
    """Options of Stein variational gradient descent."""

    n_particles: int = option(100, "Number of particles.", ge=2, le=100_000)
    jitter: float = option(
        1.0, "Standard deviation of the particles around the start, unconstrained.", ge=0, le=1e6
    )
    kernel: Literal["rbf", "imq", "linear", "linear_rbf"] | Callable[..., Any] = option(
        "rbf",
        "Gaussian, inverse multiquadric, linear, the sum of linear and Gaussian, or a function of "
        "the particles that returns kernel and repulsion.",
    )
    preconditioner: Literal["fisher", "hessian"] | None = option(
        None,
        "Metric in which the kernel measures and the particles move: the Fisher information, by "
        "the covariances of particles and scores, or the mean negative Hessian with its "
        "eigenvalues made positive. The rates that suit one are near pm.sgd(learning_rate=0.5).",
    )
    temperature: float = option(1.0, "Divides the density's part of the direction.", gt=0)
    kernel_batch: int | None = option(
        None,
        "Particles of a random batch, which divides n_particles: at each step a particle meets "
        "only those of its batch. For more than some 5,000 particles; not with a linear kernel or "
        "a function.",
        ge=2,
        le=100_000,
    )


class SVGD(SteinMethod, inference.SVGD):
    r"""Stein variational gradient descent.

    Moves `n_particles` along :math:`\frac1n \sum_j k(x_j, x) \nabla \log p(x_j) +
    \nabla_{x_j} k(x_j, x)`. The loss in ``hist`` is the kernelised Stein discrepancy between
    particles and posterior, the norm of that direction (0 where they agree as far as the kernel
    sees; with the package's kernels). It is computed of all pairs of particles, each with itself
    too, and its bandwidth follows the particles.

    Where kernel matrices would be large (from some 1,500 particles on) they are made in blocks.
    From 500 particles on they are in float32, unless a particle is more than 64 kernel widths from
    the mean of all. That rounds the square of the loss by some 1e-6 of its terms: of 3,000
    particles on a standard Gaussian in 2 dimensions it ends at .0027 where it should be .0023, and
    a loss much below that says nothing. The direction is right to a thousandth even there.

    All pairs cost the square of `n_particles`. With ``kernel_batch=500`` particles are shuffled
    into batches of 500 at each step, and meet there: the direction is right in the mean over
    shuffles, and both it and the loss have noise beside that.

    ``objective=Tempered(...)`` anneals: the density's part of the direction rises from a fraction
    to all of it.

    That particles stand still says that the direction is nothing where they are, and not how near
    they are to the posterior. Separate modes keep the particles that began near them, whatever
    their masses, and few particles in many dimensions are too close together. The latter shows:
    by Stein's identity :math:`E\, (x - m)^T \nabla \log p = -d`, and what it is of the particles
    is in ``report.evidence``, as their variance over the posterior's. The fit warns below .7.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    ValueError
        If there are fewer than two particles, no kernel or preconditioner of this name, or
        batches that the particles, or the kernel, cannot be cut into.
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

    Li, L., Li, Y., Liu, J.-G., Liu, Z. and Lu, J. (2020). A stochastic version of Stein variational
    gradient descent for efficient sampling. https://arxiv.org/abs/1902.03394

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

    Options: ClassVar[type[AnyOptions]] = SVGDOptions
    options: SVGDOptions
    unfit_rules = frozenset({"matched"})

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
        **options: Any,
    ):
        self.options = SVGDOptions.bind(self.name, given, options)
        _check_batch(self.options)
        model = continuous_model(model, self.name, start)
        with python_only():
            super().__init__(
                n_particles=self.options.n_particles,
                jitter=0,
                model=model,
                start=start,
                random_seed=random_seed,
                kernel=as_kernel(self.options.kernel),
                estimator=SteinOperator,
                preconditioner=self.options.preconditioner,
                temperature=self.options.temperature,
                batch=self.options.kernel_batch,
            )
        self.seed = random_seed
        # From the seed: PyMC draws them from NumPy's global generator.
        histogram = self.approx.histogram
        value = histogram.get_value()
        noise = np.random.default_rng(random_seed).normal(0, self.options.jitter, value.shape)
        histogram.set_value(value + floatX(noise))

    def conclude(self, ending: Ending) -> Conclusion:
        """Say what particles that stand still do not tell, and warn where they have collapsed."""
        ratio = float(self.objective.op.variance_ratio.get_value())
        if np.isnan(ratio):
            return Conclusion()
        variance = f"by Stein's identity their variance is {ratio:.2g} of the posterior's"
        evidence = f"particles, whose share in separate modes nothing here checks; {variance}"
        if ratio >= _LEAST_VARIANCE:
            return Conclusion(evidence)
        return Conclusion(
            evidence,
            f"The particles have collapsed: {variance}. Take more n_particles, "
            'kernel="linear_rbf", or a method with a density.',
        )


def _check_batch(options: SVGDOptions) -> None:
    batch, n = options.kernel_batch, options.n_particles
    if batch is None:
        return
    if options.kernel == "linear" or callable(options.kernel):
        raise ValueError(
            "kernel_batch cuts sums over pairs of particles into batches; "
            + (
                'kernel="linear" needs no pairs.'
                if options.kernel == "linear"
                else "a function of all particles has none that could be cut."
            )
            + ' Leave it out, or take kernel="rbf", "imq" or "linear_rbf".'
        )
    if n % batch:
        raise ValueError(
            f"kernel_batch={batch:,} does not divide n_particles={n:,}: batches have to be of one "
            f"size. Take n_particles={n - n % batch or batch:,}, or another kernel_batch."
        )
