"""The Stein direction of particles, and the kernelised Stein discrepancy beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.operators import KSD
from pymc.variational.opvi import Approximation
from pymc.variational.stein import Stein
from pymc.variational.updates import adagrad_window, total_norm_constraint
from pytensor.tensor.linalg import cholesky, eigh, solve_triangular

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.inference._kernels import Particles, SteinKernel
from pymc_vi_ext.objectives.bounds import tempered_power
from pymc_vi_ext.probe import Probe
from pymc_vi_ext.upstream import KSDObjective, ObjectiveUpdates

type Matrices = list[pt.TensorVariable]


class SteinObjective(KSDObjective):
    """The Stein direction as a gradient; its loss is the kernelised Stein discrepancy."""

    op: SteinOperator

    def add_obj_updates(
        self,
        updates: ObjectiveUpdates,
        obj_n_mc: int | None = None,
        obj_optimizer: Any = adagrad_window,
        more_obj_params: Any = None,
        more_replacements: Any = None,
        total_grad_norm_constraint: float | None = None,
    ) -> None:
        """Add the moves of the particles, or of the sampler's parameters, and the loss."""
        op, approx = self.op, self.approx
        matrices, scores, logp = op.scores()
        X = pt.concatenate(matrices, axis=1)
        n = X.shape[0]
        factor = op.factor(matrices, scores)
        Y, scores_of_y = X, scores
        if factor is not None:
            Y = X.dot(factor)
            scores_of_y = solve_triangular(factor, scores.T, lower=True).T
        particles = Particles(Y, scores_of_y, op.draws(obj_n_mc), approx.ddim, op.batch)
        driving, repulsion, trace = self.tf.sums(particles)
        direction = (driving * op.weight / floatX(op.temperature) + repulsion) / n
        if factor is not None:
            direction = solve_triangular(factor, direction.T, lower=True, trans=1).T
        params = [*self.obj_params, *(more_obj_params or ())]
        z = approx.joint_histogram if approx.all_histograms else approx.symbolic_random
        # PyMC divides gradients by what it normalises losses by.
        gradient = -direction / approx.symbolic_normalizing_constant
        outputs = pytensor.grad(None, params, known_grads={z: gradient})
        # E (x - m) score' = -1 under the posterior, by Stein's identity: what it is of the
        # particles is their variance over the posterior's.
        ratio = -pt.sum((X - pt.mean(X, axis=0)) * scores) / (n * X.shape[1])
        slopes = pytensor.grad(None, params, known_grads={z: scores})
        outputs += [ratio, logp, op.probe.along(slopes, params)]
        if trace is not None:
            # The double sum of the Stein kernel; each pair enters the middle term from both ends.
            pairs = pt.sum(scores_of_y * (driving + 2.0 * repulsion)) + pt.sum(trace)
            outputs.append(pt.sqrt(pt.maximum(pairs, 0.0)) / n)
        found = approx.set_size_and_deterministic(outputs, obj_n_mc, 0, more_replacements)
        grads = found[: len(params)]
        if total_grad_norm_constraint is not None:
            grads = total_norm_constraint(grads, total_grad_norm_constraint)
        updates.update(obj_optimizer(grads, params))
        watched = (op.variance_ratio, op.probe.value, op.probe.slope)
        updates.update(zip(watched, found[len(params) :], strict=False))
        if op.step is not None:
            updates[op.step] = op.step + floatX(1.0)
        if trace is not None:
            updates.loss = found[-1]


