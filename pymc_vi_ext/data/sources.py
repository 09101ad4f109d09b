"""Where rows come from: arrays on disk, Parquet, zarr, xarray, or a function of the user's."""

from __future__ import annotations

import os

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

# Bytes of a column that are read in one go from an array without chunks of its own.
_RUN = 1 << 16
# Of few rows so many such runs at least.
_FEWEST_RUNS = 64


class Column(NamedTuple):
    """What a source says of a column: the shape of a row, and its dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@runtime_checkable
class Source(Protocol):
    """Rows that are read block by block; what a class of one's own has for :class:`Batches`.

    A block is a range of rows that is cheap to read in one go. Blocks are read in a random order,
    by one thread.

    Examples
    --------
    >>> import numpy as np
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.data.sources import Column
    >>> class Squares:
    ...     edges = np.arange(0, 1_001, 100)
    ...     columns = {"x": Column((), np.dtype(float)), "y": Column((), np.dtype(float))}
    ...
    ...     def read(self, block, names):
    ...         x = np.arange(self.edges[block], self.edges[block + 1], dtype=float)
    ...         return {"x": x, "y": x**2}
    ...
    ...     def check(self):
    ...         pass
    >>> batches = vix.data.Batches(Squares(), batch_size=10)
    >>> batches.total_size, batches["y"].type.shape
    (1000, (10,))
    """

    @property
    def edges(self) -> np.ndarray:
        """First row of each block, and the number of all rows behind them, (blocks + 1,)."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """The shape of a row and the dtype of each column, by name."""

    def read(self, block: int, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return the rows of a block, (rows, ...), of the columns named."""

    def check(self) -> None:
        """Raise a ValueError if the data are not what they were when they were opened."""


class Arrays:
    """Columns that are arrays of any kind which slices give rows of, from memory or disk."""

    def __init__(self, arrays: Mapping[str, Any], files: Sequence[Path] = ()):
        if not arrays:
            raise ValueError("The data have no columns.")
        rows = {name: _rows_of(name, array) for name, array in arrays.items()}
        if len(set(rows.values())) > 1:
            listed = ", ".join(f"{name} {n:,}" for name, n in rows.items())
            raise ValueError(f"The columns have different numbers of rows: {listed}.")
        # A slice of a plain array costs a fifth of one of a memory map.
        self._arrays = {
            name: np.asarray(array) if isinstance(array, np.ndarray) else array
            for name, array in arrays.items()
        }
        self.columns = {
            name: Column(tuple(array.shape[1:]), np.dtype(array.dtype))
            for name, array in arrays.items()
        }
        n = next(iter(rows.values()))
        self.edges = np.append(np.arange(0, n, _run(n, arrays, self.columns)), n)
        filed = [getattr(array, "filename", None) for array in arrays.values()]
        self._files = _Files([*files, *(Path(f) for f in filed if isinstance(f, str | Path))])

    def read(self, block: int, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return the rows of a block."""
        start, stop = (int(edge) for edge in self.edges[block : block + 2])
        return {name: np.asarray(self._arrays[name][start:stop]) for name in names}

    def check(self) -> None:
        """Raise a ValueError if a file has changed."""
        self._files.check()


class Parquet:
    """Columns of Parquet files, whose row groups are the blocks."""

    def __init__(self, paths: Sequence[Path]):
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImportError(
                "Parquet is read by PyArrow: pip install 'pymc-vi-ext[data]'."
            ) from error
        for path in paths:
            if not path.exists():
                raise FileNotFoundError(f"There is no file {path}.")
        self._files = _Files(paths)
        opened = [pq.ParquetFile(path) for path in paths]
        self._groups = [(file, k) for file in opened for k in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(k).num_rows for file, k in self._groups]
        self.edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        schema = opened[0].schema_arrow
        for path, file in zip(paths, opened, strict=True):
            if not file.schema_arrow.equals(schema):
                raise ValueError(f"{path} has other columns than {paths[0]}.")
        self.columns = {}
        for field in schema:
            try:
                dtype = np.dtype(field.type.to_pandas_dtype())
            except (NotImplementedError, TypeError):
                dtype = np.dtype(object)
            self.columns[field.name] = Column((), dtype)

    def read(self, block: int, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return the rows of a row group."""
        file, group = self._groups[block]
        table = file.read_row_group(group, columns=list(names), use_threads=False)
        for name in names:
            if table[name].null_count:
                raise ValueError(
                    f"The column {name!r} has nulls in the rows from {self.edges[block]:,} on: "
                    "leave such rows out, or fill them, before the fit."
                )
        return {name: table[name].to_numpy() for name in names}

    def check(self) -> None:
        """Raise a ValueError if a file has changed."""
        self._files.check()


class Iterations:
    """Rows that come one after the other from a function which begins anew at each call."""

    def __init__(self, function: Callable[[], Any], n_rows: int):
        self._function, self.n_rows = function, n_rows
        first = next(self.chunks(), None)
        if first is None:
            raise ValueError("The iterator of the data gives no rows.")
        self.columns = {name: Column(v.shape[1:], v.dtype) for name, v in first.items()}

    def chunks(self) -> Iterator[dict[str, np.ndarray]]:
        """Return the chunks of a pass, each with the rows of all columns."""
        for number, chunk in enumerate(self._function()):
            if not isinstance(chunk, Mapping):
                raise TypeError(
                    "An iterator of data gives mappings from names of columns to arrays of rows, "
                    f"not {type(chunk).__name__}."
                )
            arrays = {name: np.asarray(values) for name, values in chunk.items()}
            lengths = {name: _rows_of(name, array) for name, array in arrays.items()}
            if len(set(lengths.values())) != 1:
                raise ValueError(
                    f"Chunk {number} of the iterator has columns of different lengths: "
                    f"{', '.join(f'{name} {n:,}' for name, n in lengths.items())}."
                )
            yield arrays


class _Files:
    """Sizes and times of files, which are not to change while they are read."""

    def __init__(self, paths: Sequence[Path]):
        self._seen = {path: _size_and_time(path) for path in dict.fromkeys(paths)}

    def check(self) -> None:
        for path, seen in self._seen.items():
            if _size_and_time(path) != seen:
                raise ValueError(
                    f"The file {path} has changed since it was opened: its rows are not those that "
                    "the fit began with. Make the Batches anew."
                )


def as_source(source: Any, total_size: int | None) -> Source | Iterations:
    """Return what reads `source`; see :class:`~pymc_vi_ext.data.Batches`."""
    if callable(source) and not hasattr(source, "shape") and not isinstance(source, Source):
        if total_size is None:
            raise ValueError(
                "How many rows an iterator gives is not known before its end: pass total_size=..."
            )
        return Iterations(source, total_size)
    found = _of_blocks(source)
    n = int(found.edges[-1])
    if total_size not in (None, n):
        raise ValueError(
            f"total_size is {total_size:,}, and the data have {n:,} rows: leave it out."
        )
    return found


def _of_blocks(source: Any) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike):
        return _of_path(Path(source))
    if isinstance(source, list | tuple) and source:
        return Parquet([Path(path) for path in source])
    if isinstance(getattr(source, "dtype", None), np.dtype) and source.dtype.names:
        return Arrays({name: source[name] for name in source.dtype.names}, _file_of(source))
    if hasattr(source, "data_vars"):
        return Arrays(_of_dataset(source))
    if hasattr(source, "array_keys"):
        return Arrays({name: source[name] for name in source.array_keys()})
    if isinstance(source, Mapping):
        return Arrays({name: _opened(array) for name, array in source.items()})
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return Arrays({"data": source})
    if hasattr(source, "__next__"):
        raise TypeError(
            "An iterator ends with the first pass over the data: pass the function that makes it, "
            "which is called at the beginning of each."
        )
    raise TypeError(
        "Batches are read from a mapping of names to arrays, a .npy, .parquet or .zarr path, a "
        "zarr group, an xarray Dataset, a function that returns an iterator, or a vix.data.Source; "
        f"not from {type(source).__name__}."
    )


