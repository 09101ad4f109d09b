"""The table of backends, and what every backend has to do, read back from each store."""

import json
import os
import socket
import subprocess
import sys
import time

from pathlib import Path

import numpy as np
import pytest

from pymc_vi_ext.tracking import (
    BACKENDS,
    DEFAULT_URI,
    URI_VARIABLE,
    Backend,
    RunStatus,
    absolute_uri,
    folder_beside,
    open_tracker,
    tracker_uri,
    without_password,
)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "comparisons.md"
IMAGE = np.zeros((4, 6, 3), np.uint8)


def unbounded(value):
    """MLflow keeps the largest number for infinity."""
    return np.copysign(np.inf, value) if abs(value) == sys.float_info.max else value


def read_mlflow(uri, run_id):
    from mlflow import MlflowClient

    client = MlflowClient(absolute_uri(uri))
    run = client.get_run(run_id)
    history = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
    files = {
        file.path: Path(client.download_artifacts(run_id, file.path)).read_bytes()
        for file in client.list_artifacts(run_id)
        if not file.is_dir
    }
    images = [file.path for file in client.list_artifacts(run_id, "images")]
    places = {"mlflow.user": "user", "mlflow.source.name": "source"}
    own = {places.get(key, key): value for key, value in run.data.tags.items()}
    data = [found.dataset for found in run.inputs.dataset_inputs]
    lasted = run.info.end_time and (run.info.end_time - run.info.start_time) / 1000
    return {
        "tags": {key: value for key, value in own.items() if not key.startswith("mlflow.")},
        "note": run.data.tags.get("mlflow.note.content"),
        "data": [(d.name, d.digest, json.loads(d.profile)["features_shape"]) for d in data],
        "seconds": lasted,
        "params": run.data.params,
        "metrics": {
            key: sorted((m.step, unbounded(m.value)) for m in points)
            for key, points in history.items()
        },
        "files": files,
        # A picture is two files, a png and a webp.
        "images": sorted({path.split("/")[-1].partition("+")[0] for path in images}),
        "pictures": len(images),
        "status": run.info.status,
    }


def read_jsonl(uri, run_id):
    run = Path(absolute_uri(uri).removeprefix("jsonl://"), run_id)
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    read = {"params": {}, "metrics": {}, "files": {}, "images": [], "data": [], "tags": {}}
    read |= {"note": None, "seconds": None, "status": None}
    for event in map(json.loads, lines):
        match event.pop("event"):
            case "begin":
                read["status"] = "SCHEDULED" if "name" in event else "RUNNING"
                read["tags"] |= event["tags"]
            case "start":
                read["status"] = "RUNNING"
            case "tag":
                read["tags"][event["key"]] = event["value"]
            case "data":
                shapes = {key: kind["shape"] for key, kind in event["variables"].items()}
                read["data"].append((event["name"], event["digest"], shapes))
            case "param":
                read["params"][event["key"]] = event["value"]
            case "metric":
                points = read["metrics"].setdefault(event["key"], [])
                points.append((event["step"], float(event["value"])))
            case "file":
                path = event["path"]
                read["files"][path.removeprefix("files/")] = (run / path).read_bytes()
                if path == "files/note.md":
                    read["note"] = read["files"].pop("note.md").decode()
            case "image":
                read["images"].append(event["key"].replace("/", "~"))
            case "end":
                read["status"], read["seconds"] = event["status"], event.get("seconds")
    read["images"].sort()
    read["pictures"] = len(list(run.glob("images/**/*.png")))
    return read | {"metrics": {key: sorted(points) for key, points in read["metrics"].items()}}


# How a test reads what each class has written, and a URI of its own.
STORES = {
    "MlflowTracker": ("sqlite:///{folder}/new/mlflow.db", read_mlflow),
    "JsonlTracker": ("jsonl:{folder}/new", read_jsonl),
}


@pytest.fixture(scope="module", params=STORES)
def store(request, tmp_path_factory):
    uri, read = STORES[request.param]
    uri = uri.format(folder=tmp_path_factory.mktemp("store"))
    return uri, lambda run_id: read(uri, run_id)


