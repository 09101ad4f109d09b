"""Comparisons on a cluster of Dask's or Ray's: here, on one of this machine."""

import importlib.util
import json
import os
import re
import subprocess
import sys

from pathlib import Path

import numpy as np
import pytest

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import make_spec, run_method
from pymc_vi_ext.comparison.storage import load_result

ROOT = Path(__file__).parents[2]
CONFIG = """
{name: cluster, model: gamma, parameters: {n: 30}, reference: null, draws: 50,
 methods: [{name: laplace}, {name: advi, n: 200}]}
"""


def flows(folder, *arguments):
    env = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS"):
        env.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_cluster_gives_what_this_process_gives(tmp_path, runner):
    if importlib.util.find_spec(f"prefect_{runner}") is None:
        pytest.skip(f"prefect-{runner} is not installed: pip install 'pymc-vi-ext[clusters]'")
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = ("compare", "config.yaml", "--tracking-uri", "jsonl:runs/lines", "--runner", runner)
    run = flows(tmp_path, *command)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert re.search(r"advi +-\d", run.stdout)
    [folder] = tmp_path.glob("runs/results/advi-*")
    here = run_method(zoo.build("gamma", n=30), make_spec({"name": "advi", "n": 200}), 1, 50)
    np.testing.assert_array_equal(load_result(folder).losses, here.losses)
    last = [
        json.loads(file.read_text().splitlines()[-1])
        for file in tmp_path.glob("runs/lines/**/events.jsonl")
    ]
    assert [event["status"] for event in last] == ["FINISHED"] * 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--address", "tcp://10.0.0.1:8786"), "--address is of a cluster: --runner dask or ray"),
        (("--runner", "dask"), "--runner dask needs prefect-dask: pip install"),
        (("--runner", "ray"), "--runner ray needs prefect-ray: pip install"),
    ],
)
def test_what_is_missing_is_one_sentence(tmp_path, arguments, sentence):
    if arguments[0] == "--runner" and importlib.util.find_spec(f"prefect_{arguments[1]}"):
        pytest.skip("it is installed")
    (tmp_path / "config.yaml").write_text(CONFIG)
    run = flows(tmp_path, "compare", "config.yaml", *arguments)
    assert run.returncode == 2
    assert sentence in run.stderr
    assert len(run.stderr.splitlines()) == 1
