"""A Prefect server, where the user runs none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prefect

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from . import guarded

_STARTUP_S, _GRACE_S = 120, 5
_HOST = "127.0.0.1"
# As Prefect starts the server of a single flow run, with the same settings.
_FOR_ONE_FLOW = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


@contextmanager
def server(*, scheduling: bool) -> Iterator[str]:
    """Yield the address of the configured Prefect server, or of one that lives as long as this.

    The one that Prefect would start by itself has no scheduler, ends at a Ctrl-C in the terminal,
    which the flow then waits for in vain, and stays where the flow is killed.

    Parameters
    ----------
    scheduling : bool
        Whether it starts scheduled runs, and has a page.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        yield configured
        return
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = str(free.getsockname()[1])
    url = f"http://{_HOST}:{port}/api"
    process = _start(port, url) if scheduling else _start_for_one_flow(port)
    try:
        _wait(process, url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        # What Prefect still has to say of the flow finds nobody else.
        EventsWorker.drain_all(timeout=_GRACE_S)
        APILogWorker.drain_all(timeout=_GRACE_S)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(2 * _GRACE_S)


def _start(port: str, url: str) -> subprocess.Popen[bytes]:
    command = ["-m", "prefect", "server", "start", "--host", _HOST, "--port", port]
    return _guarded([*command, "--log-level", "WARNING"], {"PREFECT_API_URL": url})


def _start_for_one_flow(port: str) -> subprocess.Popen[bytes]:
    folder = str(Path(prefect.__file__).parents[1])
    command = ["-m", "uvicorn", "--app-dir", folder, "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", _HOST, "--port", port]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return _guarded(
        [*command, "--log-level", "error", "--lifespan", "on"], settings | _FOR_ONE_FLOW
    )


def _guarded(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, guarded.__file__, sys.executable, *command],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # Out of reach of what a terminal sends to all that runs in it.
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(
        f"Prefect's server did not start within {_STARTUP_S} s: start one with "
        "`prefect server start` and set PREFECT_API_URL to its address."
    )