def write(tracker, run_id, folder):
    tracker.start(run_id)
    tracker.log_tags(run_id, {"outcome": "converged", "user": "me", "commit": "0" * 40})
    tracker.log_note(run_id, "**advi** µ")
    tracker.log_data(run_id, "iris", "abc", {"y": np.zeros((3, 2))})
    tracker.log_params(run_id, {"n": 3, "name": "µ"})
    tracker.log_metrics(run_id, {"a/b": 1.5, "none": float("nan"), "low": -np.inf})
    tracker.log_series(run_id, "elbo", np.array([1, 5]), np.array([-2.0, np.inf]))
    tracker.log_image(run_id, "kde/x", IMAGE)
    tracker.log_text(run_id, "text, µ\n", "note.txt")
    (folder / "data.bin").write_bytes(b"\0\1")
    tracker.log_file(run_id, folder / "data.bin")
    tracker.end(run_id, RunStatus.FINISHED, 2.5)


def test_every_backend_is_tested():
    assert {backend.name for backend in BACKENDS.values()} == set(STORES)


NAMES = [
    "..",
    "Default",
    ".hidden",
    "a/b",
    "a_b",
    "a b",
    "con",
    "x" * 600,
    "é" * 200,
    "x.",
    "../x",
    " ",
]


def test_names_stay_within_the_store_and_apart(store, tmp_path, monkeypatch):
    """Whatever a comparison is called, its files lie in a folder of its own beside the store."""
    monkeypatch.chdir(tmp_path)
    uri, _ = store
    outer = folder_beside(uri).parent
    before = {path for path in outer.rglob("*") if not path.is_relative_to(folder_beside(uri))}
    tracker = open_tracker(uri)
    found = set()
    for name in NAMES:
        run = tracker.begin(name, [name], {}).children[0]
        tracker.log_text(run, "text", "note.txt")
        (written,) = set(folder_beside(uri).rglob("note.txt")) - found
        found.add(written)
        assert all(len(part.encode()) < 256 for part in written.parts)
        assert not any(part.startswith(".") for part in written.relative_to(outer).parts)
    # Of each name, a folder: artifacts of runs lie below it.
    assert len({path.relative_to(folder_beside(uri)).parts[:2] for path in found}) == len(NAMES)
    after = {path for path in outer.rglob("*") if not path.is_relative_to(folder_beside(uri))}
    assert after == before
    assert not list(tmp_path.iterdir())


def test_what_is_written_by_run_id_is_there_once(store, tmp_path):
    uri, read = store
    execution = open_tracker(uri).begin("a/b: µ", ["advi", "advi", ".."], {"model": "none"})
    runs = [execution.parent, *execution.children]
    assert len(set(runs)) == 4
    assert [read(run_id)["status"] for run_id in runs] == ["RUNNING", *["SCHEDULED"] * 3]
    written = {}
    for _ in range(2):
        # Another object each time, as in the tasks of a flow.
        for run_id in runs[:2]:
            write(open_tracker(uri), run_id, tmp_path)
        found = read(runs[1])
        assert repr(found) == repr(written or found)
        written = found
    metrics = {
        "a/b": [(0, 1.5)],
        "none": [(0, np.nan)],
        "low": [(0, -np.inf)],
        "elbo": [(1, -2.0), (5, np.inf)],
    }
    np.testing.assert_equal(found.pop("metrics"), metrics)
    [(name, digest, shapes)] = found.pop("data")
    assert (name, digest, list(shapes)) == ("iris", "abc", ["y"])
    assert list(shapes["y"]) == [3, 2]
    tags = found.pop("tags")
    assert {key: tags[key] for key in ("model", "outcome", "user")} == {
        "model": "none", "outcome": "converged", "user": "me",
    }  # fmt: skip
    assert found.pop("pictures") in (1, 2)
    assert found == {
        "params": {"n": "3", "name": "µ"},
        "files": {"note.txt": "text, µ\n".encode(), "data.bin": b"\0\1"},
        "images": ["kde~x"],
        "status": "FINISHED",
        "note": "**advi** µ",
        "seconds": 2.5,
    }
    assert read(runs[2])["metrics"] == {}
    assert read(runs[2])["status"] == "SCHEDULED"


def test_each_begin_makes_runs_of_its_own(store):
    uri, _ = store
    executions = [open_tracker(uri).begin("again", ["advi"], {}) for _ in range(2)]
    assert len({run for e in executions for run in (e.parent, *e.children)}) == 4


