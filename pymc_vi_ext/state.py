"""What a callback may know of a running fit beyond its three arguments."""

from __future__ import annotations

import math

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pymc.pytensorf import floatX
from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.approximations.parameters import flat_parameters, set_parameters
from pymc_vi_ext.engine import Feed, GrowingProgram, QuasiNoise, StepProgram, numbers_computed
from pymc_vi_ext.engine.quasi_noise import mirrored
from pymc_vi_ext.interrupts import check, held
from pymc_vi_ext.upstream import reseed_rngs

if TYPE_CHECKING:
    from pymc_vi_ext.callbacks.callback import Callback
    from pymc_vi_ext.engine import Loop, Program
    from pymc_vi_ext.optimizers import Optimizer
    from pymc_vi_ext.results import Timings

# A call of the engine cannot be interrupted; it grows no longer than about four times this.
_SECONDS_PER_CALL = 0.05
# The rate of steps whose mean move is asked for: by the last they have moved next to nothing.
_HARDLY = 0.01


@dataclass
class FitState:
    """The running fit, as ``approx.fit_state``.

    Attributes
    ----------
    approx : Approximation
    program : Program
        Its ``state`` is all that a step changes, as shared variables; :meth:`sync` first.
    loop : Loop
    optimizer : Optimizer
    callbacks : sequence of Callback
        All that are called, the rule of ``convergence=`` included, in their order.
    end : int
        Number of the last step, if nothing stops the fit.
    timings : callable
        Returns the seconds so far, those before a checkpoint that it goes on from included.
    options : mapping or None
        What :func:`pymc_vi_ext.fit` was called with, where it was.
    minimises_elbo : bool
        Whether the losses are negative ELBOs.
    unit : float
        Nats in a unit of the losses that callbacks see.
    step : int
        Number of the last step taken.
    """

    approx: Approximation
    program: Program
    loop: Loop
    optimizer: Optimizer
    callbacks: Sequence[Callback]
    end: int
    timings: Callable[[], Timings]
    options: Mapping[str, Any] | None = None
    minimises_elbo: bool = True
    unit: float = 1.0
    step: int = 0
    # Steps of a call that takes about the time that one may.
    _chunk: int = 1

    @property
    def rate_scale(self) -> SharedVariable:
        """Multiplies every move of the parameters; set it to change the learning rate."""
        return self.program.rate_scale

    @property
    def rate(self) -> float:
        """What the moves of the parameters are multiplied by now."""
        return float(self.rate_scale.get_value())

    def scale_rate(self, factor: float) -> None:
        """Multiply the learning rate."""
        now = self.rate_scale.get_value()
        self.rate_scale.set_value(now * now.dtype.type(factor))

    def sync(self) -> None:
        """Bring all shared variables up to date: parameters, optimizer, random generators."""
        self.loop.write_back()

    def pause(self) -> None:
        """Raise KeyboardInterrupt or :class:`OutOfTime` where the fit is to end here."""
        check()
        for callback in self.callbacks:
            callback.check_time(self.step)

    def fresh_seed(self) -> int:
        """Return a seed that follows from the random generators of the steps, as they are now."""
        self.sync()
        # A copy, which does not go on.
        generators = [variable.get_value() for variable in self.program.rngs]
        return int(generators[0].integers(2**31)) if generators else 0

    @property
    def work(self) -> float:
        """About how many numbers a step computes; infinite with a loop inside."""
        program = self.program
        if isinstance(program, GrowingProgram):
            program = program.whole
        return numbers_computed(program) if isinstance(program, StepProgram) else math.inf

    @property
    def quasi_noise(self) -> QuasiNoise:
        """What may stand for the random numbers of the steps; idle where nothing is replaced."""
        if isinstance(self.program, StepProgram | GrowingProgram):
            return self.program.quasi_noise
        return QuasiNoise()

    @property
    def feed(self) -> Feed:
        """What brings the steps data from outside of memory; nothing where they are in it."""
        if isinstance(self.program, StepProgram | GrowingProgram):
            return self.program.feed
        return Feed()

    @property
    def reads_all_data(self) -> bool:
        """Whether losses are evaluated on all data behind minibatches."""
        return isinstance(self.program, GrowingProgram)

    @property
    def in_batches(self) -> bool:
        """Whether the steps are on minibatches, and can go over to all data."""
        return isinstance(self.program, GrowingProgram) and not self.program.has_grown

    def grow(self) -> None:
        """Go over to steps on all data, from the present parameters."""
        assert isinstance(self.program, GrowingProgram)
        self.sync()
        self.program.grown.set_value(floatX(1.0))
        self.optimizer.begin(self.end)

    def losses_at(self, points: Sequence[np.ndarray], draws: int, seed: int) -> np.ndarray:
        """Return losses of steps that do not move, with the same random numbers at each point.

        The program compiled for the steps runs with a learning rate of 0; of two, that on all data.
        Where data are fed to it, it is the next batches, the same at each point. The fit is left as
        it was.

        Parameters
        ----------
        points : sequence of array of shape (size,)
            Flat vectors of all variational parameters.
        draws : int
            Steps at each point.
        seed : int

        Returns
        -------
        array of shape (points, draws)
            In nats of the full data; infinite from a loss that is NaN.
        """
        losses = np.full((len(points), draws), np.inf)
        with self._aside(scale=0.0):
            first = self.feed.position
            for row, point in zip(losses, points, strict=True):
                set_parameters(self.approx, point)
                reseed_rngs(self.program.rngs, seed)
                self.feed.begin_at(first)
                found = self._losses_here(draws)
                row[: len(found)] = np.where(np.isnan(found), np.inf, found)
        return losses

    def mean_moves(
        self,
        points: Sequence[np.ndarray],
        draws: int,
        seeds: Sequence[int],
        stretches: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Return mean moves of the parameters, of quasi-random draws.

        Those of steps which hardly move, in place of a gradient: one is 0 where the mean gradient
        is, if the optimizer's moves are linear. The fit is left as it was.

        Where data are fed, the same batches are gone through a second time with the mirror images
        of the draws: what a batch adds to the slopes of scales is its noise times the draw, which
        cancels.

        Parameters
        ----------
        points : sequence of array of shape (size,)
            Flat vectors of all variational parameters.
        draws : int
            Steps at each point, of a program whose noise has been replaced.
        seeds : sequence of int
            Of the draws at each point.
        stretches : sequence of int, optional
            Which stretch of `draws` batches each point sees, counted from the start of the next
            pass, where data are fed; the first by default.

        Returns
        -------
        array of shape (points, size)
            NaN where a loss is.
        """
        moves = np.full((len(points), len(points[0])), np.nan)
        stretches = [0] * len(points) if stretches is None else stretches
        with self._aside(scale=_HARDLY):
            first = self.feed.start_of_pass()
            for move, point, seed, stretch in zip(moves, points, seeds, stretches, strict=True):
                sides = [seed, mirrored(seed)] if self.feed else [seed]
                moved = []
                for side in sides:
                    set_parameters(self.approx, point)
                    if self.feed:
                        self.feed.begin_at(first + stretch * draws)
                        self.optimizer.arrive()
                    # Minibatches, where there are some, are the same at every point.
                    reseed_rngs(self.program.rngs, seed)
                    self.quasi_noise.begin(side, draws)
                    if self._takes_quasi_steps(draws):
                        self.sync()
                        moved.append((flat_parameters(self.approx) - point) / (draws * _HARDLY))
                if len(moved) == len(sides):
                    move[:] = np.mean(moved, axis=0)
        return moves

    def _takes_quasi_steps(self, steps: int) -> bool:
        """Take steps, and tell whether none ended in a NaN."""
        rows = self.quasi_noise.rows
        for done in range(0, steps, rows):
            asked = min(rows, steps - done)
            self.quasi_noise.go_on(done, asked)
            if len(self._losses_here(asked)) < asked:
                return False
        return True

    @contextmanager
    def _aside(self, scale: float) -> Iterator[None]:
        """Take steps that do not count, at a rate of their own; of two programs, on all data."""
        program, rate = self.program, self.rate_scale
        with held():
            self.sync()
            kept = {variable: variable.get_value() for variable in [*program.state, rate]}
            try:
                rate.set_value(floatX(scale))
                self.quasi_noise.rest()
                if isinstance(program, GrowingProgram):
                    program.grown.set_value(floatX(1.0))
                yield
            finally:
                for variable, value in kept.items():
                    variable.set_value(value)
                self.quasi_noise.restore()

    def _losses_here(self, draws: int) -> np.ndarray:
        """Return losses of up to `draws` steps, fewer after a NaN, in calls that last not long."""
        found, left = [np.empty(0)], draws
        while left:
            self.pause()
            asked, before = min(left, self._chunk), self.loop.run_s
            losses = self.loop.run(asked)
            assert losses is not None
            found.append(losses)
            if len(losses) < asked:
                break
            left -= asked
            seconds = self.loop.run_s - before
            if asked == self._chunk and seconds < _SECONDS_PER_CALL:
                self._chunk *= 4
            elif seconds > 4 * _SECONDS_PER_CALL:
                self._chunk = max(int(asked * _SECONDS_PER_CALL / seconds), 1)
        return np.concatenate(found)


def running(approx: Approximation) -> FitState | None:
    """Return the state of the fit that `approx` is in, None in a loop of PyMC's own."""
    state: FitState | None = vars(approx).get("fit_state")
    return state
