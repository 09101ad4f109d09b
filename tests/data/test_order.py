"""Each row comes once a pass, in an order that a seed gives, whatever the rows come from."""

import numpy as np
import pytest

import pymc_vi_ext as vix

N, BATCH, POOL = 1_000, 30, 300


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return {
        "X": np.column_stack([np.arange(N), rng.normal(size=(N, 2))]).astype("float32"),
        "y": np.arange(N) % 2,
    }


def memmap(rows, folder):
    for name, values in rows.items():
        np.save(folder / f"{name}.npy", values)
    return {name: folder / f"{name}.npy" for name in rows}, None


def one_table(rows, folder):
    np.save(folder / "table.npy", np.column_stack([rows["X"], rows["y"]]))
    return folder / "table.npy", {"X": slice(0, 3), "y": 3}


def named_fields(rows, folder):
    table = np.zeros(N, dtype=[("X", "f4", 3), ("y", "i8")])
    table["X"], table["y"] = rows["X"], rows["y"]
    return table, None


def parquet(rows, folder):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {f"x{k}": rows["X"][:, k] for k in range(3)} | {"y": rows["y"]}
    for k, part in enumerate((slice(0, 410), slice(410, N))):
        table = pa.table({name: values[part] for name, values in columns.items()})
        pq.write_table(table, folder / f"part{k}.parquet", row_group_size=70)
    return folder, {"X": ["x0", "x1", "x2"], "y": "y"}


def zarr_group(rows, folder):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "rows.zarr"), mode="w")
    for name, values in rows.items():
        group.create_array(name, data=values, chunks=(70, *values.shape[1:]))
    return folder / "rows.zarr", ["X", "y"]


def dataset(rows, folder):
    xr = pytest.importorskip("xarray")
    return xr.Dataset({"X": (("row", "k"), rows["X"]), "y": ("row", rows["y"])}), None


def dask(rows, folder):
    pytest.importorskip("dask")
    return dataset(rows, folder)[0].chunk(row=70), None


def iterator(rows, folder):
    def chunks():
        for start in range(0, N, 70):
            yield {name: values[start : start + 70] for name, values in rows.items()}

    return chunks, None


SOURCES = [memmap, one_table, named_fields, parquet, zarr_group, dataset, dask, iterator]


def made(source, rows, folder, seed=0, pool_rows=POOL):
    found, columns = source(rows, folder)
    return vix.data.Batches(
        found,
        batch_size=BATCH,
        columns=columns,
        total_size=N if source is iterator else None,
        random_seed=seed,
        pool_rows=pool_rows,
    )


