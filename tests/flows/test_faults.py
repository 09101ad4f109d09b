"""What happens to everything around the fits: processes, disks, servers. Each for real."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from pathlib import Path

import numpy as np
import pytest

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison import MethodResult, Status, make_spec, run_method
from pymc_vi_ext.comparison.storage import load_result, result_status, save_result

ROOT = Path(__file__).parents[2]
JSONL = ("--tracking-uri", "jsonl:runs/lines")

HEAD = "{name: faults, model: gamma, parameters: {n: 30}, reference: null, draws: 50"
SHORT = HEAD + ", methods: [{name: laplace}, {name: svgd, n: 20, n_particles: 10}]}"
LONG = {"name": "advi", "n": 80_000, "convergence": None, "obj_n_mc": 500}


def environment(folder):
    env = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        env.pop(name, None)
    return env


def begun(folder, *command):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def flows(folder, *arguments):
    process = begun(folder, "-m", "flows", *arguments)
    output, errors = process.communicate(timeout=280)
    assert "Traceback" not in output + errors
    return process.returncode, output, errors


def wait_for(condition, process, seconds=150):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def ends(folder):
    """Return how the runs of a folder of JSON lines ended, by their paths in an execution."""
    found = {}
    for file in folder.glob("runs/lines/faults/**/events.jsonl"):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        name = events[0].get("name", "")
        assert name not in found
        found[name] = [event["status"] for event in events if event["event"] == "end"]
    return found


def test_a_fit_that_was_killed_goes_on_with_the_same_command(tmp_path):
    """From its checkpoint, to the losses of a fit that nobody killed."""
    (tmp_path / "config.yaml").write_text(HEAD + f", methods: [{json.dumps(LONG)}]}}")
    process = begun(tmp_path, "-m", "flows", "compare", "config.yaml", *JSONL)
    [path] = wait_for(lambda: list(tmp_path.glob("runs/results/*/checkpoint-*.npz")), process)
    process.kill()
    process.communicate()
    time.sleep(0.5)  # until its runs have ended, too
    with np.load(path) as file:
        content = dict(file)
    content["losses"][0] = 12345.0
    np.savez(path, **content)
    status, output, errors = flows(tmp_path, "compare", "config.yaml", *JSONL)
    assert status == 0, output + errors
    [folder] = tmp_path.glob("runs/results/*")
    found = load_result(folder).losses
    here = run_method(zoo.build("gamma", n=30), make_spec(LONG), 1, 50).losses
    assert found[0] == 12345.0
    np.testing.assert_array_equal(found[1:], here[1:])
    names = {file.name for file in folder.iterdir()}
    assert not [name for name in names if name.startswith("checkpoint")]
    assert ends(tmp_path) == {"": ["FINISHED"], "advi seed 1": ["FINISHED"]}


KILLED_WHILE_IT_BEGINS = """
import os, signal
import mlflow
from flows.__main__ import app

create = mlflow.MlflowClient.create_run
made = []

def create_run(*arguments, **keywords):
    run = create(*arguments, **keywords)
    made.append(run)
    if len(made) == {runs}:
        os.kill(os.getpid(), signal.SIGKILL)
    return run

mlflow.MlflowClient.create_run = create_run
app(["compare", "config.yaml"])
"""


def test_runs_whose_ids_nobody_has_kept_are_found(tmp_path):
    """Killed after each of the runs that it creates in MLflow, until it has them all."""
    from mlflow import MlflowClient

    (tmp_path / "config.yaml").write_text(SHORT)
    for runs in (2, 1):
        process = begun(tmp_path, "-c", KILLED_WHILE_IT_BEGINS.format(runs=runs))
        assert process.communicate(timeout=200) == ("", "") or process.returncode
        assert process.returncode == -signal.SIGKILL
    status, output, errors = flows(tmp_path, "compare", "config.yaml")
    assert status == 0, output + errors
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("faults").experiment_id
    found = [(run.info.status, run.data.tags) for run in client.search_runs([experiment])]
    assert [status for status, _ in found] == ["FINISHED"] * 3
    assert sum("mlflow.parentRunId" in tags for _, tags in found) == 2
    # A comparison that is run afresh has runs of its own.
    assert flows(tmp_path, "compare", "config.yaml", "--fresh")[0] == 0
    assert len(client.search_runs([experiment])) == 6


@pytest.fixture
def small_disk(tmp_path):
    """A disk of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounts a small disk, which needs to be root on Linux")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def draws_of(megabytes):
    import xarray as xr

    values = np.random.default_rng(1).normal(size=(1, int(megabytes * 2**17)))
    posterior = xr.Dataset({"x": (("chain", "draw"), values)})
    return xr.DataTree.from_dict({"posterior": posterior})


def test_a_result_that_a_disk_has_no_room_for_is_not_there(small_disk):
    whole = MethodResult("advi", "advi", 1, Status.FINISHED, datatree=draws_of(2))
    save_result(whole, small_disk / "a")
    for result in (
        MethodResult("advi", "advi", 1, Status.FINISHED, datatree=draws_of(3)),
        MethodResult("advi", "advi", 1, Status.FINISHED, losses=np.ones(3 * 2**17)),
    ):
        with pytest.raises(OSError, match="No space left on device"):
            save_result(result, small_disk / "b")
        assert result_status(small_disk / "b") is None
        assert not list((small_disk / "b").iterdir())
    # There is room again to say so, and what was there before is whole.
    save_result(MethodResult("advi", "advi", 1, Status.FAILED), small_disk / "b")
    assert result_status(small_disk / "b") is Status.FAILED
    np.testing.assert_array_equal(
        load_result(small_disk / "a").datatree.posterior.x, whole.datatree.posterior.x
    )


