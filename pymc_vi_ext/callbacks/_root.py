"""Newton's method on the mean gradient of quasi-random draws: a fit's last digits."""

from __future__ import annotations

import itertools
import math

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.parameters import moments
from pymc_vi_ext.callbacks._averaging import distances
from pymc_vi_ext.state import FitState

# Draws of each column of the Jacobian. With half as many one of twenty fits of the eight schools
# ended a tenth of a standard deviation beside the root, and did not know it.
_JACOBIAN_DRAWS = 256
# Sequences and draws of each; and how many times smaller than the accuracy the last step on them
# and the standard errors must be to end it there: errors of few draws are not well known.
_ROUNDS: Rounds = ((4, 256, 1e12), (16, 256, 10.0), (16, 1_024, 1.0))
# The same of data that are fed, in stretches of whole passes over them.
_SEQUENCES_FED = ((2, 1e12), (6, 2.0))
# How often sequences are added at most, and steps on the same ones.
_MOST_TIMES, _MOST_STEPS = 5, 10
# Most parameters of a Jacobian; evaluations that a round takes as a rule, and the fewest rounds.
MOST_PARAMETERS, _EVALUATIONS, _FEWEST_ROUNDS = 300, 2, 2
# How far a parameter is moved for its column: so much in means (in sds) or logarithms of sds.
_CHANGE = 0.05
# Steps are no longer than this, in means or log sds.
_FURTHEST = 1.0
# From this condition number on, in units of what parameters do to moments, a Jacobian is singular.
_SINGULAR = 1e6


Rounds = tuple[tuple[int, int, float], ...]


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


# Steps may lead to where nothing is finite; each is looked at before it is taken.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def root_near(
    state: FitState, point: np.ndarray, accuracy: tuple[float, float], most: float
) -> Root | None:
    r"""Return the root of the mean gradient near `point`, None where it is not found.

    :math:`G_r(\theta)` is the mean move of the parameters over the quasi-random draws of sequence
    :math:`r`; where it is 0, so is the gradient. With the Jacobian :math:`J`, by differences and
    then by Broyden's updates, steps :math:`-J^{-1} \bar G` lead to the root of the mean
    :math:`\bar G` of several sequences, until they are shorter than the accuracy: what is left
    after the last is of second order, or what the Jacobian is off by. The spread of
    :math:`-J^{-1} G_r` there is the standard error of the result: sequences are scrambled
    independently (Owen, 1997). No learning rate is in it, and no direction is too long for it.

    Where data are fed, the draws of a sequence go with batches of whole passes over them, each
    sequence with the next passes, so that the mean over a sequence is that over all data: no noise
    of batches is in it, but for the rows of a last batch that belong to the next pass, which the
    spread shows.

    Parameters
    ----------
    state : FitState
        With an optimizer whose moves are linear.
    point : array of shape (size,)
    accuracy : tuple of float
        Of means, in sds, and of log sds.
    most : float
        About how many draws may be taken: it ends with the accuracy that these allow, and does not
        begin where they are not enough.

    References
    ----------
    Broyden, C. (1965). A class of methods for solving nonlinear simultaneous equations. Mathematics
    of Computation 19(92).

    Owen, A. (1997). Scrambled net variance for integrals of smooth functions. Annals of Statistics
    25(4).

    Liu, S. and Owen, A. (2021). Quasi-Monte Carlo quasi-Newton in variational Bayes. JMLR 22(243).
    """
    left = most - _steps(state, (len(point) + 1) * _JACOBIAN_DRAWS)
    rounds = _rounds(state)
    if len(point) > MOST_PARAMETERS or not state.quasi_noise.rows or left < _cost(state):
        return None
    approx = state.approx
    units = _units(approx, point)
    seed = state.fresh_seed()
    jacobian = None if units is None else _jacobian(state, point, units, seed)
    if units is None or jacobian is None:
        return None
    # A direction without slope is a choice that the family leaves open, or where nothing is known.
    if not np.linalg.cond(jacobian) < _SINGULAR:
        return None
    inverse = np.linalg.inv(jacobian)
    seeds = itertools.count(seed + 1)

    def moves_at(point: np.ndarray, draws: int, own: Sequence[int]) -> np.ndarray:
        nonlocal left
        left -= _steps(state, len(own) * draws)
        stretches = [number - seed - 1 for number in own]
        moves: np.ndarray = state.mean_moves([point] * len(own), draws, own, stretches) / units
        return moves

    for number, (sequences, draws, surely) in enumerate(rounds):
        if number >= _FEWEST_ROUNDS and left < _steps(state, _EVALUATIONS * sequences * draws):
            break
        own = list(itertools.islice(seeds, sequences))
        moves = moves_at(point, draws, own)
        for _ in range(_MOST_STEPS):
            step = -inverse @ moves.mean(axis=0)
            lengths = np.asarray(distances(approx, point + step * units, point))
            if not np.isfinite(lengths).all():
                return None
            if np.all(lengths < accuracy):
                break
            step *= min(1.0, _FURTHEST / lengths.max())
            point = point + step * units
            before, moves = moves, moves_at(point, draws, own)
            inverse = _updated(inverse, step, (moves - before).mean(axis=0))
        else:
            return None
        errors = _standard_errors(approx, point - moves @ inverse.T * units)
        size, of_one = sequences, draws
        if np.all(np.maximum(errors, lengths) * surely < accuracy):
            break
    for _ in range(_MOST_TIMES):
        if np.all(np.asarray(errors) < accuracy) or left < _steps(state, size * of_one):
            break
        own = list(itertools.islice(seeds, size))
        moves = np.concatenate([moves, moves_at(point, of_one, own)])
        errors = _standard_errors(approx, point - moves @ inverse.T * units)
    end = point - inverse @ moves.mean(axis=0) * units
    if not np.isfinite([*errors, *end]).all():
        return None
    return Root(end, *errors, len(moves) * of_one)


