"""Short chains that grow until nothing moves any more."""

from __future__ import annotations

import time

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pymc_vi_ext.correction._hmc import ACCEPTANCE, LENGTH, ManyChains, Path
from pymc_vi_ext.correction._regions import Regions, regions_of
from pymc_vi_ext.diagnostics.chains import (
    SETTLED_ESS,
    SETTLED_MEANS,
    SETTLED_RHAT,
    SETTLED_SD_ERROR,
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
# Chains go on until they are worth so many times what a PASS asks for: of 1,000 draws a mean is off
# by .1 standard deviations in one of 700 cases, of 2,000 in one of 130,000.
_ENOUGH = 2
# How many stretches follow on chains that have settled while standard deviations are not known
# well: a chain may still come back from far, or the tails are heavy.
_MOST_MORE = 2
# A larger one has no end.
_NO_END = 1e50
# From this length on chains are asked whether they are in several regions, where nested R-hat is
# above that.
_LONG_ENOUGH, _APART = 40, 1.02
# From it on too, a larger part of transitions that diverge is one of narrow places, where single
# chains are held fast unless steps are short: they aim at this acceptance then.
_NARROW, _CAREFUL = 0.002, 0.96
# Where a draw is worth less than this, and chains are that long, the slowest direction is walked
# through at random, and trajectories get twice as long, up to the longest: of a random walk that
# brings four times as much, and where it has not brought twice as much it is not done again.
_SLOW, _LONGEST_TRAJECTORIES = 0.2, 4 * np.pi
# From so many effective draws a dimension on their covariance is a good metric: of draws of a
# Gaussian in its units the axes differ by less than a factor of two.
_METRIC_ESS = 10
# Transitions after which chains that begin in other regions tell where these are.
_EXPLORING = 80


@dataclass(frozen=True)
class Settled:
    """Chains, and what is known of how far they have settled.

    Attributes
    ----------
    path : Path
        Taken with one metric and one step size: the second half of the last stretch, or more.
    superchain : array of int of shape (chains,)
        Number of the draw that a chain was begun at.
    rhat : float
        Largest rank-normalised nested R-hat of all coordinates.
    moved, spread : float
        By how much pooled means, in standard deviations, and logarithms of pooled standard
        deviations differ most from those of the stretch before, less two standard errors of that
        difference; infinite where there is none.
    ess : float
        Smallest bulk effective sample size of all coordinates.
    sd_error : float
        Largest standard error of the logarithm of a standard deviation of the variables, which are
        what the coordinates stand for; infinite where it has not been asked for.
    transitions : int
        Of each chain, in all.
    regions : Regions or None
        Between which the chains jumped; None if they are in one.
    """

    path: Path
    superchain: np.ndarray
    rhat: float
    moved: float
    spread: float
    ess: float
    sd_error: float
    transitions: int
    regions: Regions | None

    @property
    def points(self) -> np.ndarray:
        """All points of the path, (n, d)."""
        found: np.ndarray = self.path.points.reshape(-1, self.path.points.shape[-1])
        return found

    @property
    def settled(self) -> bool:
        """Whether the coordinates are as they have to be."""
        still = self.moved < SETTLED_MEANS and self.spread < SETTLED_SDS
        return still and self.rhat < SETTLED_RHAT and self.ess > _ENOUGH * SETTLED_ESS


def settle(
    chains: ManyChains,
    starts: np.ndarray,
    superchain: np.ndarray,
    scales: np.ndarray,
    sd_error: Callable[[Path], float],
    rng: np.random.Generator,
    until: float = np.inf,
    regions: Regions | None = None,
) -> Settled:
    """Run chains in stretches that double, until they have settled.

    In the first half of a stretch the step size adapts. The second is what is looked at, and its
    covariance the metric of the next. Once a metric is known well, and the chains are near to each
    other, the next stretches go on as they are, and what is looked at is all that has been taken
    with it. Where chains stay in several regions they jump between them as long as they can, and
    the metric is that within regions.

    Parameters
    ----------
    chains : ManyChains
    starts : array of shape (chains, d)
        Of finite density. Chains of one superchain begin at one point.
    superchain : array of int of shape (chains,)
    scales : array of shape (n, d)
        Points whose covariance is the first metric.
    sd_error : callable
        Gives that of :class:`Settled` for a path.
    rng : numpy.random.Generator
    until : float
        ``time.perf_counter()`` at which no other stretch begins.
    regions : Regions, optional
        Those that the chains begin in, where it is known that they are several.

    References
    ----------
    Margossian, C. et al. (2024). Nested R-hat: assessing the convergence of Markov chain Monte
    Carlo when running many short chains. Bayesian Analysis. https://arxiv.org/abs/2110.13017
    """
    chains.adapt_to(scales)
    chains.acceptance, chains.length = ACCEPTANCE, LENGTH
    chains.begin(starts)
    chains.find_step_size(rng)
    longest = min(_LONGEST, _MOST_NUMBERS // starts.size)
    before: _Moments | None = None
    found: Settled | None = None
    kept: Path | None = None
    transitions, length, repeats, more = 0, _FIRST, 0, _MOST_MORE
    worth_before = 0.0
    chains.progress.say("chains begin")
    while True:
        if kept is None:
            adapting = chains.run(length // 2, rng, until, regions=regions)
            transitions += len(adapting.leaps)
        wanted = length - length // 2 - (0 if kept is None else len(kept.leaps))
        path = chains.run(wanted, rng, until, regions=regions, adapting=False)
        transitions += len(path.leaps)
        late = time.perf_counter() > until
        if late and found is not None:
            # A stretch that was cut short says less than the one before.
            return replace(found, sd_error=sd_error(found.path), transitions=transitions)
        now = _Moments.of(path)
        moved, spread = (np.inf, np.inf) if before is None else now.moved_from(before)
        if kept is not None:
            path = kept.followed_by(path)
            now = _Moments.of(path)
        if found is not None and not now.sd.max() < _NO_END:
            # An improper posterior, which is left for ever.
            return replace(found, spread=np.inf, transitions=transitions)
        rhat, ess = _rhat(path, superchain), float(now.ess.min())
        found = Settled(path, superchain, rhat, moved, spread, ess, np.inf, transitions, regions)
        chains.progress.say(
            f"chains, {transitions:,} transitions: nested R-hat {rhat:.3f}, "
            f"{ess:,.0f} effective draws"
        )
        last = late or 2 * length > longest
        if found.settled or last:
            found = replace(found, sd_error=sd_error(path))
            known = found.sd_error < SETTLED_SD_ERROR
            # Half the variance is what twice the draws can be hoped to bring.
            hopeless = found.sd_error > np.sqrt(2) ** more * SETTLED_SD_ERROR
            if last or known or hopeless:
                return found
            more -= 1
        rescaled = before is None or _largest(now.scaled_from(before)) > np.log(_OTHER_SCALE)
        before, here = now, chains.x
        if regions is not None and path.jumps.any():
            regions = regions.of_draws(found.points, chains.dense)
        else:
            apart = length >= _LONG_ENOUGH and rhat > _APART
            regions = regions_of(path.points, chains.dense, rng) if apart else None
            regions = regions if regions is not None and len(regions) > 1 else None
        again = rescaled and repeats < _MOST_REPEATS
        kernel = chains.acceptance, chains.length
        if length >= _LONG_ENOUGH and not again:
            if path.diverging.mean() > _NARROW:
                chains.acceptance = _CAREFUL
            worth = ess / path.logp.size
            # Where several regions have just been found it is the way between them that is slow.
            along = regions is None or found.regions is not None
            if along and 2 * worth_before < worth < _SLOW:
                chains.length = min(2 * chains.length, _LONGEST_TRAJECTORIES)
                worth_before = worth
        steady = kernel == (chains.acceptance, chains.length) and not chains.held_fast
        near = length >= _LONG_ENOUGH and rhat < _APART and not rescaled and regions is None
        kept = path if steady and near and ess > _METRIC_ESS * chains.d else None
        if kept is None:
            chains.adapt_to(found.points if regions is None else regions.centred(found.points))
            chains.begin(here)
        if again:
            repeats += 1
            chains.find_step_size(rng)
        else:
            length *= 2


def settle_again(
    chains: ManyChains,
    known: np.ndarray,
    regions: Regions,
    elsewhere: np.ndarray,
    superchain: np.ndarray,
    sd_error: Callable[[Path], float],
    rng: np.random.Generator,
    until: float = np.inf,
) -> tuple[Settled, Regions]:
    """Settle with half of the chains begun where there is other mass than is known.

    Parameters
    ----------
    chains : ManyChains
        In units of the known draws.
    known : array of shape (n, d)
        Draws.
    regions : Regions
        Those that these are in.
    elsewhere : array of shape (m, d)
        Points that are in none of them.
    superchain : array of int of shape (chains,)
    sd_error : callable
    rng : numpy.random.Generator
    until : float

    Returns
    -------
    settled : Settled
    seen : Regions
        All that the chains were in when they began, and those known before.
    """
    groups = superchain.max() + 1
    there = elsewhere[rng.choice(len(elsewhere), groups // 2, replace=len(elsewhere) < groups // 2)]
    starts = np.concatenate([known[rng.integers(len(known), size=groups - len(there))], there])
    chains.begin(starts[superchain])
    chains.find_step_size(rng)
    chains.run(_EXPLORING, rng, until)
    path = chains.run(_EXPLORING, rng, until, adapting=False)
    seen = regions_of(path.points, chains.dense, rng)
    seen = seen.joined(regions)
    # Chains that begin together begin where one of them is now.
    _, first = np.unique(superchain, return_index=True)
    scales = seen.centred(chains.x)
    starts, several = chains.x[first][superchain], seen if len(seen) > 1 else None
    return settle(chains, starts, superchain, scales, sd_error, rng, until, several), seen


def _rhat(path: Path, superchain: np.ndarray) -> float:
    draws = np.moveaxis(path.points, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = array_stats.rhat_nested(draws, superchain_ids=superchain, method="rank")
    # A coordinate that nothing moves has none.
    return float(np.max(np.where(np.isnan(found), np.inf, found)))


@dataclass(frozen=True)
class _Moments:
    """Means, standard deviations, kurtoses and effective sample sizes, (d,), of a stretch."""

    mean: np.ndarray
    sd: np.ndarray
    kurtosis: np.ndarray
    ess: np.ndarray

    @classmethod
    def of(cls, path: Path) -> _Moments:
        _, n, d = path.points.shape
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            mean, sd = path.points.mean(axis=(0, 1)), path.points.std(axis=(0, 1))
            kurtosis = np.mean(((path.points - mean) / sd) ** 4, axis=(0, 1))
            ess = np.zeros(d)
            if n >= 4:
                ess = array_stats.ess(path.points, chain_axis=0, draw_axis=1, method="bulk")
        return cls(mean, sd, kurtosis, np.nan_to_num(ess, nan=0.0))

    @property
    def log_sd_variance(self) -> np.ndarray:
        """Variance, (d,), of logarithms of standard deviations: of a Gaussian, half of 1 / ESS."""
        with np.errstate(divide="ignore", invalid="ignore"):
            variance: np.ndarray = (self.kurtosis - 1) / (4 * self.ess)
        return variance

    def moved_from(self, before: _Moments) -> tuple[float, float]:
        """Return what means and logarithms of standard deviations have moved beyond noise."""
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt(1 / self.ess + 1 / before.ess)
            moved = abs(self.mean - before.mean) / self.sd - 2 * error
        error = np.sqrt(self.log_sd_variance + before.log_sd_variance)
        spread = self.scaled_from(before) - 2 * error
        return _largest(moved), _largest(spread)

    def scaled_from(self, before: _Moments) -> np.ndarray:
        """Return absolute logarithms, (d,), of what standard deviations have changed by."""
        with np.errstate(divide="ignore", invalid="ignore"):
            changed: np.ndarray = abs(np.log(self.sd / before.sd))
        return changed


def _largest(numbers: np.ndarray) -> float:
    """Return the largest, 0 at least; infinite if one is no number."""
    return max(float(np.max(np.where(np.isnan(numbers), np.inf, numbers))), 0.0)
