"""A headless Chromium, driven by its own protocol: open a page, ask it something, take a picture.

As a script it makes the pictures of docs/guides/dashboard.md.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--hide-scrollbars", "--remote-debugging-port=0", "--disable-background-networking",
)  # fmt: skip


class Page:
    """A tab of a browser."""

    def __init__(self, socket, width, height):
        self._socket, self._numbers = socket, itertools.count(1)
        # The addresses that pages have asked for, files of this machine among them.
        self.requests = []
        self._call("Network.enable")
        self.size(width, height)

    def size(self, width, height):
        """Set the window's size in pixels; narrow ones are a phone's."""
        phone = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=phone,
        )  # fmt: skip

    def open(self, url):
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def ask(self, expression):
        """Return the value of an expression in JavaScript."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['result']['description']}")
        return answer["result"].get("value")

    def until(self, expression, seconds=60):
        """Wait until an expression is true, and return it."""
        deadline = time.monotonic() + seconds
        # Between two pages there is none.
        while not (found := self.ask(f"document.body !== null && ({expression})")):
            if time.monotonic() > deadline:
                text = self.ask("document.body.innerText")
                raise TimeoutError(f"{expression} is not true after {seconds} s; there is: {text}")
            time.sleep(0.2)
        return found

    def shot(self, path, whole=False):
        """Take a picture, of the window or of the whole page."""
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(picture["data"]))

    def _call(self, method, **arguments):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": arguments}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])


@contextlib.contextmanager
def browser(width=1440, height=900):
    """Open a page in a browser that ends with the block."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(Path(folder, "DevToolsActivePort"), process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
            with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Page(socket, width, height)
        finally:
            process.terminate()
            process.wait(20)


def _port(file, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not file.exists() or not file.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{CHROMIUM} does not start: status {process.poll()}")
        time.sleep(0.1)
    return file.read_text().splitlines()[0]


_CLICK = 'document.querySelectorAll("[aria-label={!r}]").forEach(button => button.click())'


def _pictures(address, report, folder):
    """Take the pictures of docs/guides/dashboard.md, of a run's page in MLflow and its report."""
    run, _, query = address.partition("?")
    pages = {
        "overview": (f"{run}?{query}", "Description"),
        "metrics": (f"{run}/model-metrics?{query}", "comparison/kde"),
    }
    with browser() as page:
        # What MLflow offers besides is in the way.
        page.open(pages["overview"][0])
        page.until("document.querySelector('[aria-label=Close]') !== null")
        page.ask(_CLICK.format("Close"))
        for name, (where, ready) in pages.items():
            page.open(where)
            page.until(f"document.body.innerText.includes({ready!r})")
            time.sleep(5)
            page.ask(_CLICK.format("Expand description"))
            time.sleep(5)
            _shot(page, Path(folder, f"dashboard-{name}.png"))
        for width, name in ((1440, "report"), (390, "report-narrow")):
            page.size(width, 900)
            page.open(Path(report).resolve().as_uri())
            page.until("document.images.length > 0")
            _shot(page, Path(folder, f"dashboard-{name}.png"))


def _shot(page, path):
    from PIL import Image

    page.shot(path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(path, optimize=True)


if __name__ == "__main__":
    _pictures(*sys.argv[1:])
