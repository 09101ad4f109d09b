"""What the engine and the judges know of data that are read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors

from pymc_vi_ext.upstream import note, noted


class Reader(Protocol):
    """Reads batches, for one thread at a time."""

    def batches(self, first: int, n: int) -> list[np.ndarray]:
        """Return `n` batches from number `first` on, an array (n, batch_size, ...) a column."""


class Stream(Protocol):
    """Data that are read a batch at a time, without end: one pass over them after the other."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""

    @property
    def total_size(self) -> int:
        """Rows of the data."""

    @property
    def variables(self) -> Mapping[str, SharedVariable]:
        """The shared variables that stand for a batch in a model, by column."""

    def reader(self) -> Reader:
        """Return what reads the batches."""

    def __str__(self) -> str: ...


def mark(variable: SharedVariable, stream: Stream) -> None:
    """Note on a variable that it stands for a batch of `stream`."""
    note(variable, "stream", stream)


def stream_of(variable: Variable) -> Stream | None:
    """Return what `variable` stands for a batch of, None for others."""
    stream: Stream | None = noted(variable, "stream")
    return stream


def streams_in(graphs: Iterable[Variable]) -> list[Stream]:
    """Return the streams of which `graphs` read batches, each once."""
    return list(dict.fromkeys(stream for _, stream in fed_in(graphs)))


def fed_in(graphs: Iterable[Variable]) -> Sequence[tuple[Any, Stream]]:
    """Return the variables of `graphs` that stand for batches, each with its stream."""
    found = dict.fromkeys(v for v in ancestors(list(graphs)) if isinstance(v, SharedVariable))
    return [(v, stream) for v in found if (stream := stream_of(v)) is not None]
