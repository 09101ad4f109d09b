"""Runs are seen in trackers while they go on, and what is seen is what the end says."""

import json
import os
import threading
import time

from pathlib import Path

import numpy as np
import pytest

import flows.live

from flows.live import Live
from pymc_vi_ext.comparison import MethodResult, Status
from pymc_vi_ext.comparison.live import LIVE, Snapshot
from pymc_vi_ext.comparison.storage import save_result, write_json
from pymc_vi_ext.comparison.workspace import ExecutionFolder
from pymc_vi_ext.traces import growing_blocks
from pymc_vi_ext.tracking import open_tracker, report_result

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

LOSSES = np.random.default_rng(2).normal(size=2_000)


def snapshot(steps):
    ends, elbo = growing_blocks(LOSSES[:steps], whole=True)
    return vars(Snapshot(f"{steps:,} steps; gain 1 nat", ends.tolist(), elbo.tolist()))


def read(uri, run_id):
    """Return status, the tag of how far it is, and the points of the ELBO."""
    if uri.startswith("jsonl"):
        path = Path(uri.removeprefix("jsonl:"), run_id, "events.jsonl")
        events = [json.loads(line) for line in path.read_text().splitlines()]
        points = [(e["step"], e["value"]) for e in events if e.get("key") == "fit/elbo"]
        tags = {e["key"]: e["value"] for e in events if e["event"] == "tag"}
        last = [e for e in events if e["event"] in ("begin", "start", "end")][-1]
        status = {"begin": "SCHEDULED", "start": "RUNNING"}.get(last["event"], last.get("status"))
        return status, tags.get("progress"), sorted(points)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(run_id)
    history = client.get_metric_history(run_id, "fit/elbo")
    assert len({m.timestamp - m.step for m in history}) < 2
    points = sorted((m.step, m.value) for m in history)
    return run.info.status, run.data.tags.get("progress"), points


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(params=["sqlite:///{}/mlflow.db", "jsonl:{}/lines"])
def execution(request, tmp_path, monkeypatch):
    monkeypatch.setattr(flows.live, "SECONDS_BETWEEN_LOOKS", 0.1)
    uri = request.param.format(tmp_path)
    begun = open_tracker(uri).begin("live", ["advi", "later"], {})
    folders = tuple(tmp_path / name for name in ("advi", "later"))
    for folder in folders:
        folder.mkdir()
    ids = {"parent": begun.parent, "children": list(begun.children), "uri": uri}
    return ExecutionFolder(tmp_path / "execution", folders), ids


def test_a_run_is_seen_while_it_goes_on_and_agrees_with_its_end(execution):
    folder, ids = execution
    run, later = ids["children"]
    with Live(folder, ids) as live:
        for steps in (300, 1_700):
            write_json(folder.results[0] / LIVE, snapshot(steps))
            until(lambda steps=steps: read(ids["uri"], run)[1] == f"{steps:,} steps; gain 1 nat")
            status, _, points = read(ids["uri"], run)
            assert status == "RUNNING"
            ends, elbo = growing_blocks(LOSSES[:steps], whole=True)
            assert points == list(zip(ends.tolist(), elbo.tolist(), strict=True))
        assert read(ids["uri"], later)[0] == "SCHEDULED"
        result = MethodResult(
            "advi", "advi", 1, Status.FAILED, losses=LOSSES, steps=2_000, reason="of some kind"
        )
        save_result(result, folder.results[0])
        live.leave(0)
        report_result(open_tracker(ids["uri"]), run, result, folder.results[0])
        # Late, as of a process that was killed while it wrote.
        write_json(folder.results[0] / LIVE, snapshot(2_000))
        time.sleep(0.5)
    status, progress, points = read(ids["uri"], run)
    ends, elbo = growing_blocks(LOSSES)
    assert (status, progress) == ("FAILED", "2,000 steps")
    assert points == list(zip(ends.tolist(), elbo.tolist(), strict=True))


def test_what_a_killed_run_left_is_not_one_that_goes_on(execution):
    folder, ids = execution
    file = folder.results[0] / LIVE
    write_json(file, snapshot(300))
    os.utime(file, (0, 0))
    with Live(folder, ids):
        time.sleep(0.5)
    assert read(ids["uri"], ids["children"][0])[0] == "SCHEDULED"


def test_a_tracker_that_is_away_is_tried_again_and_one_that_hangs_is_left(execution, monkeypatch):
    folder, ids = execution
    monkeypatch.setattr(flows.live, "_AWAY_S", 0.1)
    monkeypatch.setattr(flows.live, "_PATIENCE_S", 0.3)
    tries, hanging = [], threading.Event()

    def away(uri):
        tries.append(uri)
        if len(tries) < 3:
            raise ConnectionError("away")
        if len(tries) > 3:
            hanging.wait(20)
        return open_tracker(uri)

    monkeypatch.setattr(flows.live, "tracker_at", away)
    write_json(folder.results[0] / LIVE, snapshot(300))
    began = time.monotonic()
    with Live(folder, ids) as live:
        until(lambda: len(tries) > 3)
        assert read(ids["uri"], ids["children"][0])[0] == "RUNNING"
        left = time.monotonic()
        live.leave(0)
    assert time.monotonic() - left < 5
    assert time.monotonic() - began < 60
    hanging.set()
