"""Where else the posterior may be: points from far away, climbed and moved as one batch."""

from __future__ import annotations

import time

from dataclasses import dataclass

import numpy as np
import pymc as pm

from pymc_vi_ext.correction._hmc import ACCEPTANCE, LENGTH, ManyChains, Path
from pymc_vi_ext.correction._regions import Regions
from pymc_vi_ext.interrupts import check
from pymc_vi_ext.modes import prior_points

# Steps of a climb, transitions in the heat, and after it; more of these as long as something is
# elsewhere then, which may be on a long way back.
_MOST_STEPS, _HOT, _TRANSITIONS = 300, 50, (20, 100, 400)
# From the coolest to the hottest.
_TEMPERATURES = (2.0, 10.0)
# How far lines are followed, in standard deviations of the draws, and along how many variables.
_ALONG = np.concatenate([np.arange(2.0, 20.0), np.geomspace(20.0, 1_000.0, 20)])
_MOST_LINES = 500
# Numbers that all points on these lines are, at most.
_MOST_NUMBERS = 20_000_000
# How far points are scattered that no prior gives, in standard deviations of the draws.
_SCATTER = 10.0
# One that stays elsewhere is no nearer after the last transitions than this part of before.
_STAYS = 0.9
# Nats that the logarithm of its mass may be below that of the draws, by Gaussians.
_NEGLIGIBLE = 10.0
# Nats below the draws' usual log density that a place may be and still hold mass worth a word.
_LOW = 20.0


@dataclass(frozen=True)
class Elsewhere:
    """What scouts found.

    Attributes
    ----------
    scouts : int
        How many there were; 0 if time was up before they had come anywhere.
    points : array of shape (n, d)
        Where those ended that are far from all draws and where the density is not low.
    """

    scouts: int
    points: np.ndarray


