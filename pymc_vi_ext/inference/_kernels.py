"""Kernels for Stein variational methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pytensor.gradient import disconnected_grad

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.upstream import Kernel

type Pair = tuple[pt.TensorVariable, pt.TensorVariable]
type Profile = tuple[pt.TensorVariable, pt.TensorVariable, pt.TensorVariable]


class Particles(NamedTuple):
    """What the sums need of all particles.

    Attributes
    ----------
    X, scores : TensorVariable of shape (n, d)
    scale : sequence of TensorVariable
        What the kernel's own `scale` returns of `X`.
    """

    X: pt.TensorVariable
    scores: pt.TensorVariable
    scale: Sequence[pt.TensorVariable]


class Sums(NamedTuple):
    r"""What some particles :math:`x_i` get from all :math:`x_j`.

    Attributes
    ----------
    driving : TensorVariable of shape (rows, d)
        :math:`\sum_j k(x_j, x_i)\, g_j`, `g` the scores.
    repulsion : TensorVariable of shape (rows, d)
        :math:`\sum_j \nabla_{x_j} k(x_j, x_i)`.
    trace : TensorVariable of shape (rows,), or None
        :math:`\sum_j \operatorname{tr} \nabla_{x_i} \nabla_{x_j} k(x_j, x_i)`; None where unknown.
    """

    driving: pt.TensorVariable
    repulsion: pt.TensorVariable
    trace: pt.TensorVariable | None


class SteinKernel(Kernel):
    """A kernel that gives its sums for a block of particles at a time."""

    in_blocks = True

    def scale(self, X: pt.TensorVariable) -> list[pt.TensorVariable]:
        """Return what all blocks need of all particles, (n, d): bandwidth, means ..."""
        raise NotImplementedError

    def sums(self, rows: pt.TensorVariable, particles: Particles) -> Sums:
        """Return the sums over all `particles` for those of `rows`, (rows, d)."""
        raise NotImplementedError


class _Radial(SteinKernel):
    r"""A kernel :math:`\phi(s)` of the squared distance `s`, with one bandwidth."""

    def bandwidth(self, X: pt.TensorVariable) -> pt.TensorVariable:
        raise NotImplementedError

    def profile(self, squares: pt.TensorVariable, bandwidth: pt.TensorVariable) -> Profile:
        r"""Return :math:`\phi`, :math:`w = -2 \phi'` and :math:`w'` at `squares`."""
        raise NotImplementedError

    def scale(self, X: pt.TensorVariable) -> list[pt.TensorVariable]:
        """Return the bandwidth."""
        return [self.bandwidth(X)]

    def sums(self, rows: pt.TensorVariable, particles: Particles) -> Sums:
        """Return the sums, by two products with the kernel's matrices (rows, n)."""
        X, scores, scale = particles
        norms = pt.sum(rows**2, axis=1)[:, None] + pt.sum(X**2, axis=1)[None, :]
        squares = pt.maximum(norms - 2.0 * rows.dot(X.T), 0.0)
        k, w, w_slope = self.profile(squares, *scale)
        repulsion = rows * pt.sum(w, axis=1, keepdims=True) - w.dot(X)
        trace = pt.sum(floatX(X.shape[1]) * w + 2.0 * squares * w_slope, axis=1)
        return Sums(k.dot(scores), repulsion, trace)


