"""Batches for a program whose data are read while it runs: stacks of them, one ahead."""

from __future__ import annotations

import math
import threading

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.replace import clone_replace

from pymc_vi_ext.streams import Reader, fed_in

# Bytes of a stack, and batches in it at most. Where it holds more than a few, their number is a
# multiple of the steps between two looks of a rule.
_BYTES, _MOST, _RHYTHM = 32_000_000, 2_000, 25
# Stacks that are kept: evaluations go back, and callbacks may.
_KEPT = 3


@dataclass(frozen=True)
class Stack:
    """Batches that lie ready for steps.

    Attributes
    ----------
    first : int
        Number of the first of them.
    arrays : list of array of shape (batches, batch_size, ...)
        A table's each, moved to where the steps run.
    """

    first: int
    arrays: list[Any]


class Feed:
    """What brings a program its batches: row ``place % rows`` of tables, which are stacks of them.

    The number of the next batch is part of the program's state and goes up by 1 with each step. So
    whatever sets a state back (callbacks, checkpoints, evaluations) sets the batches back with it.
    While steps run on one stack, a thread reads the next one and moves it to the device.

    Parameters
    ----------
    replaced : mapping of SharedVariable to Stream, optional
        The variables that stand for batches in a graph, and what they are batches of.

    Attributes
    ----------
    tables : list of SharedVariable
        Stacks of batches, (rows, batch_size, ...), which the engine fills.
    place : SharedVariable
        Number of the next batch, (1,).
    rows : int
        Batches of a stack.
    steps_a_pass : float
        Batches that hold as many rows as the data have; 0 where nothing is fed.
    move : callable
        What an engine does to each array of a stack, in the thread that has read it.

    Examples
    --------
    >>> from pymc_vi_ext.engine import Feed
    >>> feed, outputs = Feed.of([])
    >>> bool(feed), feed.updates
    (False, {})
    """

    def __init__(self, replaced: Mapping[Any, Any] | None = None):
        replaced = {} if replaced is None else replaced
        streams = list(dict.fromkeys(replaced.values()))
        self.place = pytensor.shared(np.array([0]), "place_in_data")
        self.steps_a_pass = max((s.total_size / s.batch_size for s in streams), default=0.0)
        self.move: Callable[[np.ndarray], Any] = _as_it_is
        self._readers: list[Reader] = [s.reader() for s in streams]
        # Of each table, the stream and the column that it holds.
        self._of = [
            (streams.index(stream), [*stream.variables.values()].index(variable))
            for variable, stream in replaced.items()
        ]
        own = [variable.get_value(borrow=True) for variable in replaced]
        self.rows = _rows(sum(value.nbytes for value in own))
        self.tables = [
            # Memory that nobody writes to is none.
            pytensor.shared(
                np.zeros((self.rows, *value.shape), value.dtype),
                f"{variable.name}_batches",
                shape=(self.rows, *value.shape),
                borrow=True,
            )
            for variable, value in zip(replaced, own, strict=True)
        ]
        self._kept: dict[int, Stack] = {}
        self._ahead: _Reading | None = None

    @classmethod
    def of(cls, outputs: Sequence[Variable]) -> tuple[Feed, list[Variable]]:
        """Return the feed of graphs that read batches, and the graphs reading its tables."""
        found = fed_in(outputs)
        feed = cls(dict(found))
        if not found:
            return feed, list(outputs)
        row = feed.place[0] % feed.rows
        batches: dict[Any, Any] = {
            v: table[row] for (v, _), table in zip(found, feed.tables, strict=True)
        }
        return feed, list(clone_replace(list(outputs), batches, rebuild_strict=False))

    def __bool__(self) -> bool:
        return bool(self.tables)

    @property
    def updates(self) -> dict[SharedVariable, Variable]:
        """What a step adds to its program; nothing where nothing is fed."""
        return {self.place: self.place + 1} if self else {}

    @property
    def position(self) -> int:
        """Number of the next batch, as the shared variable has it."""
        return int(self.place.get_value(borrow=True)[0])

    def begin_at(self, position: int) -> None:
        """Go on with batch number `position`; nothing where nothing is fed."""
        if self:
            self.place.set_value(np.array([position]))

    def start_of_pass(self) -> int:
        """Return the number of the first batch of the next pass over the data."""
        if not self:
            return 0
        passes = math.ceil(round(self.position / self.steps_a_pass, 9))
        return math.ceil(round(passes * self.steps_a_pass, 9))

    def stack_at(self, position: int) -> Stack:
        """Return the stack that holds batch `position`, and let a thread read the next one.

        Raises
        ------
        Exception
            What the reading raised.
        """
        first = position - position % self.rows
        stack = self._kept.pop(first, None)
        if stack is None:
            if self._ahead is not None:
                ahead, self._ahead = self._ahead, None
                stack = ahead.result(wanted=first)
            if stack is None:
                stack = self._read(first)
        self._kept[first] = stack
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        after = first + self.rows
        if self._ahead is None and after not in self._kept:
            self._ahead = _Reading(after, self._read)
        return stack

    def left(self, position: int) -> int:
        """Return how many steps from `position` on the stack there suffices for."""
        return self.rows - position % self.rows

    def _read(self, first: int) -> Stack:
        found = [reader.batches(first, self.rows) for reader in self._readers]
        arrays = [self.move(found[stream][column]) for stream, column in self._of]
        return Stack(first, arrays)


class _Reading(threading.Thread):
    """A stack that is being read."""

    def __init__(self, first: int, read: Callable[[int], Stack]):
        # No daemon: one that is ended inside of JAX takes the process with it.
        super().__init__(name="pymc_vi_ext batches")
        self._first, self._read = first, read
        self._stack: Stack | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Read the stack."""
        try:
            self._stack = self._read(self._first)
        except Exception as error:
            self._error = error

    def result(self, wanted: int) -> Stack | None:
        """Wait for the end; return the stack if it is the one that is wanted.

        Raises
        ------
        Exception
            What the reading of a stack that is wanted has raised.
        """
        self.join()
        if self._first != wanted:
            return None
        if self._error is not None:
            raise self._error
        return self._stack


def _rows(bytes_a_batch: int) -> int:
    rows = max(1, min(_MOST, _BYTES // max(bytes_a_batch, 1)))
    return rows - rows % _RHYTHM if rows > _RHYTHM else rows


def _as_it_is(array: np.ndarray) -> Any:
    return array
