"""Runs in processes of their own, whatever becomes of these."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import Status, make_spec, run_method
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
        ("is_killed", None, "the process was killed"),
        ("leaves", None, "the process ended with status 3 and without a result: no luck today"),
        ("raises", None, "the process ended with status 1 .*cannot be built: .*no model"),
    ],
)
def test_a_process_without_a_result_is_a_failed_row(code, tmp_path, factory, max_seconds, reason):
    result = run_in_process(code(factory), tmp_path / "run", max_seconds=max_seconds)
    assert result.status is Status.FAILED
    assert re.match(reason, result.reason), result.reason
    assert load_result(tmp_path / "run").reason == result.reason


def test_a_run_that_is_stopped_is_interrupted_soon(tmp_path):
    """And keeps what it has got by then."""
    endless = {"name": "advi", "n": 100_000_000, "convergence": None, "obj_n_mc": 500}
    began = []

    def stop():
        began.append(time.monotonic())
        return began[-1] - began[0] > 12

    result = run_in_process(run_of("gamma", endless, parameters={"n": 30}), tmp_path, stop=stop)
    assert time.monotonic() - began[-1] < 5
    assert result.status is Status.INTERRUPTED
    assert result.losses.size > 0


def test_nothing_begins_that_is_stopped_before(tmp_path):
    result = run_in_process(run_of("gamma"), tmp_path, stop=lambda: True)
    assert result.status is Status.NOT_RUN
    assert not (tmp_path / OUTPUT).exists()


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
