"""The last average of a fit: its phases, and what it may be off by."""

from __future__ import annotations

import itertools
import math

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.parameters import moments

# Steps between two looks, those of the first phase, how many times longer each next one is and how
# many times smaller its rate, and the number of phases.
LOOK = 256
_FIRST, RATIO, _PHASES = 2_048, 4, 3
# The part of a phase that is left out: it has to forget the rate before.
_FORGETTING = 1 / 4
# Numbers of batches whose spread is the standard error of their mean.
_BATCHES = (4, 12)


def phase_lengths(steps: int, least: float = 0.0) -> list[int]:
    """Return the lengths of the phases that `steps` are enough for, none if that is only one.

    The first has `least` steps at least.
    """
    first = LOOK * math.ceil(max(_FIRST, least) / LOOK)
    lengths = [first * RATIO**phase for phase in range(_PHASES)]
    # A phase begins at the next multiple of the steps between two looks.
    ends = itertools.accumulate(length + LOOK for length in lengths)
    enough = [length for length, end in zip(lengths, ends, strict=True) if end <= steps]
    return enough if len(enough) > 1 else []


def settled_part(blocks: np.ndarray) -> np.ndarray:
    """Return the blocks of a phase but the first ones, of the rate before."""
    return blocks[int(len(blocks) * _FORGETTING) :]


def standard_errors(approx: Approximation, blocks: np.ndarray) -> tuple[float, float]:
    """Return the largest standard errors of means, in sds, and of log sds, of a mean of blocks.

    From the spread of batches of them, the largest over several numbers of batches: iterates that
    are alike over long stretches show in few long batches only. Quasi-random noise of different
    batches cancels, so that the mean is better known than this says.
    """
    found = []
    for count in np.minimum(_BATCHES, len(blocks)):
        batches = [part.mean(axis=0) for part in np.array_split(blocks, count)]
        means, log_sds = moments(approx, np.asarray(batches))
        spread = means.std(axis=0, ddof=1) / np.exp(log_sds.mean(axis=0))
        found.append((np.max(spread), np.max(log_sds.std(axis=0, ddof=1))) / np.sqrt(count))
    of_means, of_sds = np.max(found, axis=0)
    return float(of_means), float(of_sds)


def biases(approx: Approximation, before: np.ndarray, now: np.ndarray) -> tuple[float, float]:
    r"""Return about what the average `now` is off by, as :func:`standard_errors` does.

    A bias of order :math:`\eta` is :math:`c \eta` now and was :math:`r c \eta` at the rate of the
    average `before`, :math:`r` times as large: it is their difference over :math:`r - 1`.
    """
    of_means, of_sds = distances(approx, before, now)
    return of_means / (RATIO - 1), of_sds / (RATIO - 1)


def distances(approx: Approximation, one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the largest distances of means, in sds, and of log sds."""
    (means, log_sds), (other_means, other_log_sds) = moments(approx, one), moments(approx, other)
    of_means = np.max(abs(means - other_means) / np.exp(other_log_sds))
    return float(of_means), float(np.max(abs(log_sds - other_log_sds)))
