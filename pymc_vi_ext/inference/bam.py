"""Batch and match: a Gaussian fitted to the scores of the posterior, without a learning rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.approximations import FullRank
from pymc.variational.inference import Inference
from pymc.variational.operators import KL
from pymc.variational.opvi import (
    Approximation,
    ObjectiveFunction,
    ObjectiveUpdates,
    ParametrizationError,
)
from pytensor.tensor.linalg import cholesky, eigh

from pymc_vi_ext._quick import python_only
from pymc_vi_ext.approximations.start import gaussian, set_gaussian
from pymc_vi_ext.callbacks.matched import MatchedStop
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.inference._base import EngineFit, continuous_model
from pymc_vi_ext.modes import find_mode, within_reach

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
        r"""Return the next mean and factor.

        With draws :math:`z` of the batch and scores :math:`g = \nabla \log p`, their means
        :math:`\bar z, \bar g` and covariances `C`, :math:`\Gamma`,

        .. math::

            U = \lambda \Gamma + \tfrac{\lambda}{1 + \lambda} \bar g \bar g^T, \qquad
            V = \Sigma + \lambda C
                + \tfrac{\lambda}{1 + \lambda} (\mu - \bar z)(\mu - \bar z)^T,

        the next covariance solves :math:`\Sigma' U \Sigma' + \Sigma' = V`, and
        :math:`\mu' = \tfrac{1}{1 + \lambda} \mu + \tfrac{\lambda}{1 + \lambda}
        (\Sigma' \bar g + \bar z)`. With :math:`V = K K^T` and :math:`K^T U K = Q \Lambda Q^T` the
        solution is :math:`K Q \operatorname{diag}(2 / (1 + \sqrt{1 + 4 \Lambda})) Q^T K^T`.

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
        d, mu, factor = group.ddim, group.params_dict["mu"], group.L
        z, logp = group.symbolic_random, approx.sized_symbolic_logp
        scores = pt.grad(pt.sum(logp), z)
        # A draw where the density has no finite score says nothing about it.
        finite = pt.isfinite(logp) & pt.all(pt.isfinite(scores), axis=1)
        weights = finite.astype(z.dtype)[:, None] / pt.maximum(pt.sum(finite), 1)
        scores = pt.switch(finite[:, None], scores, 0.0)
        z_mean, g_mean = pt.sum(weights * z, axis=0), pt.sum(weights * scores, axis=0)
        z_away, g_away = z - z_mean, scores - g_mean
        step = pytensor.shared(floatX(0.0), "matching_step")
        trust = self.op.trust
        rate = trust * floatX(batch * d) / (1 + step / floatX(_SLOWER))
        part = rate / (1 + rate)
        U = rate * (weights * g_away).T.dot(g_away) + part * pt.outer(g_mean, g_mean)
        off = mu - z_mean
        V = factor.dot(factor.T) + rate * (weights * z_away).T.dot(z_away)
        V = V + part * pt.outer(off, off)
        K = cholesky((V + V.T) / 2, on_error="nan")
        inner = K.T.dot(U).dot(K)
        solvable = pt.all(pt.isfinite(inner))
        # No LAPACK takes a NaN.
        values, vectors = eigh(pt.switch(solvable, inner, pt.eye(d)))
        shrunk = 2.0 / (1.0 + pt.sqrt(1.0 + 4.0 * pt.maximum(values, 0.0)))
        root = K.dot(vectors) * pt.sqrt(shrunk)
        covariance = root.dot(root.T)
        new_mu = (1 - part) * mu + part * (covariance.dot(g_mean) + z_mean)
        rows, columns = np.tril_indices(d)
        new_factor = cholesky((covariance + covariance.T) / 2, on_error="nan")[rows, columns]
        diagonal = pt.switch(rows == columns, new_factor, 1.0)
        packed = pt.switch(rows == columns, diagonal + pt.log(-pt.expm1(-diagonal)), new_factor)
        losses = approx.symbolic_logq - pt.switch(pt.isnan(logp), -np.inf, logp)
        # Of the draws with a density: many posteriors have none at some.
        some = pt.sum(finite)
        mean = pt.sum(pt.switch(finite, losses, 0.0)) / pt.maximum(some, 1)
        away = pt.switch(finite, losses - mean, 0.0)
        error = pt.sqrt(pt.sum(away**2)) / pt.maximum(some, 1)
        L_tril = group.params_dict["L_tril"]
        kept_mu = pytensor.shared(mu.get_value(), "kept_mu")
        kept_L_tril = pytensor.shared(L_tril.get_value(), "kept_L_tril")
        kept_loss = pytensor.shared(floatX(np.inf), "kept_loss")
        kept_error = pytensor.shared(floatX(0.0), "kept_error")
        highest = kept_loss + 3 * (error + kept_error) + floatX(_RISE * d)
        back = pt.or_(2 * some < batch, pt.isnan(mean) | (mean > highest))
        # At the first step there is nowhere to go back to.
        back = pt.and_(back, step > 0)
        moves = pt.all(pt.isfinite(new_mu)) & pt.all(pt.isfinite(packed)) & (some > 1)
        fine = moves & ~back
        updates = ObjectiveUpdates()
        updates[mu] = pt.switch(back, kept_mu, pt.switch(moves, new_mu, mu))
        updates[L_tril] = pt.switch(back, kept_L_tril, pt.switch(moves, packed, L_tril))
        updates[kept_mu] = pt.switch(back, kept_mu, mu)
        updates[kept_L_tril] = pt.switch(back, kept_L_tril, L_tril)
        # Where it went back to is not judged again.
        updates[kept_loss] = pt.switch(back, floatX(np.inf), mean)
        updates[kept_error] = pt.switch(back, floatX(0.0), error)
        updates[trust] = pt.switch(fine, pt.minimum(2 * trust, floatX(1.0)), trust / _HELD_BACK)
        updates[step] = step + floatX(1.0)
        drawn = approx.set_size_and_deterministic(
            [*updates.values(), pt.mean(losses)], batch, 0, more_replacements
        )
        for variable, value in zip(updates, drawn, strict=False):
            updates[variable] = value
        updates.loss = drawn[-1]
        updates.update(more_updates or {})
        return updates


