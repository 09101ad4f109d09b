"""Short chains that grow until nothing moves any more."""

from __future__ import annotations

import time

from dataclasses import dataclass, replace

import numpy as np

from pymc_vi_ext.correction._hmc import ManyChains, Path
from pymc_vi_ext.diagnostics.chains import (
    SETTLED_ESS,
    SETTLED_MEANS,
    SETTLED_RHAT,
    SETTLED_SDS,
)
from pymc_vi_ext.upstream import array_stats

# Transitions of the first stretch; each next one has twice as many, up to the longest.
_FIRST, _LONGEST = 10, 10_240
# Numbers that the points of a stretch may be.
_MOST_NUMBERS = 40_000_000
# Where a standard deviation is this many times another than before, a stretch is no test of
# anything: the next has its metric, and is no longer. So often, at most.
_OTHER_SCALE, _MOST_REPEATS = 2.0, 30
# A larger one has no end; its square would soon be no number.
_NO_END = 1e100


@dataclass(frozen=True)
class Settled:
    """Chains, and what is known of how far they have settled.

    Attributes
    ----------
    path : Path
        The second half of the last stretch, taken with one metric and one step size.
    superchain : array of int of shape (chains,)
        Number of the draw that a chain was begun at.
    rhat : float
        Largest rank-normalised nested R-hat of all coordinates.
    moved, spread : float
        By how much pooled means, in standard deviations, and logarithms of pooled standard
        deviations differ most from those of the stretch before; infinite where there is none.
    ess : float
        Smallest bulk effective sample size of all coordinates.
    transitions : int
        Of each chain, in all.
    """

    path: Path
    superchain: np.ndarray
    rhat: float
    moved: float
    spread: float
    ess: float
    transitions: int

    @property
    def settled(self) -> bool:
        """Whether all four are as they have to be."""
        still = self.moved < SETTLED_MEANS and self.spread < SETTLED_SDS
        return still and self.rhat < SETTLED_RHAT and self.ess > SETTLED_ESS


def settle(
    chains: ManyChains,
    starts: np.ndarray,
    superchain: np.ndarray,
    scales: np.ndarray,
    rng: np.random.Generator,
    until: float = np.inf,
) -> Settled:
    """Run chains in stretches that double, until they have settled.

    In the first half of a stretch the step size adapts. The second is what is looked at, and its
    covariance the metric of the next.

    Parameters
    ----------
    chains : ManyChains
    starts : array of shape (chains, d)
        Of finite density. Chains of one superchain begin at one point.
    superchain : array of int of shape (chains,)
    scales : array of shape (n, d)
        Points whose covariance is the first metric.
    rng : numpy.random.Generator
    until : float
        ``time.perf_counter()`` at which no other stretch begins.

    References
    ----------
    Margossian, C. et al. (2024). Nested R-hat: assessing the convergence of Markov chain Monte
    Carlo when running many short chains. Bayesian Analysis. https://arxiv.org/abs/2110.13017
    """
    chains.adapt_to(scales)
    chains.begin(starts)
    chains.find_step_size(rng)
    longest = min(_LONGEST, _MOST_NUMBERS // starts.size)
    before: tuple[np.ndarray, np.ndarray] | None = None
    found: Settled | None = None
    transitions, length, repeats = 0, _FIRST, 0
    while True:
        first = chains.run(length // 2, rng, until)
        path = chains.run(length - length // 2, rng, until, adapting=False)
        transitions += len(first.leaps) + len(path.leaps)
        late = time.perf_counter() > until
        if late and found is not None:
            # A stretch that was cut short says less than the one before.
            return replace(found, transitions=transitions)
        pooled = path.points.reshape(-1, chains.d)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, sd = pooled.mean(axis=0), pooled.std(axis=0)
        if found is not None and not (np.isfinite(sd).all() and sd.max() < _NO_END):
            # An improper posterior, which is left for ever.
            return replace(found, spread=np.inf, transitions=transitions)
        moved, spread = _moves(before, mean, sd)
        rhat, ess = _rhat(path, superchain), _ess(path)
        found = Settled(path, superchain, rhat, moved, spread, ess, transitions)
        if found.settled or late or 2 * length > longest:
            return found
        before, here = (mean, sd), chains.x
        chains.adapt_to(pooled)
        chains.begin(here)
        if spread > np.log(_OTHER_SCALE) and repeats < _MOST_REPEATS:
            repeats += 1
        else:
            length *= 2


def _rhat(path: Path, superchain: np.ndarray) -> float:
    draws = np.moveaxis(path.points, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = array_stats.rhat_nested(draws, superchain_ids=superchain, method="rank")
    # A coordinate that nothing moves has none.
    return float(np.max(np.where(np.isnan(found), np.inf, found)))


def _ess(path: Path) -> float:
    if path.points.shape[1] < 4:
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        found = array_stats.ess(path.points, chain_axis=0, draw_axis=1, method="bulk")
    return float(np.min(np.nan_to_num(found, nan=0.0)))


def _moves(
    before: tuple[np.ndarray, np.ndarray] | None, mean: np.ndarray, sd: np.ndarray
) -> tuple[float, float]:
    if before is None:
        return np.inf, np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.max(abs(mean - before[0]) / sd)
        spread = np.max(abs(np.log(sd / before[1])))
    return float(np.nan_to_num(moved, nan=np.inf)), float(np.nan_to_num(spread, nan=np.inf))