def look_elsewhere(
    chains: ManyChains,
    model: pm.Model,
    draws: np.ndarray,
    regions: Regions,
    rng: np.random.Generator,
    until: float = np.inf,
) -> Elsewhere:
    """Look for mass that none of the draws is near.

    Half of the scouts begin at draws of the prior, or scattered around the draws where it is
    improper; a quarter where the density rises again on a line from the mean along one variable, or
    all of them. They climb until the density is what it usually is at the draws: not to a mode,
    which may be a spike that holds no mass. The others begin at the draws and cross what is between
    modes at temperatures above 1. All go on by Hamiltonian Monte Carlo, and count where they are
    far from all draws then.

    Parameters
    ----------
    chains : ManyChains
        In units of the posterior, which they keep.
    model : pymc.Model
    draws : array of shape (n, d)
        Of the posterior, or of that part of it which is known.
    regions : Regions
        That these are in.
    rng : numpy.random.Generator
    until : float
        ``time.perf_counter()`` at which scouts give up.
    """
    chains.progress.say("scouts look for mass elsewhere")
    mean, sd = draws.mean(axis=0), draws.std(axis=0)
    some = draws[rng.integers(len(draws), size=chains.chains)]
    chains.begin(some)
    usual, level = float(np.median(chains.lp)), float(np.median(chains.target))
    sd = np.maximum(sd, 1e-300)
    chains.acceptance, chains.length = ACCEPTANCE, LENGTH
    # That of the posterior: where it is too long for scouts, their own get shorter. One that is
    # right for all of them would be tiny, and trajectories of hundreds of steps.
    chains.find_step_size(rng)
    half = chains.chains // 2
    far, rising = _far_points(model, some[:half], sd, rng), _rising(chains, mean, sd, rng)
    if len(rising):
        # Several from each: one may be near the draws by chance.
        rising = np.resize(rising, (half // 2, chains.d))
    there = half + len(rising)
    _climb(chains, np.concatenate([far, rising, some[there:]]), level, until)
    cool = np.ones(chains.chains)
    hot = np.geomspace(*_TEMPERATURES, len(cool) - there)
    chains.heat(np.concatenate([cool[:there], hot]))
    chains.run(_HOT, rng, until, alone=True)
    chains.heat(cool)
    found = np.ones(chains.chains, dtype=bool)
    for transitions in _TRANSITIONS:
        before = regions.reach_of(chains.x)
        path = chains.run(transitions, rng, until, alone=True)
        if time.perf_counter() > until:
            return Elsewhere(0, draws[:0])
        reach = regions.reach_of(chains.x)
        found = (reach > 1) & (chains.lp > usual - _LOW)
        if transitions == _TRANSITIONS[-1]:
            # One that is still nearing is on its way back, as down a ridge.
            found &= reach > _STAYS * before
            found &= _log_mass(chains, path, found) > level - _NEGLIGIBLE
        if not found.any():
            break
    return Elsewhere(chains.chains, chains.x[found])


def _log_mass(chains: ManyChains, path: Path, some: np.ndarray) -> np.ndarray:
    """Return about the logarithm of the mass, (chains,), that there is around each of the chains.

    The mean log density of a chain, and the logarithm of the volume that `some` of the chains cover
    together, were the chains' own coordinates independent; but for what is the same of all
    Gaussians of a dimension. A chain alone, with the steps and the metric of another place, covers
    little of a mode. On the model's space a neck, where all of many effects move as one, would seem
    as wide as that in all of them.
    """
    count, n, d = path.points.shape
    u, log_jacobian = chains.standardised(path.points.reshape(-1, d))
    u, target = u.reshape(count, n, d), path.logp + log_jacobian.reshape(count, n)
    # Some may be where there are no coordinates.
    known = np.isfinite(u).all(axis=(1, 2)) & np.isfinite(target).all(axis=1)
    mass = np.full(count, -np.inf)
    if (some & known).any():
        sd = np.maximum(u[some & known].std(axis=(0, 1)), 1e-300)
        mass[known] = target[known].mean(axis=1) + np.log(sd).sum()
    return mass


def _far_points(
    model: pm.Model, some: np.ndarray, sd: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    scattered: np.ndarray = some + _SCATTER * sd * rng.normal(size=some.shape)
    try:
        prior = prior_points(model, len(some), rng)
    except (ValueError, NotImplementedError, ArithmeticError):
        # An improper prior, or one that cannot be drawn from: PyTensor's inverse gamma of .001
        # divides by draws that are 0.
        return scattered
    usable = prior[np.isfinite(prior).all(axis=1)]
    scattered[: len(usable)] = usable
    return scattered


def _rising(
    chains: ManyChains, mean: np.ndarray, sd: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return points, highest first, where the density is higher than before and after on a line."""
    d = len(mean)
    count = min(d, _MOST_LINES, _MOST_NUMBERS // (2 * len(_ALONG) * d))
    chosen = rng.choice(d, count, replace=False)
    lines = np.zeros((count + 1, d))
    lines[np.arange(count), chosen] = sd[chosen]
    lines[count] = sd
    lines = np.concatenate([lines, -lines])
    points = mean + _ALONG[:, None, None] * lines
    flat = points.reshape(-1, len(mean))
    logp = chains.log_density(flat).reshape(points.shape[:2])
    with np.errstate(invalid="ignore"):
        tops = (logp[1:-1] > logp[:-2]) & (logp[1:-1] >= logp[2:])
    found, heights = points[1:-1][tops], logp[1:-1][tops]
    highest: np.ndarray = found[np.argsort(-heights)]
    return highest


def _climb(chains: ManyChains, points: np.ndarray, level: float, until: float) -> None:
    """Climb until the target is `level`: a ball that rolls, and is held where it would rise.

    Each has a step size of its own, which grows while the density does.
    """
    chains.begin(points)
    steps = chains.first_steps()
    for _ in range(_MOST_STEPS):
        check()
        climbing = chains.target < level
        if not climbing.any() or time.perf_counter() > until:
            return
        higher = chains.roll(np.where(climbing, steps, 0.0))
        steps = np.where(higher, 1.1 * steps, 0.5 * steps)
