"""The command line, and one comparison from YAML to MLflow through Prefect."""

import os
import re
import subprocess
import sys

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONFIG = """
name: end to end
model: gamma
parameters: {n: 30}
methods:
  - {name: fullrank_advi, n: 2000}
  - {name: advi, learning_rate: 1.0e+9, label: wild}
  - {name: svgd, n: 50, n_particles: 20}
reference: fullrank_advi
draws: 200
"""


def flows(*arguments, cwd, home=None):
    env = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home or cwd / "prefect")}
    env.pop("MLFLOW_TRACKING_URI", None)
    env.pop("PREFECT_API_URL", None)
    return subprocess.run(
        [sys.executable, "-m", "flows", *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    (folder / "config.yaml").write_text(CONFIG)
    return folder, flows("compare", "config.yaml", cwd=folder)


def test_exit_status_is_1_if_a_method_failed(finished):
    _, run = finished
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_the_terminal_shows_table_reason_and_dashboard(finished):
    folder, run = finished
    assert re.search(r"fullrank_advi +-\d+\.\d{3}", run.stdout)
    assert re.search(r"wild +FAILED", run.stdout)
    assert "wild: FloatingPointError" in run.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{folder}/runs/mlflow.db" in run.stdout


def test_mlflow_has_the_runs_with_their_status(finished):
    from mlflow import MlflowClient

    folder, _ = finished
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("end to end")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    parent = next(r for r in runs.values() if "mlflow.parentRunId" not in r.data.tags)
    assert {name: r.info.status for name, r in runs.items() if r is not parent} == {
        "fullrank_advi seed 1": "FINISHED",
        "wild seed 1": "FAILED",
        "svgd seed 1": "FINISHED",
    }
    assert parent.info.status == "FAILED"
    config = Path(client.download_artifacts(parent.info.run_id, "config.yaml"))
    assert config.read_text() == CONFIG
    error = client.download_artifacts(runs["wild seed 1"].info.run_id, "error.txt")
    assert "FloatingPointError" in Path(error).read_text()
    keys = [set(r.data.metrics) for r in runs.values() if r is not parent]
    assert keys[0] == keys[1] == keys[2]


def test_nothing_is_pickled(finished):
    folder, _ = finished
    assert not [p for p in folder.rglob("*") if p.suffix in {".pkl", ".pickle"}]
    storage = folder / "prefect" / "storage"
    assert not storage.exists() or not list(storage.iterdir())


def test_validate_says_what_would_run(tmp_path):
    run = flows("validate", ROOT / "configs" / "mixture.yaml", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.endswith("mixture.yaml is valid: 3 runs on mixture (x).\n")


@pytest.mark.parametrize(
    ("arguments", "config", "sentence"),
    [
        (["validate"], CONFIG + "foo: 1", "foo: unknown key; known keys: name, model, parameters"),
        (["compare"], "name: x", "model: this key is required."),
        (["compare", "--tracking-uri", "mlruns"], CONFIG, "The tracking URI 'mlruns' is a folder"),
        (["serve", "--cron", "0 25 * * *"], CONFIG, "The schedule '0 25 * * *' is not a cron"),
        (["compare"], "name: x\nmodel: a.py:b\nmethods: [{name: nuts}]", "--allow-code"),
    ],
)
def test_exit_status_is_2_for_bad_input_and_nothing_is_written(
    tmp_path, arguments, config, sentence
):
    (tmp_path / "config.yaml").write_text(config)
    run = flows(*arguments, "config.yaml", cwd=tmp_path)
    assert run.returncode == 2
    assert sentence in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "runs").exists()
