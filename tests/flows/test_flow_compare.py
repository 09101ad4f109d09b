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
    where, run_of_it = run.stdout.rstrip().splitlines()[-2:]
    assert where.endswith(STORES[store][1].format(folder))
    assert re.search(
        r"/#/experiments/\d+/runs/\w+\?workflowType=|/runs/lines/end to end/", run_of_it
    )


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
        (["compare", "--regression", "--only", "svgd"], CONFIG, "leave out --only"),
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


ENDLESS = CONFIG.replace("n: 2000", "n: 100000000, convergence: null")
# Three runs: one that finishes, one that does not end, one after it.
HALF = """
name: end to end
model: gamma
parameters: {n: 30}
methods:
  - {name: laplace}
  - {name: advi, n: 100000000, convergence: null, obj_n_mc: 500}
  - {name: svgd, n: 50, n_particles: 20}
reference: null
draws: 100
"""


def started(config, folder):
    """Start a comparison; return its process once it is in the first run without an end."""
    (folder / "config.yaml").write_text(config)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}
    command = [sys.executable, "-m", "flows", "compare", "config.yaml"]
    process = subprocess.Popen(
        [*command, "--tracking-uri", "jsonl:runs/lines"],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not list(folder.glob("runs/results/*advi*/output.txt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(5)
    return process


def processes_in(folder):
    """Return the processes of runs whose output lies in a folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/fd/1").startswith(str(folder)):
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_that_it_meets(tmp_path, number):
    """Soon, with exit status 130, and a table that says what ran; nothing else stays."""
    process = started(ENDLESS, tmp_path)
    sent = time.monotonic()
    # As a terminal does: to all that runs in it.
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=200)
    assert time.monotonic() - sent < 20  # five seconds on a quiet machine
    assert process.returncode == 130, errors
    assert re.search(r"svgd +NOT_RUN", output)
    assert "fullrank_advi: keyboard interrupt" in output
    assert "the same command again goes on" in output
    assert "Traceback" not in output + errors
    ends = [status for status, _, _ in read_jsonl(tmp_path).values()]
    assert ends == ["KILLED"] * 4


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_what_was_killed_goes_on_where_it_was(tmp_path):
    """What had finished is not run again, nothing is there twice, and nothing stays open."""
    process = started(HALF, tmp_path)
    process.kill()
    process.wait()
    [kept] = tmp_path.glob("runs/results/laplace*/result.json")
    written = kept.stat().st_mtime_ns
    deadline = time.monotonic() + 20
    while processes_in(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Neither does the server, which holds the other end of this pipe too.
    process.communicate(timeout=20)
    # The same but for the time that a run may take: its result is the same, if there is one.
    limited = HALF.replace("500}", "500, max_seconds: 3}")
    (tmp_path / "config.yaml").write_text(limited)
    run = flows("compare", "config.yaml", *STORES["jsonl"][0], cwd=tmp_path)
    assert run.returncode == 1, run.stderr
    assert "advi: not done after 3 s (max_seconds)" in run.stdout
    assert kept.stat().st_mtime_ns == written
    runs = read_jsonl(tmp_path)
    assert {name: status for name, (status, _, _) in runs.items()} == {
        "": "FAILED",
        "laplace seed 1": "FINISHED",
        "advi seed 1": "FAILED",
        "svgd seed 1": "FINISHED",
    }
    assert len(list((tmp_path / "runs/lines/end to end").iterdir())) == 1


def test_what_has_finished_is_not_run_again(tmp_path):
    """And a tracker that was away gets what it does not have."""
    config = HALF.replace("100000000, convergence: null", "50")
    (tmp_path / "config.yaml").write_text(config)
    arguments = ["config.yaml", *STORES["jsonl"][0]]
    plan = flows("plan", *arguments, cwd=tmp_path)
    assert "3 of 3 runs would take place" in plan.stdout
    assert flows("compare", *arguments, "--runner", "process", cwd=tmp_path).returncode == 0
    results = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/results/*/result.json")}
    assert len(results) == 3
    assert "0 of 3 runs would take place" in flows("plan", *arguments, cwd=tmp_path).stdout
    again = flows("compare", *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert re.search(r"laplace +-\d", again.stdout)
    assert "All of it was there already" in again.stdout
    assert results == {p: p.stat().st_mtime_ns for p in results}
    # As if it had gone away before the end.
    [execution] = tmp_path.glob("runs/executions/*")
    for mark in ("tracked-all", "tracked-2"):
        (execution / mark).unlink()
    [place] = tmp_path.glob("runs/lines/*/*/02*/events.jsonl")
    place.write_text(place.read_text().splitlines()[0] + "\n")
    synced = flows("sync", *arguments[1:], cwd=tmp_path)
    assert synced.returncode == 0, synced.stderr
    assert "recorded" in synced.stdout
    assert read_jsonl(tmp_path)["svgd seed 1"][0] == "FINISHED"
    assert "has everything" in flows("sync", *arguments[1:], cwd=tmp_path).stdout


SUITE = """
name: two
models:
  - {model: gamma, parameters: {n: 30}}
  - {model: mixture, reference: exact, must_converge: [short]}
methods:
  - {name: laplace}
  - {name: advi, n: 20, convergence: relative_elbo, label: short}
seeds: {root: 1, number: 2}
reference: null
draws: 50
"""


def test_a_suite_ends_with_1_where_a_method_that_must_has_not_converged(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    arguments = ["suite.yaml", *STORES["jsonl"][0]]
    assert flows("compare", *arguments, cwd=tmp_path).returncode == 2
    validated = flows("validate", "suite.yaml", cwd=tmp_path)
    assert "two - mixture is valid: 4 runs on mixture (x)." in validated.stdout
    run = flows("suite", *arguments, cwd=tmp_path)
    assert run.returncode == 1, run.stderr
    assert run.stdout.count("Not converged, but must: short seed ") == 1
    assert re.search(r"two - mixture +short +2 of 2 +\d", run.stdout)
    again = flows("suite", *arguments, cwd=tmp_path)
    assert again.returncode == 1, again.stderr
    assert "All of it was there already" in again.stdout


def test_a_report_is_made_again_from_the_tracker(finished):
    store, folder, run = finished
    if store == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
        experiment = client.get_experiment_by_name("end to end").experiment_id
        [parent] = [
            found.info.run_id
            for found in client.search_runs([experiment])
            if "mlflow.parentRunId" not in found.data.tags
        ]
    else:
        [place] = (folder / "runs/lines/end to end").iterdir()
        parent = f"end to end/{place.name}"
    arguments = STORES[store][0]
    made = flows("report", parent, *arguments, "--to", "again", cwd=folder)
    assert made.returncode == 0, made.stderr
    # The same table but for its title.
    row = r"^(?:fullrank_advi|wild|svgd) +(?:-|\d|FAILED).*$"
    lines = re.findall(row, run.stdout, re.MULTILINE)
    assert len(lines) == 3
    assert all(line in made.stdout for line in lines)
    figures = {path.name for path in (folder / "again").iterdir()}
    named = {"elbo.png", "kde.png", "forest.png", "accuracy.png"}
    assert figures == {*named, "summary.csv", "comparison.nc"}
    refused = flows("report", "nobody", *arguments, cwd=folder)
    assert refused.returncode == 2
    assert "has no run 'nobody'" in refused.stderr


def test_a_doctor_looks_at_what_a_comparison_needs(tmp_path):
    run = flows("doctor", *STORES["jsonl"][0], cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    for what in ("versions: ", "tracker: ", "disk: ", "Prefect: ", "machine: "):
        assert f"ok  {what}" in run.stdout
    (tmp_path / "runs").write_text("")
    run = flows("doctor", *STORES["jsonl"][0], "--folder", tmp_path, cwd=tmp_path)
    assert run.returncode == 1
    assert "NOT  tracker: " in run.stdout


def test_some_methods_and_other_values(tmp_path):
    run = flows("plan", "gamma", "--only", "advi", "--set", "seeds=[3, 4]", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert re.search(r"advi +4 +would run", run.stdout)
    assert "svgd" not in run.stdout
    for arguments, sentence in {
        ("--only", "advy"): "There is no method 'advy'",
        ("--set", "draws"): "'draws' changes nothing",
        ("--set", "draws=-3"): "draws: needs a number from 1",
    }.items():
        run = flows("plan", "gamma", *arguments, cwd=tmp_path)
        assert run.returncode == 2
        assert sentence in run.stderr
        assert "Traceback" not in run.stderr
