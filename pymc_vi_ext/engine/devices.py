"""Where the arrays of a loop lie: on the device that JAX takes, or shared out among several."""

from __future__ import annotations

import hashlib
import math

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.options import whole_number

_AXIS = "shared_out"
_spec: Any = jax.sharding.PartitionSpec  # without types
_constrained: Any = jax.lax.with_sharding_constraint


class OneDevice:
    """The device that JAX takes.

    Attributes
    ----------
    named : bool
        Whether somebody has said which devices, or how many.
    """

    named = False

    def look_at(self, shapes: Sequence[tuple[int, ...]], axes: Sequence[int | None]) -> None:
        """Be told the shapes of the data of a step, and which axis of each is its rows."""

    def put(self, array: np.ndarray, axis: int | None) -> jax.Array:
        """Return data, whose rows are that axis, where the steps read them."""
        placed: jax.Array = jax.device_put(array)
        return placed

    def data(self, arrays: Sequence[jax.Array], axes: Sequence[int | None]) -> list[jax.Array]:
        """Return data inside of the program."""
        return list(arrays)

    def state(self, values: Sequence[Any]) -> list[Any]:
        """Return the state inside of the program."""
        return list(values)

    def draw(self, value: jax.Array) -> jax.Array:
        """Return random numbers inside of the program."""
        return value

    def refuse_different(self, values: Sequence[Any]) -> None:
        """Be told the state that steps go on from."""

    def agreed(self, seconds: float) -> float:
        """Return what a call took, the same in all processes that make it."""
        return seconds

    def jit(self, loop: Callable[..., Any]) -> Any:
        """Return the function that is to be compiled; it takes over its first two arguments."""
        return jax.jit(loop, donate_argnums=(0, 1))


class SeveralDevices(OneDevice):
    """Devices that share the work of a step, by XLA's partitioner.

    One axis is shared out, the first of these that has an entry for each device: the particles,
    the draws of a step, the rows of the data. XLA derives from it who computes what, and what has
    to be summed over devices; whatever is shared out, the step is the same but for rounding.

    Between calls the state is whole on every device. So are data whose rows the number of devices
    does not divide; their rows are still shared out inside of the program, the last device having
    fewer.

    Parameters
    ----------
    devices : sequence of jax.Device
    program : StepProgram
    """

    named = True

    def __init__(self, devices: Sequence[jax.Device], program: StepProgram):
        self._devices, self._program = list(devices), program
        self.count = len(self._devices)
        self._in_processes = len({device.process_index for device in devices}) > 1
        self._mesh = Mesh(np.array(self._devices), (_AXIS,))
        particles = [i for i, v in enumerate(program.state) if v in program.particles]
        first = program.state[particles[0]].get_value(borrow=True) if particles else np.empty(0)
        self._particles = particles if len(first) >= self.count else []
        self._draws = program.draws if not self._particles and program.draws >= self.count else 0
        self._rows = 0

    def look_at(self, shapes: Sequence[tuple[int, ...]], axes: Sequence[int | None]) -> None:
        """Find the rows of the data, where these are to be shared out.

        Raises
        ------
        ValueError
            If there is nothing that the devices could share.
        """
        if self._particles or self._draws:
            return
        # The length that most of the numbers share.
        numbers: Counter[int] = Counter()
        for shape, axis in zip(shapes, axes, strict=True):
            if axis is not None and len(shape) > axis and shape[axis] >= self.count:
                numbers[shape[axis]] += math.prod(shape)
        self._rows = max(numbers, key=numbers.__getitem__, default=0)
        if not self._rows:
            raise ValueError(
                f"There is nothing in a step that {self.count} devices could share: it needs as "
                "many draws (`obj_n_mc`), particles, or rows of data beyond a few kilobytes. Leave "
                "`devices` out."
            )

    def put(self, array: np.ndarray, axis: int | None) -> jax.Array:
        """Return data on the devices: a share of the rows each, or all where they do not divide."""
        even = self._has_rows(array, axis) and self._rows % self.count == 0
        placed: jax.Array = jax.device_put(array, self._over(axis if even else None))
        return placed

    def data(self, arrays: Sequence[jax.Array], axes: Sequence[int | None]) -> list[jax.Array]:
        """Share out the rows of data."""
        return [
            self._shared(array, axis) if axis is not None and self._has_rows(array, axis) else array
            for array, axis in zip(arrays, axes, strict=True)
        ]

    def state(self, values: Sequence[Any]) -> list[Any]:
        """Share out the particles, and what an optimizer has of each."""
        return [self._shared(v, 0) if i in self._particles else v for i, v in enumerate(values)]

    def draw(self, value: jax.Array) -> jax.Array:
        """Share out the draws of a step, or the numbers of the rows of a batch."""
        if self._draws and self._draws in value.shape:
            return self._shared(value, value.shape.index(self._draws))
        numbers = value.ndim == 1 and np.issubdtype(value.dtype, np.integer)
        if self._rows and numbers and len(value) >= self.count:
            return self._shared(value, 0)
        return value

    def refuse_different(self, values: Sequence[Any]) -> None:
        """Raise a ValueError, in all processes, where their states differ."""
        if not self._in_processes:
            return
        digest = hashlib.sha256(b"".join(np.asarray(value).tobytes() for value in values))
        seen = multihost_utils.process_allgather(np.frombuffer(digest.digest(), np.uint32))
        if (seen != seen[0]).any():
            raise ValueError(
                "The processes begin at different numbers: give each the same model, data, start "
                "and `random_seed`."
            )

    def agreed(self, seconds: float) -> float:
        """Return the first process's seconds: how many steps a call takes follows from them."""
        if not self._in_processes:
            return seconds
        return float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))

    def jit(self, loop: Callable[..., Any]) -> Any:
        """Return the function for all devices: state and results whole, data as they lie."""
        whole = self._over(None)
        return jax.jit(
            loop,
            donate_argnums=(0, 1),
            in_shardings=(whole, whole, None, whole, whole),
            out_shardings=whole,
        )

    def _has_rows(self, array: Any, axis: int | None) -> bool:
        if axis is None or not self._rows or array.ndim <= axis:
            return False
        return bool(array.shape[axis] == self._rows)

    def _over(self, axis: int | None) -> NamedSharding:
        names = [] if axis is None else [*[None] * axis, _AXIS]
        return NamedSharding(self._mesh, _spec(*names))

    def _shared(self, value: jax.Array, axis: int | None) -> jax.Array:
        shared: jax.Array = _constrained(value, self._over(axis))
        return shared

    def __reduce__(self) -> Any:
        return _again, ([device.id for device in self._devices], self._program)