def steps_of_root(state: FitState, size: int) -> int:
    """Return about how many steps :func:`root_near` takes at least, of `size` parameters."""
    return _steps(state, (size + 1) * _JACOBIAN_DRAWS) + _cost(state)


def _steps(state: FitState, draws: int) -> int:
    """Return how many steps draws take: of data that are fed, each and its mirror image."""
    return 2 * draws if state.feed else draws


def _rounds(state: FitState) -> Rounds:
    """Return sequences, draws of each and what is asked of their errors, round by round."""
    if not state.feed:
        return _ROUNDS
    a_pass = state.feed.steps_a_pass
    draws = round(math.ceil(_ROUNDS[0][1] / a_pass) * a_pass)
    return tuple((sequences, draws, surely) for sequences, surely in _SEQUENCES_FED)


def _cost(state: FitState) -> int:
    """Return about how many steps the first rounds take."""
    fewest = _rounds(state)[:_FEWEST_ROUNDS]
    return _steps(state, sum(_EVALUATIONS * size * draws for size, draws, _ in fewest))


def _updated(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return Broyden's next inverse: `change`, what a `step` changed, takes it to `step`."""
    expected = inverse @ change
    scale = step @ expected
    if scale == 0:
        return inverse
    new: np.ndarray = inverse + np.outer(step - expected, step @ inverse) / scale
    return new


def _standard_errors(approx: Approximation, ends: np.ndarray) -> tuple[float, float]:
    means, log_sds = moments(approx, ends)
    of_means = means.std(axis=0, ddof=1) / np.exp(log_sds.mean(axis=0))
    of_sds = log_sds.std(axis=0, ddof=1)
    root = np.sqrt(len(ends))
    return float(of_means.max() / root), float(of_sds.max() / root)


def _jacobian(
    state: FitState, point: np.ndarray, units: np.ndarray, seed: int
) -> np.ndarray | None:
    """Return the Jacobian of the mean move, both in `units`, (size, size)."""
    points = [point, *(point + np.diag(units))]
    here, *there = state.mean_moves(points, _JACOBIAN_DRAWS, [seed] * len(points))
    jacobian = (np.asarray(there) - here).T / units[:, None]
    return jacobian if np.isfinite(jacobian).all() else None


def _units(approx: Approximation, point: np.ndarray) -> np.ndarray | None:
    """Return by how much each parameter may move for the moments to change a little.

    None where one changes none, as far as that can be seen.
    """
    sizes = 2.0 ** np.arange(-60, 61)
    units = np.empty_like(point)
    for j in range(len(point)):
        moved = np.tile(point, (len(sizes), 1))
        moved[:, j] += sizes
        with np.errstate(over="ignore", invalid="ignore"):
            means, log_sds = moments(approx, moved)
            own_means, own_log_sds = moments(approx, point)
            of_means = np.max(abs(means - own_means) / np.exp(own_log_sds), axis=-1)
            change = np.maximum(of_means, np.max(abs(log_sds - own_log_sds), axis=-1))
        large = np.flatnonzero(~(change < _CHANGE))
        if not len(large) or large[0] == 0:
            return None
        units[j] = sizes[large[0] - 1]
    return units
