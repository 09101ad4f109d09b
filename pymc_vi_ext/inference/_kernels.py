"""Kernels for Stein variational methods."""

import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.test_functions import Kernel
from pytensor.gradient import disconnected_grad

from pymc_vi_ext.errors import UnknownNameError

Terms = tuple[pt.TensorVariable, pt.TensorVariable]


def _distances(X: pt.TensorVariable) -> tuple[pt.TensorVariable, pt.TensorVariable]:
    """Return squared distances, (n, n), and the median over n/2 disjoint pairs.

    The pairs are the particles of the first half with those of the second. Particles are
    exchangeable, so these pairs are as good as any; sorting all n^2 of them, as PyMC does, costs
    far more than the rest of a step.
    """
    n = X.shape[0]
    norms = pt.sum(X**2, axis=1)
    squares = pt.maximum(norms[:, None] + norms[None, :] - 2.0 * X.dot(X.T), 0.0)
    half = n // 2
    between = pt.sum((X[:half] - X[half : 2 * half]) ** 2, axis=1)
    # All particles in one place have no scale of their own.
    return squares, pt.maximum(pt.sort(between)[half // 2], floatX(1e-12))


class RBF(Kernel):
    r"""Gaussian kernel with the median heuristic for its bandwidth.

    .. math::

        k(x, x') = \exp(-\|x - x'\|^2 / 2h), \qquad
        h = \tfrac12 \operatorname{median}_{i \ne j} \|x_i - x_j\|^2 / \log(n + 1)

    The median is over n/2 disjoint pairs.

    References
    ----------
    Liu, Q. and Wang, D. (2016). Stein variational gradient descent. https://arxiv.org/abs/1608.04471
    """

    def __call__(self, X: pt.TensorVariable) -> Terms:
        """Return the kernel matrix (n, n) and ``sum_j d k(x_j, x_i) / d x_j`` (n, d)."""
        squares, median = _distances(X)
        h = pt.maximum(0.5 * median / pt.log(floatX(X.shape[0]) + floatX(1.0)), floatX(1e-12))
        k = pt.exp(-squares / (2.0 * h))
        repulsion = (X * pt.sum(k, axis=1, keepdims=True) - pt.dot(k, X)) / h
        return k, repulsion


class InverseMultiquadric(Kernel):
    r"""Inverse multiquadric kernel, :math:`k(x, x') = (1 + \|x - x'\|^2 / c)^{-1/2}`.

    Its tails fall slowly, so that particles far apart still repel each other. `c` is the median of
    the squared distances of n/2 disjoint pairs.

    References
    ----------
    Gorham, J. and Mackey, L. (2017). Measuring sample quality with kernels.
    https://arxiv.org/abs/1703.01717
    """

    def __call__(self, X: pt.TensorVariable) -> Terms:
        """Return the kernel matrix (n, n) and ``sum_j d k(x_j, x_i) / d x_j`` (n, d)."""
        squares, scale = _distances(X)
        k = 1.0 / pt.sqrt(1.0 + squares / scale)
        cubes = k**3
        repulsion = (X * pt.sum(cubes, axis=1, keepdims=True) - pt.dot(cubes, X)) / scale
        return k, repulsion


class Linear(Kernel):
    r"""Linear kernel in standard units of the particles, :math:`k(x, x') = u^T u' + 1`.

    With :math:`u = (x - m) / s`, `m` and `s` the particles' means and standard deviations. On a
    Gaussian posterior the fixed point with n > d particles has exactly its mean and covariance.

    References
    ----------
    Liu, Q. and Wang, D. (2018). Stein variational gradient descent as moment matching.
    https://arxiv.org/abs/1810.11693
    """

    def __call__(self, X: pt.TensorVariable) -> Terms:
        """Return the kernel matrix (n, n) and ``sum_j d k(x_j, x_i) / d x_j`` (n, d)."""
        fixed = disconnected_grad(X)
        spread = pt.std(fixed, axis=0) + floatX(1e-12)
        u = (X - pt.mean(fixed, axis=0)) / spread
        return u.dot(u.T) + 1.0, floatX(X.shape[0]) * u / spread


class LinearRBF(Kernel):
    """The sum of the linear and the Gaussian kernel: moments right, and shape too.

    The Gaussian kernel alone makes particles too narrow in many dimensions.
    """

    def __call__(self, X: pt.TensorVariable) -> Terms:
        """Return the kernel matrix (n, n) and ``sum_j d k(x_j, x_i) / d x_j`` (n, d)."""
        linear, rbf = Linear()(X), RBF()(X)
        return linear[0] + rbf[0], linear[1] + rbf[1]


rbf = RBF()
KERNELS = {
    "imq": InverseMultiquadric(),
    "linear": Linear(),
    "linear_rbf": LinearRBF(),
    "rbf": rbf,
}
"""Name for ``SVGD(kernel=...)`` -> kernel."""


def as_kernel(kernel: object) -> object:
    """Return the kernel that a name means; another callable as it is.

    Raises
    ------
    UnknownNameError
        If there is no kernel of this name.
    """
    if not isinstance(kernel, str):
        return kernel
    if kernel not in KERNELS:
        raise UnknownNameError("kernel", kernel, KERNELS)
    return KERNELS[kernel]
