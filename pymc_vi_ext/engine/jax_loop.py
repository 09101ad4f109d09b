"""Many optimisation steps inside one XLA program."""

import time

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytensor

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.random.type import RandomType

from pymc_vi_ext._quick import python_only
from pymc_vi_ext.engine.jax_step import JaxStep, gives_shape, jax_step
from pymc_vi_ext.engine.keys import generator_from_key, key_from_generator
from pymc_vi_ext.engine.program import StepProgram

# Longest run of steps in one call, and so the size of the loss buffer: the call's own cost (some
# tens of microseconds) disappears in it.
CAPACITY = 16_384


class JaxLoop:
    """Run a :class:`StepProgram` as a loop inside XLA.

    The number of steps is an argument of the compiled loop, so that every number of steps runs
    the same executable. The state stays on the device between calls; :meth:`write_back` stores it
    in PyMC's shared variables as NumPy values. Shared variables set from outside between two
    calls (``pm.set_data``, a callback) are read again, and another shape compiles again.

    Parameters
    ----------
    program : StepProgram

    Attributes
    ----------
    compile_s : float
        Seconds spent on compilation (XLA's and the lowering to it) so far.

    Raises
    ------
    UnsupportedOpError
        If an Op of the step has no JAX implementation, naming it.
    """

    backend = "jax"

    def __init__(self, program: StepProgram):
        self._program = program
        self._shared = [*program.state, *program.data]
        self._scored = program.loss is not None
        self._signature: Any = None
        # Set by _load: the compiled loop, its state and loss buffer, and what it only reads.
        self._loop: Any
        self._carry: list = []
        self._seen: list = [None] * len(self._shared)
        self._data: list
        self.compile_s = 0.0
        with _double_precision():
            self._load()

    def run(self, n: int) -> np.ndarray | None:
        """Take up to `n` steps; stop right after a step whose loss is NaN.

        Returns
        -------
        array of shape (steps taken,) or None
            Loss of each step in nats, None where the program has no loss.
        """
        losses = [np.empty(0)]
        with _double_precision():
            while n > 0:
                if self._changed_outside():
                    self._load()
                asked = min(n, CAPACITY)
                taken, *self._carry = self._loop(*self._carry, self._data, np.int32(asked))
                done = int(taken)
                losses.append(np.asarray(self._carry[1])[:done].copy())
                n -= asked
                if done < asked:
                    break
        return np.concatenate(losses) if self._scored else None

    def write_back(self, *, internals: bool = True) -> None:
        """Store the state in the shared variables.

        Without `internals`, the optimizer's state and the random generators, it costs a callback a
        fraction.
        """
        program = self._program
        for variable, value in zip(program.state, self._carry[0], strict=True):
            if not internals and variable in program.internals:
                continue
            random = isinstance(variable.type, RandomType)
            # Past `set_value`, whose check of the type costs more than the copy.
            variable.container.storage[0] = (
                generator_from_key(value["jax_state"]) if random else np.array(value)
            )
        self._seen = self._storages()

    def _storages(self) -> list[Any]:
        return [v.container.storage[0] for v in self._shared]

    def _changed_outside(self) -> bool:
        return any(new is not old for new, old in zip(self._storages(), self._seen, strict=True))

    def _load(self) -> None:
        """Bring changed shared values to the device; compile where shapes ask for it."""
        storages, seen = self._storages(), self._seen
        self._seen = storages
        started = time.perf_counter()
        signature = [_signature(v) for v in self._shared]
        if stale := signature != self._signature:
            with python_only():
                self._step: JaxStep = jax_step(self._program)
        self._data = [
            *map(_to_device, self._step.arrays),
            *map(jax.device_put, self._step.constants),
        ]
        # What nobody touched goes on from the device: its shared variable may be behind.
        current = self._carry[0] if self._carry else [None] * len(self._program.state)
        state = [
            on_device if on_device is not None and new is old else _to_device(variable)
            for variable, on_device, new, old in zip(
                self._program.state, current, storages, seen, strict=False
            )
        ]
        buffer = jax.device_put(np.zeros(CAPACITY if self._scored else 0, pytensor.config.floatX))
        self._carry = [state, buffer]
        if stale:
            self._loop = _loop(self._step, self._scored)
            # No step: this call only compiles. (Ahead-of-time compiled functions take several
            # times longer to call.)
            _, *self._carry = self._loop(*self._carry, self._data, np.int32(0))
            self._signature = signature
            self.compile_s += time.perf_counter() - started


def _double_precision() -> Any:
    """Allow 64-bit numbers. Every type of the step is explicit, float32 models' included."""
    return jax.enable_x64(True)


def _loop(step: JaxStep, scored: bool) -> Callable[..., Any]:
    """Return ``(state, loss buffer, data, n) -> (steps taken, state, loss buffer)``."""

    def loop(state: list, buffer: jax.Array, data: list, n: jax.Array) -> tuple:
        def going_on(carry: tuple) -> jax.Array:
            i, ok, *_ = carry
            return ok & (i < n)

        def body(carry: tuple) -> tuple:
            i, ok, state, buffer = carry
            # RNG states are dictionaries which PyTensor's dispatch changes in place.
            arguments = [dict(s) if isinstance(s, dict) else s for s in state]
            outputs = step.function(*arguments, *data)
            new = [_as(value, old) for value, old in zip(outputs, state, strict=False)]
            if scored:
                loss = jnp.asarray(outputs[-1], buffer.dtype).reshape(())
                buffer = buffer.at[i].set(loss)
                ok = ~jnp.isnan(loss)
            return i + 1, ok, new, buffer

        taken, _, state, buffer = jax.lax.while_loop(
            going_on, body, (jnp.int32(0), jnp.bool(True), state, buffer)
        )
        return taken, state, buffer

    return jax.jit(loop, donate_argnums=(0, 1))


def _as(value: Any, like: Any) -> Any:
    """Keep the type that the loop started with."""
    return value if isinstance(like, dict) else jnp.asarray(value, like.dtype).reshape(like.shape)


def _to_device(variable: SharedVariable) -> Any:
    value = variable.get_value(borrow=True)
    if isinstance(variable.type, RandomType):
        return {"jax_state": key_from_generator(value)}
    # A copy: JAX may use NumPy's own memory, and the loop overwrites its state.
    return jax.device_put(np.array(value))


def _signature(variable: SharedVariable) -> Any:
    if isinstance(variable.type, RandomType):
        return None
    value = variable.get_value(borrow=True)
    return value.item() if gives_shape(variable) else np.shape(value)
