"""Steps on minibatches that go over to steps on all data: two programs of one set of parameters."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
import pytensor

from pymc.pytensorf import floatX
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.engine.backend import Loop
from pymc_vi_ext.engine.feed import Feed
from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.engine.quasi_noise import QuasiNoise
from pymc_vi_ext.probe import Probe


class GrowingProgram:
    """A step on a minibatch, until `grown` is set, and then on all data.

    Parameters
    ----------
    batches, whole : StepProgram
        Of the same parameters and the same scale of the learning rate; each with an optimizer's
        state of its own.

    Attributes
    ----------
    grown : SharedVariable
        Whether the steps are on all data: 0 or 1.

    Examples
    --------
    >>> import pytensor
    >>> from pymc_vi_ext.engine import GrowingProgram, StepProgram
    >>> x = pytensor.shared(8.0, "x")
    >>> batches = StepProgram({x: x / 2})
    >>> whole = StepProgram({x: x / 4}, rate_scale=batches.rate_scale)
    >>> program = GrowingProgram(batches, whole)
    >>> program.has_grown, [variable.name for variable in program.state][:1]
    (False, ['x'])
    """

    def __init__(self, batches: StepProgram, whole: StepProgram):
        self.batches, self.whole = batches, whole
        self.grown = pytensor.shared(floatX(0.0), "grown")
        self.state = [*_once(batches.state, whole.state), self.grown]
        self.data = _once(batches.data, whole.data)
        self.rngs = _once(batches.rngs, whole.rngs)
        self.rate_scale = batches.rate_scale

    @property
    def probe(self) -> Probe | None:
        """What the gradient of the steps is held against."""
        return self.batches.probe

    @property
    def quasi_noise(self) -> QuasiNoise:
        """What may stand for the random numbers of the steps on all data."""
        return self.whole.quasi_noise

    @property
    def feed(self) -> Feed:
        """What brings batches from outside of memory: nothing, since all data have to be in it."""
        return self.batches.feed

    @property
    def has_grown(self) -> bool:
        """Whether the steps are on all data."""
        return bool(self.grown.get_value())

    def restart(self, seed: int) -> None:
        """Put all but the parameters back to a start on minibatches."""
        self.grown.set_value(floatX(0.0))
        for program in (self.whole, self.batches):
            program.restart(seed)

    def restart_optimizer(self) -> None:
        """Put the optimizers' states back to their start."""
        for program in (self.whole, self.batches):
            program.restart_optimizer()


class GrowingLoop:
    """Runs a :class:`GrowingProgram`; the steps on all data are compiled when first asked for.

    Parameters
    ----------
    program : GrowingProgram
    batches : Loop
        Of its program of minibatches.
    compile_whole : callable
        Returns the loop of the other.
    """

    def __init__(self, program: GrowingProgram, batches: Loop, compile_whole: Callable[[], Loop]):
        self._program, self._batches, self._compile_whole = program, batches, compile_whole
        self._whole: Loop | None = None

    @property
    def backend(self) -> str:
        """Name of the backend that runs the steps."""
        return self._now.backend

    @property
    def compile_s(self) -> float:
        """Seconds spent on compilation so far, of both."""
        whole = 0.0 if self._whole is None else self._whole.compile_s
        return self._batches.compile_s + whole

    @property
    def run_s(self) -> float:
        """Seconds spent on steps so far, of both."""
        return self._batches.run_s + (0.0 if self._whole is None else self._whole.run_s)

    @property
    def _now(self) -> Loop:
        if not self._program.has_grown:
            return self._batches
        if self._whole is None:
            self._whole = self._compile_whole()
        return self._whole

    def run(self, n: int) -> np.ndarray | None:
        """Take up to `n` steps, fewer after a NaN; losses in nats, or None without a loss."""
        return self._now.run(n)

    def intervals(self, every: int, times: int) -> Generator[np.ndarray | None, None, None]:
        """Take up to `times` runs of `every` steps; yield the losses of each."""
        # Steps on all data are long: none are taken ahead of what the rule may say.
        return self._now.intervals(every, 1 if self._program.has_grown else times)

    def write_back(self, *, internals: bool = True) -> None:
        """Bring the shared variables up to date, from the program whose steps these are.

        To be called before `grown` is set.
        """
        self._now.write_back(internals=internals)


def _once(*lists: Sequence[SharedVariable]) -> list[SharedVariable]:
    """Return the variables of all lists, each once."""
    return list(dict.fromkeys(variable for each in lists for variable in each))
