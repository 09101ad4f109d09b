"""A finished comparison in MLflow's own pages, in a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from pathlib import Path

import pytest

from browser import CHROMIUM, browser

ROOT = Path(__file__).parents[2]

CONFIG = """
name: in a browser
model: gamma
parameters: {n: 30}
methods:
  - {name: fullrank_advi, n: 3000}
  - {name: advi, n: 500, convergence: null}
  - {name: advi, learning_rate: 1.0e+9, label: wild}
reference: fullrank_advi
draws: 200
"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: apt-get install chromium, to look at MLflow's pages"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Compare from the command line; return the folder and what was printed."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "config.yaml").write_text(CONFIG)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        env.pop(name, None)
    command = [sys.executable, "-m", "flows", "compare", "config.yaml"]
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert run.returncode == 1, run.stderr  # `wild` fails
    return folder, run.stdout


@pytest.fixture(scope="module")
def shown(finished):
    """Serve MLflow on loopback; return the address of the execution there."""
    folder, printed = finished
    [address] = [line.strip() for line in printed.splitlines() if "/#/experiments/" in line]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/runs/mlflow.db",
    ]  # fmt: skip
    log = (folder / "server.txt").open("w")
    with log, subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield address.replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _wait_for(address, server, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        assert server.poll() is None
        assert time.monotonic() < deadline
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


def text(*words):
    return " && ".join(f"document.body.innerText.includes({word!r})" for word in words)


def test_the_execution_says_what_came_out(shown, page):
    page.open(shown)
    page.until(text("Description", "3 methods on the model gamma", "config.yaml"))
    page.until(text("outcome/wild", "gamma (", "error/advi", "wild seed 1"))
    page.until("document.querySelectorAll('table td').length > 10")
    cells = page.ask("[...document.querySelectorAll('td')].map(c => c.innerText).join('|')")
    assert "fixed steps" in cells
    assert "failed" in cells


def test_figures_and_traces_are_charts(shown, page):
    run, _, query = shown.partition("?")
    page.open(f"{run}/model-metrics?{query}")
    # Graphviz draws the model.
    names = ("accuracy", "elbo", "forest", "kde", *["model"] * (shutil.which("dot") is not None))
    page.until(text(*(f"comparison/{name}" for name in names)), 120)
    page.until("[...document.images].filter(i => i.complete && i.naturalWidth > 100).length >= 3")
    # Those further down are drawn when they are looked at.
    page.size(1440, 6_000)
    page.until("document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length >= 2", 120)
    page.until("document.querySelectorAll('.js-plotly-plot .barlayer .trace').length >= 2", 120)
    page.size(1440, 900)


def test_a_failed_run_has_its_message(shown, page):
    page.open(shown)
    page.until(text("wild seed 1"))
    page.ask("[...document.querySelectorAll('a')].find(a => a.innerText == 'wild seed 1').click()")
    page.until(text("Failed", "FloatingPointError: NaN occurred"))


@pytest.mark.parametrize("width", [1440, 390])
def test_the_report_fits_the_window_and_asks_for_nothing(finished, page, width):
    folder, _ = finished
    [report] = folder.glob("runs/mlartifacts/*/*/artifacts/report.html")
    page.size(width, 900)
    page.open(report.as_uri())
    page.until("document.title == 'in a browser' && document.images.length >= 4")
    page.until("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
    assert page.ask("document.documentElement.scrollWidth") <= width
    asked = "performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [name for name in page.ask(asked) if not name.startswith("data:")] == []
    outcome = page.ask("document.querySelector('.tag').getBoundingClientRect().right")
    assert outcome <= width
