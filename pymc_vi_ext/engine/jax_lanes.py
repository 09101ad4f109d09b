"""Many runs of one program side by side, each with data and a state of its own, in JAX."""

from __future__ import annotations

import copy
import time

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytensor

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.random.type import RandomType

from pymc_vi_ext.engine.jax_loop import in_type_of
from pymc_vi_ext.engine.jax_step import JaxStep, gives_shape, jax_step
from pymc_vi_ext.engine.keys import generator_from_key, key_data
from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.interrupts import held
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import JAX_STATE, set_storage, storage

# Steps of a call, at most: lanes that are asked for fewer wait for the others.
SLICE = 64
# Larger data of a lane stay on the device, where they are replaced one by one.
_LARGEST_SENT = 4_096  # bytes
# No thread for each sum over a lane's data, which is short: steps took half as long again with two,
# and Python has something to do meanwhile.
_ONE_THREAD = {"xla_cpu_experimental_ynn_fusion_type": ""}


@dataclass
class Asked:
    """Steps that one lane is to take.

    Attributes
    ----------
    steps : int
        Still to be taken.
    state, data : dict of int to array
        What has been set from outside, by number of the variable.
    losses : list of array
        Of the steps taken.
    """

    steps: int
    state: dict[int, np.ndarray]
    data: dict[int, np.ndarray]
    losses: list[np.ndarray] = field(default_factory=list)


