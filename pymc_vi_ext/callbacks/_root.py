"""Newton's method on the mean gradient of quasi-random draws: a fit's last digits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.parameters import moments
from pymc_vi_ext.callbacks._averaging import distances
from pymc_vi_ext.state import FitState

# Draws of each column of the Jacobian; sequences of a step of Newton's method and draws of each,
# step by step until the result is good enough.
_JACOBIAN_DRAWS = 512
_SEQUENCES = ((4, 1_024), (4, 1_024), (4, 4_096), (4, 4_096), (16, 4_096))
# Most parameters of a Jacobian.
_MOST_PARAMETERS = 100
# How far a parameter is moved for its column: so much in means (in sds) or logarithms of sds.
_CHANGE = 0.05
# A step that moves means by more sds, or sds by more times, than this is not to be trusted.
_FURTHEST = 1.0
# Singular values of the Jacobian below this part of the largest are no directions of the family's.
_SINGULAR = 1e-6


class Root(NamedTuple):
    """Where the mean gradient vanishes.

    Attributes
    ----------
    point : array of shape (size,)
    of_means, of_sds : float
        Largest standard errors: of means, in sds, and of log sds.
    draws : int
        Of the last step.
    """

    point: np.ndarray
    of_means: float
    of_sds: float
    draws: int


def draws_needed(size: int) -> float:
    """Return how many draws a root costs as a rule; infinite for too many parameters."""
    return np.inf if size > _MOST_PARAMETERS else (size + 1) * _JACOBIAN_DRAWS + 24 * 1_024


def root_near(state: FitState, point: np.ndarray, accuracy: tuple[float, float]) -> Root | None:
    r"""Return the root of the mean gradient near `point`, None where it is not found.

    With :math:`G(\theta)` the mean move of the parameters over draws of the noise, whose root is
    that of the gradient, and its Jacobian :math:`J` by differences on common draws, each sequence
    of quasi-random points :math:`r` has a step :math:`-J^{-1} G_r`. Their mean is taken, and taken
    again; the spread of the last ones over independently scrambled sequences is its standard error
    (Owen, 1997). No learning rate is in the result, and no direction is too long for it.

    Parameters
    ----------
    state : FitState
        With an optimizer whose moves are linear.
    point : array of shape (size,)
    accuracy : tuple of float
        Of means, in sds, and of log sds.

    References
    ----------
    Liu, S. and Owen, A. (2021). Quasi-Monte Carlo quasi-Newton in variational Bayes. JMLR 22(243).
    """
    approx = state.approx
    units = _units(approx, point)
    jacobian = _jacobian(state, point, units)
    if jacobian is None:
        return None
    inverse = np.linalg.pinv(jacobian, rcond=_SINGULAR)
    found, seed = None, 0
    for sequences, draws in _SEQUENCES:
        seeds = range(seed + 1, seed + 1 + sequences)
        seed += sequences
        moves = np.stack([state.mean_move(point, draws, s) for s in seeds])
        ends = point - (moves / units) @ inverse.T * units
        end = ends.mean(axis=0)
        if not np.isfinite(end).all() or max(distances(approx, end, point)) > _FURTHEST:
            return None
        moved = distances(approx, end, point)
        errors = _standard_errors(approx, ends)
        found = Root(end, *errors, sequences * draws)
        point = end
        if np.all(np.maximum(moved, errors) < accuracy):
            break
    return found


def _standard_errors(approx: Approximation, ends: np.ndarray) -> tuple[float, float]:
    means, log_sds = moments(approx, ends)
    of_means = means.std(axis=0, ddof=1) / np.exp(log_sds.mean(axis=0))
    of_sds = log_sds.std(axis=0, ddof=1)
    root = np.sqrt(len(ends))
    return float(of_means.max() / root), float(of_sds.max() / root)


def _jacobian(state: FitState, point: np.ndarray, units: np.ndarray) -> np.ndarray | None:
    """Return the Jacobian of the mean move, both in `units`, (size, size)."""
    here = state.mean_move(point, _JACOBIAN_DRAWS, 0)
    columns = [
        (state.mean_move(point + moved, _JACOBIAN_DRAWS, 0) - here) / units
        for moved in np.diag(units)
    ]
    jacobian = np.stack(columns, axis=1)
    return jacobian if np.isfinite(jacobian).all() else None


def _units(approx: Approximation, point: np.ndarray) -> np.ndarray:
    """Return by how much each parameter may move for the moments to change a little."""
    sizes = 2.0 ** np.arange(-60, 31)
    means, log_sds = moments(approx, point)
    units = np.empty_like(point)
    for j in range(len(point)):
        moved = np.tile(point, (len(sizes), 1))
        moved[:, j] += sizes
        new_means, new_log_sds = moments(approx, moved)
        change = np.max(abs(new_means - means) / np.exp(log_sds), axis=-1)
        change = np.maximum(change, np.max(abs(new_log_sds - log_sds), axis=-1))
        units[j] = sizes[np.searchsorted(np.maximum.accumulate(change), _CHANGE) - 1]
    return units