def _again(ids: Sequence[int], program: StepProgram) -> OneDevice:
    """Return what was pickled, where there are the same devices; else one."""
    found = {device.id: device for device in jax.devices()}
    if not all(i in found for i in ids):
        return OneDevice()
    return SeveralDevices([found[i] for i in ids], program)


def devices_of(asked: Any, program: StepProgram) -> OneDevice:
    """Return the devices that `asked` names, for the steps of `program`.

    Parameters
    ----------
    asked : int, "all", sequence of jax.Device or None
        None, as 1, is the device that JAX takes. A number counts those of this process; "all" are
        those of all processes of ``jax.distributed``.
    program : StepProgram

    Raises
    ------
    ValueError
        If it names none, or more than there are.
    """
    if asked is None:
        return OneDevice()
    there = jax.local_devices()
    if isinstance(asked, str) and asked == "all":
        found = jax.devices()
    elif isinstance(asked, Sequence) and not isinstance(asked, str):
        found = list(asked)
        ours = all(isinstance(device, jax.Device) for device in found)
        if not found or not ours or len(set(found)) < len(found):
            raise ValueError(
                f"`devices` as a sequence holds JAX's devices, each once, not {asked!r}."
            )
        return SeveralDevices(found, program)
    else:
        try:
            number = whole_number("devices", asked)
        except ValueError:
            raise ValueError(
                '`devices` is a number from 1, "all", or a sequence of JAX\'s devices, not '
                f"{asked!r}."
            ) from None
        if number > len(there):
            raise ValueError(
                f"devices={number}, but JAX has {len(there)} ({there[0].platform}). "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={number}, set before Python "
                "starts, makes as many of one CPU."
            )
        found = there[:number]
    return SeveralDevices(found, program) if len(found) > 1 else OneDevice()
