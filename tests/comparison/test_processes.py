"""Runs in processes of their own, whatever becomes of these."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import Status, checkpoints, make_spec, run_method
from pymc_vi_ext.comparison.processes import OUTPUT, Run, run_in_process
from pymc_vi_ext.comparison.storage import load_result

FACTORIES = """
import os, signal, sys, time
import pymc as pm

def hangs():
    time.sleep(1000)

def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def leaves():
    print("no luck today")
    sys.stdout.flush()
    os._exit(3)

def raises():
    raise RuntimeError("no model")
"""


def run_of(model, method=None, seed=1, path="", **more):
    config = {"name": "x", "model": model, "methods": [method or {"name": "advi", "n": 50}]}
    return Run({**config, "reference": None, "draws": 20, **more}, str(path), True, 0, seed)


@pytest.fixture
def code(tmp_path):
    (tmp_path / "models.py").write_text(FACTORIES)
    return lambda name: run_of(f"models.py:{name}", path=tmp_path / "config.yaml")


def test_a_run_is_that_of_this_process(tmp_path):
    """The same losses, bit for bit."""
    found = run_in_process(run_of("gamma", parameters={"n": 30}), tmp_path)
    spec = make_spec({"name": "advi", "n": 50})
    here = run_method(zoo.build("gamma", n=30), spec, 1, 20)
    assert found.status is here.status is Status.FINISHED
    np.testing.assert_array_equal(found.losses, here.losses)
    assert load_result(tmp_path).datatree.posterior.sizes["draw"] == 20


@pytest.mark.parametrize(
    ("factory", "max_seconds", "reason"),
    [
        ("hangs", 1.5, r"not done after 1\.5 s \(max_seconds\)"),
        ("is_killed", None, r"the process was killed twice .* after \d+ s"),
        (
            "leaves",
            None,
            r"the process ended with status 3 and no result after \d+ s: no luck today",
        ),
        ("raises", None, "the process ended with status 1 .*cannot be built: .*no model"),
    ],
)
def test_a_process_without_a_result_is_a_failed_row(code, tmp_path, factory, max_seconds, reason):
    result = run_in_process(code(factory), tmp_path / "run", max_seconds=max_seconds)
    assert result.status is Status.FAILED
    assert re.match(reason, result.reason), result.reason
    assert load_result(tmp_path / "run").reason == result.reason


def test_a_run_that_is_stopped_is_interrupted_soon(tmp_path):
    """And keeps what it has got by then, with the checkpoint that it goes on from."""
    endless = {"name": "advi", "n": 100_000_000, "convergence": None, "obj_n_mc": 500}
    asked = []

    def stop():
        asked.append(time.monotonic())
        return bool(list(tmp_path.glob("checkpoint-*.npz")))

    result = run_in_process(run_of("gamma", endless, parameters={"n": 30}), tmp_path, stop=stop)
    assert time.monotonic() - asked[-1] < 5
    assert result.status is Status.INTERRUPTED
    assert result.losses.size > 0
    assert list(tmp_path.glob("checkpoint-*.npz"))


def test_nothing_begins_that_is_stopped_before(tmp_path):
    result = run_in_process(run_of("gamma"), tmp_path, stop=lambda: True)
    assert result.status is Status.NOT_RUN
    assert not (tmp_path / OUTPUT).exists()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_process_that_is_killed_goes_on_from_its_checkpoint(tmp_path):
    """The same losses as if nothing had happened; its seconds are those of both processes."""
    long = {"name": "advi", "n": 80_000, "convergence": None, "obj_n_mc": 500}
    killed = threading.Thread(target=kill_after_a_checkpoint, args=(tmp_path,))
    killed.start()
    found = run_in_process(run_of("gamma", long, parameters={"n": 30}), tmp_path)
    killed.join()
    assert found.status is Status.FINISHED, found.reason
    here = run_method(zoo.build("gamma", n=30), make_spec(long), 1, 20)
    # The mark that was left in the checkpoint: these are not the losses of a fit from the start.
    assert found.losses[0] == MARK
    np.testing.assert_array_equal(found.losses[1:], here.losses[1:])
    assert found.steps == here.steps == 80_000
    assert found.compile_s + found.fit_s > 5  # of which the first process alone took as many
    assert not list(tmp_path.glob("*checkpoint*"))


MARK = 12345.0


def kill_after_a_checkpoint(folder):
    """Kill the run in a folder once it has a checkpoint, and leave a mark in that."""
    while not (found := list(folder.glob("checkpoint-*.npz"))):
        if (folder / "result.json").exists():
            return  # what the test then says
        time.sleep(0.05)
    for pid in os.listdir("/proc"):
        try:
            if os.readlink(f"/proc/{pid}/fd/1") == str(folder / OUTPUT):
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue
    leave_a_mark(found[0])


def leave_a_mark(path):
    with np.load(path) as file:
        content = dict(file)
    content["losses"][0] = MARK
    np.savez(path, **content)


def test_a_checkpoint_that_is_damaged_or_of_another_fit_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SECONDS", 1e-3)
    options = {"n": 2_000, "convergence": None, "obj_n_mc": 100}
    model, other = zoo.build("gamma", n=30), zoo.build("gamma", n=31)

    def fit(model, seed=1):
        return checkpoints.fit_or_go_on(model, "advi", options, seed, False, tmp_path).hist

    fresh = fit(model)
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (b"", b"hello", content[:900]):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(fit(model), fresh)
    checkpoints.forget_checkpoints(tmp_path)
    fit(other)
    assert [path] == list(tmp_path.iterdir())  # by what it was asked for it is the same
    np.testing.assert_array_equal(fit(model), fresh)
    path.write_bytes(content)
    leave_a_mark(path)
    assert MARK not in fit(model, seed=2)
    # The same fit does go on from it.
    assert fit(model)[0] == MARK


PARENT = """
from pathlib import Path
from pymc_vi_ext.comparison.processes import Run, run_in_process

config = {"name": "x", "model": "models.py:hangs", "methods": [{"name": "advi"}], "reference": None}
if __name__ == "__main__":
    run_in_process(Run(config, "config.yaml", True, 0, 1), "run")
"""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_run_ends_with_the_process_that_has_started_it(tmp_path):
    """However that ends."""
    (tmp_path / "models.py").write_text(FACTORIES)
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / OUTPUT).exists():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while processes_in(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_in(folder):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(folder):
                found.append(pid)
        except OSError:
            continue
    return found
