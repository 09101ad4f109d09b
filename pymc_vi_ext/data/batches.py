"""Batches of data larger than memory, for a model."""

from __future__ import annotations

import hashlib

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor

from pytensor import config
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.data.order import Columns, RowReader, Rows, RowsInTurn
from pymc_vi_ext.data.sources import Column, Iterations, as_source
from pymc_vi_ext.errors import UnknownNameError, warn
from pymc_vi_ext.options import whole_number
from pymc_vi_ext.streams import mark

# Bytes of rows that lie in memory to change places: they are gathered from there, which takes half
# as long from a cache of the processor. Where blocks are large it may be more; few mix badly.
_POOL_BYTES, _LARGEST_POOL_BYTES, _FEW_BLOCKS = 8_000_000, 64_000_000, 4


class Batches:
    r"""Batches of data that need not fit in memory, read while a fit goes on.

    ``batches["X"]`` is a shared variable, (batch_size, ...), that stands for the rows of a batch in
    a model. Each step of a fit sees the next batch: a thread reads several ahead and moves them to
    the device in one piece while the steps before them run.

    Every row comes exactly once a pass, in an order that follows from `random_seed` and the number
    of the pass. Blocks of neighbouring rows come in random order; as many as fill a pool lie in
    memory, and the rows of a pool are in random order. Where `batch_size` does not divide the
    number of rows, the last batch of a pass is filled up by the first rows of the next.

    Parameters
    ----------
    source : mapping, path, array, Dataset, callable or Source
        Where the rows come from, along the first axis of each array:

        - a mapping from names of columns to arrays: NumPy's, memory maps, zarr's, dask's, or paths
          of ``.npy`` files; one array with named fields; one array, whose column is called "data";
        - the path of a ``.npy`` file, of a ``.parquet`` file or a folder of them (a list of paths
          too; read by PyArrow), or of a ``.zarr`` store;
        - a zarr group, or an xarray Dataset, lazy or not;
        - a function without arguments that returns an iterator over chunks, mappings from names to
          arrays of rows. It is called at the beginning of each pass, and has to give the same
          rows in the same order; rows change places only within pools;
        - an object that has what a :class:`Source` has.
    batch_size : int
        Rows of a batch.
    columns : sequence of str or mapping, optional
        Which columns there are: some of the source's; or, by a name each, one of the source's, a
        list of them that stand side by side as the columns of a table, or of a source that is one
        array the places in its rows (a whole number, a list of them, or a slice). All by default.
    total_size : int, optional
        Rows of a pass; only of an iterator, where it is needed.
    random_seed : int
        Of the order of the rows.
    pool_rows : int, optional
        Rows of a pool; by default those of 8 MB, or of four blocks where these take 64 MB at most.

    Attributes
    ----------
    total_size : int
        Rows of the data.
    batch_size : int
    random_seed : int
    pool_rows : int
        A pool is larger where a single block of the source is.
    variables : dict of str to SharedVariable
        The columns, each with the first batch as its value.

    Raises
    ------
    ValueError
        If columns have different numbers of rows, cannot be numbers, or a batch is larger than the
        data; while batches are read, if a value is NaN, an iterator gives another number of rows
        than `total_size`, or a file has changed.
    UnknownNameError
        A ValueError and a KeyError: if there is no such column.
    FileNotFoundError
        If there is no such file.
    ImportError
        If PyArrow or zarr, which a path asks for, is not installed.
    TypeError
        If nothing is known that reads such a source.

    Warns
    -----
    UserWarning
        If a pool holds fewer than four blocks of the source, so that neighbours stay together.

    Notes
    -----
    In memory are at most two pools, and five stacks of batches of 32 MB each, or what a block or
    a batch takes where that is more.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> path = Path(tempfile.mkdtemp()) / "x.npy"
    >>> np.save(path, np.random.default_rng(1).normal(3.0, 1.0, 10_000))
    >>> batches = vix.data.Batches({"x": path}, batch_size=100)
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0.0, 10.0)
    ...     x = pm.Normal("x", mu, 1.0, **batches.observed("x"))
    ...     approx = vix.fit(random_seed=1, progressbar=False)
    >>> approx.report.stop_reason.value
    'converged'
    >>> bool(abs(approx.mean.eval()[0] - np.load(path).mean()) < 0.05 * 0.01)
    True
    """

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int,
        columns: Sequence[str] | Mapping[str, Any] | None = None,
        total_size: int | None = None,
        random_seed: int = 0,
        pool_rows: int | None = None,
    ):
        total = None if total_size is None else whole_number("total_size", total_size)
        self._source = as_source(source, total)
        self._columns = _chosen(self._source.columns, columns)
        self.batch_size = whole_number("batch_size", batch_size)
        self.random_seed = whole_number("random_seed", random_seed, least=0)
        self.total_size = (
            self._source.n_rows
            if isinstance(self._source, Iterations)
            else int(self._source.edges[-1])
        )
        if self.batch_size > self.total_size:
            raise ValueError(
                f"batch_size is {self.batch_size:,}, and the data have {self.total_size:,} rows: "
                "take fewer."
            )
        row = sum(int(np.prod(c.shape, dtype=int)) * c.dtype.itemsize for c in self._columns)
        self.pool_rows = (
            self._fitting_rows(max(row, 1))
            if pool_rows is None
            else whole_number("pool_rows", pool_rows)
        )
        self._warn_of_large_blocks()
        firsts = self.reader().batches(0, 1)
        self.variables = {
            column.name: pytensor.shared(first[0], column.name, shape=first[0].shape)
            for column, first in zip(self._columns, firsts, strict=True)
        }
        for variable in self.variables.values():
            mark(variable, self)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(f).tobytes() for f in firsts))
        self._checksum = digest.hexdigest()[:12]

    def __getitem__(self, name: str) -> SharedVariable:
        """Return the variable that stands for the rows of a column, (batch_size, ...)."""
        if name not in self.variables:
            raise UnknownNameError("column", name, self.variables)
        return self.variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def observed(self, name: str) -> dict[str, Any]:
        """Return the arguments of a likelihood that is observed at a column.

        Parameters
        ----------
        name : str

        Returns
        -------
        dict
            ``observed``, and ``total_size``, which says how many rows the batch stands for.
        """
        return {"observed": self[name], "total_size": self.total_size}

    def reader(self) -> RowReader:
        """Return a reader of its batches: ``reader.batches(first, n)``, in their order."""
        names = list(dict.fromkeys(part for column in self._columns for part in column.parts))
        rows: Rows | RowsInTurn
        if isinstance(self._source, Iterations):
            rows = RowsInTurn(self._source, names, self.pool_rows, self.random_seed)
        else:
            rows = Rows(self._source, names, self.pool_rows, self.random_seed)
        return RowReader(rows, self._columns, self.batch_size)

    def __str__(self) -> str:
        """Return what makes these batches the same: numbers, seed, and the first one."""
        return (
            f"{self.total_size} rows in batches of {self.batch_size}, pools of {self.pool_rows}, "
            f"seed {self.random_seed}, checksum {self._checksum} of the first"
        )

    @property
    def _largest_block(self) -> int:
        """Rows that are read in one go, at most; 0 of an iterator."""
        if isinstance(self._source, Iterations):
            return 0
        return int(np.diff(self._source.edges).max())

    def _fitting_rows(self, bytes_a_row: int) -> int:
        """Return the rows of a pool by default."""
        rows = max(_POOL_BYTES // bytes_a_row, 1)
        enough = self._largest_block * _FEW_BLOCKS
        return max(rows, enough) if enough * bytes_a_row <= _LARGEST_POOL_BYTES else rows

    def _warn_of_large_blocks(self) -> None:
        largest = self._largest_block
        if self.total_size > self.pool_rows and largest * _FEW_BLOCKS > self.pool_rows:
            warn(
                f"The data come in blocks of up to {largest:,} rows (row groups, chunks), and a "
                f"pool holds {self.pool_rows:,}: neighbours stay together, which matters where the "
                "rows are sorted. Write smaller blocks, or give more memory by pool_rows=..."
            )


def _chosen(
    there: Mapping[str, Column], asked: Sequence[str] | Mapping[str, Any] | None
) -> list[Columns]:
    """Return the columns of batches, of those of a source."""
    if isinstance(asked, str):
        asked = [asked]
    wanted: Mapping[str, Any] = (
        asked if isinstance(asked, Mapping) else {name: name for name in asked or there}
    )
    if not wanted:
        raise ValueError("`columns` names no column.")
    return [_column(there, name, what) for name, what in wanted.items()]


def _column(there: Mapping[str, Column], name: str, what: Any) -> Columns:
    places = None
    if isinstance(what, str):
        parts = [what]
    elif isinstance(what, list | tuple) and all(isinstance(part, str) for part in what) and what:
        parts = list(what)
    elif len(there) == 1 and isinstance(what, int | np.integer | slice | list | np.ndarray):
        parts, places = list(there), what
    else:
        raise TypeError(
            f"The column {name!r} is to be {what!r}: give the name of one of the source's columns, "
            "a list of names, or of a source that is one array the places in its rows."
        )
    for part in parts:
        if part not in there:
            raise UnknownNameError("column", part, there)
    stacked = not isinstance(what, str) and places is None
    if stacked and (deep := [part for part in parts if there[part].shape]):
        raise ValueError(
            f"{deep[0]!r} has rows of shape {there[deep[0]].shape}: only columns of single numbers "
            "stand side by side."
        )
    shape = (len(parts),) if stacked else there[parts[0]].shape
    if places is not None:
        try:
            shape = np.empty(shape, dtype=bool)[places].shape
        except IndexError as error:
            raise ValueError(
                f"The column {name!r} is to be places {places!r} of rows of shape {shape}: {error}."
            ) from error
    dtype = np.result_type(*(_number(part, there[part].dtype) for part in parts))
    return Columns(name, parts, places, stacked, shape, np.dtype(dtype))


def _number(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that a column has in batches: that of the model, where it is wider."""
    if dtype.kind == "b":
        return np.dtype("int8")
    if dtype.kind not in "iuf":
        raise ValueError(
            f"The column {name!r} has the dtype {dtype}: a model takes numbers. Leave it out by "
            "columns=..., or write codes in its place."
        )
    widest: np.dtype[Any] = np.dtype(config.floatX)
    if dtype.kind == "f" and dtype.itemsize > widest.itemsize:
        return widest
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return np.dtype("float32") if native == np.float16 else native
