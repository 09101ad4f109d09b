"""Tables over nights through Prefect, and who hears of it."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

from pathlib import Path
from typing import ClassVar

import pytest

from flows.webhook import post
from tests.flows.test_serving import ask, prefect_server  # noqa: F401, a fixture

ROOT = Path(__file__).parents[2]
SECRET = "T0K3N-of-the-team"
CONFIG = """
name: nights
model: gamma
parameters: {n: 30}
methods:
  - {name: laplace}
  - {name: fullrank_advi, n: 2000, convergence: null}
reference: laplace
draws: 500
webhook: TEAM_WEBHOOK
"""


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted; answers with the status in the path, after seconds if it is 'slow'."""

    posted: ClassVar[list[str]] = []

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.posted.append(json.loads(self.rfile.read(length))["text"])
        if "slow" in self.path:
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            for _ in range(20):
                time.sleep(1)
                self.wfile.write(b"X-Wait: 1\r\n")
                self.wfile.flush()
        self.send_response(500 if "broken" in self.path else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hook():
    """Yield the address of a webhook, whose path is a secret."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{SECRET}"
    server.shutdown()
    server.server_close()


def test_a_webhook_gets_the_text(hook, monkeypatch):
    monkeypatch.setenv("HOOK", hook)
    assert post("HOOK", "a\nb, µ") == ""
    assert Hook.posted[-1] == "a\nb, µ"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (None, "The webhook was not called: HOOK in the environment holds no http address."),
        (f"file:///{SECRET}", "was not called: HOOK in the environment holds no http address."),
        ("{hook}/broken", "The webhook of HOOK was not reached: it answered 500."),
        (f"http://127.0.0.1:1/{SECRET}", "The webhook of HOOK was not reached: URLError."),
        (f"http://[{SECRET}", "The webhook of HOOK was not reached: ValueError."),
        ("{hook}/slow", "The webhook of HOOK was not reached: no answer within 5 s."),
    ],
)
def test_one_that_fails_is_a_sentence_without_the_address(hook, monkeypatch, address, problem):
    if address is None:
        monkeypatch.delenv("HOOK", raising=False)
    else:
        monkeypatch.setenv("HOOK", address.format(hook=hook))
    started = time.monotonic()
    said = post("HOOK", "text")
    assert said.endswith(problem)
    assert SECRET not in said
    assert time.monotonic() - started < 7


@pytest.fixture(scope="module")
def nights(tmp_path_factory, prefect_server, hook):  # noqa: F811
    """Return what three nights said: the first, the same again, and a fit that was cut short."""
    folder = tmp_path_factory.mktemp("nights")
    (folder / "config.yaml").write_text(CONFIG)
    flows = command_in(folder, prefect_server, hook)
    short = ["--set", "methods[1].n=20"]
    nights = [flows("compare", "--regression", *more) for more in ([], [], short)]
    return folder, flows, nights, list(Hook.posted)


def command_in(folder, url, hook):
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": url,
        "TEAM_WEBHOOK": hook,
    }
    env.pop("MLFLOW_TRACKING_URI", None)

    def flows(command, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "flows", command, "config.yaml", *arguments],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=280,
        )

    return flows


def test_what_is_worse_fails_the_comparison(nights):
    _, _, runs, _ = nights
    assert [run.returncode for run in runs] == [0, 0, 1], [run.stderr for run in runs]
    first, same, worse = (run.stdout for run in runs)
    assert "There was no table to hold this one against." in first
    assert re.search(r"Nothing is worse than on \d{4}-\d\d-\d\d \d\d:\d\d\.", same)
    assert re.search(r"Worse than on \d{4}-\d\d-\d\d \d\d:\d\d\.\nfullrank_advi: ", worse)
    assert re.search(r"fullrank_advi: error \d+\.\d+, was \d\.\d+ \(chance explains", worse)
    assert "Traceback" not in worse + runs[2].stderr


def test_the_tracker_has_a_tag_and_charts_over_nights(nights):
    from mlflow import MlflowClient

    folder, _, _, _ = nights
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("nights")
    found = client.search_runs([experiment.experiment_id], order_by=["start_time"])
    parents = [run for run in found if "regression" in run.data.tags]
    tags = [run.data.tags["regression"] for run in parents]
    assert tags[:2] == ["none", "none"]
    assert "fullrank_advi compare/mean_error_sd_max" in tags[2]
    for nights_so_far, parent in enumerate(parents, 1):
        points = client.get_metric_history(parent.info.run_id, "nights/error/fullrank_advi")
        assert sorted(point.step for point in points) == list(range(nights_so_far))
    errors = [point.value for point in sorted(points, key=lambda point: point.step)]
    assert errors[0] == pytest.approx(errors[1])
    assert errors[2] > errors[1]


def test_prefect_has_an_artifact_and_a_failed_run(nights, prefect_server):  # noqa: F811
    found = ask(prefect_server, "artifacts/filter", {"sort": "UPDATED_DESC"})
    newest, *_ = [each for each in found if each["key"] == "regression-nights"]
    assert "Worse than on" in newest["data"]
    assert "| fullrank_advi | compare/mean_error_sd_max |" in newest["data"]
    assert "mlflow ui --backend-store-uri" in newest["data"]
    runs = ask(prefect_server, "flow_runs/filter", {"sort": "START_TIME_DESC"})
    worse = [run for run in runs if run["state"]["message"].startswith("Worse than on")]
    assert [run["state_type"] for run in worse] == ["FAILED"]
    assert "fullrank_advi: error" in worse[0]["state"]["message"]


def test_the_webhook_is_called_once_and_its_address_is_nowhere(nights, prefect_server):  # noqa: F811
    folder, _, runs, posted = nights
    [text] = [text for text in posted if text.startswith("nights: Worse than on")]
    assert "fullrank_advi: error" in text
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 30
    database = [*Path(folder.parent).glob("server*/*.db*")]
    assert database
    files += database
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert not [run for run in runs if SECRET in run.stdout + run.stderr]


def test_what_a_person_accepts_is_what_later_ones_are_held_against(nights):
    _, flows, _, _ = nights
    accepted = flows("accept")
    assert accepted.returncode == 0, accepted.stderr
    after = flows("compare", "--regression", "--set", "methods[1].n=20")
    assert after.returncode == 0, after.stdout
    assert "Nothing is worse" in after.stdout
