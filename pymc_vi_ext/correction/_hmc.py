"""Hamiltonian Monte Carlo of many chains at once, on any backend."""

from __future__ import annotations

import time

from dataclasses import dataclass

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX

from pymc_vi_ext.correction._covariance import factor_of
from pymc_vi_ext.correction._regions import Regions
from pymc_vi_ext.engine.backend import make_loop
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.interrupts import check
from pymc_vi_ext.python_only import building

# Trajectories are this part of the longest, at random, so that none is as long as a period.
_SHORTEST = 0.2
# The longest: a quarter of the period of a Gaussian in its own units.
_LENGTH = np.pi / 2
ACCEPTANCE = 0.8
"""What the step size usually aims at."""
# How fast its logarithm follows.
_FOLLOWS = 0.3
# Each chain's steps are this part of its step size, at random at each transition: a chain that the
# step size of all holds fast (in the neck of a funnel) gets away in time.
_PARTS = (0.3, 1.2)
# A chain that accepts less than this takes steps that shrink so much each time, and grow again.
_STUCK, _SHRINK, _GROW = 0.01, 0.5, 1.2
# A first step size is not halved, or doubled, more often than this.
_MOST_HALVINGS = 60
# Most leapfrog steps of a trajectory.
_MOST_LEAPS = 256
# A trajectory that loses so many nats of energy has diverged, as Stan has it.
_DIVERGED = 1_000.0
# Dimensions up to which the metric has correlations: two products of the matrix a leapfrog step.
_MOST_DENSE = 1_000


@dataclass
class Path:
    """What the chains went through in a stretch of transitions.

    Attributes
    ----------
    points : array of shape (chains, transitions, d)
        On the unconstrained space.
    logp : array of shape (chains, transitions)
        Log density there, in nats.
    energy, acceptance : array of shape (chains, transitions)
        Of the point that was kept; of the proposal.
    diverging : array of bool of shape (chains, transitions)
    leaps, step_size : array of shape (transitions,)
        The same for all chains.
    jumps : array of shape (transitions,)
        Chains that jumped to another region before the transition.
    """

    points: np.ndarray
    logp: np.ndarray
    energy: np.ndarray
    acceptance: np.ndarray
    diverging: np.ndarray
    leaps: np.ndarray
    step_size: np.ndarray
    jumps: np.ndarray

    def part(self, some: slice | np.ndarray) -> Path:
        """Return some of the transitions."""
        return Path(
            self.points[:, some],
            self.logp[:, some],
            self.energy[:, some],
            self.acceptance[:, some],
            self.diverging[:, some],
            self.leaps[some],
            self.step_size[some],
            self.jumps[some],
        )

    def evenly(self, n: int) -> Path:
        """Return `n` of the transitions, at equal distances; all, where there are fewer."""
        there = self.points.shape[1]
        if there <= n:
            return self
        return self.part(np.linspace(0, there - 1, n).round().astype(int))

    def followed_by(self, more: Path) -> Path:
        """Return both, one after the other."""
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return Path(*(np.concatenate(pair, axis=min(pair[0].ndim - 1, 1)) for pair in pairs))


