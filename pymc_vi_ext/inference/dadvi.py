"""Deterministic ADVI: the same draws at every step, and so an ordinary optimisation problem."""

from __future__ import annotations

import logging
import time

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm

from pymc.progress_bar import default_progress_theme
from pymc.variational.approximations import FullRank, MeanField
from pymc.variational.inference import KLqp, State
from pymc.variational.opvi import Approximation, ParametrizationError
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.approximations._algebra import at_least
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.inference._base import continuous_model
from pymc_vi_ext.loop import Callback, check_callbacks, check_steps, versions
from pymc_vi_ext.progress import fit_progress
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.results import NEGATIVE_ELBO, FitReport, StopReason, Timings

logger = logging.getLogger(__name__)

# Up to this dimension the linear response is a matrix, and the result a full-rank Gaussian.
_LARGEST_DENSE = 300
# Standard deviations at the start: small, so that the first draws are where the start is.
_START_SIGMA = 0.1
# Newton steps between two changes of the units, and how little a step may gain at the end, in nats.
_ROUND, _LEAST_GAIN = 25, 1e-7
# The draws suffice where their error in every mean is below this part of its standard deviation.
_SMALL_ERROR = 0.2


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


class DADVI(KLqp):
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
    n_draws : int
        Fixed draws, two in each pair.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
        Of the draws.
    start : dict of str to array, optional
        Starting means, by name of the variables.

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

    optimizes_itself = True

    def __init__(
        self,
        n_draws: int = 64,
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
    ):
        if at_least("n_draws", n_draws, 4) % 2:
            raise ParametrizationError(
                f"DADVI's draws come in pairs: `n_draws` must be even, not {n_draws}."
            )
        model = continuous_model(model, "DADVI")
        with python_only():
            mean_field = MeanField(model=model, random_seed=random_seed, start=start)
            dense = mean_field.ddim <= _LARGEST_DENSE
            approx = FullRank(model=model, random_seed=random_seed) if dense else mean_field
        super().__init__(approx)
        self.seed = random_seed
        self._mu = mean_field.params_dict["mu"].get_value().astype(float)
        self._omega = np.full(len(self._mu), np.log(_START_SIGMA))
        half = np.random.default_rng(random_seed).normal(size=(n_draws // 2, len(self._mu)))
        self.draws = np.concatenate([half, -half])
        self._density: LogDensity | None = None

    def fit(
        self,
        n: int = 1_000,
        score: bool | None = None,
        callbacks: Sequence[Callback] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = default_progress_theme,
        *,
        backend: str | None = "auto",
        include_transformed: bool = False,
        **options: Any,
    ) -> Approximation:
        """Optimise by at most `n` Newton steps.

        Parameters
        ----------
        n : int
        callbacks : sequence of callable, optional
            Called after each Newton step as ``callback(approx, losses, i)``.
        progressbar, progressbar_theme, include_transformed
            As in PyMC.
        backend : {"auto", "jax", "numba", "c"}, optional
            What evaluates the log density.
        score : bool, optional
            Losses are there in any case.
        **options
            None is taken: there is no learning rate, no optimizer, no draws a step.

        Returns
        -------
        Approximation
        """
        if given := [name for name, value in options.items() if value is not None]:
            raise ValueError(
                f"DADVI optimises on fixed draws, with no learning rate: leave out {given[0]}."
            )
        check_steps(n)
        callbacks = check_callbacks(callbacks)
        started = time.perf_counter()
        if self._density is None:
            density = LogDensity(self.approx.model, backend)
            if density.random:
                raise ValueError(
                    "DADVI needs the same data at every step: build the model without Minibatch, "
                    "or use ADVI."
                )
            self._density = density
            points = self._points(self._mu, self._omega)
            self._density(points)
            self._density.hessian_products(points, self.draws)
        compiled = time.perf_counter()
        self.hist, reason, stopped_by, evidence = np.empty(0), StopReason.COMPLETED, None, ""
        with fit_progress(n, progressbar, progressbar_theme) as progress:

            def after(loss: float) -> None:
                nonlocal stopped_by
                self.hist = np.append(self.hist, loss)
                self._show_mean_field()
                progress.update(len(self.hist), self.hist, callbacks)
                for callback in callbacks:
                    try:
                        callback(self.approx, self.hist, len(self.hist))
                    except StopIteration as stop:
                        stopped_by = getattr(callback, "__name__", type(callback).__name__)
                        # SciPy takes a StopIteration for its own.
                        raise _Stopped(str(stop)) from stop
                if len(self.hist) >= n:
                    raise _OutOfSteps

            try:
                if n:
                    evidence = self._optimise(after)
                    reason = StopReason.CONVERGED
            except _OutOfSteps:
                evidence = f"not converged: all of its {n} Newton steps taken"
                logger.warning("DADVI took all of its %d Newton steps before it converged.", n)
            except _Stopped as stop:
                reason, evidence = StopReason.STOPPED, str(stop)
            except KeyboardInterrupt:
                reason, evidence = StopReason.INTERRUPTED, "keyboard interrupt"
        evidence = self._finish(reason, evidence)
        self.state = State(len(self.hist), step=None, callbacks=callbacks, score=True)
        approx = self.approx
        for group in approx.groups:
            group.include_transformed = include_transformed
        approx.hist = self.hist
        approx.report = FitReport(
            stop_reason=reason,
            stopped_by=stopped_by,
            steps=len(self.hist),
            evidence=evidence,
            timings=Timings(0.0, compiled - started, time.perf_counter() - compiled),
            backend=self._density.backend or "",
            seed=self.seed,
            versions=versions(),
            loss=NEGATIVE_ELBO,
        )
        return approx

    def refine(self, n: int, progressbar: bool = True, **_: Any) -> None:
        """Optimise again, from where the last fit stopped, with its callbacks."""
        if self.state is None:
            raise TypeError("Need to call `.fit` first")
        self.fit(n, callbacks=self.state.callbacks, progressbar=progressbar)

    @property
    def mean_field_std(self) -> np.ndarray:
        """Standard deviations of the mean field optimum, (d,), unconstrained."""
        return np.exp(self._omega)

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
        where = {rv.name: group.ordering[model.rvs_to_values[rv].name][1] for rv in model.free_RVs}
        if unknown := [name for name in names if name not in where]:
            raise ValueError(f"{unknown[0]!r} is no free variable: there are {', '.join(where)}.")
        elements = np.concatenate([np.arange(len(self._mu))[where[name]] for name in names])
        product = self._hessian_product(self._mu, self._omega)
        # In units of the mean field the Hessian is nearly the identity.
        unit = np.concatenate([self.mean_field_std, np.ones_like(self._omega)])
        operator = LinearOperator(
            (len(unit), len(unit)), matvec=lambda v: unit * product(unit * np.ravel(v))
        )
        columns = []
        for element in elements:
            tilt = np.zeros(len(self._mu))
            tilt[element] = 1.0
            right = unit * np.concatenate([tilt, np.zeros_like(tilt)])
            solution, failed = cg(operator, right, rtol=1e-8, maxiter=20 * len(unit))
            if failed:
                logger.warning("Conjugate gradients did not converge for element %d.", element)
            columns.append((unit * solution)[: len(tilt)][elements])
        covariance = np.array(columns)
        return (covariance + covariance.T) / 2

    def _points(self, mu: np.ndarray, omega: np.ndarray) -> np.ndarray:
        return mu + np.exp(omega) * self.draws

    def _loss(self, mu: np.ndarray, omega: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative ELBO and its gradient, (2 d,)."""
        assert self._density is not None
        with np.errstate(over="ignore", invalid="ignore"):
            logp, slopes = self._density(self._points(mu, omega))
        if not (np.isfinite(logp).all() and np.isfinite(slopes).all()):
            return np.inf, np.zeros(2 * len(mu))
        spread = np.exp(omega) * self.draws
        entropy = np.sum(omega) + 0.5 * len(mu) * (1 + np.log(2 * np.pi))
        gradient = -np.concatenate([slopes.mean(axis=0), np.mean(slopes * spread, axis=0) + 1.0])
        return -float(logp.mean()) - float(entropy), gradient

    def _hessian_product(self, mu: np.ndarray, omega: np.ndarray) -> Any:
        """Return the product of the Hessian of the negative ELBO with vectors (2 d,)."""
        density = self._density
        assert density is not None
        points, spread, d = self._points(mu, omega), np.exp(omega) * self.draws, len(mu)
        _, slopes = density(points)

        def product(vector: np.ndarray) -> np.ndarray:
            moved = vector[:d] + spread * vector[d:]
            changed = density.hessian_products(points, moved)
            of_omega = np.mean(changed * spread + slopes * spread * vector[d:], axis=0)
            return -np.concatenate([changed.mean(axis=0), of_omega])

        return product

    def _optimise(self, after: Any) -> str:
        """Take Newton steps until they gain nothing; return what the last ones gained."""
        before = np.inf
        if not np.isfinite(self._loss(self._mu, self._omega)[0]):
            raise FloatingPointError(
                "The log density is not finite around the start, at a tenth of a unit on the "
                "unconstrained space: give another `start`, by name of the variables."
            )
        while True:
            reached = self._round(after)
            gain = before - reached
            if not gain >= _LEAST_GAIN:
                return f"the last Newton steps gained {max(gain, 0.0):.1g} nat"
            before = reached

    def _round(self, after: Any) -> float:
        """Take Newton steps in units of the mean field as it is now; return the loss reached."""
        d = len(self._mu)
        mu, omega, unit = self._mu, self._omega, np.exp(self._omega)
        scale = np.concatenate([unit, np.ones(d)])
        # Conjugate gradients ask for many products at one point.
        product_at: tuple[np.ndarray, Any] | None = None

        def natural(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return mu + unit * x[:d], omega + x[d:]

        def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self._loss(*natural(x))
            return value, gradient * scale

        def curvature(x: np.ndarray, v: np.ndarray) -> np.ndarray:
            nonlocal product_at
            if product_at is None or not np.array_equal(product_at[0], x):
                product_at = x.copy(), self._hessian_product(*natural(x))
            result: np.ndarray = scale * product_at[1](scale * v)
            return result

        def report(x: np.ndarray) -> None:
            self._mu, self._omega = natural(x)
            after(float(loss(x)[0]))

        found = minimize(
            loss,
            np.zeros(2 * d),
            jac=True,
            hessp=curvature,
            method="trust-ncg",
            callback=report,
            options={"maxiter": _ROUND, "gtol": 1e-6},
        )
        self._mu, self._omega = natural(found.x)
        return float(found.fun)

    def _show_mean_field(self) -> None:
        """Bring the mean field of now into the approximation, for callbacks."""
        [group] = self.approx.groups
        family_of(group).set_gaussian(self._mu, np.diag(np.exp(2 * self._omega)))

    def _finish(self, reason: StopReason, evidence: str) -> str:
        """Add the linear response and the sampling error; return the evidence."""
        d = len(self._mu)
        [group] = self.approx.groups
        if d > _LARGEST_DENSE:
            self._show_mean_field()
            return evidence
        product = self._hessian_product(self._mu, self._omega)
        hessian = np.array([product(column) for column in np.eye(2 * d)])
        hessian = (hessian + hessian.T) / 2
        unit = np.concatenate([self.mean_field_std, np.ones(d)])
        values, vectors = np.linalg.eigh(unit[:, None] * hessian * unit)
        if not np.isfinite(values).all() or values[0] <= 1e-9 * values[-1]:
            self._show_mean_field()
            return evidence + "; the Hessian is not positive definite: no linear response"
        inverse = unit[:, None] * (vectors / values) @ vectors.T * unit
        covariance = inverse[:d, :d]
        family_of(group).set_gaussian(self._mu, covariance)
        if reason is not StopReason.CONVERGED:
            return evidence
        # The optimum's error is that of a root of a mean of gradients, one for each pair of draws:
        # the sandwich formula.
        assert self._density is not None
        spread = np.exp(self._omega) * self.draws
        _, slopes = self._density(self._points(self._mu, self._omega))
        each = np.concatenate([slopes, slopes * spread + 1.0], axis=1)
        pairs = each.reshape(2, -1, 2 * d).mean(axis=0)
        sandwich = inverse @ np.cov(pairs.T) @ inverse / len(pairs)
        errors = np.sqrt(np.diag(sandwich)[:d] / np.diag(covariance))
        self.sampling_error = SamplingError(errors)
        verdict = "suffice" if self.sampling_error.suffices else "are too few"
        return (
            f"{evidence}; sampling error of the means up to {errors.max():.2f} sd: "
            f"{len(self.draws)} draws {verdict}"
        )


class _Stopped(Exception):
    """A callback has ended the fit."""


class _OutOfSteps(Exception):
    """The Newton steps are used up."""
