"""What families compute with: packed factors, scales, and parameters set by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pymc.variational.opvi import Group
from pytensor.compile.sharedvalue import SharedVariable

LOG_2PI = float(np.log(2 * np.pi))


def set_values(group: Group, values: Mapping[str, Any]) -> None:
    """Set parameters of `group` by name, in their own precision.

    Raises
    ------
    TypeError
        If a parameter is an expression of the user's, naming it.
    """
    for name, value in values.items():
        parameter = group.params_dict[name]
        if not isinstance(parameter, SharedVariable):
            raise TypeError(
                f"The parameter `{name}` of {type(group).__name__} is an expression of your own "
                "(`params=`), which cannot be set: leave `params` out, or set what it is made of."
            )
        parameter.set_value(np.asarray(value, dtype=parameter.get_value(borrow=True).dtype))


def length(parameter: pt.TensorVariable, axis: int) -> int:
    """Return the length of a parameter, a shared variable or a user's expression."""
    if isinstance(parameter, SharedVariable):
        return int(parameter.get_value(borrow=True).shape[axis])
    return int(parameter.shape[axis].eval())


def normal_log_density(standard: Any) -> Any:
    """Return the log density of standard normals, summed over the last axis; of any array."""
    return -0.5 * (standard**2 + LOG_2PI).sum(axis=-1)


def softplus_inverse(x: Any) -> np.ndarray:
    """Return what `softplus` maps to `x`."""
    inverse: np.ndarray = x + np.log(-np.expm1(-x))
    return inverse


def unpacked(packed: pt.TensorVariable, d: int) -> pt.TensorVariable:
    """Return lower triangular factors, (..., d, d), diagonals through a softplus as PyMC's."""
    rows, columns = np.tril_indices(d)
    positive = pt.switch(rows == columns, pt.softplus(packed), packed)
    batch = [packed.shape[i] for i in range(packed.ndim - 1)]
    return pt.set_subtensor(pt.zeros((*batch, d, d))[..., rows, columns], positive)


# Variables of a full covariance: one of more, its factor, gradients and an optimizer's moments of
# them would take more than 2 GB.
LARGEST_DENSE = 5_000


def refuse_dense(d: int) -> None:
    """Raise a ValueError where a matrix of `d` variables by `d` would be too large."""
    if d > LARGEST_DENSE:
        raise ValueError(
            f"A covariance of all {d:,} variables would take {8 * d**2 / 1e9:,.1f} GB, and of more "
            f'than {LARGEST_DENSE:,} none is made: use method="advi" or "lowrank_advi", whose '
            "memory grows in proportion to the variables."
        )


def packed_identity(d: int) -> np.ndarray:
    """Return PyMC's start of a packed factor, whose diagonal is softplus(1)."""
    refuse_dense(d)
    return np.eye(d)[np.tril_indices(d)]


def log_sd_of_factor(packed: np.ndarray, d: int) -> np.ndarray:
    """Return half the log of the diagonal of L L', (..., d), of packed factors (..., d(d+1)/2)."""
    rows = np.arange(d)
    starts = rows * (rows + 1) // 2
    factor = packed.copy()
    factor[..., starts + rows] = np.logaddexp(0.0, factor[..., starts + rows])
    return 0.5 * np.log(np.add.reduceat(factor**2, starts, axis=-1))


def mean_field_scales(cov: np.ndarray) -> np.ndarray:
    """Return the standard deviations of the mean field closest to a Gaussian in KL(q || p), (d,).

    They are conditional ones, one over the roots of the precision's diagonal.
    """
    return 1 / np.sqrt(np.diag(np.linalg.inv(cov)))


def packed_factor(cov: np.ndarray) -> np.ndarray:
    """Return the Cholesky factor as PyMC packs it, the diagonal before its softplus."""
    factor = np.linalg.cholesky(cov)
    diagonal = np.diag_indices(len(cov))
    factor[diagonal] = softplus_inverse(factor[diagonal])
    return factor[np.tril_indices(len(cov))]


def nearest_factors(
    noise: Any,
    plus: Any,
    minus: Any,
    start: tuple[Any, Any],
    rounds: int,
    *,
    solve: Callable[..., Any],
    eye: Callable[..., Any],
    maximum: Callable[..., Any],
) -> tuple[Any, Any]:
    r"""Return the diagonal plus low rank nearest to :math:`S = D + P P^T - M M^T`.

    Nearest in :math:`KL(N(0, S)\,\|\,N(0, \Psi + W W^T))`, by rounds of expectation maximisation
    for factor analysis, each :math:`O(d r (r + p + m))`; for arrays of NumPy and of PyTensor.

    Parameters
    ----------
    noise : array of shape (d,)
        Diagonal of `D`.
    plus, minus : array of shape (d, p) and (d, m)
        `P` and `M`.
    start : tuple of array of shape (d,) and (d, r)
        Where the rounds begin: :math:`\Psi` and `W`.
    rounds : int
    solve, eye, maximum : callable
        Of the arrays' library.

    Returns
    -------
    tuple of array of shape (d,) and (d, r)
        :math:`\Psi` and `W`.

    References
    ----------
    Rubin, D. and Thayer, D. (1982). EM algorithms for ML factor analysis. Psychometrika 47(1).
    """
    psi, factors = start
    rank = factors.shape[1]
    variances = noise + (plus**2).sum(axis=1) - (minus**2).sum(axis=1)
    for _ in range(rounds):
        scaled = factors / psi[:, None]
        gain = solve(eye(rank) + factors.T @ scaled, scaled.T)
        across = noise[:, None] * gain.T + plus @ (plus.T @ gain.T) - minus @ (minus.T @ gain.T)
        within = eye(rank) - gain @ factors + gain @ across
        factors = solve(within.T, across.T).T
        # Rounding may take a diagonal that is nearly nothing below 0.
        left = variances - (factors * across).sum(axis=1)
        psi = maximum(left, 1e-8 * variances)
    return psi, factors
