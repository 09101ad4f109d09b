"""The recipes of CONTRIBUTING.md: each is one file and one row, and all else follows.

The page's own code is written to files, imported, and its rows are executed.
"""

import re
import sys

from importlib import import_module
from pathlib import Path

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.approximations import FAMILIES
from pymc_vi_ext.callbacks import RULES
from pymc_vi_ext.comparison import METRICS, Metric, load_config, runnable_names
from pymc_vi_ext.comparison.config import json_schema
from pymc_vi_ext.inference import METHODS
from pymc_vi_ext.testing import gaussian_model
from pymc_vi_ext.tracking import BACKENDS, open_tracker, report_comparison
from pymc_vi_ext.tracking.backends import Backend

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLES = {
    "FAMILIES": FAMILIES,
    "METHODS": METHODS,
    "RULES": RULES,
    "METRICS": METRICS,
    "BACKENDS": BACKENDS,
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Add the page's five files and rows; take the rows out again."""
    folder = tmp_path_factory.mktemp("recipes")
    before = {name: dict(table) for name, table in TABLES.items()}
    names = {**TABLES, "Metric": Metric, "Backend": Backend}
    sys.path.insert(0, str(folder))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    for block in blocks:
        file = re.match(r"# pymc_vi_ext/\w+/(\w+)\.py\n", block)
        if file:
            # A module of its own name: the page says where in the package it would lie.
            Path(folder, f"{file[1]}.py").write_text(block, encoding="utf-8")
            names |= vars(import_module(file[1]))
        else:
            exec(re.sub(r"pymc_vi_ext\.tracking\.(?=text_tracker)", "", block), names)
    yield names
    sys.path.remove(str(folder))
    for name, table in TABLES.items():
        for row in set(table) - set(before[name]):
            del table[row]


def test_there_are_five(recipes):
    new = {name: len(re.findall(rf"^{name}\[", PAGE, flags=re.MULTILINE)) for name in TABLES}
    assert new == dict.fromkeys(TABLES, 1)


def test_family(recipes):
    vix.testing.check_family("log_scale", sigma=0.5)
    with pm.Model():
        x = pm.Normal("x", shape=3)
        group = pm.Group([x], vfam="log_scale", sigma=2.0)
    np.testing.assert_allclose(group.std.eval(), 2.0)


def test_method(recipes):
    vix.testing.check_method("log_scale_advi", sigma=0.5)


def test_method_in_comparisons_and_configurations(recipes, tmp_path):
    assert "log_scale_advi" in runnable_names()
    comparison = vix.compare(
        gaussian_model(), [{"name": "log_scale_advi", "sigma": 0.5}], reference=None, draws=200
    )
    [result] = comparison.results
    assert (result.status.value, result.stop_reason) == ("FINISHED", "converged")
    assert result.options["sigma"] == 0.5
    path = tmp_path / "toy.yaml"
    text = "name: toy\nmodel: gamma\nreference: null\nmethods: [{name: log_scale_advi, sigma: %s}]"
    path.write_text(text % 0.5)
    [spec] = load_config(path).specs()
    assert spec.options == {"sigma": 0.5}
    path.write_text(text % -1)
    with pytest.raises(ValueError, match=r"methods\[0\].sigma: needs a number above 0"):
        load_config(path)
    assert "Standard deviation at the start" in json_schema()


def test_rule(recipes, tmp_path):
    model = gaussian_model()
    options = {"model": model, "random_seed": 1, "progressbar": False}
    approx = vix.fit(convergence="small_gain", **options)
    report = approx.report
    assert (report.converged, report.stopped_by) == (True, "SmallGain")
    assert report.evidence.startswith("the last 500 steps gained")
    exact = recipes["SmallGain"](tolerance=1e-6, every=100)
    with pytest.warns(UserWarning, match="gain .* nat, to be below 1e-06"):
        vix.fit(200, convergence=exact, **options)
    save = vix.callbacks.Checkpoint(tmp_path / "fit.npz", every=500)
    whole = vix.fit(1_200, convergence="small_gain", callbacks=[save], **options)
    again = vix.resume(save.path, model, progressbar=False)
    np.testing.assert_array_equal(whole.hist, again.hist)


def test_metric_and_tracker(recipes, tmp_path):
    comparison = vix.compare(gaussian_model(), ["advi"], reference="advi", draws=500)
    assert comparison.table["diag/narrowest"].iloc[0] == pytest.approx(0.5, rel=0.15)
    uri = f"text:{tmp_path / 'runs.txt'}"
    execution = open_tracker(uri).begin("toy", ["advi seed 1"], {})
    for _ in range(2):  # the second time changes nothing
        report_comparison(open_tracker(uri), execution, comparison)
    lines = (tmp_path / "runs.txt").read_text().splitlines()
    assert len(lines) == len(set(lines))
    assert [line for line in lines if "diag/narrowest" in line and line.startswith("toy/0/0")]
    assert lines[-1].startswith("toy/0: end FINISHED")
