"""The order of rows: each once a pass, at random, from a seed, and never all of them in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pymc_vi_ext.data.sources import Iterations, Source

# Pools that are kept: a stack may reach from one into the next.
_KEPT = 2

Selection = Mapping[str, tuple[Sequence[str], Any]]


class Rows:
    """Rows in the order of their passes, of blocks that are read in any order.

    In each pass the blocks come in an order of its own. As many of them as fill a pool lie in
    memory at a time, and the rows of a pool in an order of its own. Both follow from the seed, the
    pass and the pool alone, so that any place is found again without what came before.

    Parameters
    ----------
    source : Source
    names : sequence of str
        Of its columns.
    pool_rows : int
        Rows of a pool, at most, unless a block has more.
    seed : int
    """

    def __init__(self, source: Source, names: Sequence[str], pool_rows: int, seed: int):
        self._source, self._names, self._seed = source, names, seed
        self._pool_rows = pool_rows
        self._sizes = np.diff(np.asarray(source.edges))
        self.n_rows = int(self._sizes.sum())
        self._in_one = self.n_rows <= pool_rows
        self._plan: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    def find(self, epoch: int, row: int) -> tuple[int, int]:
        """Return the pool that holds row number `row` of a pass, and where it begins."""
        _, _, _, edges = self._planned(epoch)
        pool = int(np.searchsorted(edges, row, side="right")) - 1
        return pool, int(edges[pool])

    def order(self, epoch: int, pool: int, n: int) -> np.ndarray:
        """Return the order of the `n` rows of a pool."""
        return np.random.default_rng((self._seed, epoch, pool + 1)).permutation(n)

    def pool(self, epoch: int, pool: int) -> dict[str, np.ndarray]:
        """Return the rows of a pool as they are on disk, by column."""
        self._source.check()
        _, blocks, firsts, _ = self._planned(epoch)
        chosen = blocks[firsts[pool] : firsts[pool + 1]]
        parts = []
        for block in chosen:
            part = self._source.read(int(block), self._names)
            for name in self._names:
                if len(part[name]) != self._sizes[block]:
                    raise ValueError(
                        f"The data gave {len(part[name]):,} rows of {name!r} where "
                        f"{self._sizes[block]:,} were promised: the file is shorter than it was."
                    )
                _refuse_nan(name, part[name], int(self._source.edges[block]))
            parts.append(part)
        return {name: np.concatenate([part[name] for part in parts]) for name in self._names}

    def same_as(self, epoch: int, pool: int) -> tuple[int, int]:
        """Return what tells pools of different rows apart."""
        return (0, 0) if self._in_one else (epoch, pool)

    def _planned(self, epoch: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Return the blocks in the order of a pass, of each pool the first of them and its row."""
        if self._in_one:
            epoch = 0
        if self._plan is None or self._plan[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch, 0))
            count = len(self._sizes)
            blocks = np.arange(count) if self._in_one else rng.permutation(count)
            ends = np.cumsum(self._sizes[blocks])
            firsts, begins = [0], 0
            while firsts[-1] < count:
                # As many whole blocks as a pool holds, one at least.
                after = int(np.searchsorted(ends, begins + self._pool_rows, side="right"))
                firsts.append(max(after, firsts[-1] + 1))
                begins = int(ends[firsts[-1] - 1])
            edges = np.concatenate([[0], ends])[firsts]
            self._plan = epoch, blocks, np.asarray(firsts), edges
        return self._plan


class RowsInTurn:
    """Rows in the order of their passes, of an iterator that gives them in its own order.

    Parameters
    ----------
    source : Iterations
    names : sequence of str
    pool_rows : int
        Rows of a pool, within which they change places.
    seed : int
    """

    def __init__(self, source: Iterations, names: Sequence[str], pool_rows: int, seed: int):
        self._source, self._names, self._seed = source, names, seed
        self.n_rows, self._pool_rows = source.n_rows, min(pool_rows, source.n_rows)
        self._at: tuple[int, int] | None = None
        self._chunks: Iterator[dict[str, np.ndarray]] = iter(())
        self._rest: dict[str, np.ndarray] | None = None
        self._given = 0

    def find(self, epoch: int, row: int) -> tuple[int, int]:
        """Return the pool that holds row number `row` of a pass, and where it begins."""
        pool = row // self._pool_rows
        return pool, pool * self._pool_rows

    def order(self, epoch: int, pool: int, n: int) -> np.ndarray:
        """Return the order of the `n` rows of a pool."""
        return np.random.default_rng((self._seed, epoch, pool + 1)).permutation(n)

    def same_as(self, epoch: int, pool: int) -> tuple[int, int]:
        """Return what tells pools of different rows apart: each pass may give others."""
        return epoch, pool

    def pool(self, epoch: int, pool: int) -> dict[str, np.ndarray]:
        """Return the rows of a pool, by column; what comes before is gone through."""
        if self._at is None or self._at[0] != epoch or self._at[1] > pool:
            self._chunks, self._rest, self._given = self._source.chunks(), None, 0
            self._at = epoch, 0
        for number in range(self._at[1], pool + 1):
            first = number * self._pool_rows
            found = self._take(min(self._pool_rows, self.n_rows - first))
            self._at = epoch, number + 1
        if (pool + 1) * self._pool_rows >= self.n_rows:
            self._refuse_more()
        for name in self._names:
            _refuse_nan(name, found[name], pool * self._pool_rows)
        return found

    def _take(self, n: int) -> dict[str, np.ndarray]:
        """Return the next `n` rows."""
        parts: list[dict[str, np.ndarray]] = []
        left = n
        while left:
            chunk = self._rest if self._rest is not None else self._next()
            rows = len(chunk[self._names[0]])
            parts.append({name: chunk[name][:left] for name in self._names})
            self._rest = {name: chunk[name][left:] for name in self._names} if rows > left else None
            left -= min(rows, left)
        self._given += n
        return {name: np.concatenate([part[name] for part in parts]) for name in self._names}

    def _next(self) -> dict[str, np.ndarray]:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._at = None
            raise ValueError(
                f"The iterator of the data ended before {self.n_rows:,} rows, which total_size "
                "says that there are: give total_size the number of rows of a pass."
            )
        if missing := [name for name in self._names if name not in chunk]:
            raise ValueError(f"A chunk of the iterator has no column {missing[0]!r}.")
        return chunk

    def _refuse_more(self) -> None:
        more = self._rest is not None or next(self._chunks, None) is not None
        self._at = None
        if more:
            raise ValueError(
                f"The iterator of the data gives more than {self.n_rows:,} rows, which total_size "
                "says that there are: give total_size the number of rows of a pass."
            )