class _BaMOperator(KL):
    """Carries what multiplies the weight of the penalty, 1 where all goes well."""

    objective_class = BaMObjective

    def __init__(self, approx: Approximation):
        super().__init__(approx)
        self.trust = pytensor.shared(floatX(1.0), "trust")


class BaM(EngineFit, Inference):
    r"""Batch and match: a full-rank Gaussian whose scores match the posterior's.

    Each step draws a batch from the Gaussian, and moves it to the one whose score function is
    nearest to the posterior's at these draws, less a Kullback-Leibler penalty for moving far. The
    step has a closed form and no learning rate. For a Gaussian posterior a few steps are enough,
    whatever its conditioning; every step costs :math:`O(d^3)`.

    It starts at the mode, with the curvature there, where a mode is found and its ELBO is above
    that of the usual start; not with a `start` of the user's.

    The penalty's weight is :math:`\lambda_t = B d / (1 + t / 50)`, `B` draws a step (`obj_n_mc`).
    The default rule stops where averages over two stretches of steps agree, and the result is
    the average (:class:`~pymc_vi_ext.callbacks.MatchedStop`).

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
        If a free variable is discrete, or the batch has fewer than two draws.

    References
    ----------
    Cai, D. et al. (2024). Batch and match: black-box variational inference with a score-based
    divergence. ICML. https://arxiv.org/abs/2402.14758

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

    has_optimizer = False

    def __init__(
        self,
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
    ):
        model = continuous_model(model, "BaM")
        with python_only():
            approx = FullRank(model=model, random_seed=random_seed, start=start)
            super().__init__(_BaMOperator, approx, None)
        self.seed = random_seed
        if start is None:
            self._start_at_the_mode()

    def _start_at_the_mode(self) -> None:
        """Start at the Gaussian around the mode where its ELBO is above the usual start's.

        Far from the mode the matching step is no better than a Newton step where the density is
        not concave: it creeps.
        """
        [group] = self.approx.groups
        density = LogDensity(group.model)
        mode = None if density.random else find_mode(density, density.start)
        if mode is None:
            return
        mode = within_reach(density, mode)
        noise = np.random.default_rng(0).normal(size=(_DRAWS_AT_THE_START, group.ddim))
        usual = gaussian(group)
        elbos = []
        for mean, cov in (usual, (mode.point, mode.cov)):
            factor = np.linalg.cholesky(cov)
            logp, _ = density(mean + noise @ factor.T)
            elbos.append(np.mean(logp) + np.log(np.diag(factor)).sum())
        # A NaN of the usual start loses.
        if not elbos[0] > elbos[1]:
            set_gaussian(group, mode.point, mode.cov)

    def stopping_rule(self) -> MatchedStop:
        """Return the rule behind ``convergence="default"``."""
        return MatchedStop(trust=self.objective.op.trust)

    def fit(
        self, n: int = 1_000, *args: Any, obj_n_mc: int = _BATCH, **kwargs: Any
    ) -> Approximation:
        """As :meth:`ADVI.fit`, with `obj_n_mc` draws a step."""
        return super().fit(n, *args, obj_n_mc=obj_n_mc, **kwargs)