class ManyChains:
    r"""Chains of Hamiltonian Monte Carlo that share metric, step size and length.

    Chains move in coordinates :math:`u` in which the covariance given to :meth:`use_metric` is the
    identity, :math:`x = m + F u`, and so have momenta of unit mass. A step of the compiled program
    is one leapfrog step of all chains:

    .. math::

        p \leftarrow p + \tfrac \epsilon 2 \nabla \log \pi(u), \quad
        u \leftarrow u + \epsilon p, \quad
        p \leftarrow p + \tfrac \epsilon 2 \nabla \log \pi(u)

    What is done once a transition (momenta, acceptance, adaptation) is NumPy's. One program serves
    every metric, step size and length, and gives log densities of other points too.

    Parameters
    ----------
    density : LogDensity
    chains : int
    backend : {"auto", "jax", "numba", "c"}, optional

    Attributes
    ----------
    chains, d : int
    dense : bool
        Whether the metric has correlations; beyond 1,000 dimensions it is diagonal.
    backend : str
        What runs the program.
    x : array of shape (chains, d)
        Where the chains are, on the unconstrained space.
    lp : array of shape (chains,)
        Log density there, in nats, over the temperature, which is 1 but for :meth:`heat`.
    step_size : float
        Largest of all chains.
    acceptance : float
        What the step size aims at.
    leaps : int
        Leapfrog steps of each chain so far.

    References
    ----------
    Neal, R. (2011). MCMC using Hamiltonian dynamics. Handbook of Markov chain Monte Carlo.

    Hoffman, M., Radul, A. and Sountsov, P. (2021). An adaptive-MCMC scheme for setting trajectory
    lengths in Hamiltonian Monte Carlo. AISTATS.
    """

    def __init__(self, density: LogDensity, chains: int, backend: str | None = "auto"):
        d = len(density.start)
        self.chains, self.d, self.dense = chains, d, d <= _MOST_DENSE
        zeros = floatX(np.zeros((chains, d)))
        self._u, self._p, self._g = (pytensor.shared(zeros.copy(), name) for name in "upg")
        self._lp = pytensor.shared(zeros[:, 0].copy(), "lp")
        self._steps = pytensor.shared(zeros[:, :1].copy(), "step", shape=(None, 1))
        # Inverse temperatures.
        self._heat = pytensor.shared(floatX(np.ones(chains)), "heat")
        self._mean = pytensor.shared(zeros[0].copy(), "mean")
        # The rows are axes, which spares a transposition of the matrix at every step.
        self._axes = pytensor.shared(floatX(np.eye(d) if self.dense else np.ones(d)), "axes")
        with building():
            half = self._p + self._steps / 2 * self._g
            u = self._u + self._steps * half
            moved = pt.dot(u, self._axes) if self.dense else u * self._axes
            x = self._mean + moved
            lp, gradient = density.graph_at(x)
            g = pt.dot(gradient, self._axes.T) if self.dense else gradient * self._axes
            lp, g = lp * self._heat, g * self._heat[:, None]
            # An improper posterior ends where squares would soon be no numbers.
            furthest = np.cbrt(np.finfo(lp.type.dtype).max)
            updates = {
                self._u: u,
                self._p: half + self._steps / 2 * g,
                self._g: g,
                self._lp: pt.switch(
                    pt.isnan(lp) | (pt.max(abs(x), axis=1) > furthest), -np.inf, lp
                ),
            }
            program = StepProgram(
                {variable: new.astype(variable.type.dtype) for variable, new in updates.items()},
                check_bounds=density.check_bounds,
            )
            self._loop = make_loop(program, backend)
        self.backend = self._loop.backend
        self.step_size, self.acceptance = 0.5, ACCEPTANCE
        # What part of it a chain's own is: less where it is stuck in a narrow place.
        self._own = np.ones(chains)
        self.x = np.zeros((chains, d))
        self.lp = np.full(chains, -np.inf)
        self.leaps = 0
        self.use_metric(np.zeros(d), np.ones(d))

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Return log densities, (n,), in nats, at points (n, d). The chains' places are lost."""
        found = []
        for first in range(0, len(points), self.chains):
            some = points[first : first + self.chains]
            more = np.repeat(some[:1], self.chains - len(some), axis=0)
            self.begin(np.concatenate([some, more]))
            found.append(self.lp[: len(some)])
        return np.concatenate(found)

    def use_metric(self, mean: np.ndarray, factor: np.ndarray) -> None:
        """Take the coordinates in which a Gaussian is standard.

        Parameters
        ----------
        mean : array of shape (d,)
        factor : array of shape (d, d) or (d,)
            Of its covariance; of one dimension, the standard deviations, and so where the metric is
            not dense.
        """
        if self.dense and factor.ndim == 1:
            factor = np.diag(factor)
        self._origin, self._factor = mean, factor
        self._mean.set_value(floatX(mean))
        self._axes.set_value(floatX(factor.T.copy()))

    def heat(self, temperatures: np.ndarray) -> None:
        """Let each chain go on at a temperature T, at the density to the power of 1 / T."""
        self._heat.set_value(floatX(1 / temperatures))
        self.begin(self.x)

    def adapt_to(self, points: np.ndarray) -> None:
        """Take the coordinates in which points (n, d) have no correlations and unit variances."""
        spread = factor_of(points) if self.dense else np.maximum(points.std(axis=0), 1e-300)
        self.use_metric(points.mean(axis=0), spread)

    def begin(self, points: np.ndarray) -> None:
        """Put the chains at points (chains, d): a leapfrog step of no length evaluates there."""
        away = points - self._origin
        u = np.linalg.solve(self._factor, away.T).T if self.dense else away / self._factor
        self._u.set_value(floatX(u))
        self._p.set_value(floatX(np.zeros_like(u)))
        self._g.set_value(floatX(np.zeros_like(u)))
        self._take(np.zeros(self.chains), 1)
        self.x, self.lp = np.array(points, dtype=float), self._lp.get_value().astype(float)

    def find_step_size(self, rng: np.random.Generator) -> None:
        """Halve the step size until most steps of one leap are accepted, or double it.

        The chains stay where they are.
        """
        place = self._at()
        grows: bool | None = None
        for _ in range(_MOST_HALVINGS):
            *_, acceptance, _ = self._propose(rng, 1)
            self._put(*place)
            enough = self._mean_of(acceptance) > self.acceptance
            if grows is None:
                grows = enough
            if enough is not grows or (grows and self.step_size > _LENGTH):
                return
            self.step_size *= 2.0 if grows else 0.5

    def first_steps(self) -> np.ndarray:
        """Return step sizes, (chains,), of which one from rest goes no further than a unit."""
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = np.linalg.norm(self._g.get_value().astype(float), axis=1)
        slopes = np.nan_to_num(slopes, nan=1.0, posinf=1e300)
        steps: np.ndarray = np.minimum(1.0, np.sqrt(2 / np.maximum(slopes, 1e-300)))
        return steps

    def roll(self, steps: np.ndarray) -> np.ndarray:
        """Go on by a leapfrog step each, with the momenta there are; tell which have got higher.

        The others are put back and come to rest, and so do those that begin to slow down.
        """
        before = (*self._at(), self.x)
        self._take(steps, 1)
        u, lp, g = self._at()
        with np.errstate(over="ignore", invalid="ignore"):
            higher: np.ndarray = lp > before[1]
            moved = self._position(u)
        kept = [
            np.where(higher if new.ndim == 1 else higher[:, None], new, old)
            for new, old in zip((u, lp, g, moved), before, strict=True)
        ]
        self._put(*kept[:3])
        self.lp, self.x = kept[1].astype(float), kept[3]
        momenta = self._p.get_value()
        with np.errstate(over="ignore", invalid="ignore"):
            speeding_up = np.sum(momenta * kept[2], axis=1) > 0
        self._p.set_value(np.where((higher & speeding_up)[:, None], momenta, floatX(0.0)))
        return higher

    def run(
        self,
        transitions: int,
        rng: np.random.Generator,
        until: float = np.inf,
        *,
        regions: Regions | None = None,
        adapting: bool = True,
    ) -> Path:
        """Take transitions, fewer if it is `until` before, by ``time.perf_counter()``.

        Parameters
        ----------
        transitions : int
        rng : numpy.random.Generator
        until : float
        regions : Regions, optional
            Between which chains jump, once before each transition.
        adapting : bool
            Whether the step size follows the acceptance. Where it does not, the transitions leave
            the posterior as it is.
        """
        c = self.chains
        path = Path(
            points=np.empty((c, transitions, self.d)),
            logp=np.empty((c, transitions)),
            energy=np.empty((c, transitions)),
            acceptance=np.empty((c, transitions)),
            diverging=np.empty((c, transitions), dtype=bool),
            leaps=np.empty(transitions, dtype=int),
            step_size=np.empty(transitions),
            jumps=np.zeros(transitions, dtype=int),
        )
        for i in range(transitions):
            check()
            if regions is not None:
                path.jumps[i] = self._jump(regions, rng)
            path.step_size[i] = self.step_size
            leaps = self._leaps(rng)
            before, now = self._at(), self._propose(rng, leaps)
            taken = self._accept(rng, before, now)
            energy, new_energy, acceptance, diverging = now
            path.leaps[i], path.acceptance[:, i], path.diverging[:, i] = (
                leaps,
                acceptance,
                diverging,
            )
            path.energy[:, i] = np.where(taken, new_energy, energy)
            path.points[:, i], path.logp[:, i] = self.x, self.lp
            if adapting:
                away = self._mean_of(acceptance) - self.acceptance
                self.step_size *= float(np.exp(_FOLLOWS * away))
                stuck = acceptance < _STUCK
                self._own = np.minimum(self._own * np.where(stuck, _SHRINK, _GROW), 1.0)
            if time.perf_counter() > until:
                return path.part(slice(i + 1))
        return path

    def _mean_of(self, acceptance: np.ndarray) -> float:
        """Return the mean acceptance of the chains that are where there is any density."""
        alive = np.isfinite(self.lp)
        return float(acceptance[alive].mean()) if alive.any() else 0.0

    def _leaps(self, rng: np.random.Generator) -> int:
        length = _LENGTH * rng.uniform(_SHORTEST, 1.0)
        return int(np.clip(np.ceil(length / self.step_size), 1, _MOST_LEAPS))

    def _propose(
        self, rng: np.random.Generator, leaps: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Move all chains along trajectories.

        Returns energies before and after, acceptance, and which have diverged.
        """
        momenta = floatX(rng.normal(size=self.x.shape))
        energy = 0.5 * np.sum(momenta.astype(float) ** 2, axis=1) - self.lp
        self._p.set_value(momenta)
        self._take(self.step_size * self._own * rng.uniform(*_PARTS, self.chains), leaps)
        with np.errstate(invalid="ignore", over="ignore"):
            kinetic = 0.5 * np.sum(self._p.get_value().astype(float) ** 2, axis=1)
            new_energy = kinetic - self._lp.get_value().astype(float)
            gain = energy - new_energy
            known = np.isfinite(gain)
            acceptance = np.where(known, np.exp(np.minimum(gain, 0.0)), 0.0)
        return energy, new_energy, acceptance, ~known | (gain < -_DIVERGED)

    def _jump(self, regions: Regions, rng: np.random.Generator) -> int:
        """Let chains jump between regions; return how many have."""
        before, x = self._at(), self.x
        proposed = regions.proposals(x, rng)
        self.begin(proposed)
        with np.errstate(invalid="ignore"):
            gain = self.lp - regions.log_density(proposed)
            gain -= before[1].astype(float) - regions.log_density(x)
        gain[~np.isfinite(self.lp)] = -np.inf
        taken = np.log(rng.uniform(size=self.chains)) < gain
        self._keep(taken, before)
        jumped: np.ndarray = taken & np.any(proposed != x, axis=1)
        return int(jumped.sum())

    def _accept(
        self, rng: np.random.Generator, before: tuple[np.ndarray, ...], now: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Put the chains where they have gone, or back."""
        taken = rng.uniform(size=self.chains) < now[2]
        self._keep(taken, before)
        return taken

    def _keep(self, taken: np.ndarray, before: tuple[np.ndarray, ...]) -> None:
        """Put back the chains that are not to stay where they are."""
        u, lp, g = (
            np.where(taken if new.ndim == 1 else taken[:, None], new, old)
            for new, old in zip(self._at(), before, strict=True)
        )
        self._put(u, lp, g)
        self.x, self.lp = self._position(u), lp.astype(float)

    def _position(self, u: np.ndarray) -> np.ndarray:
        """Return the points of the unconstrained space at coordinates u."""
        moved = u.astype(float)
        place: np.ndarray = self._origin + (
            moved @ self._factor.T if self.dense else moved * self._factor
        )
        return place

    def _at(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._u.get_value(), self._lp.get_value(), self._g.get_value()

    def _put(self, u: np.ndarray, lp: np.ndarray, g: np.ndarray) -> None:
        self._u.set_value(u)
        self._lp.set_value(lp)
        self._g.set_value(g)

    def _take(self, steps: np.ndarray, leaps: int) -> None:
        self._steps.set_value(floatX(steps[:, None]))
        self._loop.run(leaps)
        self._loop.write_back()
        self.leaps += leaps
