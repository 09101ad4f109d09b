"""The covariance of few points in many dimensions."""

import numpy as np

from scipy.linalg import solve_triangular

# A standard deviation below this part of the largest coordinate is that of a point.
_NO_WIDTH = 1e-12


def factor_of(points: np.ndarray) -> np.ndarray:
    """Return a factor of the covariance of points (n, d), well conditioned however few they are.

    Correlations are shrunk to 0 by the weight that Chen et al. (2010) derive for Gaussians.

    References
    ----------
    Chen, Y., Wiesel, A., Eldar, Y. and Hero, A. (2010). Shrinkage algorithms for MMSE covariance
    estimation. IEEE Transactions on Signal Processing 58(10).
    """
    n, d = points.shape
    sd = points.std(axis=0)
    sd = np.maximum(sd, _NO_WIDTH * max(float(sd.max()), 1e-300))
    scaled = (points - points.mean(axis=0)) / sd
    correlation = scaled.T @ scaled / n
    square = float(np.sum(correlation**2))
    # Of a matrix whose trace is d.
    away = (n + 1 - 2 / d) * (square - d)
    weight = min(1.0, ((1 - 2 / d) * square + d**2) / away) if away > 0 else 1.0
    correlation = (1 - weight) * correlation + weight * np.eye(d)
    factor: np.ndarray = sd[:, None] * np.linalg.cholesky(correlation)
    return factor


def factors_of(points: np.ndarray, dense: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a factor of the covariance of points (n, d), and its inverse.

    Of a dense one matrices (d, d), else standard deviations (d,) and one over these.
    """
    if not dense:
        sd = np.maximum(points.std(axis=0), 1e-300)
        return sd, 1 / sd
    factor = factor_of(points)
    # Once: a triangular solution of a few rows takes longer than a product.
    identity = np.eye(len(factor))
    return factor, solve_triangular(factor, identity, lower=True, check_finite=False)


def times(points: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return a factor (d, d) or (d,) times each of points (n, d)."""
    product: np.ndarray = points * factor if factor.ndim == 1 else points @ factor.T
    return product
