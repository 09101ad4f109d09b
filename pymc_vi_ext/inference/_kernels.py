"""Kernels for Stein variational methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pytensor.gradient import disconnected_grad

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.inference._pairs import pair_sums
from pymc_vi_ext.upstream import Kernel

type Pair = tuple[pt.TensorVariable, pt.TensorVariable]


class Particles(NamedTuple):
    """What a kernel's sums are made of.

    Attributes
    ----------
    X, scores : TensorVariable of shape (n, d)
    n, d : int
    batch : int or None
        Particles of a batch, of which each meets only those of its own; None where all meet.
    """

    X: pt.TensorVariable
    scores: pt.TensorVariable
    n: int
    d: int
    batch: int | None = None


class Sums(NamedTuple):
    r"""What each particle :math:`x_i` gets from all :math:`x_j`.

    Attributes
    ----------
    driving : TensorVariable of shape (n, d)
        :math:`\sum_j k(x_j, x_i)\, g_j`, `g` the scores.
    repulsion : TensorVariable of shape (n, d)
        :math:`\sum_j \nabla_{x_j} k(x_j, x_i)`.
    trace : TensorVariable of shape (n,), or None
        :math:`\sum_j \operatorname{tr} \nabla_{x_i} \nabla_{x_j} k(x_j, x_i)`; None where unknown.
    """

    driving: pt.TensorVariable
    repulsion: pt.TensorVariable
    trace: pt.TensorVariable | None


class SteinKernel(Kernel):
    """A kernel that gives its sums over all particles."""

    has_trace = True

    def sums(self, particles: Particles) -> Sums:
        """Return the sums for all particles."""
        raise NotImplementedError


class _Radial(SteinKernel):
    r"""A kernel :math:`\phi(\|x - x'\|^2 / b^2)` of the distance, with one bandwidth `b`."""

    def bandwidth(self, X: pt.TensorVariable) -> pt.TensorVariable:
        """Return the square of `b`."""
        raise NotImplementedError

    def profile(self, halves: pt.TensorVariable) -> Sequence[pt.TensorVariable]:
        r"""Return :math:`\phi`, :math:`w = -2 \phi'` and :math:`-2 w'` at minus half the squares.

        One matrix where the three are the same.
        """
        raise NotImplementedError

    def sums(self, particles: Particles) -> Sums:
        """Return the sums, from particles that are centred and in units of the bandwidth."""
        X, scores, n, d, batch = particles
        # Blocks are made before the engine knows the shapes of the particles.
        X, scores = pt.specify_shape(X, (n, d)), pt.specify_shape(scores, (n, d))
        width = pt.sqrt(self.bandwidth(X))
        points = (X - pt.mean(X, axis=0)) / width
        driving, repulsion, trace = pair_sums(self.profile, points, scores, batch)
        return Sums(driving, repulsion / width, trace / width**2)


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

    def profile(self, halves: pt.TensorVariable) -> Sequence[pt.TensorVariable]:
        """Return the kernel, which is its own slope."""
        return [pt.exp(halves)]


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

    def profile(self, halves: pt.TensorVariable) -> Sequence[pt.TensorVariable]:
        """Return the kernel and its slopes."""
        square = 1 / (1 - 2 * halves)
        k = pt.sqrt(square)
        return [k, k * square, 3 * k * square**2]


class Linear(SteinKernel):
    r"""Linear kernel in standard units of the particles, :math:`k(x, x') = u^T u' + 1`.

    With :math:`u = (x - m) / s`, `m` and `s` the particles' means and standard deviations. On a
    Gaussian posterior the fixed point with n > d particles has exactly its mean and covariance.

    References
    ----------
    Liu, Q. and Wang, D. (2018). Stein variational gradient descent as moment matching.
    https://arxiv.org/abs/1810.11693
    """

    def sums(self, particles: Particles) -> Sums:
        """Return the sums, without a matrix of all pairs."""
        X, scores, n, *_ = particles
        fixed = disconnected_grad(X)
        spread = pt.std(fixed, axis=0) + floatX(1e-12)
        u = (X - pt.mean(fixed, axis=0)) / spread
        driving = u.dot(u.T.dot(scores)) + pt.sum(scores, axis=0)
        trace = floatX(n) * pt.sum(1.0 / spread**2) + pt.zeros_like(X[:, 0])
        return Sums(driving, floatX(n) * u / spread, trace)


class LinearRBF(SteinKernel):
    """The sum of the linear and the Gaussian kernel: moments right, and shape too.

    The Gaussian kernel alone makes particles too narrow in many dimensions.
    """

    _linear, _rbf = Linear(), RBF()

    def sums(self, particles: Particles) -> Sums:
        """Return the sums of both."""
        both = zip(self._linear.sums(particles), self._rbf.sums(particles), strict=True)
        return Sums(*(a + b for a, b in both))


class Dense(SteinKernel):
    """A user's function of all particles, ``kernel(X) -> (k, repulsion)``, as PyMC's are."""

    has_trace = False

    def __init__(self, function: Callable[[pt.TensorVariable], Pair]):
        super().__init__()
        self.function = function

    def sums(self, particles: Particles) -> Sums:
        """Return the sums of the function's matrix."""
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