def _median_square(X: pt.TensorVariable) -> pt.TensorVariable:
    """Return the median of the squared distances over n/2 disjoint pairs.

    The pairs are the particles of the first half with those of the second. Particles are
    exchangeable, so these pairs are as good as any; sorting all n^2 of them, as PyMC does, costs
    far more than the rest of a step.
    """
    half = X.shape[0] // 2
    between = pt.sum((X[:half] - X[half : 2 * half]) ** 2, axis=1)
    # All particles in one place have no scale of their own.
    return pt.maximum(pt.sort(between)[half // 2], floatX(1e-12))


class RBF(_Radial):
    r"""Gaussian kernel with the median heuristic for its bandwidth.

    .. math::

        k(x, x') = \exp(-\|x - x'\|^2 / 2h), \qquad
        h = \tfrac12 \operatorname{median}_{i \ne j} \|x_i - x_j\|^2 / \log(n + 1)

    The median is over n/2 disjoint pairs.

    References
    ----------
    Liu, Q. and Wang, D. (2016). Stein variational gradient descent. https://arxiv.org/abs/1608.04471
    """

    def bandwidth(self, X: pt.TensorVariable) -> pt.TensorVariable:
        """Return `h`."""
        h = 0.5 * _median_square(X) / pt.log(floatX(X.shape[0]) + floatX(1.0))
        return pt.maximum(h, floatX(1e-12))

    def profile(self, squares: pt.TensorVariable, bandwidth: pt.TensorVariable) -> Profile:
        """Return the kernel and its slopes."""
        k = pt.exp(-squares / (2.0 * bandwidth))
        return k, k / bandwidth, -k / (2.0 * bandwidth**2)


class InverseMultiquadric(_Radial):
    r"""Inverse multiquadric kernel, :math:`k(x, x') = (1 + \|x - x'\|^2 / c)^{-1/2}`.

    Its tails fall slowly, so that particles far apart still repel each other. `c` is the median of
    the squared distances of n/2 disjoint pairs.

    References
    ----------
    Gorham, J. and Mackey, L. (2017). Measuring sample quality with kernels.
    https://arxiv.org/abs/1703.01717
    """

    def bandwidth(self, X: pt.TensorVariable) -> pt.TensorVariable:
        """Return `c`."""
        return _median_square(X)

    def profile(self, squares: pt.TensorVariable, bandwidth: pt.TensorVariable) -> Profile:
        """Return the kernel and its slopes."""
        k = 1.0 / pt.sqrt(1.0 + squares / bandwidth)
        return k, k**3 / bandwidth, -1.5 * k**5 / bandwidth**2


class Linear(SteinKernel):
    r"""Linear kernel in standard units of the particles, :math:`k(x, x') = u^T u' + 1`.

    With :math:`u = (x - m) / s`, `m` and `s` the particles' means and standard deviations. On a
    Gaussian posterior the fixed point with n > d particles has exactly its mean and covariance.

    References
    ----------
    Liu, Q. and Wang, D. (2018). Stein variational gradient descent as moment matching.
    https://arxiv.org/abs/1810.11693
    """

    def scale(self, X: pt.TensorVariable) -> list[pt.TensorVariable]:
        """Return means and standard deviations, (d,) each."""
        fixed = disconnected_grad(X)
        return [pt.mean(fixed, axis=0), pt.std(fixed, axis=0) + floatX(1e-12)]

    def sums(self, rows: pt.TensorVariable, particles: Particles) -> Sums:
        """Return the sums, without a matrix of all pairs."""
        X, scores, (mean, spread) = particles
        n = floatX(X.shape[0])
        u, own = (X - mean) / spread, (rows - mean) / spread
        driving = own.dot(u.T.dot(scores)) + pt.sum(scores, axis=0)
        trace = n * pt.sum(1.0 / spread**2) + pt.zeros_like(rows[:, 0])
        return Sums(driving, n * own / spread, trace)


class LinearRBF(SteinKernel):
    """The sum of the linear and the Gaussian kernel: moments right, and shape too.

    The Gaussian kernel alone makes particles too narrow in many dimensions.
    """

    _linear, _rbf = Linear(), RBF()

    def scale(self, X: pt.TensorVariable) -> list[pt.TensorVariable]:
        """Return those of both."""
        return [*self._linear.scale(X), *self._rbf.scale(X)]

    def sums(self, rows: pt.TensorVariable, particles: Particles) -> Sums:
        """Return the sums of both."""
        linear = self._linear.sums(rows, particles._replace(scale=particles.scale[:2]))
        rbf = self._rbf.sums(rows, particles._replace(scale=particles.scale[2:]))
        return Sums(*(a + b for a, b in zip(linear, rbf, strict=True)))


class Dense(SteinKernel):
    """A user's function of all particles, ``kernel(X) -> (k, repulsion)``, as PyMC's are."""

    in_blocks = False

    def __init__(self, function: Callable[[pt.TensorVariable], Pair]):
        super().__init__()
        self.function = function

    def scale(self, X: pt.TensorVariable) -> list[pt.TensorVariable]:
        """Return nothing."""
        return []

    def sums(self, rows: pt.TensorVariable, particles: Particles) -> Sums:
        """Return the sums for all particles at once."""
        k, repulsion = self.function(particles.X)
        return Sums(k.dot(particles.scores), repulsion, None)


KERNELS = {
    "imq": InverseMultiquadric(),
    "linear": Linear(),
    "linear_rbf": LinearRBF(),
    "rbf": RBF(),
}
"""Name for ``SVGD(kernel=...)`` -> kernel."""


def as_kernel(kernel: Any) -> SteinKernel:
    """Return the kernel that a name or a function means.

    Raises
    ------
    UnknownNameError
        If there is no kernel of this name.
    """
    if isinstance(kernel, SteinKernel):
        return kernel
    if callable(kernel):
        return Dense(kernel)
    if kernel not in KERNELS:
        raise UnknownNameError("kernel", kernel, KERNELS)
    return KERNELS[kernel]
