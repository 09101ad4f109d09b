"""Comparisons on a schedule: when they run, when they do not, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from flows.missed import LATE, Due, why_skipped
from tests.flows.test_flow_compare import HALF, processes_in, read_jsonl

ROOT = Path(__file__).parents[2]
THREE = datetime(2026, 1, 1, 3, tzinfo=UTC)
OURS, THEIRS = uuid4(), uuid4()


def at(minutes):
    return THREE + timedelta(minutes=minutes)


def run(deployment, due, started=None, ended=None):
    return Due(deployment, at(due), *(None if t is None else at(t) for t in (started, ended)))


@pytest.mark.parametrize(
    ("others", "now", "reason"),
    [
        ([], 0, ""),
        ([], LATE.seconds / 60, ""),
        ([], LATE.seconds / 60 + 1, "nothing was there to start it at 03:00 UTC"),
        # Its own schedule has come round, or will.
        ([run(OURS, 1)], 1, "the next is due already"),
        ([run(OURS, 2)], 1, ""),
        ([run(THEIRS, 1)], 1, ""),
        # The last of its own schedule took longer than the interval.
        ([run(OURS, -60, -60, 2)], 3, "the run before was still going on"),
        ([run(OURS, -60, 1, 2)], 3, ""),
        # It has waited for one of another schedule, and not longer than that.
        ([run(THEIRS, 0, 0, 120)], 121, ""),
        ([run(THEIRS, 0, 0, 120), run(THEIRS, 60, 120, 180)], 184, ""),
        ([run(THEIRS, 0, 0, 120)], 126, "nothing was there to start it at 03:00 UTC"),
    ],
)
def test_which_runs_are_skipped(others, now, reason):
    assert why_skipped(run(OURS, 0), others, at(now)) == reason


# A run of some seconds, and one without an end.
SHORT = """
name: short
model: gamma
parameters: {n: 30}
methods: [{name: laplace}]
reference: null
draws: 100
schedule: {cron: "0 0 1 1 *", timezone: Europe/Berlin}
"""
ENDLESS = HALF + 'schedule: {cron: "0 0 1 1 *"}\n'


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory):
    """Yield the address of a Prefect server that outlives what is served."""
    home = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen(
        [sys.executable, *command, "--no-ui", "--log-level", "WARNING"],
        env=os.environ | {"PREFECT_HOME": str(home), "PREFECT_API_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: answers(f"{url}/health"), 200)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)


def ask(url, path, content=None, method="POST"):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(
        f"{url}/{path}", data, {"Content-Type": "application/json"}, method=method
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            # Prefect's database is locked while its own services write to it.
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


def runs_of(url, name):
    """Return the flow runs of a comparison, by their times."""
    found = ask(url, "flow_runs/filter", {"deployments": {"name": {"any_": [name]}}})
    return sorted(found, key=lambda each: each["expected_start_time"])


def set_interval(url, name, seconds):
    """Give what is served a second schedule: cron has no seconds."""
    deployment = ask(url, f"deployments/name/compare/{name}", method="GET")
    schedule = {"interval": seconds, "timezone": "UTC"}
    ask(url, f"deployments/{deployment['id']}/schedules", [{"schedule": schedule}])


@contextmanager
def served(folder, config, url=None):
    """Serve a comparison; yield its process once it is there."""
    (folder / "config.yaml").write_text(config)
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    env.pop("PREFECT_API_URL", None)
    if url is not None:
        env["PREFECT_API_URL"] = url
    output = folder / "output.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows",
                "serve",
                "config.yaml",
                "--tracking-uri",
                "jsonl:runs/lines",
            ],
            cwd=folder,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "Until Ctrl-C" in output.read_text() or process.poll() is not None, 200)
        assert process.poll() is None, output.read_text()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_one_at_a_time_and_those_due_meanwhile_are_skipped(tmp_path, prefect_server):
    with served(tmp_path, SHORT, prefect_server):
        set_interval(prefect_server, "short", 2)

        def ended():
            states = [run["state_name"] for run in runs_of(prefect_server, "short")]
            assert states.count("Running") + states.count("Pending") <= 1
            return {"Completed", "Skipped"} <= set(states)

        until(ended, 200)
        found = runs_of(prefect_server, "short")
    skipped = {run["state"]["message"] for run in found if run["state_name"] == "Skipped"}
    assert skipped <= {
        "Skipped: the next is due already.",
        "Skipped: the run before was still going on.",
    }
    took_place = [run for run in found if run["state_name"] in {"Completed", "Running"}]
    assert len(list(tmp_path.glob("runs/executions/*"))) <= len(took_place)


def test_missed_runs_do_not_queue_up(tmp_path, prefect_server):
    """Of those that were due while nothing looked, one at most takes place."""
    config = SHORT.replace("name: short", "name: frozen")
    with served(tmp_path, config, prefect_server) as process:
        os.killpg(process.pid, signal.SIGSTOP)
        set_interval(prefect_server, "frozen", 2)
        time.sleep(15)
        went_on = datetime.now(UTC).isoformat()
        missed = {
            run["id"]
            for run in runs_of(prefect_server, "frozen")
            if run["expected_start_time"] < went_on
        }
        assert len(missed) >= 3
        os.killpg(process.pid, signal.SIGCONT)

        def ended():
            runs = runs_of(prefect_server, "frozen")
            return [run for run in runs if run["id"] in missed and run["end_time"]]

        until(lambda: len(ended()) == len(missed), 60)
        assert sum(run["state_name"] != "Skipped" for run in ended()) <= 1


def start_endless(folder):
    """Start a run by hand, as a person does on Prefect's page, and wait for its endless fit."""
    page = re.search(r"Prefect: (\S+)", (folder / "output.log").read_text()).group(1)
    url = f"{page}/api"
    deployment = ask(url, "deployments/name/compare/end%20to%20end", method="GET")
    ask(url, f"deployments/{deployment['id']}/create_flow_run", {})
    until(lambda: list(folder.glob("runs/results/advi*/output.txt")), 200)
    time.sleep(3)
    return url


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_serve_and_its_run(tmp_path, number):
    """The run as it ends `compare`, with rows and a table; no process is left, nor a server."""
    with served(tmp_path, ENDLESS) as process:
        url = start_endless(tmp_path)
        sent = time.monotonic()
        # As a terminal does: to all that runs in it. A service manager and `kill` ask one.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        process.wait(150)
        until(lambda: not processes_in(tmp_path / "runs") and not answers(f"{url}/health"), 120)
        assert time.monotonic() - sent < 150  # some five seconds on a quiet machine
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    # Of a flow that is killed last, the tracker is what matters.
    until(lambda: len(ends(tmp_path)) == 4, 90)
    assert sorted(ends(tmp_path)) == ["FINISHED", "KILLED", "KILLED", "KILLED"]
    [table] = tmp_path.glob("runs/executions/*/table.json")
    rows = json.loads(table.read_text())["rows"]
    assert [row["status"] for row in rows] == ["FINISHED", "INTERRUPTED", "NOT_RUN"]
    # A flow whose server is killed with it has much to say of that.
    assert number == signal.SIGKILL or "Traceback" not in (tmp_path / "output.log").read_text()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_run_that_was_killed_does_not_stay_running(tmp_path):
    """Prefect learns of it from the next that serves it; a second at a time is refused."""
    with served(tmp_path, ENDLESS) as process:
        start_endless(tmp_path)
        process.kill()
        process.wait()
        until(lambda: not processes_in(tmp_path / "runs"), 60)
    with served(tmp_path, ENDLESS):
        page = re.search(r"Prefect: (\S+)", (tmp_path / "output.log").read_text()).group(1)
        [run] = [r for r in runs_of(f"{page}/api", "end to end") if r["start_time"]]
        assert run["state_type"] == "CRASHED"
        env = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
        second = subprocess.run(
            [sys.executable, "-m", "flows", "serve", "config.yaml"],
            cwd=tmp_path,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert second.returncode == 2
        assert second.stderr.startswith("Another process serves the comparison 'end to end'")


def ends(folder):
    try:
        return [status for status, _, _ in read_jsonl(folder).values()]
    except ValueError:
        return []  # a run that has no end yet


@pytest.mark.parametrize(
    ("arguments", "config", "sentence"),
    [
        ([], HALF, "does not say when to run: give it a key `schedule:"),
        (["--cron", "0 25 * * *"], HALF, "schedule.cron: should be the times of a cron expression"),
        (["config.yaml"], ENDLESS, "The comparisons end to end, end to end need different names."),
    ],
)
def test_without_a_time_or_a_name_there_is_one_sentence(tmp_path, arguments, config, sentence):
    (tmp_path / "config.yaml").write_text(config)
    run = subprocess.run(
        [sys.executable, "-m", "flows", "serve", "config.yaml", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 2
    assert sentence in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_the_deployments_of_work_pools_are_those_of_the_configurations():
    import inspect

    import yaml

    from flows.compare import EACH_TIME, compare

    [nightly] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert nightly["entrypoint"] == f"{compare.fn.__module__}.{compare.fn.__name__}"
    given = nightly["parameters"]
    assert set(given) <= set(inspect.signature(compare.fn).parameters)
    assert given["token"] == EACH_TIME
    config = yaml.safe_load((ROOT / given["config"]).read_text())
    assert nightly["name"] == config["name"]
    assert nightly["schedules"] == [config["schedule"]]


def test_a_server_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / "config.yaml").write_text(SHORT)
    env = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
    run = subprocess.run(
        [sys.executable, "-m", "flows", "serve", "config.yaml"],
        cwd=tmp_path,
        env=os.environ | env | {"PREFECT_API_URL": "http://127.0.0.1:1/api"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 1
    assert "Prefect's server http://127.0.0.1:1/api is lost" in run.stderr
    assert "Traceback" not in run.stderr