def _of_path(path: Path) -> Source:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix == ".npy":
        return _of_blocks(np.load(path, mmap_mode="r"))
    if path.suffix == ".zarr":
        try:
            import zarr
        except ImportError as error:
            raise ImportError("zarr is not installed: pip install 'pymc-vi-ext[data]'.") from error
        opened: Any = zarr.open(str(path), mode="r")
        return _of_blocks(opened)
    if path.is_dir():
        inside = sorted(path.glob("*.parquet"))
        if not inside:
            raise FileNotFoundError(f"There are no .parquet files in {path}.")
        return Parquet(inside)
    if path.suffix in (".parquet", ".pq"):
        return Parquet([path])
    raise ValueError(
        f"{path} is none of .npy, .parquet and .zarr: open it, and pass what gives its rows."
    )


def _opened(array: Any) -> Any:
    """Return a column that is an array, or the path of one."""
    if isinstance(array, str | os.PathLike):
        if Path(array).suffix != ".npy" or not Path(array).exists():
            raise FileNotFoundError(f"There is no .npy file {array}.")
        return np.load(array, mmap_mode="r")
    return array if hasattr(array, "shape") and hasattr(array, "dtype") else np.asarray(array)


def _of_dataset(dataset: Any) -> dict[str, Any]:
    """Return the arrays of an xarray Dataset along the first dimension that they share."""
    variables = {str(name): v for name, v in dataset.data_vars.items() if v.dims}
    along = {v.dims[0] for v in variables.values()}
    if len(along) > 1:
        raise ValueError(
            "The variables of the Dataset have different first dimensions "
            f"({', '.join(sorted(map(str, along)))}): rows are along the first. Select or "
            "transpose the variables."
        )
    return variables


def _file_of(array: Any) -> list[Path]:
    name = getattr(array, "filename", None)
    return [Path(name)] if isinstance(name, str | Path) else []


def _rows_of(name: str, array: Any) -> int:
    if not array.shape:
        raise ValueError(f"The column {name!r} is a single number, without rows.")
    return int(array.shape[0])


def _run(n: int, arrays: Mapping[str, Any], columns: Mapping[str, Column]) -> int:
    """Return how many rows are read in one go: the longest chunk, or some tens of kilobytes."""
    chunks = [_chunk(array) for array in arrays.values()]
    if any(chunks):
        return max(chunks)
    widest = max(int(np.prod(c.shape, dtype=int)) * c.dtype.itemsize for c in columns.values())
    return max(min(_RUN // max(widest, 1), n // _FEWEST_RUNS), 1)


def _chunk(array: Any) -> int:
    """Return the rows of a chunk, of zarr, dask or the file behind an xarray; 0 without."""
    chunks = getattr(array, "chunks", None)
    if not chunks:
        preferred = getattr(array, "encoding", {}).get("preferred_chunks", {})
        dims = getattr(array, "dims", ())
        return int(preferred.get(dims[0], 0)) if dims else 0
    first = chunks[0]
    return int(first[0] if isinstance(first, tuple) else first)


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
