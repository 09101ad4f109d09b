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
from pymc_vi_ext.callbacks.matched import MatchedStop
from pymc_vi_ext.inference._base import EngineFit, continuous_model

# Draws a step.
_BATCH = 32
# Steps over which the penalty's weight halves first: smaller, and a far start is never left.
_SLOWER = 50.0


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
        rate = floatX(batch * d) / (1 + step / floatX(_SLOWER))
        part = rate / (1 + rate)
        U = rate * (weights * g_away).T.dot(g_away) + part * pt.outer(g_mean, g_mean)
        off = mu - z_mean
        V = factor.dot(factor.T) + rate * (weights * z_away).T.dot(z_away)
        V = V + part * pt.outer(off, off)
        K = cholesky((V + V.T) / 2)
        values, vectors = eigh(K.T.dot(U).dot(K))
        shrunk = 2.0 / (1.0 + pt.sqrt(1.0 + 4.0 * pt.maximum(values, 0.0)))
        root = K.dot(vectors) * pt.sqrt(shrunk)
        covariance = root.dot(root.T)
        new_mu = (1 - part) * mu + part * (covariance.dot(g_mean) + z_mean)
        rows, columns = np.tril_indices(d)
        new_factor = cholesky((covariance + covariance.T) / 2)[rows, columns]
        diagonal = pt.switch(rows == columns, new_factor, 1.0)
        packed = pt.switch(rows == columns, diagonal + pt.log(-pt.expm1(-diagonal)), new_factor)
        some = pt.any(finite)
        new_mu = pt.switch(some, new_mu, mu)
        packed = pt.switch(some, packed, group.params_dict["L_tril"])
        loss = pt.mean(approx.symbolic_logq - pt.switch(pt.isnan(logp), -np.inf, logp))
        drawn = approx.set_size_and_deterministic(
            [new_mu, packed, loss], batch, 0, more_replacements
        )
        updates = ObjectiveUpdates()
        updates[mu], updates[group.params_dict["L_tril"]], updates.loss = drawn
        updates[step] = step + floatX(1.0)
        updates.update(more_updates or {})
        return updates


class _BaMOperator(KL):
    objective_class = BaMObjective


class BaM(EngineFit, Inference):
    r"""Batch and match: a full-rank Gaussian whose scores match the posterior's.

    Each step draws a batch from the Gaussian, and moves it to the one whose score function is
    nearest to the posterior's at these draws, less a Kullback-Leibler penalty for moving far. The
    step has a closed form and no learning rate. For a Gaussian posterior a few steps are enough,
    whatever its conditioning; every step costs :math:`O(d^3)`.

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

    def stopping_rule(self) -> MatchedStop:
        """Return the rule behind ``convergence="default"``."""
        return MatchedStop()

    def fit(
        self, n: int = 1_000, *args: Any, obj_n_mc: int = _BATCH, **kwargs: Any
    ) -> Approximation:
        """As :meth:`ADVI.fit`, with `obj_n_mc` draws a step."""
        return super().fit(n, *args, obj_n_mc=obj_n_mc, **kwargs)
