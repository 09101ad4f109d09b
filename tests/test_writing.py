"""Draws that are written in blocks are those of a DataTree."""

import shutil

from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pymc_vi_ext as vix

from pymc_vi_ext import draws as drawing
from pymc_vi_ext import writing

QUIET = {"convergence": None, "random_seed": 1, "progressbar": False}
ENGINES = {".nc": "h5netcdf", ".zarr": "zarr"}


@pytest.fixture(scope="module")
def approx():
    with pm.Model(coords={"city": ["Rome", "Oslo", "Bern"]}):
        pm.Data("where", [1.0, 2.0, 3.0], dims="city")
        x = pm.Normal("x", dims="city")
        s = pm.HalfNormal("s")
        pm.Deterministic("positive", x > 0, dims="city")
        pm.Normal("y", x, s, observed=[0.1, 0.2, 0.3])
        return vix.fit(200, **QUIET)


@pytest.fixture
def small_blocks(monkeypatch):
    """Seven draws of the four elements in each."""
    monkeypatch.setattr(drawing, "_NUMBERS_PER_BATCH", 7 * 4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("suffix", ENGINES)
@pytest.mark.parametrize("draws", [5, 14, 30])
def test_they_are_those_of_to_datatree(approx, tmp_path, suffix, draws):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    expected = vix.to_datatree(approx, draws, random_seed=3)
    path = vix.write_draws(approx, tmp_path / f"d{suffix}", draws, random_seed=3)
    with xr.open_datatree(path, engine=ENGINES[suffix]) as found:
        assert set(found.children) == set(expected.children)
        for group in expected.subtree:
            other = found[group.path]
            xr.testing.assert_equal(other.to_dataset().load(), group.to_dataset())
            assert set(other.attrs) == set(group.attrs)
        assert found.attrs["method"] == "advi"
        assert found["posterior"]["positive"].dtype == bool
    assert [entry.name for entry in tmp_path.iterdir()] == [f"d{suffix}"]


@pytest.mark.usefixtures("small_blocks")
def test_memory_holds_one_block(approx, tmp_path, monkeypatch):
    """A block is made when the one before has been written."""
    alive = []
    kept = writing.draws_in_blocks

    def watched(*args):
        for block in kept(*args):
            alive.append(len(block.points))
            yield block
            alive.append(-len(block.points))

    monkeypatch.setattr(writing, "draws_in_blocks", watched)
    vix.write_draws(approx, tmp_path / "d.nc", 30, random_seed=3)
    assert max(np.cumsum(alive)) == 7
    assert sum(size for size in alive if size > 0) == 30


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("suffix", ENGINES)
def test_what_fails_half_way_leaves_no_file(approx, tmp_path, monkeypatch, suffix):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    kept = writing.draws_in_blocks

    def failing(*args):
        yield from [next(kept(*args))] * 2
        raise RuntimeError("half way")

    path = vix.write_draws(approx, tmp_path / f"d{suffix}", 7, random_seed=3)
    monkeypatch.setattr(writing, "draws_in_blocks", failing)
    with pytest.raises(RuntimeError, match="half way"):
        vix.write_draws(approx, path, 30, random_seed=3)
    assert list(tmp_path.iterdir()) == [path]
    with xr.open_datatree(path, engine=ENGINES[suffix]) as before:
        assert before["posterior"].sizes["draw"] == 7


@pytest.mark.parametrize(
    ("path", "options", "error", "said"),
    [
        ("d.csv", {}, ValueError, "to a `.nc` or a `.zarr`, not to 'd.csv'"),
        ("d.nc", {"draws": 0}, ValueError, "`draws`"),
        ("no/d.nc", {}, FileNotFoundError, "There is no folder .*no to write d.nc to"),
        ("d.nc", {"draws": 10**15}, OSError, "draws need .* GB, and .* has .* GB left"),
    ],
)
def test_what_cannot_be_written(approx, tmp_path, path, options, error, said):
    with pytest.raises(error, match=said):
        vix.write_draws(approx, tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before(approx, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000))
    with pytest.raises(OSError, match="ask for fewer draws"):
        vix.write_draws(approx, tmp_path / "d.nc", 100)


def test_particles_have_no_density(tmp_path):
    with pm.Model():
        pm.Normal("x", shape=2)
        approx = vix.fit(20, "svgd", **QUIET)
    path = vix.write_draws(approx, tmp_path / "d.nc", 10, random_seed=1)
    expected = vix.to_datatree(approx, 10, random_seed=1)
    with xr.open_datatree(path, engine="h5netcdf") as found:
        assert list(found["sample_stats"].data_vars) == ["lp"]
        np.testing.assert_array_equal(found["posterior"]["x"], expected["posterior"]["x"])