@pytest.mark.parametrize("pool_rows", [POOL, 2 * N])
@pytest.mark.parametrize("source", SOURCES)
def test_every_row_comes_once_a_pass(source, pool_rows, rows, tmp_path):
    batches = made(source, rows, tmp_path, pool_rows=pool_rows)
    assert batches.total_size == N
    X, y = batches.reader().batches(0, 3 * N // BATCH)
    assert X.shape == (100, BATCH, 3)
    assert y.shape == (100, BATCH)
    X, y = X.reshape(3, N, 3), y.reshape(3, N)
    for passed, labels in zip(X, y, strict=True):
        order = passed[:, 0].astype(int)
        np.testing.assert_array_equal(np.sort(order), np.arange(N))
        # What belongs together stays together.
        np.testing.assert_array_equal(passed, rows["X"][order])
        np.testing.assert_array_equal(labels, rows["y"][order])
    assert (X[0, :, 0] != X[1, :, 0]).mean() > 0.9
    assert abs(np.corrcoef(X[0, :-1, 0], X[0, 1:, 0])[0, 1]) < (0.99 if source is iterator else 0.5)


@pytest.mark.parametrize("source", SOURCES)
def test_the_order_follows_from_seed_and_place(source, rows, tmp_path):
    whole = made(source, rows, tmp_path).reader().batches(0, 80)
    again = made(source, rows, tmp_path).reader()
    # Backwards, from other places, across the ends of passes and pools.
    for first, n in [(60, 20), (33, 2), (5, 40), (0, 1)]:
        for part, all_of_it in zip(again.batches(first, n), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[first : first + n])
    other = made(source, rows, tmp_path, seed=1).reader().batches(0, 80)
    assert (other[0] != whole[0]).mean() > 0.5


def test_variables_are_the_first_batch(rows, tmp_path):
    batches = made(memmap, rows, tmp_path)
    first = batches.reader().batches(0, 1)
    for name, values in zip(batches, first, strict=True):
        assert batches[name].type.shape == values.shape[1:]
        np.testing.assert_array_equal(batches[name].get_value(), values[0])
    assert batches.observed("y") == {"observed": batches["y"], "total_size": N}


def test_blocks_that_hardly_fit_a_pool_are_said(rows, tmp_path):
    found, columns = zarr_group(rows, tmp_path)
    with pytest.warns(UserWarning, match="neighbours stay together"):
        vix.data.Batches(found, batch_size=10, columns=columns, pool_rows=150)


def nan_in(rows, folder):
    rows["X"][777, 1] = np.nan
    return {"source": rows, "batch_size": 10}


def iterations(n, total):
    def given(rows, folder):
        def chunks():
            yield from ({"x": np.ones(50)} for _ in range(n))

        return {"source": chunks, "batch_size": 10, "total_size": total}

    return given


def unequal_chunk(rows, folder):
    return {
        "source": lambda: iter([{"x": np.ones(5), "y": np.ones(4)}]),
        "batch_size": 2,
        "total_size": 9,
    }


REFUSED = [
    (lambda rows, _: {"source": rows, "batch_size": N + 1}, ValueError, "batch_size is 1,001"),
    (lambda rows, _: {"source": rows, "batch_size": 0}, ValueError, "`batch_size` must be"),
    (lambda rows, _: {"source": rows, "batch_size": 2, "columns": ["z"]}, KeyError, "column 'z'"),
    (
        lambda rows, _: {"source": rows, "batch_size": 2, "columns": {"X": 3.5}},
        TypeError,
        "'X' is to be",
    ),
    (
        lambda rows, _: {"source": rows, "batch_size": 2, "total_size": 7},
        ValueError,
        "leave it out",
    ),
    (
        lambda rows, _: {"source": {"x": np.ones(3), "y": np.ones(4)}, "batch_size": 2},
        ValueError,
        "different numbers of rows: x 3, y 4",
    ),
    (
        lambda rows, _: {"source": {"x": np.array(["a", "b"])}, "batch_size": 1},
        ValueError,
        "dtype <U1",
    ),
    (lambda rows, _: {"source": {}, "batch_size": 1}, ValueError, "no columns"),
    (
        lambda rows, _: {"source": {"x": np.float64(1)}, "batch_size": 1},
        ValueError,
        "single number",
    ),
    (
        lambda rows, _: {"source": iter([rows]), "batch_size": 1},
        TypeError,
        "function that makes it",
    ),
    (lambda rows, _: {"source": 3, "batch_size": 1}, TypeError, "not from int"),
    (lambda rows, _: {"source": lambda: iter(()), "batch_size": 1}, ValueError, "pass total_size"),
    (
        lambda rows, _: {"source": lambda: iter(()), "batch_size": 1, "total_size": 3},
        ValueError,
        "gives no rows",
    ),
    (lambda _, at: {"source": at / "no.npy", "batch_size": 1}, FileNotFoundError, "no file"),
    (lambda _, at: {"source": {"x": at / "no.npy"}, "batch_size": 1}, FileNotFoundError, "no .npy"),
    (lambda _, at: {"source": at, "batch_size": 1}, FileNotFoundError, "no .parquet files"),
    (nan_in, ValueError, "'X' is NaN at row 777"),
    (iterations(3, 151), ValueError, "ended before 151 rows"),
    (iterations(4, 151), ValueError, "more than 151 rows"),
    (unequal_chunk, ValueError, "different lengths: x 5, y 4"),
]


@pytest.mark.parametrize(("given", "error", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_bad_data_are_refused(given, error, said, rows, tmp_path):
    options = given(rows, tmp_path)
    with pytest.raises(error, match=said):
        vix.data.Batches(options.pop("source"), **options).reader().batches(0, 5)


def test_nulls_of_parquet_are_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"x": [1.0, None, 2.0]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="'x' has nulls"):
        vix.data.Batches(tmp_path / "x.parquet", batch_size=1)


def test_a_file_that_changes_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(100.0))
    reader = vix.data.Batches({"x": path}, batch_size=10, pool_rows=50).reader()
    np.save(path, np.arange(101.0))
    with pytest.raises(ValueError, match="has changed since it was opened"):
        reader.batches(0, 1)
