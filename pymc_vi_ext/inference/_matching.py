"""The matching step of BaM in closed form, for each family that has one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.linalg import cholesky, eigh, solve

from pymc_vi_ext.approximations import LowRankGroup
from pymc_vi_ext.approximations._algebra import nearest_factors
from pymc_vi_ext.upstream import FullRankGroup

# Rounds of expectation maximisation that fit low-rank factors to a matched covariance, each step.
_ROUNDS = 8


@dataclass(frozen=True)
class Batch:
    r"""What a step knows of its draws and their scores, each of mean `m` and deviations.

    Attributes
    ----------
    mean, score : TensorVariable of shape (d,)
        :math:`\bar z` and :math:`\bar g`.
    away, score_away : TensorVariable of shape (draws, d)
        Deviations times the root of the draw's weight, so that :math:`C = a^T a`.
    rate : TensorVariable
        :math:`\lambda`, for the full rank over the dimension.
    """

    mean: pt.TensorVariable
    score: pt.TensorVariable
    away: pt.TensorVariable
    score_away: pt.TensorVariable
    rate: pt.TensorVariable

    @property
    def part(self) -> pt.TensorVariable:
        r""":math:`\lambda / (1 + \lambda)`."""
        return self.rate / (1 + self.rate)

    def columns(self, mu: pt.TensorVariable) -> tuple[pt.TensorVariable, pt.TensorVariable]:
        r"""Return `Q` and `R` with :math:`U = Q Q^T` and :math:`V = \Sigma + R R^T`."""
        root, root_part = pt.sqrt(self.rate), pt.sqrt(self.part)
        Q = pt.concatenate([root * self.score_away, root_part * self.score[None]]).T
        R = pt.concatenate([root * self.away, root_part * (mu - self.mean)[None]]).T
        return Q, R

    def moved(self, mu: pt.TensorVariable, pushed: pt.TensorVariable) -> pt.TensorVariable:
        r"""Return the next mean, of :math:`\Sigma' \bar g`."""
        return (1 - self.part) * mu + self.part * (pushed + self.mean)


def full_rank(group: FullRankGroup, batch: Batch) -> dict[SharedVariable, pt.TensorVariable]:
    r"""Solve :math:`\Sigma' U \Sigma' + \Sigma' = V`.

    With :math:`V = K K^T` and :math:`K^T U K = P \Lambda P^T` the solution is
    :math:`K P \operatorname{diag}(2 / (1 + \sqrt{1 + 4 \Lambda})) P^T K^T`.
    """
    d, mu, L_tril = group.ddim, group.params_dict["mu"], group.params_dict["L_tril"]
    # Of a whole covariance a batch can say much at once; of factors that carries its noise into
    # thousands of variances.
    batch = replace(batch, rate=floatX(d) * batch.rate)
    Q, R = batch.columns(mu)
    V = group.L.dot(group.L.T) + R.dot(R.T)
    K = cholesky((V + V.T) / 2, on_error="nan")
    half = K.T.dot(Q)
    values, vectors = _eigh(half.dot(half.T), d)
    root = K.dot(vectors) * pt.sqrt(2.0 / (1.0 + pt.sqrt(1.0 + 4.0 * values)))
    covariance = root.dot(root.T)
    rows, columns = np.tril_indices(d)
    factor = cholesky((covariance + covariance.T) / 2, on_error="nan")[rows, columns]
    diagonal = pt.switch(rows == columns, factor, 1.0)
    packed = pt.switch(rows == columns, _softplus_inverse(diagonal), factor)
    return {mu: batch.moved(mu, covariance.dot(batch.score)), L_tril: packed}


def low_rank(group: LowRankGroup, batch: Batch) -> dict[SharedVariable, pt.TensorVariable]:
    r"""Match without a matrix of d x d, and fit the factors to the covariance that results.

    With `Q` of as many columns as draws and one more, the solution is

    .. math::

        \Sigma' = V - V Q \left[\tfrac12 I + (Q^T V Q + \tfrac14 I)^{1/2}\right]^{-2} Q^T V,

    a diagonal and two factors (Modi et al., 2024, https://arxiv.org/abs/2410.22292). The family's
    nearest to it is found by rounds of expectation maximisation that begin at the present one.
    """
    mu, rho, W = (group.params_dict[name] for name in ("mu", "rho", "W"))
    noise = pt.softplus(rho) ** 2
    Q, R = batch.columns(mu)
    plus = pt.concatenate([W, R], axis=1)
    VQ = noise[:, None] * Q + plus.dot(plus.T.dot(Q))
    inner = Q.T.dot(VQ)
    values, vectors = _eigh((inner + inner.T) / 2, inner.shape[0])
    minus = VQ.dot(vectors) / (0.5 + pt.sqrt(values + 0.25))
    pushed = noise * batch.score + plus.dot(plus.T.dot(batch.score))
    pushed = pushed - minus.dot(minus.T.dot(batch.score))
    new_noise, factors = nearest_factors(
        noise, plus, minus, (noise, W), _ROUNDS, solve=solve, eye=pt.eye, maximum=pt.maximum
    )
    return {
        mu: batch.moved(mu, pushed),
        rho: _softplus_inverse(pt.sqrt(new_noise)),
        W: factors,
    }


def _eigh(matrix: pt.TensorVariable, d: Any) -> tuple[pt.TensorVariable, pt.TensorVariable]:
    """Return eigenvalues from 0 and eigenvectors of a matrix that may hold a NaN."""
    # No LAPACK takes one.
    finite = pt.all(pt.isfinite(matrix))
    values, vectors = eigh(pt.switch(finite, matrix, pt.eye(d)))
    return pt.switch(finite, pt.maximum(values, 0.0), np.nan), vectors


def _softplus_inverse(x: pt.TensorVariable) -> pt.TensorVariable:
    return x + pt.log(-pt.expm1(-x))
