"""One rival on one model in a process of its own, told what to do through its standard input.

Each line of input is a command in JSON, each line of output its result::

    {"do": "cold", "steps": n}      build nothing but the model before; -> seconds, taken
    {"do": "prepare", "steps": n}   -> {}
    {"do": "run"}                   -> seconds, taken
    {"do": "quit"}

``taken`` is smaller than asked where a rival stopped because its time was over. What fails gives
``{"failed": first line}``, what cannot run here ``{"skipped": reason}``.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import sys
import time

from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

from rivals import ADVI, Entry, Rival, UnavailableError
from svgd import table as svgd_table

PACKAGES = (
    *("jax", "jaxlib", "pymc", "pytensor", "numba", "numpy", "numpyro", "blackjax"),
    "pymc-extras",
)

# A repetition of a fast rival is this long, in several runs.
_SECONDS = 0.5


def main() -> None:
    """Serve one rival."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rival")
    parser.add_argument("model")
    parser.add_argument("--particles", type=int, default=0, help="0: ADVI; otherwise SVGD")
    parser.add_argument("--cap", type=float, default=20.0)
    arguments = parser.parse_args()
    answers = _take_stdout()
    entry = (svgd_table(arguments.particles, arguments.cap) if arguments.particles else ADVI)[
        arguments.rival
    ]
    worker = _Worker(entry, arguments.model)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            break
        try:
            answer = worker.do(command)
        except UnavailableError as reason:
            answer = {"skipped": str(reason)}
        except Exception as error:
            answer = {"failed": _first_line(error)}
        print(json.dumps(answer), file=answers, flush=True)
    # Some runtimes abort at exit; everything is said by now.
    os._exit(0)


class _Worker:
    def __init__(self, entry: Entry, model: str):
        self._entry = entry
        self._model = model
        self._rival: Rival | None = None

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "cold":
            return self._cold(command["steps"])
        assert self._rival is not None
        if command["do"] == "prepare":
            self._rival.prepare(command["steps"])
            self._n = command["steps"]
            return {}
        return self._repeat(self._rival.run, self._n)

    def _cold(self, n: int) -> dict[str, Any]:
        from pymc_vi_ext.zoo import MODELS

        self._rival = self._entry.make(MODELS[self._model]())
        for module in self._rival.imports:
            # Where one has moved or cannot be had, its import counts in the time of the rival.
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        if "jax" in sys.modules:
            import jax

            jax.config.update("jax_enable_x64", True)
            jax.devices()
        rival = self._rival
        result = self._timed(lambda: rival.cold(n), n)
        loss = _loss(rival)
        result["loss"] = loss if math.isfinite(loss) else None
        result["versions"] = {name: _version(name) for name in PACKAGES}
        return result

    def _repeat(self, function: Any, n: int) -> dict[str, Any]:
        """Median of as many runs as fill the time; of a fast rival the first only wakes it up."""
        results = [self._timed(function, n)]
        if results[0]["seconds"] < _SECONDS:
            results.clear()
            while sum(r["seconds"] for r in results) < _SECONDS:
                results.append(self._timed(function, n))
        return sorted(results, key=lambda r: r["seconds"])[len(results) // 2]

    def _timed(self, function: Any, n: int) -> dict[str, Any]:
        started = time.perf_counter()
        function()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "taken": getattr(self._rival, "taken", n)}


def _loss(rival: Rival) -> float:
    """Loss of an ADVI rival; of SVGD minus the mean log density of the particles, in nats."""
    particles = getattr(rival, "particles", None)
    if particles is None:
        return rival.loss()
    import jax

    from pymc_vi_ext.comparison._jax_density import jax_density

    density = jax_density(rival.model)
    values = jax.vmap(lambda x: density.logp(x, (), density.data))(particles())
    return -float(values.mean())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])[:200]


def _take_stdout() -> TextIO:
    """Keep standard output for answers; what the rivals print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return answers


if __name__ == "__main__":
    main()
