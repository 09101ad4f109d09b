"""What ends up in MLflow, read back through its client."""

import os
import subprocess
import sys
import warnings

from pathlib import Path

import arviz_base as azb
import numpy as np
import pytest
import xarray as xr

from pymc_vi_ext.comparison import METRICS, MethodResult, Status, summarise
from pymc_vi_ext.comparison.storage import save_result
from pymc_vi_ext.tracking import About, MlflowTracker, report_comparison, report_result

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ABOUT = About("a comparison", "none", command="pymc-vi compare a.yaml")
LOSSES = 5 + 1 / np.arange(1, 3001)


def posterior(seed, chains, **stats):
    rng = np.random.default_rng(seed)
    draws = {"x": rng.normal(size=(chains, 400)), "b": rng.normal(size=(chains, 400, 2))}
    groups = {"posterior": draws}
    if stats:
        groups["sample_stats"] = {k: rng.normal(v, 0.1, (chains, 400)) for k, v in stats.items()}
    return azb.from_dict(groups)


@pytest.fixture(scope="module")
def results():
    return [
        MethodResult("nuts", "nuts", 1, Status.FINISHED, datatree=posterior(1, 2), sample_s=2.0),
        MethodResult(
            "advi", "advi", 1, Status.FINISHED, {"n": 3000}, posterior(2, 1, lp=0, log_q=1), LOSSES,
            compile_s=1.0, fit_s=0.5, sample_s=0.1, steps=3000, backend="jax",
        ),
        MethodResult("broken", "advi", 1, Status.FAILED, reason="Oh", error="Traceback: Oh"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/new/mlflow.db"


def write(tracker, execution, results, folder):
    for number, (run_id, result) in enumerate(zip(execution.children, results, strict=True)):
        path = save_result(result, folder / str(number))
        report_result(tracker, run_id, result, path)
    report_comparison(tracker, execution, summarise(results, "nuts"), ABOUT)


def dump(client, run_ids):
    """Return everything stored under some runs."""
    dumped = {}
    for run_id in run_ids:
        run = client.get_run(run_id)
        history = {
            key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        }
        files = [a.path for d in ("", "images") for a in client.list_artifacts(run_id, d or None)]
        dumped[run_id] = (repr(history), run.data.params, sorted(files), run.info.status)
    return dumped


@pytest.fixture(scope="module")
def stored(results, uri, tmp_path_factory):
    from mlflow import MlflowClient

    tracker = MlflowTracker(uri)
    execution = tracker.begin("a comparison", [r.label for r in results], {"model": "none"})
    write(tracker, execution, results, tmp_path_factory.mktemp("results"))
    return MlflowClient(MlflowTracker.absolute_uri(uri)), execution


def artifacts(client, run_id, folder=None):
    return [file.path for file in client.list_artifacts(run_id, folder)]


def test_a_parent_with_a_child_per_run_in_the_experiment_of_the_comparison(stored):
    client, execution = stored
    experiment = client.get_experiment_by_name("a comparison")
    runs = client.search_runs([experiment.experiment_id])
    assert {r.info.run_id for r in runs} == {execution.parent, *execution.children}
    for run_id in execution.children:
        assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == execution.parent
    assert client.get_run(execution.children[1]).info.run_name == "advi"
    assert client.get_run(execution.parent).data.tags["model"] == "none"


def test_every_child_has_the_same_metric_keys(stored):
    client, execution = stored
    for run_id in execution.children:
        assert set(client.get_run(run_id).data.metrics) == set(METRICS)


def test_metrics_have_the_values_of_the_table(stored, results):
    client, execution = stored
    table = summarise(results, "nuts").table
    runs = table.iloc[: len(results)]  # without the noise floor
    for run_id, (_, row) in zip(execution.children, runs.iterrows(), strict=True):
        metrics = client.get_run(run_id).data.metrics
        keys = [key for key in METRICS if key != "fit/elbo"]
        np.testing.assert_allclose([metrics[k] for k in keys], [row[k] for k in keys])


def test_the_elbo_is_thinned_and_the_whole_trace_an_artifact(stored):
    client, execution = stored
    run = client.get_run(execution.children[1])
    history = client.get_metric_history(run.info.run_id, "fit/elbo")
    assert 200 < len(history) <= 500
    assert history[-1].step == 3000
    assert all(m.timestamp == run.info.start_time + m.step for m in history)
    assert all(-6 <= m.value <= -5 for m in history)
    with np.load(client.download_artifacts(run.info.run_id, "losses.npz")) as file:
        np.testing.assert_array_equal(file["losses"], LOSSES)


def test_posterior_images_and_tables_are_stored(stored, results):
    client, execution = stored
    advi, parent = execution.children[1], execution.parent
    with xr.open_datatree(client.download_artifacts(advi, "posterior.nc")) as dt:
        assert dt["posterior"].equals(results[1].datatree["posterior"])
        assert set(dt["sample_stats"]) == {"lp", "log_q"}
    keys = {path.partition("+")[0] for path in artifacts(client, advi, "images")}
    assert keys == {"images/kde~x", "images/kde~b"}
    keys = {path.partition("+")[0] for path in artifacts(client, parent, "images")}
    of_all = {f"images/comparison~{name}" for name in ("kde", "forest", "elbo", "accuracy")}
    assert keys == {*of_all, "images/kde~x", "images/kde~b"}
    assert {"summary.csv", "report.html"} <= set(artifacts(client, parent))


def test_a_failed_run_says_why_and_the_others_are_finished(stored):
    client, execution = stored
    statuses = [client.get_run(run_id).info.status for run_id in execution.children]
    assert statuses == ["FINISHED", "FINISHED", "FAILED"]
    assert client.get_run(execution.parent).info.status == "FAILED"
    path = client.download_artifacts(execution.children[2], "error.txt")
    assert Path(path).read_text(encoding="utf-8") == "Traceback: Oh"


def test_settings_are_params(stored):
    client, execution = stored
    params = client.get_run(execution.children[1]).data.params
    assert params["method"] == "advi"
    assert params["option/n"] == "3000"
    assert params["seed"] == "1"


def test_writing_again_changes_nothing(stored, results, uri, tmp_path):
    client, execution = stored
    runs = [execution.parent, *execution.children]
    before = dump(client, runs)
    write(MlflowTracker(uri), execution, results, tmp_path)
    assert dump(client, runs) == before


def test_a_second_execution_goes_to_the_same_experiment(stored, uri):
    client, execution = stored
    again = MlflowTracker(uri).begin("a comparison", ["advi"], {})
    experiments = {client.get_run(e.parent).info.experiment_id for e in (execution, again)}
    assert len(experiments) == 1


def test_artifacts_lie_beside_the_database(stored, uri):
    client, execution = stored
    root = uri.removeprefix("sqlite:///").removesuffix("mlflow.db")
    assert client.get_run(execution.parent).info.artifact_uri.startswith(
        f"file://{root}mlartifacts/a_comparison"
    )


def test_a_deleted_experiment_is_explained(uri):
    tracker = MlflowTracker(uri)
    tracker._client.delete_experiment(tracker._experiment("gone"))
    with pytest.raises(ValueError, match=r"'gone' in sqlite:.* was deleted: restore it"):
        tracker.begin("gone", [], {})


@pytest.mark.parametrize(
    "bad", ["mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "C:\\x"]
)
def test_folders_are_refused_with_a_sentence(bad):
    with pytest.raises(ValueError, match=r"is a folder, .* such as sqlite:///runs/mlflow.db"):
        MlflowTracker(bad)


def test_relative_databases_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = MlflowTracker.absolute_uri("sqlite:///runs/mlflow.db")
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert MlflowTracker.absolute_uri("http://localhost:5000") == "http://localhost:5000"


def test_names_of_variables_that_mlflow_refuses_are_replaced(uri, tmp_path):
    draws = np.random.default_rng(0).normal(size=(1, 50))
    names = ["μ", "ß", "x:z", "x|z", "x_z", "a.b c", "y" * 80]
    dt = azb.from_dict({"posterior": dict.fromkeys(names, draws)})
    result = MethodResult("advi", "advi", 1, Status.FINISHED, datatree=dt)
    tracker = MlflowTracker(uri)
    execution = tracker.begin("names", ["advi"], {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        report_result(tracker, execution.children[0], result, save_result(result, tmp_path))
        report_comparison(tracker, execution, summarise([result], None), ABOUT)
    files = tracker._client.list_artifacts(execution.children[0], "images")
    keys = {file.path.partition("+")[0] for file in files}
    # An image for each: none takes the place of another.
    assert len(keys) == len(names)
    assert {"images/kde~x_z", "images/kde~a.b c"} < keys
    assert sum(key.startswith("images/kde~x_z-") for key in keys) == 2


def test_several_may_open_a_new_database_at_once(tmp_path):
    """As comparisons that are started together do."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = "from pymc_vi_ext.tracking import open_tracker"
    command = [sys.executable, "-c", f"{code}; open_tracker({uri!r}).begin('x', ['a'], {{}})"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    started = [
        subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in started:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("x").experiment_id
    assert len(client.search_runs([experiment])) == 6