class RowReader:
    """Reads batches of rows in their order, for one thread at a time.

    Parameters
    ----------
    rows : Rows or RowsInTurn
    columns : mapping
        For each column of a batch, the columns of the source that it is made of.
    shapes, dtypes : sequence
        Of a row of each column of a batch.
    batch_size : int
    """

    def __init__(
        self,
        rows: Rows | RowsInTurn,
        columns: Sequence[Columns],
        batch_size: int,
    ):
        self._rows, self._columns, self._batch_size = rows, columns, batch_size
        self._kept: dict[tuple[int, int], list[np.ndarray]] = {}
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    def batches(self, first: int, n: int) -> list[np.ndarray]:
        """Return `n` batches from number `first` on, an array (n, batch_size, ...) a column."""
        wanted = n * self._batch_size
        out = [np.empty((wanted, *c.shape), c.dtype) for c in self._columns]
        done = 0
        while done < wanted:
            epoch, row = divmod(first * self._batch_size + done, self._rows.n_rows)
            pool, begins = self._rows.find(epoch, row)
            values = self._pool(epoch, pool)
            order = self._ordered(epoch, pool, len(values[0]))
            chosen = order[row - begins : row - begins + wanted - done]
            for to, column in zip(out, values, strict=True):
                # Without checks of each index, which are right.
                np.take(column, chosen, axis=0, out=to[done : done + len(chosen)], mode="clip")
            done += len(chosen)
        return [array.reshape(n, self._batch_size, *array.shape[1:]) for array in out]

    def _pool(self, epoch: int, pool: int) -> list[np.ndarray]:
        key = self._rows.same_as(epoch, pool)
        if key not in self._kept:
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            parts = self._rows.pool(epoch, pool)
            self._kept[key] = [column.made_of(parts) for column in self._columns]
        return self._kept[key]

    def _ordered(self, epoch: int, pool: int, n: int) -> np.ndarray:
        key = epoch, pool
        if self._order is None or self._order[0] != key:
            self._order = key, self._rows.order(epoch, pool, n)
        return self._order[1]


class Columns:
    """A column of batches, made of one column of a source or of several side by side.

    Parameters
    ----------
    name : str
    parts : sequence of str
        Columns of the source.
    places : None or index
        Which numbers of a row, where the one part is a table.
    stacked : bool
        Whether the parts stand side by side.
    shape, dtype
        Of a row.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[str],
        places: Any,
        stacked: bool,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ):
        self.name, self.parts, self.shape, self.dtype = name, list(parts), shape, dtype
        self._places, self._stacked = places, stacked

    def made_of(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the column of some rows, of those of the source."""
        if self._stacked:
            made = np.empty((len(parts[self.parts[0]]), *self.shape), self.dtype)
            for place, part in enumerate(self.parts):
                made[:, place] = parts[part]
            return made
        found = parts[self.parts[0]]
        if self._places is not None:
            found = found[:, self._places]
        return np.ascontiguousarray(found, self.dtype)


def _refuse_nan(name: str, values: np.ndarray, first: int) -> None:
    """Raise a ValueError if a value is NaN, naming its row."""
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum tells that all is well in a fraction of the time.
        if not np.isnan(values.sum()):
            return
    bad = np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(axis=1))
    if len(bad):
        raise ValueError(
            f"The column {name!r} is NaN at row {first + bad[0]:,}: leave such rows out, or fill "
            "them, before the fit. Missing values cannot be imputed a batch at a time."
        )