FILLS = """
from pathlib import Path
from pymc_vi_ext import zoo

def full(place):
    finished = list(Path(place).glob("results/laplace*/result.json"))
    if finished and not Path(__file__).with_name("room").exists():
        with open(Path(place, "filler"), "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(512))
            except OSError:
                pass
    return zoo.build("gamma", n=30)
"""


def test_a_full_disk_is_one_sentence_and_what_there_was_is_kept(tmp_path, small_disk):
    (tmp_path / "models.py").write_text(FILLS)
    config = SHORT.replace("gamma", "models.py:full").replace("n: 30", f"place: {small_disk}")
    (tmp_path / "config.yaml").write_text(config)
    command = ("compare", "config.yaml", *JSONL, "--folder", small_disk, "--allow-code")
    status, output, errors = flows(tmp_path, *command)
    assert status == 1, output + errors
    assert re.search(r"laplace +-\d", output)
    assert re.search(r"svgd +FAILED", output)
    assert re.search("svgd: its result could not be kept: .*No space left on device", output)
    (small_disk / "filler").unlink()
    [kept] = small_disk.glob("results/laplace*/result.json")
    written = kept.stat().st_mtime_ns
    (tmp_path / "room").touch()
    status, output, errors = flows(tmp_path, *command)
    assert status == 0, output + errors
    assert kept.stat().st_mtime_ns == written
    assert {name: found[-1] for name, found in ends(tmp_path).items()} == dict.fromkeys(
        ["", "laplace seed 1", "svgd seed 1"], "FINISHED"
    )


def test_a_folder_that_is_read_only_is_one_sentence(tmp_path, small_disk):
    (tmp_path / "config.yaml").write_text(SHORT)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    command = ("compare", "config.yaml", *JSONL, "--folder", small_disk / "results")
    status, _, errors = flows(tmp_path, *command)
    assert status == 2
    assert errors == f"The folder {small_disk} cannot be written to: choose another.\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("file", ["result.json", "losses.npz", "posterior.nc"])
def test_a_result_that_is_damaged_has_not_finished(tmp_path, file):
    save_result(MethodResult("advi", "advi", 1, Status.FINISHED, datatree=draws_of(0.01)), tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    assert result_status(tmp_path) is None
    with pytest.raises(ValueError, match="no whole result"):
        load_result(tmp_path)


WAITS = """
import time
from pathlib import Path
from pymc_vi_ext import zoo

def build(place):
    # The process of the second run waits until it is told to go on.
    while list(Path(place).glob("runs/results/laplace*/result.json")):
        if Path(place, "go").exists():
            break
        time.sleep(0.1)
    return zoo.build("gamma", n=30)
"""


class Server:
    """A server of MLflow's on this machine."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", 1]
        command += ["--artifacts-destination", self.folder / "artifacts"]
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self.answers, self.process, 120)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return True
        except OSError:
            return False

    def signal(self, number):
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.signal(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_tracking_server_that_goes_away_gets_what_it_does_not_have_later(
    tmp_path, server, number
):
    from mlflow import MlflowClient

    (tmp_path / "models.py").write_text(WAITS)
    config = SHORT.replace("gamma", "models.py:build").replace("n: 30", f"place: {tmp_path}")
    (tmp_path / "config.yaml").write_text(config)
    arguments = ("compare", "config.yaml", "--tracking-uri", server.uri, "--allow-code")
    process = begun(tmp_path, "-m", "flows", *arguments)
    wait_for(lambda: list(tmp_path.glob("runs/executions/*/tracked-0")), process)
    server.signal(number)
    (tmp_path / "go").touch()
    wait_for(lambda: list(tmp_path.glob("runs/results/svgd*/result.json")), process)
    finished = time.monotonic()
    output, errors = process.communicate(timeout=150)
    assert time.monotonic() - finished < 60  # some seconds on a quiet machine
    assert process.returncode == 0, output + errors
    assert re.search(r"laplace +-\d", output)
    assert f"The tracking server {server.uri} does not answer" in output
    assert "`sync` brings the rest" in output
    assert "Traceback" not in output + errors
    if number == signal.SIGSTOP:
        server.signal(signal.SIGCONT)
    else:
        server.start()
    for said in ("recorded", "The tracker has everything."):
        status, output, errors = flows(tmp_path, "sync", "--tracking-uri", server.uri)
        assert status == 0, output + errors
        assert said in output
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("faults").experiment_id
    found = client.search_runs([experiment])
    assert [run.info.status for run in found] == ["FINISHED"] * 3
    for run in found:
        assert "images" in {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_without_prefects_server_a_comparison_comes_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "1")  # not half a minute of asking again
    (tmp_path / "config.yaml").write_text(SHORT)
    process = begun(tmp_path, "-m", "flows", "compare", "config.yaml", *JSONL)
    wait_for(lambda: list(tmp_path.glob("runs/results/laplace*/output.txt")), process)
    [pid] = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if is_server(pid, tmp_path)]
    os.kill(int(pid), signal.SIGKILL)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    assert re.search(r"laplace +-\d", output)
    assert "Prefect's server has gone away" in output
    assert "Traceback" not in output + errors
    runs = ["", "laplace seed 1", "svgd seed 1"]
    assert ends(tmp_path) == {run: ["FINISHED"] for run in runs}
    again = flows(tmp_path, "compare", "config.yaml", *JSONL)
    assert again[0] == 0
    assert "All of it was there already" in again[1]


def is_server(pid, folder):
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return os.readlink(f"/proc/{pid}/cwd") == str(folder) and words[1:3] == ["-m", "uvicorn"]
    except OSError:
        return False
