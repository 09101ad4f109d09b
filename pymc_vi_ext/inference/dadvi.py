"""Deterministic ADVI: the same draws at every step, and so an ordinary optimisation problem."""

from __future__ import annotations

import logging

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pymc as pm

from pymc.pytensorf import floatX
from pymc.variational.approximations import FullRank, MeanField
from pymc.variational.inference import KLqp

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.approximations._algebra import normal_log_density, softplus_inverse
from pymc_vi_ext.callbacks import NewtonStop
from pymc_vi_ext.callbacks._statistics import mean_and_error
from pymc_vi_ext.diagnostics.pareto import khat_of, worth
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.inference._newton import NewtonLoop, NewtonProgram
from pymc_vi_ext.inference.base import LoopMethod, continuous_model
from pymc_vi_ext.method import Conclusion, Ending, Prepared, Request, StepOptions
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import option
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.results import StopReason
from pymc_vi_ext.upstream import MeanFieldGroup, layout

logger = logging.getLogger(__name__)

# Up to this dimension the linear response is a matrix, and the result a full-rank Gaussian.
_LARGEST_DENSE = 300
# Standard deviations at the start: small, so that the first draws are where the start is.
_START_SIGMA = 0.1
# The draws suffice where their error in every mean is below this part of its standard deviation.
_SMALL_ERROR = 0.2
# Other draws, in batches as large as that of the fixed ones; and by how many nats the fixed ones
# may flatter their optimum where they suffice.
_OTHER_SEED, _OTHER_BATCHES, _LARGEST_GAP = 271_828, 16, 1.0


@dataclass(frozen=True)
class SamplingError:
    """What the choice of the fixed draws leaves uncertain.

    Attributes
    ----------
    means : array of shape (d,)
        Standard errors of the means, unconstrained, in standard deviations of the posterior's
        variables as linear response has them.
    suffices : bool
        Whether all are below 0.2.
    """

    means: np.ndarray

    @property
    def suffices(self) -> bool:
        """Whether all are below 0.2."""
        return bool(np.max(self.means) < _SMALL_ERROR)


@dataclass(frozen=True)
class DADVIOptions(AnyOptions):
    """Options of deterministic ADVI."""

    n_draws: int = option(64, "Fixed draws, two in each pair.", ge=4, le=100_000, multiple_of=2)


