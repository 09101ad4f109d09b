"""Many optimisation steps inside one XLA program."""

import time

from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytensor

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.random.type import RandomType

from pymc_vi_ext.engine import kept_programs
from pymc_vi_ext.engine.beside import compiled_beside
from pymc_vi_ext.engine.devices import OneDevice, devices_of
from pymc_vi_ext.engine.feed import Stack
from pymc_vi_ext.engine.fingerprint import fingerprint
from pymc_vi_ext.engine.jax_step import JaxStep, arguments_of, gives_shape, jax_step
from pymc_vi_ext.engine.keys import generator_from_key, key_from_generator
from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.interrupts import check, held
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import JAX_STATE, set_storage, storage

# Longest run of steps in one call, and so the size of the loss buffer: the call's own cost (some
# tens of microseconds) disappears in it.
CAPACITY = 16_384
# Intervals between callbacks that one call may run ahead, and the memory that their snapshots
# may take.
_AHEAD = 16
_SNAPSHOT_BYTES = 4_000_000


class JaxLoop:
    """Run a :class:`StepProgram` as a loop inside XLA.

    The number of steps is an argument of the compiled loop, so that every number of steps runs
    the same executable. The state stays on the device between calls; :meth:`write_back` stores it
    in PyMC's shared variables as NumPy values. Shared variables set from outside between two
    calls (``pm.set_data``, a callback) are read again, and another shape compiles again.

    A return to Python costs as much as a hundred steps of a small model. :meth:`intervals`
    therefore runs several intervals in one call, keeps the state at the end of each, and shows
    them one after the other; where the caller stops or changes something, it goes back to the
    state it showed.

    Parameters
    ----------
    program : StepProgram
    devices : int, "all" or sequence of jax.Device, optional
        What shares the work of a step (:class:`~pymc_vi_ext.engine.devices.SeveralDevices`).
    meanwhile : callable, optional
        Done while XLA compiles.

    Attributes
    ----------
    compile_s : float
        Seconds spent on compilation (XLA's and the lowering to it) so far.
    run_s : float
        Seconds spent in calls so far.

    Raises
    ------
    UnsupportedOpError
        If an Op of the step has no JAX implementation, naming it.
    ValueError
        If there are no such devices, or nothing that they could share.
    """

    backend = "jax"

    def __init__(
        self,
        program: StepProgram,
        devices: Any = None,
        meanwhile: Callable[[], None] = lambda: None,
    ):
        self._program = program
        self._devices = devices_of(devices, program)
        self._shared = [*program.state, *program.data]
        self._scored = program.loss is not None
        self._signature: Any = None
        # Of the data, those that are no part of the compiled loop.
        self._arguments: list[SharedVariable] = []
        # Set by _load: the compiled loop, its state and loss buffer, and what it only reads.
        self._loop: Any = None
        self._carry: list[Any] = []
        self._seen: list[Any] = [None] * len(self._shared)
        self._data: list[Any]
        # The state shown to a callback while the device is ahead of it.
        self._shown: list[np.ndarray] | None = None
        # Intervals to run ahead at most, by memory, and now.
        self._furthest = self._ahead = 1
        self._constants: list[Any] = []
        self._arrays: list[Any] = []
        # The batches that the steps read, where they read some.
        self._stack: Stack | None = None
        program.feed.move = self._move
        self.compile_s = self.run_s = 0.0
        with held(), _double_precision():
            self._load(meanwhile)

    def run(self, n: int) -> np.ndarray | None:
        """Take up to `n` steps; stop right after a step whose loss is NaN.

        Returns
        -------
        array of shape (steps taken,) or None
            Loss of each step in nats, None where the program has no loss.
        """
        losses = [np.empty(0)]
        while n > 0:
            asked = min(n, CAPACITY, self._steps_fed())
            taken, _ = self._call(asked, 1)
            losses.append(self._losses(taken))
            n -= asked
            if taken < asked:
                break
        return np.concatenate(losses) if self._scored else None

    def intervals(self, every: int, times: int) -> Generator[np.ndarray | None, None, None]:
        """Take up to `times` runs of `every` steps; yield the losses of each.

        While one is shown, :meth:`write_back` stores the state at its end. Closing the iterator,
        or setting a shared variable, makes that state the present one.
        """
        times = min(times, self._ahead, min(CAPACITY, self._steps_fed()) // every)
        if times <= 1:
            self._ahead = min(2 * self._ahead, self._furthest)
            yield self.run(every)
            return
        taken, snapshots = self._call(every, times)
        snapshots = [np.asarray(snapshot) for snapshot in snapshots]
        losses = self._losses(taken)
        try:
            for j, end in enumerate(range(every, taken + every, every)):
                last = end >= taken
                self._shown = None if last else [snapshot[j] for snapshot in snapshots]
                yield losses[end - every : end] if self._scored else None
                if not last and (self._shown is None or self._changed_outside()):
                    # Running ahead was in vain, and may be again.
                    self._ahead = max(self._ahead // 2, 1)
                    return
            self._ahead = min(2 * self._ahead, self._furthest)
        finally:
            self._go_back()

    def _go_back(self) -> None:
        """Make the state that is shown the present one."""
        if self._shown is not None:
            with _double_precision():
                self._carry[0] = [
                    _from_snapshot(value, like)
                    for value, like in zip(self._shown, self._carry[0], strict=True)
                ]
            self._shown = None

    def _steps_fed(self) -> int:
        """Have the batches of the next steps on the device; return for how many they suffice."""
        feed = self._program.feed
        if not feed:
            return CAPACITY
        with held(), _double_precision():
            self._go_back()
            if self._changed_outside():
                self._load()
            place = int(np.asarray(self._carry[0][self._program.state.index(feed.place)])[0])
            stack = feed.stack_at(place)
            if stack is not self._stack:
                now = dict(zip(feed.tables, stack.arrays, strict=True))
                self._arrays = [
                    now.get(variable, array)
                    for variable, array in zip(self._arguments, self._arrays, strict=True)
                ]
                self._data = [*self._arrays, *self._constants]
                self._stack = stack
        return feed.left(place)

    def _call(self, every: int, times: int) -> tuple[int, list[Any]]:
        # An interrupt between the call, which consumes the state, and the assignment of the next
        # would leave none.
        started = time.perf_counter()
        with held(), _double_precision():
            self._go_back()
            if self._changed_outside():
                self._load()
                self._devices.refuse_different([_plain(value) for value in self._carry[0]])
            taken, *self._carry, snapshots = self._loop(
                *self._carry, self._data, np.int32(every), np.int32(times)
            )
            taken = int(taken)
        self.run_s += self._devices.agreed(time.perf_counter() - started)
        return taken, snapshots

    def _losses(self, taken: int) -> np.ndarray:
        return np.asarray(self._carry[1])[:taken].copy()

    def write_back(self, *, internals: bool = True) -> None:
        """Store the state in the shared variables.

        Without `internals`, the optimizer's state and the random generators, it costs a callback a
        fraction. A variable set from outside since the last call keeps the value it was given.
        """
        program = self._program
        state = self._carry[0] if self._shown is None else self._shown
        with held():
            for i, (variable, value) in enumerate(zip(program.state, state, strict=True)):
                if not internals and variable in program.internals:
                    continue
                if storage(variable) is not self._seen[i]:
                    continue
                random = isinstance(variable.type, RandomType)
                new = generator_from_key(np.asarray(_plain(value))) if random else np.array(value)
                set_storage(variable, new)
                self._seen[i] = new

    def _storages(self) -> list[Any]:
        return [storage(v) for v in self._shared]

    def _changed_outside(self) -> bool:
        if self._loop is None:  # it was pickled
            return True
        return any(new is not old for new, old in zip(self._storages(), self._seen, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Return all but what is compiled, which another process compiles or finds."""
        return {**vars(self), "_loop": None, "_signature": None}

    def _load(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Bring changed shared values to the device; compile where shapes ask for it.

        Nothing of the loop changes before all is ready: an interrupt leaves it as it was.
        """
        storages, seen = self._storages(), self._seen
        started = time.perf_counter()
        signature = [_signature(v) for v in self._shared]
        constants, loop, furthest = self._constants, self._loop, self._furthest
        key = kept = step = None
        arguments = self._arguments
        if stale := signature != self._signature:
            arguments = arguments_of(self._program)
            # Which devices it is for is no part of the digest.
            if kept_programs.folder() is not None and not self._devices.named:
                key = fingerprint(self._program, self._program.watched, CAPACITY)
                kept = kept_programs.load(key)
            if kept is None:
                with python_only():
                    step = jax_step(self._program, self._devices.draw)
                large = step.constants
            else:
                loop, large = kept
            values = [*(v.get_value(borrow=True) for v in arguments), *large]
            self._devices.look_at([np.shape(v) for v in values], self._axes(arguments, large))
            constants = [self._devices.put(c, *self._axes([], [c])) for c in large]
        before = dict(zip(self._shared, seen, strict=True))
        now = dict(zip(self._shared, storages, strict=True))
        arrays = [
            self._arrays[i]
            if not stale and before[v] is now[v]
            else self._devices.put(_copy(v), axis)
            for i, (v, axis) in enumerate(zip(arguments, self._axes(arguments), strict=True))
        ]
        data = [*arrays, *constants]
        # What nobody touched goes on from the device: its shared variable may be behind.
        current = self._carry[0] if self._carry else [None] * len(self._program.state)
        # NumPy's arrays: the call takes them over in a fraction of the time of ``device_put``.
        state = [
            on_device if on_device is not None and new is old else _copy(variable)
            for variable, on_device, new, old in zip(
                self._program.state, current, storages, seen, strict=False
            )
        ]
        losses = CAPACITY if self._scored else 0
        buffer = (
            jax.device_put(np.zeros(losses, pytensor.config.floatX)) if stale else self._carry[1]
        )
        carry = [state, buffer]
        if stale:
            size = sum(_plain(value).nbytes for value in state)
            most = _AHEAD if self._program.watched else 1
            furthest = max(1, min(most, _SNAPSHOT_BYTES // max(size, 1)))
            if step is not None:
                axes = self._axes(arguments, constants)
                compiling = _loop(step, self._scored, furthest, self._devices, axes)
                check()
                lowered = compiling.lower(*carry, data, np.int32(0), np.int32(0))
                before_xla = time.perf_counter()
                # XLA cannot be interrupted.
                loop, xla_s = compiled_beside(lowered, meanwhile)
                # What takes longer than XLA is not its own.
                started += time.perf_counter() - before_xla - xla_s
                kept_programs.keep(key, loop, step.constants)
            self._ahead, self._stack = furthest, None
            self.compile_s += time.perf_counter() - started
        self._signature, self._seen = signature, storages
        self._arguments, self._constants = arguments, constants
        self._arrays, self._data = arrays, data
        self._loop, self._furthest, self._carry = loop, furthest, carry

    def _axes(self, arguments: Sequence[Any], constants: Sequence[Any] = ()) -> list[int | None]:
        """Return which axis of each of the data are rows: of stacks of batches the second."""
        fed, noise = self._program.feed.tables, self._program.quasi_noise.tables
        others = None if fed else 0
        axes = [1 if v in fed else None if v in noise else others for v in arguments]
        return axes + [others] * len(constants)

    def _move(self, batches: np.ndarray) -> jax.Array:
        with _double_precision():
            return self._devices.put(batches, axis=1)


def _double_precision() -> Any:
    """Allow 64-bit numbers. Every type of the step is explicit, float32 models' included."""
    return jax.enable_x64(True)


def _loop(
    step: JaxStep, scored: bool, ahead: int, devices: OneDevice, axes: Sequence[int | None]
) -> Any:
    """Return the compiled loop over `times` intervals of `every` steps.

    ``(state, loss buffer, data, every, times) -> (steps taken, state, loss buffer, snapshots)``;
    the snapshots are the state after each of up to `ahead` intervals, none where that is 1.
    """

    def one_step(carry: tuple[Any, ...], data: list[Any]) -> tuple[Any, ...]:
        i, ok, state, buffer = carry
        # RNG states are dictionaries which PyTensor's dispatch changes in place.
        arguments = [dict(s) if isinstance(s, dict) else s for s in state]
        outputs = step.function(*arguments, *data)
        new = devices.state(
            [in_type_of(old, value) for value, old in zip(outputs, state, strict=False)]
        )
        if scored:
            loss = jnp.asarray(outputs[-1], buffer.dtype).reshape(())
            buffer = buffer.at[i].set(loss)
            ok = ~jnp.isnan(loss)
        return i + 1, ok, new, buffer

    def loop(
        state: list[Any], buffer: jax.Array, data: list[Any], every: jax.Array, times: jax.Array
    ) -> tuple[Any, ...]:
        def interval(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            j, inner, snapshots = carry
            inner = jax.lax.while_loop(
                lambda c: c[1] & (c[0] < (j + 1) * every), lambda c: one_step(c, data), inner
            )
            snapshots = [
                snapshot.at[j].set(_plain(value))
                for snapshot, value in zip(snapshots, inner[2], strict=False)
            ]
            return j + 1, inner, snapshots

        state, data = devices.state(state), devices.data(data, axes)
        snapshots = [jnp.zeros((ahead, *_plain(s).shape), _plain(s).dtype) for s in state]
        inner = (jnp.int32(0), jnp.bool(True), state, buffer)
        carry = (jnp.int32(0), inner, snapshots if ahead > 1 else [])
        _, (taken, _, state, buffer), snapshots = jax.lax.while_loop(
            lambda c: c[1][1] & (c[0] < times), interval, carry
        )
        return taken, state, buffer, snapshots

    return devices.jit(loop)


def _plain(value: Any) -> jax.Array:
    """Return the numbers of a part of the state; of a generator those of its key."""
    return jax.random.key_data(value[JAX_STATE]) if isinstance(value, dict) else value


def _from_snapshot(value: np.ndarray, like: Any) -> Any:
    array = jax.device_put(np.array(value))
    if not isinstance(like, dict):
        return array
    return {JAX_STATE: jax.random.wrap_key_data(array, impl="threefry2x32")}


def in_type_of(like: Any, value: Any) -> Any:
    """Return the next value of a part of the state in the type that the loop started with."""
    return value if isinstance(like, dict) else jnp.asarray(value, like.dtype).reshape(like.shape)


def _copy(variable: SharedVariable) -> Any:
    """Return a copy: JAX may use NumPy's own memory, and the loop overwrites its state."""
    value = variable.get_value(borrow=True)
    if isinstance(variable.type, RandomType):
        return {JAX_STATE: key_from_generator(value)}
    return np.array(value)


def _signature(variable: SharedVariable) -> Any:
    if isinstance(variable.type, RandomType):
        return None
    value = variable.get_value(borrow=True)
    return value.item() if gives_shape(variable) else np.shape(value)
