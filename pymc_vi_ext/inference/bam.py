"""Batch and match: a Gaussian fitted to the scores of the posterior, without a learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.approximations import FullRank
from pymc.variational.inference import Inference
from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations import LowRankGroup, OneGroup, family_of
from pymc_vi_ext.approximations.gaussians import kind_of
from pymc_vi_ext.callbacks.matched import MatchedStop
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.inference._matching import Batch, full_rank, low_rank
from pymc_vi_ext.inference.base import EngineMethod, continuous_model
from pymc_vi_ext.method import BatchOptions
from pymc_vi_ext.minibatches import has_minibatches
from pymc_vi_ext.modes import MOST_CURVED, find_mode, within_reach
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import option
from pymc_vi_ext.probe import Probe
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import (
    ObjectiveFunction,
    ObjectiveUpdates,
    ParametrizationError,
)

# Draws a step, and for comparing starts.
_BATCH, _DRAWS_AT_THE_START = 32, 64
# Steps over which the penalty's weight halves first: smaller, and a far start is never left.
_SLOWER = 50.0
# Nats a dimension by which the loss may rise in a step, besides its noise: the Gaussian of matched
# scores is not that of the highest ELBO.
_RISE = 1.0
# What the penalty's weight is divided by after a step that was taken back.
_HELD_BACK = 16.0


class BaMObjective(ObjectiveFunction):
    """The matching step in place of a gradient step; its loss is the negative ELBO."""

    def updates(
        self,
        obj_n_mc: int | None = None,
        obj_optimizer: Any = None,
        more_updates: Any = None,
        more_replacements: Any = None,
        **_: Any,
    ) -> ObjectiveUpdates:
        r"""Return the next parameters.

        With draws :math:`z` of the batch and scores :math:`g = \nabla \log p`, their means
        :math:`\bar z, \bar g` and covariances `C`, :math:`\Gamma`,

        .. math::

            U = \lambda \Gamma + \tfrac{\lambda}{1 + \lambda} \bar g \bar g^T, \qquad
            V = \Sigma + \lambda C
                + \tfrac{\lambda}{1 + \lambda} (\mu - \bar z)(\mu - \bar z)^T,

        the next covariance solves :math:`\Sigma' U \Sigma' + \Sigma' = V`, and
        :math:`\mu' = \tfrac{1}{1 + \lambda} \mu + \tfrac{\lambda}{1 + \lambda}
        (\Sigma' \bar g + \bar z)`.

        A step to where the loss of the next batch is far higher (or not a number) is taken back,
        and :math:`\lambda` is a sixteenth for the next one; it doubles again with every step kept.
        """
        batch = _BATCH if obj_n_mc is None else obj_n_mc
        if batch < 2:
            raise ParametrizationError(
                f"BaM matches the covariance of a batch of scores; obj_n_mc={batch} has none: use "
                "at least 2, better 32."
            )
        approx = self.approx
        [group] = approx.groups
        z, logp = group.symbolic_random, approx.sized_symbolic_logp
        scores = pt.grad(pt.sum(logp), z)
        # A draw where the density has no finite score says nothing about it.
        finite = pt.isfinite(logp) & pt.all(pt.isfinite(scores), axis=1)
        some = pt.sum(finite)
        weights = finite.astype(z.dtype)[:, None] / pt.maximum(some, 1)
        scores = pt.switch(finite[:, None], scores, 0.0)
        z_mean, g_mean = pt.sum(weights * z, axis=0), pt.sum(weights * scores, axis=0)
        step = pytensor.shared(floatX(0.0), "matching_step")
        trust = self.op.trust
        root = pt.sqrt(weights)
        matched = self.op.step(
            group,
            Batch(
                mean=z_mean,
                score=g_mean,
                away=root * (z - z_mean),
                score_away=root * (scores - g_mean),
                rate=trust * floatX(batch) / (1 + step / floatX(_SLOWER)),
            ),
        )
        losses = approx.symbolic_logq - pt.switch(pt.isnan(logp), -np.inf, logp)
        # Of the draws with a density: many posteriors have none at some.
        mean = pt.sum(pt.switch(finite, losses, 0.0)) / pt.maximum(some, 1)
        away = pt.switch(finite, losses - mean, 0.0)
        error = pt.sqrt(pt.sum(away**2)) / pt.maximum(some, 1)
        kept_loss = pytensor.shared(floatX(np.inf), "kept_loss")
        kept_error = pytensor.shared(floatX(0.0), "kept_error")
        highest = kept_loss + 3 * (error + kept_error) + floatX(_RISE * group.ddim)
        back = pt.or_(2 * some < batch, pt.isnan(mean) | (mean > highest))
        # At the first step there is nowhere to go back to.
        back = pt.and_(back, step > 0)
        moves = (some > 1) & pt.all([pt.all(pt.isfinite(value)) for value in matched.values()])
        updates = ObjectiveUpdates()
        for parameter, value in matched.items():
            kept = pytensor.shared(parameter.get_value(), f"kept_{parameter.name}")
            updates[parameter] = pt.switch(back, kept, pt.switch(moves, value, parameter))
            updates[kept] = pt.switch(back, kept, parameter)
        # Where it went back to is not judged again.
        updates[kept_loss] = pt.switch(back, floatX(np.inf), mean)
        updates[kept_error] = pt.switch(back, floatX(0.0), error)
        more, less = pt.minimum(2 * trust, floatX(1.0)), trust / floatX(_HELD_BACK)
        updates[trust] = pt.switch(moves & ~back, more, less)
        updates[step] = step + floatX(1.0)
        probe, mu = self.op.probe, group.params_dict["mu"]
        # Where a draw has no density, there is no sum to speak of.
        updates[probe.value] = pt.sum(logp)
        updates[probe.slope] = probe.along([pt.sum(scores, axis=0)], [mu])
        drawn = approx.set_size_and_deterministic(
            [*updates.values(), pt.mean(losses)], batch, 0, more_replacements
        )
        for variable, value in zip(updates, drawn, strict=False):
            updates[variable] = value
        updates.loss = drawn[-1]
        updates.update(more_updates or {})
        return updates


class _BaMOperator(KL):
    """Carries the family's matching step, and what multiplies the weight of the penalty.

    That is 1 where all goes well.
    """

    objective_class = BaMObjective

    def __init__(self, approx: Approximation, step: Callable[..., Any]):
        super().__init__(approx)
        self.step = step
        self.trust = pytensor.shared(floatX(1.0), "trust")
        self.probe = Probe([approx.groups[0].params_dict["mu"]])


@dataclass(frozen=True)
class BaMOptions(AnyOptions):
    """Options of batch and match."""

    rank: int | None = option(
        None,
        "A covariance of diagonal plus this rank, for many dimensions; None is of full rank.",
        ge=1,
    )


@dataclass(frozen=True)
class MatchingOptions(BatchOptions):
    """Options of matching steps."""

    obj_n_mc: int | None = option(None, "Draws a step; null is 32.", ge=2, le=100_000)


class BaM(EngineMethod, Inference):
    r"""Batch and match: a Gaussian whose scores match the posterior's.

    Each step draws a batch from the Gaussian, and moves it to the one whose score function is
    nearest to the posterior's at these draws, less a Kullback-Leibler penalty for moving far. The
    step has a closed form and no learning rate. Every step costs :math:`O(d^3)`, and with `rank`
    only :math:`O(d)`.

    It starts at the mode, with the curvature there, where a mode is found and its ELBO is above
    that of the usual start; a Gaussian posterior is found so whatever its conditioning. Not with a
    `start` of the user's, and from far away the steps do not arrive. On Gaussians of ten
    correlated variables, all as many standard deviations off, a start 10 away takes 12 steps at
    condition :math:`10^2`, 2,200 at :math:`10^4`, and has not arrived after 3,000 at
    :math:`10^6`; one 100 or 1,000 away never arrived. Leave out `start` there, or give
    ``start="laplace"`` or ``"pathfinder"`` to :func:`pymc_vi_ext.fit`; where no mode is found,
    ``"fullrank_advi"`` goes such ways.

    The penalty's weight is :math:`\lambda_t = B d / (1 + t / 50)`, without the `d` at low rank,
    with `B` draws a step (`obj_n_mc`). The default rule stops where averages over two stretches of
    steps agree, and the result is the average (:class:`~pymc_vi_ext.callbacks.MatchedStop`).

    Parameters
    ----------
    {parameters}

    Raises
    ------
    TypeError
        If the model has no free variables.
    ValueError
        If it has minibatches.
    ParametrizationError
        If a free variable is discrete, `rank` is no whole number from 1 to the dimension, or the
        batch has fewer than two draws.

    References
    ----------
    Cai, D. et al. (2024). Batch and match: black-box variational inference with a score-based
    divergence. ICML. https://arxiv.org/abs/2402.14758

    Modi, C., Cai, D. and Saul, L. (2024). Batch, match, and patch: low-rank approximations for
    score-based variational inference. https://arxiv.org/abs/2410.22292

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.MvNormal("x", [0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])
    ...     approx = vix.fit(method="bam", random_seed=1, progressbar=False)
    >>> round(float(approx.cov.eval()[0, 1]), 3), approx.report.steps < 30
    (0.8, True)
    """

    Options: ClassVar[type[AnyOptions]] = BaMOptions
    FitOptions: ClassVar[type[AnyOptions]] = MatchingOptions
    options: BaMOptions
    needs_all_data = True
    accepts = frozenset(
        {"callbacks", "obj_n_mc", "compile_kwargs", "devices", "more_updates", "more_replacements"}
    )
    refusal = "has no learning rate"
    has_optimizer = False
    default_draws = _BATCH

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
        **options: Any,
    ):
        self.options = BaMOptions.bind(self.name, given, options)
        rank = self.options.rank
        model = continuous_model(model, self.name, dense=rank is None)
        with python_only():
            if has_minibatches(model):
                raise ValueError(
                    "BaM needs the same data at every step, since it matches scores exactly, those "
                    "of minibatches too: build the model without Minibatch, or use FullRankADVI."
                )
            if rank is None:
                approx = FullRank(model=model, random_seed=random_seed, start=start)
            else:
                group = {"random_seed": random_seed, "start": start, "rank": rank}
                approx = OneGroup(LowRankGroup(model.free_RVs, model=model, **group))
            super().__init__(
                _BaMOperator, approx, None, step=full_rank if rank is None else low_rank
            )
        self.seed = random_seed
        if start is None and self.approx.ddim <= MOST_CURVED:
            self._start_at_the_mode()

    def _start_at_the_mode(self) -> None:
        """Start at the Gaussian around the mode where its ELBO is above the usual start's.

        Far from the mode the matching step is no better than a Newton step where the density is
        not concave: it creeps.
        """
        [group] = self.approx.groups
        density = LogDensity(group.model)
        mode = find_mode(density, density.start)
        if mode is None:
            return
        mode = within_reach(density, mode)
        noise = np.random.default_rng(0).normal(size=(_DRAWS_AT_THE_START, group.ddim))
        usual = kind_of(group).of(group).dense()
        elbos = []
        for mean, cov in (usual, (mode.point, mode.cov)):
            factor = np.linalg.cholesky(cov)
            logp, _ = density(mean + noise @ factor.T)
            elbos.append(np.mean(logp) + np.log(np.diag(factor)).sum())
        # A NaN of the usual start loses.
        if not elbos[0] > elbos[1]:
            family_of(group).set_gaussian(mode.point, mode.cov)

    def default_rule(self) -> MatchedStop:
        """Return averages over two stretches of steps, compared."""
        return MatchedStop(trust=self.objective.op.trust)