class SteinOperator(KSD):
    r"""The Stein direction, with a preconditioner and at a temperature that may fall.

    Parameters
    ----------
    approx : Approximation
    temperature : float
        Divides the density's part of the direction.
    preconditioner : {None, "fisher", "hessian"}
    batch : int, optional
        Particles of a batch, of which each meets only those of its own.

    Attributes
    ----------
    returns_loss : bool
        Whether the kernel's second derivatives, and with them the discrepancy, are known.
    step, first, steps
        Counter of the steps, first power of the posterior, and steps until it is 1; see
        :meth:`tempered`.
    variance_ratio : SharedVariable
        Variance of the particles over the posterior's, after each step; NaN before the first.
    probe : Probe
        Of the log density at the particles, whose gradient the direction is made of.
    """

    objective_class = SteinObjective
    step: Any = None
    steps = 0

    def __init__(
        self,
        approx: Approximation,
        temperature: float = 1.0,
        preconditioner: str | None = None,
        batch: int | None = None,
    ):
        if preconditioner is not None and preconditioner not in PRECONDITIONERS:
            raise UnknownNameError("preconditioner", preconditioner, (*PRECONDITIONERS, None))
        super().__init__(approx, temperature=temperature)
        self.preconditioner, self.batch = preconditioner, batch
        self.variance_ratio = pytensor.shared(floatX(np.nan), "variance_ratio")
        self.probe = Probe(approx.params)

    def __call__(self, f: Any) -> SteinObjective:
        """Return the objective with the kernel `f`."""
        self.returns_loss = isinstance(f, SteinKernel) and f.has_trace
        objective: SteinObjective = super().__call__(f)
        return objective

    def tempered(self, first: float, steps: int) -> SteinOperator:
        """Return the operator of the posterior's power, which rises from `first` to 1."""
        op = type(self)(self.approx, self.temperature, self.preconditioner, self.batch)
        op.first, op.steps = first, steps
        op.step = pytensor.shared(floatX(0.0), "tempering_step")
        return op

    @property
    def weight(self) -> Any:
        """Power of the posterior at this step."""
        if self.step is None:
            return floatX(1.0)
        return tempered_power(self.step, self.first, self.steps)

    def draws(self, obj_n_mc: int | None) -> int:
        """Return the number of particles of a step."""
        if not self.approx.all_histograms:
            return obj_n_mc or 1
        return int(self.approx.groups[0].histogram.get_value(borrow=True).shape[0])

    def scores(self) -> tuple[Matrices, pt.TensorVariable, pt.TensorVariable]:
        """Return the particles of each group, (n, d of the group), all scores, (n, d), and log p.

        The last is the sum over the particles.
        """
        stein = Stein(self.approx, kernel=None, use_histogram=self.approx.all_histograms)
        return (
            [matrix.flatten(2) for matrix in stein.approx_symbolic_matrices],
            stein.dlogp * self.approx.symbolic_normalizing_constant,
            stein.logp_norm.sum() * self.approx.symbolic_normalizing_constant,
        )

    def factor(self, matrices: Matrices, scores: pt.TensorVariable) -> pt.TensorVariable | None:
        """Return the Cholesky factor of the preconditioner, (d, d), if there is one."""
        if self.preconditioner is None:
            return None
        matrix = PRECONDITIONERS[self.preconditioner](matrices, scores)
        return cholesky((matrix + matrix.T) / 2)


def _fisher(matrices: Matrices, scores: pt.TensorVariable) -> pt.TensorVariable:
    r"""Return the precision `H` with :math:`H C H = \Gamma`, covariances of particles and scores.

    At the posterior :math:`\Gamma` is the Fisher information and so is `H`. For a Gaussian
    posterior `H` is that too wherever the particles are, where :math:`\Gamma` alone would grow with
    the distance. Both are shrunk to their diagonals where particles are few.
    """
    factor = cholesky(_covariance(pt.concatenate(matrices, axis=1)))
    values, vectors = eigh(factor.T.dot(_covariance(scores)).dot(factor))
    root = (vectors * pt.sqrt(pt.maximum(values, 0.0) + floatX(1e-30))).dot(vectors.T)
    half = solve_triangular(factor, root, lower=True, trans=1)
    return solve_triangular(factor, half.T, lower=True, trans=1)


def _covariance(rows: pt.TensorVariable) -> pt.TensorVariable:
    n, d = rows.shape
    away = rows - pt.mean(rows, axis=0)
    outer, part = away.T.dot(away) / n, d / (n + d)
    return (1 - part) * outer + pt.diag(part * pt.diagonal(outer) + floatX(1e-30))


def _hessian(matrices: Matrices, scores: pt.TensorVariable) -> pt.TensorVariable:
    """Return the mean negative Hessian of the log density, with eigenvalues made positive."""
    columns = pt.jacobian(scores.sum(axis=0), matrices)
    mean = -pt.concatenate([pt.sum(c, axis=1) for c in columns], axis=1) / scores.shape[0]
    values, vectors = eigh((mean + mean.T) / 2)
    values = pt.abs(values)
    values = pt.maximum(values, floatX(1e-6) * pt.max(values) + floatX(1e-30))
    return (vectors * values).dot(vectors.T)


PRECONDITIONERS = {"fisher": _fisher, "hessian": _hessian}
"""Name for ``SVGD(preconditioner=...)`` -> metric of the particles and their scores, (d, d)."""