def test_runs_of_a_token_are_begun_once(store):
    """Also where whoever began them did not come to the last."""
    uri, read = store
    first = open_tracker(uri).begin("token", ["advi"], {}, "a")
    second = open_tracker(uri).begin("token", ["advi", "advi"], {}, "a")
    assert (second.parent, second.children[0]) == (first.parent, first.children[0])
    assert len({second.parent, *second.children}) == 3
    assert read(second.children[1])["status"] == "SCHEDULED"
    assert open_tracker(uri).begin("token", ["advi", "advi"], {}, "a") == second
    assert open_tracker(uri).begin("token", ["advi"], {}, "b").parent != first.parent


def test_a_store_knows_its_runs(store):
    uri, _ = store
    tracker = open_tracker(uri)
    tracker.check()
    run_id = tracker.begin("known", ["advi"], {}).children[0]
    assert open_tracker(uri).has(run_id)
    assert not open_tracker(uri).has("0" * 32)


def test_what_is_in_a_store_comes_back(store, tmp_path):
    uri, _ = store
    execution = open_tracker(uri).begin("back", ["advi", "b/c"], {})
    tracker = open_tracker(uri)
    assert sorted(tracker.children(execution.parent)) == sorted(execution.children)
    assert tracker.children(execution.children[0]) == ()
    write(tracker, execution.children[1], tmp_path)
    (tmp_path / "to").mkdir()
    for name in ("note.txt", "data.bin"):
        assert tracker.fetch(execution.children[0], name, tmp_path / "to") is None
        found = tracker.fetch(execution.children[1], name, tmp_path / "to")
        assert found == tmp_path / "to" / name
    assert (tmp_path / "to" / "note.txt").read_text(encoding="utf-8") == "text, µ\n"
    assert (tmp_path / "to" / "data.bin").read_bytes() == b"\0\1"


def test_what_is_written_last_counts(store):
    uri, read = store
    run_id = open_tracker(uri).begin("again and again", ["advi"], {"model": "none"}).children[0]
    for word in ("one", "two", "one"):
        open_tracker(uri).log_tags(run_id, {"at": word})
        open_tracker(uri).log_note(run_id, word)
        assert (read(run_id)["tags"]["at"], read(run_id)["note"]) == (word, word)
    for _ in range(2):
        open_tracker(uri).start(run_id)
        assert read(run_id)["status"] == "RUNNING"
        open_tracker(uri).end(run_id, RunStatus.KILLED)
        assert read(run_id)["status"] == "KILLED"


@pytest.mark.parametrize("status", RunStatus)
def test_a_run_ends_as_it_is_told(store, status):
    uri, read = store
    run_id = open_tracker(uri).begin("endings", ["advi"], {}).children[0]
    open_tracker(uri).end(run_id, status)
    assert read(run_id)["status"] == status.value


def test_a_person_is_told_where_to_look(store):
    uri, _ = store
    tracker = open_tracker(uri)
    assert absolute_uri(uri).partition("://")[2] in tracker.dashboard()
    run_id = tracker.begin("shown", ["advi"], {}).children[0]
    assert run_id in tracker.address(run_id)


@pytest.mark.parametrize("name", STORES)
def test_an_absolute_uri_means_the_same_anywhere_and_opens_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = absolute_uri(STORES[name][0].format(folder="runs"))
    assert str(tmp_path) in uri
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir("/")
    assert absolute_uri(uri) == uri


@pytest.mark.parametrize("call", [open_tracker, absolute_uri])
@pytest.mark.parametrize(
    "uri", ["mlruns", "./jsonl", "file:///tmp/x", "s3://bucket/x", "", "C:\\x"]
)
def test_an_unknown_scheme_lists_the_known_ones(call, uri):
    with pytest.raises(ValueError, match="Unknown scheme of the tracking URI") as error:
        call(uri)
    assert repr(uri) in str(error.value)
    for scheme, backend in BACKENDS.items():
        assert f"{scheme}: ({backend.what})" in str(error.value)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("http://localhost:5000", "MlflowTracker"),
        ("https://runs.example.org", "MlflowTracker"),
        ("postgresql+psycopg://me@host/runs", "MlflowTracker"),
        ("mysql+pymysql://me@host/runs", "MlflowTracker"),
        ("JSONL:/tmp/x", "JsonlTracker"),
        (DEFAULT_URI, "MlflowTracker"),
    ],
)
def test_the_scheme_chooses_the_backend(uri, name, monkeypatch):
    assert absolute_uri(uri)
    assert {b.load().__name__ for b in BACKENDS.values() if b.name == name} == {name}
    # Opened without the servers and folders that these would need.
    monkeypatch.setattr(Backend, "load", lambda backend: lambda uri: (backend.name, uri))
    assert open_tracker(uri) == (name, uri)


