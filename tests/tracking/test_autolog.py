"""Each fit is a run of a tracker, and fits do not depend on it."""

import json
import threading
import time

from pathlib import Path

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.comparison import live
from pymc_vi_ext.testing import gaussian_model
from pymc_vi_ext.traces import growing_blocks
from pymc_vi_ext.tracking import JsonlTracker, autolog, fits


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(live, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(fits, "SECONDS_BETWEEN_LOOKS", 0.02)


def fitted(**options):
    return vix.fit(**{"model": gaussian_model(), "random_seed": 1, "progressbar": False, **options})


def events(folder, run_id):
    return [json.loads(s) for s in Path(folder, run_id, "events.jsonl").read_text().splitlines()]


def of_kind(found, kind):
    return {event["key"]: event["value"] for event in found if event["event"] == kind}


def test_a_fit_is_a_run_with_its_losses_and_its_end(tmp_path, often):
    with autolog(f"jsonl:{tmp_path}", posterior=True) as log:
        approx = fitted()
    fitted(n=10, convergence=None)  # after the block
    [run_id] = log.run_ids
    found = events(tmp_path, run_id)
    assert of_kind(found, "param")["random_seed"] == "1"
    tags = of_kind(found, "tag")
    assert (tags["method"], tags["outcome"]) == ("advi", "converged")
    assert tags["progress"] == f"{approx.report.steps:,} steps"
    ends, means = growing_blocks(approx.hist)
    points = [(e["step"], e["value"]) for e in found if e.get("key") == "fit/elbo"]
    assert sorted(points) == list(zip(ends.tolist(), means.tolist(), strict=True))
    assert found[-1]["status"] == "FINISHED"
    assert found[-1]["seconds"] >= approx.report.timings.run_s
    files = tmp_path / run_id / "files"
    assert approx.report.evidence in (files / "note.md").read_text()
    assert (files / "posterior.nc").stat().st_size > 1000


def test_fits_of_mlflow_have_their_losses_while_they_run(tmp_path, often):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, seen = MlflowClient(uri), []

    def look(approx, losses, i):
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            run = client.get_run(log.run_ids[0])
            if run.data.metrics.get("fit/elbo") and "progress" in run.data.tags:
                seen.append((run.info.status, run.data.tags["progress"]))
            time.sleep(0.1)
        if i >= 2_000:
            raise StopIteration("seen")

    look.every = 1_000
    with autolog(uri, "notebook") as log:
        fitted(n=10**6, convergence=None, callbacks=[look])
    [(status, progress)] = seen
    assert status == "RUNNING"
    assert progress.endswith(" steps")
    run = client.get_run(log.run_ids[0])
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "notebook"


def test_pymc_fits_by_methods_of_the_package(tmp_path):
    with autolog(f"jsonl:{tmp_path}") as log, gaussian_model():
        pm.fit(n=30, method=vix.ADVI(random_seed=1), progressbar=False)
        pm.fit(n=30, method="advi", progressbar=False)  # PyMC's alone, as the documentation says
    assert len(log.run_ids) == 1


def test_an_error_is_in_the_note(tmp_path):
    with autolog(f"jsonl:{tmp_path}") as log, pytest.raises(FloatingPointError):
        fitted(learning_rate=1e9, start="prior", n=2000)
    [run_id] = log.run_ids
    assert events(tmp_path, run_id)[-1]["status"] == "FAILED"
    assert "NaN occurred" in (tmp_path / run_id / "files" / "note.md").read_text()
    with autolog(f"jsonl:{tmp_path}") as log, pytest.raises(ValueError, match="Unknown method"):
        fitted(method="none")
    note = (tmp_path / log.run_ids[0] / "files" / "note.md").read_text()
    assert "Unknown method 'none'" in note


def test_it_ends_and_another_takes_its_place(tmp_path):
    first, second = (autolog(f"jsonl:{tmp_path}/{k}") for k in range(2))
    fitted(n=10, convergence=None)
    assert (len(first.run_ids), len(second.run_ids)) == (0, 1)
    autolog(disable=True)
    fitted(n=10, convergence=None)
    assert len(second.run_ids) == 1
    assert not Path("runs").exists() or Path.cwd() != tmp_path


def test_disabling_opens_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    autolog(disable=True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionError, match="cannot be written to"):
        autolog(f"jsonl:{tmp_path}/file/lines")


def test_a_fit_goes_on_where_its_tracker_goes_away(tmp_path, monkeypatch, often):
    plain = fitted(n=500)
    log = autolog(f"jsonl:{tmp_path}")
    monkeypatch.setattr(JsonlTracker, "log_series", _gone)
    with log, pytest.warns(UserWarning, match="does not have all of this fit: OSError: gone"):
        watched = fitted(n=500)
    np.testing.assert_array_equal(plain.hist, watched.hist)


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path, monkeypatch, often):
    go_on = threading.Event()
    monkeypatch.setattr(fits, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(JsonlTracker, "log_series", lambda *_: go_on.wait(30))
    with autolog(f"jsonl:{tmp_path}"), pytest.warns(UserWarning, match="did not answer"):
        approx = fitted(n=10**5, convergence=None)
    assert len(approx.hist) == 10**5
    go_on.set()


def _gone(*_):
    raise OSError("gone")
