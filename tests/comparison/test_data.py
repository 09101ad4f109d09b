"""Data that configurations name, and what is said where they are not there."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import ConfigError, load_config
from pymc_vi_ext.comparison.config import build_model
from pymc_vi_ext.comparison.data import DataSource, read_data
from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.workspace import Workspace

TABLE = pd.DataFrame({"y": [0.5, 1.5, 2.0], "n": [1, 2, 3], "who": ["b", "a", "b"]})
GAPS = TABLE.assign(y=[0.5, np.nan, 2.0], when=pd.to_datetime(["2026-01-01"] * 3))


@pytest.fixture
def folder(tmp_path):
    for name, table in {"table": TABLE, "gaps": GAPS}.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        table.to_parquet(tmp_path / f"{name}.parquet")
    cube = xr.Dataset({"z": (("a", "b"), np.ones((2, 3))), "text": ("a", ["x", "y"])})
    cube.assign(gap=("a", [1.0, np.nan])).to_netcdf(tmp_path / "cube.nc", engine="h5netcdf")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "noise.parquet").write_bytes(b"\0" * 100)
    return tmp_path


@pytest.mark.parametrize("file", ["table.csv", "table.parquet"])
@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("y", [0.5, 1.5, 2.0]),
        ("n", [1, 2, 3]),
        ("who", [1, 0, 1]),
        (["y", "n"], [[0.5, 1], [1.5, 2], [2.0, 3]]),
    ],
)
def test_columns_of_tables(folder, file, columns, values):
    found = read_data(DataSource(file=file, columns=columns), folder)
    np.testing.assert_array_equal(found, values)
    assert found.dtype.kind in "if"


def test_variables_of_netcdf_files_and_of_the_zoo(folder):
    cube = read_data(DataSource(file="cube.nc", variable="z"), folder)
    np.testing.assert_array_equal(cube, np.ones((2, 3)))
    assert read_data(DataSource(zoo="gamma", variable="y"), folder).shape == (200,)
    assert read_data(DataSource(zoo="iris", variable="x"), folder).shape == (150, 4)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"file": "none.csv", "columns": "y"}, "there is no file"),
        ({"file": "table.csv", "columns": "z"}, "has no column 'z'; it has y, n, who"),
        (
            {"file": "gaps.csv", "columns": "y"},
            "no value of 'y' in 1 rows, the first of them row 2",
        ),
        ({"file": "gaps.parquet", "columns": "when"}, "neither numbers nor text in 'when'"),
        ({"file": "empty.csv", "columns": "y"}, "is empty"),
        ({"file": "noise.parquet", "columns": "y"}, "cannot be read"),
        ({"file": "cube.nc", "variable": "y"}, "has no variable 'y'; it has z, text, gap"),
        ({"file": "cube.nc", "variable": "text"}, "'text' of .* has no numbers"),
        ({"file": "cube.nc", "variable": "gap"}, "'gap' of .* has values that are NaN"),
        ({"zoo": "gamma", "variable": "x"}, "'gamma' has no data 'x'; it has y"),
        ({"zoo": "minibatch", "variable": "y"}, "is another at each step, as minibatches are"),
    ],
)
def test_data_that_are_not_there_are_named(folder, source, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_data(DataSource(**source), folder)


CONFIG = """
name: mine
model: gamma
data: {y: {file: table.csv, columns: y}}
methods: [{name: advi}]
reference: null
"""


def test_a_model_of_the_zoo_takes_data_of_a_file(folder):
    path = folder / "mine.yaml"
    path.write_text(CONFIG)
    config = load_config(path)
    model = build_model(config, path)
    observed = model.rvs_to_values[model["y"]]
    np.testing.assert_array_equal(observed.eval(), TABLE["y"])
    (folder / "table.csv").write_text("x\n1")
    with pytest.raises(ConfigError, match=r"data.y: .*has no column 'y'; it has x"):
        build_model(config, path)


def test_a_result_depends_on_what_is_in_the_file(folder):
    path = folder / "mine.yaml"
    path.write_text(CONFIG)
    plain = load_config(path).model_dump(mode="json", exclude_unset=True)
    run = Run(plain, str(path), False, 0, 1)
    before = Workspace(folder).result(run)
    assert Workspace(folder).result(run) == before
    (folder / "table.csv").write_text("y\n1\n2")
    assert Workspace(folder).result(run) != before


def test_predictors_and_outcomes_come_together():
    x, y = np.ones((4, 2)), np.array([0, 1, 1, 0])
    assert zoo.build("logistic", x=x, y=y)["b"].eval().shape == (2,)
    for one in ({"x": x}, {"x": x, "y": y[:3]}):
        with pytest.raises(ValueError, match="`x`"):
            zoo.build("logistic", **one)