def test_the_documentation_has_every_scheme():
    text = DOCS.read_text(encoding="utf-8")
    assert [scheme for scheme in BACKENDS if f"`{scheme}`" not in text] == []


def test_a_server_is_its_own_dashboard():
    assert open_tracker("http://localhost:5000").dashboard() == "http://localhost:5000"


def test_a_server_that_is_away_is_found_out_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://me:secret@127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=r"me:\*\*\*@127.0.0.1.*does not answer") as error:
        open_tracker(uri).check()
    assert time.monotonic() - began < 10  # two seconds and the import of mlflow
    assert "secret" not in str(error.value)


def test_a_folder_that_is_none_is_found_out(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionError, match="cannot be written to"):
        open_tracker(f"jsonl:{tmp_path}/file/runs").check()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (
            "postgresql+psycopg://me:secret@host:5432/runs",
            "postgresql+psycopg://me:***@host:5432/runs",
        ),
        ("https://me@host", "https://me@host"),
        ("sqlite:///runs/mlflow.db", "sqlite:///runs/mlflow.db"),
    ],
)
def test_a_password_is_not_shown_and_found_again(monkeypatch, uri, shown):
    assert without_password(uri) == shown
    monkeypatch.setenv(URI_VARIABLE, uri)
    assert tracker_uri(shown) == uri
    assert tracker_uri("jsonl:///elsewhere") == "jsonl:///elsewhere"


def test_results_lie_beside_a_store_that_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder_beside("sqlite:///a/mlflow.db") == tmp_path / "a"
    assert folder_beside("jsonl:a/b/lines") == tmp_path / "a" / "b"
    assert folder_beside("http://localhost:5000/x") == Path("runs")


TOY = """
from pymc_vi_ext.tracking import Execution


class ToyTracker:
    written = []

    def __init__(self, uri):
        self.uri = uri

    @staticmethod
    def absolute_uri(uri):
        return uri

    def check(self):
        pass

    def begin(self, comparison, children, tags, token=None):
        return Execution("parent", tuple(children))

    def has(self, run_id):
        return True

    def dashboard(self):
        return "the toy itself"

    def address(self, run_id):
        return f"the toy's {run_id}"

    def __getattr__(self, name):
        return lambda run_id, *arguments: self.written.append((name, run_id))
"""


def test_a_backend_is_a_file_and_a_row(tmp_path):
    """The whole flow, from the command line, against a backend that nothing else knows."""
    (tmp_path / "toy_tracker.py").write_text(TOY)
    (tmp_path / "config.yaml").write_text(
        "{name: toy, model: gamma, parameters: {n: 10}, reference: null, draws: 50,"
        " methods: [{name: laplace}]}"
    )
    code = (
        "from pymc_vi_ext.tracking import BACKENDS, Backend\n"
        "BACKENDS['toy'] = Backend('toy_tracker', 'ToyTracker', 'a toy')\n"
        "from flows.__main__ import app\n"
        "app(['compare', 'config.yaml', '--tracking-uri', 'toy:x'], standalone_mode=False)\n"
        "from toy_tracker import ToyTracker\n"
        "print(dict.fromkeys(ToyTracker.written))\n"
    )
    path = os.pathsep.join([str(DOCS.parents[1]), str(tmp_path)])
    env = os.environ | {"PYTHONPATH": path, "PREFECT_HOME": str(tmp_path / "prefect")}
    env.pop("PREFECT_API_URL", None)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "the toy itself" in run.stdout
    assert "the toy's parent" in run.stdout
    entries = ("metrics", "params", "file", "image", "tags", "note", "data")
    for entry in [*(f"log_{entry}" for entry in entries), "end"]:
        assert f"('{entry}', 'laplace seed 1')" in run.stdout
