"""A Prefect server for a deployment, where the user runs none."""

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

from prefect.settings import PREFECT_API_URL, temporary_settings

_STARTUP_S = 120


@contextmanager
def server() -> Iterator[str]:
    """Yield the address of the configured Prefect server, or of one that lives as long as this.

    The server that Prefect starts by itself for a single run has no scheduler.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        yield configured
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "WARNING"],
        env={**os.environ, "PREFECT_API_URL": url},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait(process, url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(
        f"Prefect's server did not start within {_STARTUP_S} s: start one with "
        "`prefect server start` and set PREFECT_API_URL to its address."
    )
