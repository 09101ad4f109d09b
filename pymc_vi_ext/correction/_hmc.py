"""Hamiltonian Monte Carlo of many chains at once, on any backend."""

from __future__ import annotations

import time

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pytensor.graph.basic import Variable

from pymc_vi_ext.correction._covariance import factors_of, times
from pymc_vi_ext.correction._noncentring import Noncentring
from pymc_vi_ext.correction._regions import Regions
from pymc_vi_ext.engine.backend import make_loop
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.engine.differentiable import gradient_of
from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.engine.vectorize import over_rows
from pymc_vi_ext.interrupts import check
from pymc_vi_ext.progress import ChainProgress, NoProgress
from pymc_vi_ext.python_only import building, python_only

# Trajectories are this part of the longest, at random, so that none is as long as a period.
_SHORTEST = 0.2
LENGTH = np.pi
"""The longest, usually: half of the period of a Gaussian in its own units, across all of it."""
ACCEPTANCE = 0.8
"""What the step size usually aims at."""
# How fast its logarithm follows.
_FOLLOWS = 0.3
# Each chain's steps are this part of its step size, at random at each transition: a chain that the
# step size of all holds fast (in the neck of a funnel) gets away in time.
_PARTS = (0.3, 1.2)
# A chain that accepts less than this takes steps that shrink so much each time, and grow again.
_STUCK, _SHRINK, _GROW = 0.01, 0.5, 1.2
# One whose steps are smaller than this part of the others' is held fast.
_HELD = 0.2
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

    Chains move in coordinates :math:`u` with the covariance, as :meth:`adapt_to` has it, of the
    identity, and so have momenta of unit mass: :math:`x = T(m + F u)`, where :math:`T` is of
    :class:`~pymc_vi_ext.correction._noncentring.Noncentring`. A step of the compiled program is one
    leapfrog step of all chains:

    .. math::

        p \leftarrow p + \tfrac \epsilon 2 \nabla \log \pi(u), \quad
        u \leftarrow u + \epsilon p, \quad
        p \leftarrow p + \tfrac \epsilon 2 \nabla \log \pi(u)

    What is done once a transition (momenta, acceptance, adaptation) is NumPy's. One program serves
    all coordinates, step sizes and lengths, and gives log densities of other points too.

    Parameters
    ----------
    density : LogDensity
    chains : int
    backend : {"auto", "jax", "numba", "c"}, optional
    progress : ChainProgress, optional
        Told what the chains are at.

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
        Log density there, in nats.
    target : array of shape (chains,)
        That of y over the temperature, which is 1 but for :meth:`heat`: what the chains draw from.
    step_size : float
        Largest of all chains.
    acceptance : float
        What the step size aims at.
    length : float
        Of the longest trajectories.
    leaps : int
        Leapfrog steps of each chain so far.

    References
    ----------
    Neal, R. (2011). MCMC using Hamiltonian dynamics. Handbook of Markov chain Monte Carlo.

    Hoffman, M., Radul, A. and Sountsov, P. (2021). An adaptive-MCMC scheme for setting trajectory
    lengths in Hamiltonian Monte Carlo. AISTATS.
    """

    def __init__(
        self,
        density: LogDensity,
        chains: int,
        backend: str | None = "auto",
        progress: ChainProgress | NoProgress | None = None,
    ):
        self.progress = NoProgress() if progress is None else progress
        d = len(density.start)
        self.chains, self.d, self.dense = chains, d, d <= _MOST_DENSE
        zeros = floatX(np.zeros((chains, d)))
        self._u, self._p, self._g, self._x = (
            pytensor.shared(zeros.copy(), name) for name in ("u", "p", "g", "x")
        )
        self._lp, self._target = (
            pytensor.shared(zeros[:, 0].copy(), name) for name in ("lp", "target")
        )
        self._steps = pytensor.shared(zeros[:, :1].copy(), "step", shape=(None, 1))
        # Inverse temperatures.
        self._heat = pytensor.shared(floatX(np.ones(chains)), "heat")
        self._mean = pytensor.shared(zeros[0].copy(), "mean")
        # The rows are axes, which spares a transposition of the matrix at every step.
        self._axes = pytensor.shared(floatX(np.eye(d) if self.dense else np.ones(d)), "axes")
        self._noncentring = Noncentring(density.model)
        with building():
            half = self._p + self._steps / 2 * self._g
            u = self._u + self._steps * half
            y = self._mean + (pt.dot(u, self._axes) if self.dense else u * self._axes)
            x, lp, target, gradient = _evaluated(density, self._noncentring, y, self._heat)
            g = pt.dot(gradient, self._axes.T) if self.dense else gradient * self._axes
            # An improper posterior ends where squares would soon be no numbers.
            furthest = np.cbrt(np.finfo(lp.type.dtype).max)
            nowhere = pt.isnan(target) | (pt.max(abs(x), axis=1) > furthest)
            updates = {
                self._u: u,
                self._p: half + self._steps / 2 * g,
                self._g: g,
                self._x: x,
                self._lp: pt.switch(nowhere, -np.inf, lp),
                self._target: pt.switch(nowhere, -np.inf, target),
            }
            program = StepProgram(
                {variable: new.astype(variable.type.dtype) for variable, new in updates.items()},
                check_bounds=density.check_bounds,
                watched=False,
            )
            self._loop = make_loop(program, backend)
        self.backend = self._loop.backend
        self.step_size, self.acceptance, self.length = 0.5, ACCEPTANCE, LENGTH
        # What part of it a chain's own is: less where it is stuck in a narrow place.
        self._own = np.ones(chains)
        self.x = np.zeros((chains, d))
        self.lp = self.target = np.full(chains, -np.inf)
        self.leaps = 0
        self._centre = np.zeros(d)
        self._inverse = np.eye(d) if self.dense else np.ones(d)

    @property
    def held_fast(self) -> bool:
        """Whether some chain takes much smaller steps than the others."""
        return bool((self._own < _HELD).any())

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Return log densities, (n,), in nats, at points (n, d). The chains' places are lost."""
        found = []
        for first in range(0, len(points), self.chains):
            some = points[first : first + self.chains]
            more = np.repeat(some[:1], self.chains - len(some), axis=0)
            self.begin(np.concatenate([some, more]))
            found.append(self.lp[: len(some)])
        return np.concatenate(found)

    def heat(self, temperatures: np.ndarray) -> None:
        """Let each chain go on at a temperature T, at the density to the power of 1 / T."""
        self._heat.set_value(floatX(1 / temperatures))
        self.begin(self.x)

    def adapt_to(self, points: np.ndarray) -> None:
        """Take the coordinates in which points (n, d) are most like draws of a standard Gaussian.

        The metric, where it is not dense, is that of standard deviations.
        """
        self._noncentring.choose(points)
        y, _ = self._noncentring.coordinates_of(points)
        self._centre = y.mean(axis=0)
        factor, self._inverse = factors_of(y, self.dense)
        self._mean.set_value(floatX(self._centre))
        self._axes.set_value(floatX(factor.T.copy()))

    def begin(self, points: np.ndarray) -> None:
        """Put the chains at points (chains, d): a leapfrog step of no length evaluates there."""
        u, _ = self.standardised(points)
        self._u.set_value(floatX(u))
        self._p.set_value(floatX(np.zeros_like(u)))
        self._g.set_value(floatX(np.zeros_like(u)))
        self._take(np.zeros(self.chains), 1)
        # Exactly those, whatever rounding on the way there and back makes of them.
        self._x.set_value(floatX(points))
        self._read()

    def standardised(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coordinates u, (n, d), of points (n, d), and log densities of y over x, (n,).

        Where scales are next to nothing there may be no coordinates.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            y, log_jacobian = self._noncentring.coordinates_of(points)
            return times(y - self._centre, self._inverse), log_jacobian

    def find_step_size(self, rng: np.random.Generator) -> None:
        """Halve the step size until most steps of one leap are accepted, or double it.

        It is that of all chains again. They stay where they are.
        """
        self._own = np.ones(self.chains)
        place = self._at()
        grows: bool | None = None
        for _ in range(_MOST_HALVINGS):
            *_, acceptance, _ = self._propose(rng, 1)
            self._put(*place)
            enough = self._mean_of(acceptance) > self.acceptance
            if grows is None:
                grows = enough
            if enough is not grows or (grows and self.step_size > self.length):
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
        before = self._at()
        self._take(steps, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            higher: np.ndarray = self._target.get_value() > self.target
        self._keep(higher, before)
        momenta = self._p.get_value()
        with np.errstate(over="ignore", invalid="ignore"):
            speeding_up = np.sum(momenta * self._g.get_value(), axis=1) > 0
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
        alone: bool = False,
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
        alone : bool
            Whether each chain's own follows its own acceptance, and that of all stays.
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
            self.progress.tick()
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
            if adapting and alone:
                followed = self._own * np.exp(_FOLLOWS * (acceptance - self.acceptance))
                self._own = np.minimum(followed, 1.0)
            elif adapting:
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
        length = self.length * rng.uniform(_SHORTEST, 1.0)
        return int(np.clip(np.ceil(length / self.step_size), 1, _MOST_LEAPS))

    def _propose(
        self, rng: np.random.Generator, leaps: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Move all chains along trajectories.

        Returns energies before and after, acceptance, and which have diverged.
        """
        momenta = floatX(rng.normal(size=self.x.shape))
        energy = 0.5 * np.sum(momenta.astype(float) ** 2, axis=1) - self.target
        self._p.set_value(momenta)
        self._take(self.step_size * self._own * rng.uniform(*_PARTS, self.chains), leaps)
        with np.errstate(invalid="ignore", over="ignore"):
            kinetic = 0.5 * np.sum(self._p.get_value().astype(float) ** 2, axis=1)
            new_energy = kinetic - self._target.get_value().astype(float)
            gain = energy - new_energy
            known = np.isfinite(gain)
            acceptance = np.where(known, np.exp(np.minimum(gain, 0.0)), 0.0)
        return energy, new_energy, acceptance, ~known | (gain < -_DIVERGED)

    def _jump(self, regions: Regions, rng: np.random.Generator) -> int:
        """Let chains jump between regions; return how many have."""
        before, x, lp = self._at(), self.x, self.lp
        proposed = regions.proposals(x, rng)
        self.begin(proposed)
        with np.errstate(invalid="ignore"):
            gain = self.lp - regions.log_density(proposed) - (lp - regions.log_density(x))
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
        self._put(
            *(
                np.where(taken if new.ndim == 1 else taken[:, None], new, old)
                for new, old in zip(self._at(), before, strict=True)
            )
        )
        self._read()

    @property
    def _state(self) -> tuple[Any, ...]:
        return self._u, self._x, self._lp, self._target, self._g

    def _at(self) -> tuple[np.ndarray, ...]:
        return tuple(shared.get_value() for shared in self._state)

    def _put(self, *values: np.ndarray) -> None:
        for shared, value in zip(self._state, values, strict=True):
            shared.set_value(value)

    def _read(self) -> None:
        self.x, self.lp, self.target = (
            shared.get_value().astype(float) for shared in (self._x, self._lp, self._target)
        )

    def _take(self, steps: np.ndarray, leaps: int) -> None:
        self._steps.set_value(floatX(steps[:, None]))
        self._loop.run(leaps)
        self._loop.write_back()
        self.leaps += leaps


def _evaluated(
    density: LogDensity, noncentring: Noncentring, y: Variable, heat: Variable
) -> list[Variable]:
    """Return what there is at coordinates y (chains, d) and inverse temperatures (chains,).

    Points x, log densities of x, log densities of y over the temperature, gradients of these.
    """
    with python_only():
        inverse = pt.scalar("inverse", dtype=heat.dtype)
        lp = density.graph_at(noncentring.x)
        target = inverse * lp + noncentring.log_jacobian
        with gradient_of(density.model):
            gradient = pt.grad(target, noncentring.y, disconnected_inputs="ignore")
        outputs = [noncentring.x, lp, target, gradient]
        return over_rows(outputs, {noncentring.y: y, inverse: heat})
