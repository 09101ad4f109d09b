"""What a comparison says over seeds, draws, and keeps in a file."""

import json

import arviz_base as azb
import numpy as np
import pytest
import xarray as xr

from pymc_vi_ext.comparison import METRICS, MethodResult, Status, summarise
from pymc_vi_ext.comparison.storage import load_result, save_result

N = 1_000


def run(label, seed, shift=0.0, verdict="", **fields):
    rng = np.random.default_rng([seed, *label.encode()])
    x = rng.normal(size=(1, N, 2)) + shift
    tree = azb.from_dict({"posterior": {"x": x, "tau": np.exp(x[..., 0])}})
    if verdict:
        tree.attrs["verdict"] = verdict
    seconds = {"compile_s": 1.0, "fit_s": float(seed), "sample_s": 0.5}
    fields = {"losses": np.linspace(5, 1, 100), **seconds, **fields}
    return MethodResult(label, "advi", seed, Status.FINISHED, {"n": 3}, tree, **fields)


RESULTS = [
    *(run("auto", seed, verdict="PASS") for seed in (1, 2, 3)),
    run("advi", 1, 1.0, "PASS"),
    run("advi", 2, 2.0, "FAIL", warnings=["It rained. Wait."]),
    MethodResult("advi", "advi", 3, Status.FAILED, reason="it rained", error="..."),
    run("svgd", 1),
    run("svgd", 2),
    MethodResult("svgd", "svgd", 3, Status.NOT_RUN),
]
ERROR = "compare/mean_error_sd_max"


@pytest.fixture(scope="module")
def found():
    return summarise(RESULTS, "auto")


def test_the_summary_counts_how_runs_ended_and_what_was_said(found):
    summary = found.summary()
    assert list(summary.index) == ["auto", "advi", "svgd", "noise floor"]
    runs = summary["runs"][["finished", "failed", "interrupted", "not_run"]]
    np.testing.assert_array_equal(runs, [[3, 0, 0, 0], [2, 1, 0, 0], [2, 0, 0, 1], [0, 0, 0, 0]])
    verdicts = summary["verdict"][["PASS", "WARN", "FAIL"]]
    np.testing.assert_array_equal(verdicts, [[3, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]])


def test_the_summary_has_medians_and_ranges_of_what_is_known(found):
    summary, table = found.summary(), found.table
    errors = [table.loc[("advi", seed), ERROR] for seed in (1, 2)]
    assert list(summary.loc["advi", ERROR].index) == ["median", "least", "most"]
    np.testing.assert_allclose(
        summary.loc["advi", ERROR], [np.mean(errors), min(errors), max(errors)]
    )
    assert summary.loc["auto", ("time/run_s", "median")] == 2.5
    assert summary.loc["noise floor", (ERROR, "most")] == found.noise_floor[ERROR]
    assert list(dict.fromkeys(summary.columns.get_level_values(0))) == ["runs", "verdict", *METRICS]


def test_a_summary_without_a_reference_has_no_distances():
    summary = summarise(RESULTS[:3], None).summary()
    assert list(summary.index) == ["auto"]
    assert summary[ERROR].isna().all(axis=None)


def test_the_forest_has_a_panel_per_variable_over_the_reference(found):
    figure = found.plot_forest()
    assert [len(axes.get_yticks()) for axes in figure.axes] == [2, 1]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[0] == found.reference_name == "auto (seed 1)"
    assert set(legend) == set(found.posteriors())
    assert len(found.plot_forest(["tau"]).axes) == 1


def test_the_pair_has_a_panel_per_method_over_the_reference(found):
    figure = found.plot_pair("x[0]", "tau")
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == [name for name in found.posteriors() if name != "auto (seed 1)"]
    assert [c.get_label() for c in figure.axes[0].collections] == ["auto (seed 1)", titles[0]]


def test_accuracy_has_a_mark_per_run_with_an_error_and_the_noise_floor(found):
    *methods, floor = found.plot_accuracy().axes[0].lines
    assert [line.get_label() for line in methods] == ["auto", "advi, 2 of 3", "svgd, 2 of 3"]
    assert [line.get_xydata().shape for line in methods] == [(2, 2)] * 3
    seconds, errors = methods[1].get_data()
    np.testing.assert_allclose(seconds, [2.5, 3.5])
    np.testing.assert_allclose(errors, found.table.loc["advi", ERROR].dropna())
    assert set(floor.get_ydata()) == {found.noise_floor[ERROR]}


def test_accuracy_needs_a_reference():
    with pytest.raises(ValueError, match="There is no reference, so that no errors are known"):
        summarise(RESULTS[:3], None).plot_accuracy()


def test_a_file_holds_the_table_and_every_run(found, tmp_path):
    pytest.importorskip("h5netcdf")
    path = found.to_netcdf(tmp_path / "comparison.nc")
    with xr.open_datatree(path, engine="h5netcdf") as opened:
        tree = opened.load()
    assert tree.attrs["reference"] == "auto (seed 1)"
    assert set(tree.children) == {"table", "runs"}
    for column, values in found.table.reset_index().items():
        np.testing.assert_array_equal(tree[f"table/{column}"].to_numpy(), values.to_numpy())
    assert list(tree["runs"].children) == [str(number) for number in range(len(RESULTS))]
    for group, result in zip(tree["runs"].children.values(), RESULTS, strict=True):
        assert (group.attrs["label"], group.attrs["seed"]) == (result.label, result.seed)
        assert group.attrs["status"] == result.status.value
        assert json.loads(group.attrs["options"]) == result.options
        if result.datatree is None:
            assert not group.children
        else:
            assert group["posterior"].equals(result.datatree["posterior"])
            np.testing.assert_array_equal(group["losses"]["loss"], result.losses)
    assert json.loads(tree["runs/4"].attrs["warnings"]) == ["It rained. Wait."]
    assert tree["runs/4"].attrs["verdict"] == "FAIL"


GIVEN = {
    "draws": (run("given", 9).datatree, "posterior"),
    "moments": ({"x": {"mean": np.zeros(2), "sd": np.ones(2)}}, None),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_a_file_holds_a_given_reference(kind, tmp_path):
    pytest.importorskip("h5netcdf")
    given, group = GIVEN[kind]
    found = summarise(RESULTS[3:4], given)
    with xr.open_datatree(found.to_netcdf(tmp_path / "c.nc"), engine="h5netcdf") as opened:
        reference = opened["reference"].load()
    assert set(reference.children) == ({group} if group else set())
    assert ("moment" in reference.dims) == (kind == "moments")


def test_a_verdict_survives_the_disk(tmp_path):
    pytest.importorskip("h5netcdf")
    back = load_result(save_result(RESULTS[4], tmp_path))
    assert back.datatree.attrs["verdict"] == "FAIL"