class DADVI(LoopMethod, KLqp):
    r"""Deterministic ADVI with linear response covariances.

    The ELBO of a mean field Gaussian on `n_draws` fixed standard normal draws :math:`z_s`, in pairs
    :math:`\pm z`,

    .. math::

        \mathcal L(\mu, \omega) = \tfrac1S \sum_s \log p(\mu + e^\omega z_s) + \sum_i \omega_i,

    is a function like any other: Newton's method with conjugate gradients in a trust region finds
    its optimum to machine precision, without a learning rate. Its Hessian `H` there gives more.
    Linear response is the change of the means :math:`\mu` when the log density is tilted by a
    linear function: the block :math:`-(H^{-1})_{\mu\mu}`, a covariance, correlations included.
    Where the posterior is Gaussian the pairs make both the means and this covariance exact, for
    any draws. Elsewhere the means keep the error that the choice of draws makes; the sandwich
    formula says how large it is.

    Up to 300 dimensions the result is the full-rank Gaussian with that covariance; beyond, the
    mean field, and :meth:`linear_response` gives covariances of named variables.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    draws : array of shape (n_draws, d)
        The fixed draws.
    sampling_error : SamplingError
        After a fit.

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, or `n_draws` no even number from 4.

    References
    ----------
    Giordano, R., Ingram, M. and Broderick, T. (2024). Black box variational inference with a
    deterministic objective. JMLR 25(18). https://arxiv.org/abs/2304.05527

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.MvNormal("x", [0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])
    ...     approx = vix.fit(method="dadvi", random_seed=1, progressbar=False)
    >>> approx.cov.eval().round(3)
    array([[1. , 0.8],
           [0.8, 1. ]])
    """

    Options: ClassVar[type[AnyOptions]] = DADVIOptions
    FitOptions: ClassVar[type[AnyOptions]] = StepOptions
    options: DADVIOptions
    unfit_rules = frozenset({"staged"})
    accepts = frozenset({"callbacks"})
    refusal = "optimises on fixed draws, with no learning rate"
    finds_start = True
    needs_all_data = True
    # An optimum found to machine precision leaves nothing to do, however many steps are asked for.
    default_convergence = "default"

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
        **options: Any,
    ):
        self.options = DADVIOptions.bind(self.name, given, options)
        model = continuous_model(model, self.name)
        with python_only():
            mean_field = MeanField(model=model, random_seed=random_seed, start=start)
            dense = mean_field.ddim <= _LARGEST_DENSE
            approx = FullRank(model=model, random_seed=random_seed) if dense else mean_field
            super().__init__(approx)
        self.seed = random_seed
        mu = mean_field.params_dict["mu"].get_value().astype(float)
        half = np.random.default_rng(random_seed).normal(size=(self.options.n_draws // 2, len(mu)))
        self._optimum = NewtonProgram(
            mu, np.full(len(mu), np.log(_START_SIGMA)), np.concatenate([half, -half])
        )
        self._density: LogDensity | None = None
        self.sampling_error: SamplingError | None = None

    @property
    def loss_name(self) -> str:
        """The negative ELBO of the mean field on the fixed draws, which the result is not."""
        return "negative ELBO of the mean field on fixed draws"

    @property
    def draws(self) -> np.ndarray:
        """The fixed draws, (n_draws, d)."""
        return self._optimum.draws

    @draws.setter
    def draws(self, draws: np.ndarray) -> None:
        self._optimum.draws = draws

    def default_rule(self) -> NewtonStop:
        """Return the rule that stops at the optimum."""
        return NewtonStop(self._optimum.gain, self._optimum.radius)

    def prepare(self, request: Request) -> Prepared:
        """Compile the log density and its derivatives."""
        if request.rule is not None and request.rule.part_of_step:
            raise ValueError(
                f"{request.rule.name} judges steps along noisy gradients, and DADVI's have no "
                'noise: use convergence="default", or a rule on its losses.'
            )
        density = LogDensity(self.approx.model, request.backend, curved=True)
        if density.random:
            raise ValueError(
                "DADVI needs the same data at every step: build the model without Minibatch, "
                "or use ADVI."
            )
        self._density = density
        loop = NewtonLoop(self._optimum, density, self._show_mean_field)
        return Prepared(self._optimum, loop)

    def begin_near(self, point: np.ndarray, sd: float) -> bool:
        """Begin with draws around `point`."""
        self._optimum.move(point, np.full(len(point), np.log(sd)))
        return True

    @property
    def mean_field_std(self) -> np.ndarray:
        """Standard deviations of the mean field optimum, (d,), unconstrained."""
        sd: np.ndarray = np.exp(self._optimum.omega)
        return sd

    def linear_response(self, names: Sequence[str]) -> np.ndarray:
        """Return the linear response covariance of some variables, by conjugate gradients.

        Parameters
        ----------
        names : sequence of str
            Of free variables.

        Returns
        -------
        array of shape (k, k)
            Of all their elements, one after the other, on the unconstrained space.

        Raises
        ------
        TypeError
            Before a fit.
        ValueError
            If a name is none of the model's free variables.
        """
        if self._density is None:
            raise TypeError("Need to call `.fit` first")
        [group] = self.approx.groups
        model = self.approx.model
        places = layout(group)
        where = {rv.name: places[model.rvs_to_values[rv].name][0] for rv in model.free_RVs}
        if unknown := [name for name in names if name not in where]:
            raise ValueError(f"{unknown[0]!r} is no free variable: there are {', '.join(where)}.")
        # Imported on use: no fit needs it.
        from scipy.sparse.linalg import LinearOperator, cg

        optimum = self._optimum
        d = len(optimum.mu)
        elements = np.concatenate([np.arange(d)[where[name]] for name in names])
        product = optimum.hessian_product(self._density)
        # In units of the mean field the Hessian is nearly the identity.
        unit = np.concatenate([self.mean_field_std, np.ones(d)])
        operator = LinearOperator(
            (len(unit), len(unit)), matvec=lambda v: unit * product(unit * np.ravel(v))
        )
        columns = []
        for element in elements:
            tilt = np.zeros(d)
            tilt[element] = 1.0
            right = unit * np.concatenate([tilt, np.zeros_like(tilt)])
            solution, failed = cg(operator, right, rtol=1e-8, maxiter=20 * len(unit))
            if failed:
                logger.warning("Conjugate gradients did not converge for element %d.", element)
            columns.append((unit * solution)[: len(tilt)][elements])
        covariance = np.array(columns)
        symmetric: np.ndarray = (covariance + covariance.T) / 2
        return symmetric

    def _show_mean_field(self) -> None:
        """Bring the mean field of now into the approximation, for callbacks."""
        [group] = self.approx.groups
        if isinstance(group, MeanFieldGroup):
            # Of many variables their variances as a matrix would not fit in memory.
            group.params_dict["mu"].set_value(floatX(self._optimum.mu))
            group.params_dict["rho"].set_value(floatX(softplus_inverse(self.mean_field_std)))
        else:
            family_of(group).set_gaussian(self._optimum.mu, np.diag(self.mean_field_std**2))

    def conclude(self, ending: Ending) -> Conclusion:
        """Add the linear response, and at the optimum the sampling error."""
        optimum, density = self._optimum, self._density
        d = len(optimum.mu)
        if d > _LARGEST_DENSE or ending.has_result:
            return Conclusion()
        assert density is not None
        product = optimum.hessian_product(density)
        hessian = np.array([product(column) for column in np.eye(2 * d)])
        hessian = (hessian + hessian.T) / 2
        unit = np.concatenate([self.mean_field_std, np.ones(d)])
        whitened = unit[:, None] * hessian * unit
        if not np.isfinite(whitened).all():
            self._show_mean_field()
            return Conclusion("the Hessian is not finite: no linear response")
        values, vectors = np.linalg.eigh(whitened)
        if values[0] <= 1e-9 * values[-1]:
            self._show_mean_field()
            return Conclusion("the Hessian is not positive definite: no linear response")
        inverse = unit[:, None] * (vectors / values) @ vectors.T * unit
        covariance = inverse[:d, :d]
        [group] = self.approx.groups
        family_of(group).set_gaussian(optimum.mu, covariance)
        if ending.reason is not StopReason.CONVERGED:
            return Conclusion()
        # The optimum's error is that of a root of a mean of gradients, one for each pair of draws:
        # the sandwich formula.
        _, slopes = density(optimum.points())
        spread = self.mean_field_std * self.draws
        each = np.concatenate([slopes, slopes * spread + 1.0], axis=1)
        pairs = each.reshape(2, -1, 2 * d).mean(axis=0)
        sandwich = inverse @ np.cov(pairs.T) @ inverse / len(pairs)
        errors = np.sqrt(np.diag(sandwich)[:d] / np.diag(covariance))
        self.sampling_error = SamplingError(errors)
        return self._on_other_draws(density, covariance, ending)

    def _on_other_draws(
        self, density: LogDensity, covariance: np.ndarray, ending: Ending
    ) -> Conclusion:
        """Say what the ELBO is on draws that nothing was fitted to, and whether the fixed suffice.

        The loss of the fixed draws is the mean field's, and in its favour; the result is another
        Gaussian. Where some of its mass has no density, the fit has not converged.
        """
        assert self.sampling_error is not None
        optimum = self._optimum
        rng = np.random.default_rng(_OTHER_SEED)
        noise = rng.standard_normal((_OTHER_BATCHES, *self.draws.shape))
        factor = np.linalg.cholesky(covariance)
        with np.errstate(over="ignore", invalid="ignore"):
            of_result, of_mean_field = (
                np.concatenate([density(optimum.mu + z @ scale.T)[0] for z in noise])
                + float(np.log(np.diag(scale)).sum())
                - normal_log_density(noise.reshape(-1, noise.shape[-1]))
                for scale in (factor, np.diag(self.mean_field_std))
            )
        outside = float(np.mean(~np.isfinite(of_result)))
        worst = float(np.max(self.sampling_error.means))
        error = f"sampling error of the means up to {worst:.2f} sd"
        if outside:
            ending.reason, ending.outside = StopReason.STOPPED, True
            return Conclusion(
                error,
                f"The fit has not converged: {outside:.2g} of the result's mass lies where the "
                "density is 0 or not finite. `vix.correct(approx)` goes on from here to the "
                "posterior.",
            )
        elbo, elbo_error = mean_and_error(of_result)
        lost = -optimum.loss(density)[0] - mean_and_error(of_mean_field)[0]
        limit = _LARGEST_GAP + 3 * mean_and_error(of_mean_field)[1]
        suffices = self.sampling_error.suffices and lost < limit
        verdict = "suffice" if suffices else "are too few"
        optimism = "" if lost < limit else f", {lost:.2g} nat better on themselves than on others"
        return Conclusion(
            f"ELBO of the result {elbo:.5g} +- {elbo_error:.2g}; {error}: "
            f"{len(self.draws)} draws {verdict}{optimism}",
            khat=khat_of(of_result),
            weights_worth=worth(of_result),
        )
