"""The command line, and one comparison from YAML to each kind of tracker through Prefect."""

import json
import os
import re
import signal
import subprocess
import sys
import time

from pathlib import Path

import pytest

from pymc_vi_ext.comparison import METRICS

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


# What the command line is told, and what it says of where to look.
STORES = {
    "mlflow": ([], "mlflow ui --backend-store-uri sqlite:///{}/runs/mlflow.db"),
    "jsonl": (["--tracking-uri", "jsonl:runs/lines"], "{}/runs/lines"),
}


@pytest.fixture(scope="module", params=STORES)
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    (folder / "config.yaml").write_text(CONFIG)
    return (
        request.param,
        folder,
        flows("compare", "config.yaml", *STORES[request.param][0], cwd=folder),
    )


def read_mlflow(folder):
    """Return status, metrics and text files of each run, by name; the parent's is empty."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("end to end")
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        texts = {
            file.path: Path(client.download_artifacts(run.info.run_id, file.path)).read_text()
            for file in client.list_artifacts(run.info.run_id)
            if file.path.endswith((".txt", ".yaml"))
        }
        name = run.info.run_name if "mlflow.parentRunId" in run.data.tags else ""
        found[name] = run.info.status, set(run.data.metrics), texts
    return found


def read_jsonl(folder):
    found = {}
    for path in (folder / "runs" / "lines" / "end to end").rglob("events.jsonl"):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        texts = {
            file.name: file.read_text()
            for file in (path.parent / "files").iterdir()
            if file.suffix in {".txt", ".yaml"}
        }
        metrics = {event["key"] for event in events if event["event"] == "metric"}
        (status,) = (event["status"] for event in events if event["event"] == "end")
        found[events[0].get("name", "")] = status, metrics, texts
    return found


READERS = {"mlflow": read_mlflow, "jsonl": read_jsonl}


def test_exit_status_is_1_if_a_method_failed(finished):
    _, _, run = finished
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_the_terminal_shows_table_reason_and_where_the_figures_are(finished):
    store, folder, run = finished
    assert re.search(r"fullrank_advi +-\d+\.\d{3}", run.stdout)
    assert re.search(r"wild +FAILED", run.stdout)
    assert "wild: FloatingPointError" in run.stdout
    assert run.stdout.rstrip().endswith(STORES[store][1].format(folder))


def test_the_tracker_has_the_runs_with_their_status(finished):
    store, folder, _ = finished
    runs = READERS[store](folder)
    assert {name: status for name, (status, _, _) in runs.items()} == {
        "": "FAILED",
        "fullrank_advi seed 1": "FINISHED",
        "wild seed 1": "FAILED",
        "svgd seed 1": "FINISHED",
    }
    assert runs[""][2]["config.yaml"] == CONFIG
    assert "FloatingPointError" in runs["wild seed 1"][2]["error.txt"]
    assert {frozenset(keys) for name, (_, keys, _) in runs.items() if name} == {frozenset(METRICS)}


def test_nothing_is_pickled(finished):
    _, folder, _ = finished
    assert not [p for p in folder.rglob("*") if p.suffix in {".pkl", ".pickle"}]
    storage = folder / "prefect" / "storage"
    assert not storage.exists() or not list(storage.iterdir())


def test_the_flows_name_no_backend():
    for path in (ROOT / "flows").glob("*.py"):
        assert not re.search("mlflow_tracker|jsonl|sqlite|[Mm]lflow[A-Z]", path.read_text()), path


def test_validate_says_what_would_run(tmp_path):
    run = flows("validate", ROOT / "configs" / "mixture.yaml", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.endswith("mixture.yaml is valid: 4 runs on mixture (x).\n")


@pytest.mark.parametrize(
    ("arguments", "config", "sentence"),
    [
        (["validate"], CONFIG + "foo: 1", "foo: unknown key; known keys: name, model, parameters"),
        (["compare"], "name: x", "model: this key is required."),
        (["compare", "--tracking-uri", "mlruns"], CONFIG, "tracking URI 'mlruns': the known ones"),
        (["compare", "--tracking-uri", "jsonl://runs/x"], CONFIG, "names a host, not a folder"),
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


def test_ctrl_c_ends_the_run_that_it_meets(tmp_path):
    """Exit status 130, and a table that says what ran."""
    endless = CONFIG.replace("n: 2000", "n: 100000000, convergence: null")
    (tmp_path / "config.yaml").write_text(endless)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-m", "flows", "compare", "config.yaml"]
    process = subprocess.Popen(
        [*command, "--tracking-uri", "jsonl:runs/lines"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    runs = tmp_path / "runs" / "lines"
    while not list(runs.rglob("config.yaml")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 130, errors
    assert re.search(r"svgd +NOT_RUN", output)
    assert "fullrank_advi: keyboard interrupt" in output
    ends = [status for status, _, _ in read_jsonl(tmp_path).values()]
    assert ends == ["KILLED"] * 4