class JaxLanes:
    """A :class:`StepProgram` of which `width` runs go on side by side, as one XLA program.

    Each lane has a state and data of its own. A lane whose loss is NaN stops there; the others go
    on. What a lane computes does not depend on what the others do.

    Parameters
    ----------
    program : StepProgram
    width : int
        Number of lanes.
    common : collection of SharedVariable
        Data that are the same in all lanes, for as long as these exist.

    Attributes
    ----------
    compile_s : float
        Seconds spent on compilation.

    Raises
    ------
    UnsupportedOpError
        If an Op of the step has no JAX implementation, naming it.
    """

    def __init__(self, program: StepProgram, width: int, common: Collection[SharedVariable] = ()):
        started = time.perf_counter()
        self.program, self.width = program, width
        with held(), jax.enable_x64(True):
            with python_only():
                step = jax_step(program)
            self.arrays = step.arrays
            self.fixed = {v: v.get_value() for v in program.data if gives_shape(v)}
            self._own = [variable not in common for variable in step.arrays]
            self._state: list[Any] = [_in_lanes(numbers(v), width) for v in program.state]
            self._data = [
                self._placed(numbers(variable)) if own else jax.device_put(numbers(variable))
                for variable, own in zip(step.arrays, self._own, strict=True)
            ]
            self._constants = [jax.device_put(constant) for constant in step.constants]
            lowered = jax.jit(partial(_side_by_side, step, program, self._own)).lower(
                self._state, self._data, self._constants, np.zeros(width, np.int32)
            )
            self._run = _compiled(lowered)
        self.compile_s = time.perf_counter() - started

    def twin(self) -> JaxLanes:
        """Return as many lanes more, of the same compiled program."""
        twin = copy.copy(self)
        twin._state = [np.array(value) for value in self._state]
        with jax.enable_x64(True):
            twin._data = [
                np.array(value) if isinstance(value, np.ndarray) else jnp.array(value, copy=True)
                for value in self._data
            ]
        return twin

    def _placed(self, value: np.ndarray) -> Any:
        lanes = _in_lanes(value, self.width)
        return lanes if value.nbytes <= _LARGEST_SENT else jax.device_put(lanes)

    def advance(self, asked: dict[int, Asked]) -> list[int]:
        """Take up to `SLICE` steps in the lanes that are asked for some; return those done.

        Parameters
        ----------
        asked : dict of int to Asked
            By lane; it counts down, and what has been set is sent once.
        """
        with held(), jax.enable_x64(True):
            changed: dict[int, np.ndarray] = {}
            left = np.zeros(self.width, np.int32)
            for lane, own in asked.items():
                left[lane] = own.steps
                for number, value in own.state.items():
                    if number not in changed:
                        # A copy: what the device has returned cannot be written to.
                        changed[number] = self._state[number] = np.array(self._state[number])
                    changed[number][lane] = value
                for number, value in own.data.items():
                    self._set_data(number, lane, value)
                own.state, own.data = {}, {}
            taken, losses = self._call(left)
        done = []
        for lane, own in asked.items():
            steps = int(taken[lane])
            if losses is not None:
                own.losses.append(losses[:steps, lane].copy())
            ended = steps < min(own.steps, SLICE)
            own.steps -= steps
            if ended or not own.steps:
                done.append(lane)
        return done

    def _set_data(self, number: int, lane: int, value: np.ndarray) -> None:
        if not self._own[number]:
            name = self.arrays[number].name
            raise ValueError(f"{name} is the same for all: it cannot be set for one of them.")
        data = self._data[number]
        if isinstance(data, np.ndarray):
            data[lane] = value
        else:
            self._data[number] = _replaced(data, np.int32(lane), value)

    def _call(self, left: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        state, taken, losses = self._run(self._state, self._data, self._constants, left)
        # All of it is waited for: data that lie in NumPy's memory may be written to again.
        self._state = [np.asarray(value) for value in state]
        return np.asarray(taken), None if losses is None else np.asarray(losses)

    def state_of(self, lane: int, number: int) -> np.ndarray:
        """Return a copy of the numbers of a variable of the state, in one lane."""
        return np.array(self._state[number][lane])


class LaneLoop:
    """One lane as a :class:`Loop`.

    Parameters
    ----------
    lanes : JaxLanes
    lane : int
    serve : callable, optional
        Has the steps taken that it is given; by default in this lane alone.

    Attributes
    ----------
    run_s : float
        The lane's share of the seconds of the calls so far; `serve` counts them.
    """

    backend = "jax"

    def __init__(self, lanes: JaxLanes, lane: int, serve: Callable[[Asked], None] | None = None):
        self.lanes, self.lane = lanes, lane
        self.compile_s, self.run_s = lanes.compile_s, 0.0
        self._serve = serve or self._alone
        self._state_seen: list[Any] = [None] * len(lanes.program.state)
        self._data_seen: list[Any] = [
            None if own else storage(variable)
            for variable, own in zip(lanes.arrays, lanes._own, strict=True)
        ]

    def _alone(self, asked: Asked) -> None:
        started = time.perf_counter()
        while not self.lanes.advance({self.lane: asked}):
            pass
        self.run_s += time.perf_counter() - started

    def run(self, n: int) -> np.ndarray | None:
        """Take up to `n` steps; stop right after a step whose loss is NaN."""
        for variable, value in self.lanes.fixed.items():
            if variable.get_value(borrow=True) != value:
                raise ValueError(f"{variable.name} gives a shape: it is the same for all models.")
        program = self.lanes.program
        asked = Asked(
            n,
            _changed(program.state, self._state_seen),
            _changed(self.lanes.arrays, self._data_seen),
        )
        if n:
            self._serve(asked)
        return np.concatenate([np.empty(0), *asked.losses]) if program.loss is not None else None

    def intervals(self, every: int, times: int) -> Generator[np.ndarray | None, None, None]:
        """Take `every` steps: the others need not wait while several intervals are looked at."""
        yield self.run(every)

    def write_back(self, *, internals: bool = True) -> None:
        """Store the state in the shared variables; one set from outside keeps what it was given."""
        program = self.lanes.program
        for i, variable in enumerate(program.state):
            if not internals and variable in program.internals:
                continue
            if storage(variable) is not self._state_seen[i]:
                continue
            value: Any = self.lanes.state_of(self.lane, i)
            if isinstance(variable.type, RandomType):
                value = generator_from_key(value)
            set_storage(variable, value)
            self._state_seen[i] = value


def numbers(variable: SharedVariable) -> np.ndarray:
    """Return the numbers of a shared variable; of a generator those of its key."""
    value = storage(variable)
    return key_data(value) if isinstance(variable.type, RandomType) else np.asarray(value)


def _changed(variables: Sequence[SharedVariable], seen: list[Any]) -> dict[int, np.ndarray]:
    """Return what has been set since the storages were `seen`, by number; it is seen now."""
    found = {}
    for i, variable in enumerate(variables):
        now = storage(variable)
        if now is not seen[i]:
            seen[i] = now
            found[i] = numbers(variable)
    return found


def _compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile(_ONE_THREAD)
    except jax.errors.JaxRuntimeError:
        # Another version of XLA, without the option.
        return lowered.compile()


def _in_lanes(value: np.ndarray, width: int) -> np.ndarray:
    return np.repeat(value[None], width, axis=0)


@partial(jax.jit, donate_argnums=0)
def _replaced(data: jax.Array, lane: jax.Array, value: jax.Array) -> jax.Array:
    return data.at[lane].set(value)


def _side_by_side(
    step: JaxStep,
    program: StepProgram,
    own: list[bool],
    state: list[Any],
    data: list[Any],
    constants: list[Any],
    left: jax.Array,
) -> tuple[list[Any], jax.Array, jax.Array | None]:
    """Take up to `left` steps in each lane; returns the state, steps taken and losses."""
    random = [isinstance(variable.type, RandomType) for variable in program.state]
    scored = program.loss is not None

    def one_step(state: list[Any], data: list[Any]) -> tuple[list[Any], Any]:
        arguments = [
            {JAX_STATE: jax.random.wrap_key_data(value, impl="threefry2x32")} if is_key else value
            for value, is_key in zip(state, random, strict=True)
        ]
        outputs = step.function(*arguments, *data, *constants)
        new = [
            jax.random.key_data(value[JAX_STATE]) if is_key else in_type_of(old, value)
            for value, old, is_key in zip(outputs, state, random, strict=False)
        ]
        loss = outputs[-1] if scored else 0.0
        return new, jnp.asarray(loss, pytensor.config.floatX).reshape(())

    in_all = jax.vmap(one_step, in_axes=(0, [0 if each else None for each in own]))

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        i, going, taken, state, losses = carry
        new, loss = in_all(state, data)
        state = [
            jnp.where(going.reshape(-1, *[1] * (now.ndim - 1)), now, old)
            for now, old in zip(new, state, strict=True)
        ]
        taken = taken + going
        going = going & (taken < left) & ~jnp.isnan(loss)
        return i + 1, going, taken, state, losses.at[i].set(loss) if scored else losses

    losses = jnp.zeros((SLICE if scored else 0, len(left)), pytensor.config.floatX)
    carry = (jnp.int32(0), left > 0, jnp.zeros_like(left), state, losses)
    _, _, taken, state, losses = jax.lax.while_loop(
        lambda carry: (carry[0] < SLICE) & carry[1].any(), body, carry
    )
    return state, taken, losses if scored else None
