"""Steps through a compiled PyTensor function, for the backends numba and C."""

import sys
import time

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import pytensor

from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.interrupts import allowed, held
from pymc_vi_ext.python_only import building
from pymc_vi_ext.upstream import RANDOM_IN_PLACE

# names of the backends -> PyTensor's names of their modes
_MODES = {"numba": "numba", "c": "cvm"}
# Runs that follow each other without a pause.
_SECONDS = 0.1


class PyTensorLoop:
    """Run a :class:`StepProgram` one compiled call a step.

    The shared variables themselves are the state, so there is nothing to write back.

    Parameters
    ----------
    program : StepProgram
    backend : str
        "numba" or "c"; with a ``mode``, what it is called in reports.
    compile_kwargs : mapping, optional
        For :func:`pytensor.function`; a ``mode`` there takes the place of the backend's.

    Attributes
    ----------
    compile_s : float
        Seconds spent on compilation.
    run_s : float
        Seconds spent on steps.
    """

    def __init__(
        self,
        program: StepProgram,
        backend: str,
        compile_kwargs: Mapping[str, Any] | None = None,
    ):
        kwargs = dict(compile_kwargs or {})
        mode = kwargs.pop("mode", None) or _MODES[backend]
        self.backend = backend
        started = time.perf_counter()
        with building():
            self._step = pytensor.function(
                [],
                program.loss,
                updates=program.updates,
                mode=program.mode(mode, RANDOM_IN_PLACE),
                **kwargs,
            )
        self._state, self._feed = program.state, program.feed
        self._scored = program.loss is not None
        self._called = False
        self.compile_s = time.perf_counter() - started
        self.run_s = 0.0

    def run(self, n: int) -> np.ndarray | None:
        """Take up to `n` steps; stop right after a step whose loss is NaN.

        Returns
        -------
        array of shape (steps taken,) or None
            Loss of each step in nats, None where the program has no loss.
        """
        losses = np.empty(n if self._scored else 0)
        started = time.perf_counter()
        with held():
            fed = 0
            for i in range(n):
                fed = (fed or self._steps_fed()) - 1
                loss = self._step() if self._called else self._first_step()
                if self._scored:
                    losses[i] = loss
                    if np.isnan(loss):
                        losses = losses[: i + 1]
                        break
        self.run_s += time.perf_counter() - started
        return losses if self._scored else None

    def intervals(self, every: int, times: int) -> Generator[np.ndarray | None, None, None]:
        """Take up to `times` runs of `every` steps, for a tenth of a second; yield their losses."""
        started = time.perf_counter()
        for _ in range(times):
            yield self.run(every)
            if time.perf_counter() - started > _SECONDS:
                return

    def _steps_fed(self) -> int:
        """Have the batches of the next steps in the program; return for how many they suffice."""
        if not self._feed:
            return sys.maxsize
        place = self._feed.position
        stack = self._feed.stack_at(place)
        for table, array in zip(self._feed.tables, stack.arrays, strict=True):
            table.set_value(array, borrow=True)
        return self._feed.left(place)

    def _first_step(self) -> Any:
        """Take a step and count its time as compilation: numba compiles at the first call."""
        started = time.perf_counter()
        before = [(variable, variable.get_value()) for variable in self._state]
        try:
            # As long as compilation takes, an interrupt is not kept waiting.
            with allowed():
                loss = self._step()
        except KeyboardInterrupt:
            for variable, value in before:
                variable.set_value(value)
            raise
        self._called = True
        self.compile_s += time.perf_counter() - started
        return loss

    def write_back(self, *, internals: bool = True) -> None:
        """Do nothing: the shared variables are the state."""
