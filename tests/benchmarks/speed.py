"""Time the engine against its rivals; writes one table and the numbers as JSON.

Run as ``python tests/benchmarks/speed.py --out DIR``. Every rival runs in a process of its own
(see ``worker.py``) with empty compilation caches: first from the model to the result, then warm,
all rivals in turns, so that a machine that drifts hits all alike. PyMC's JAX backend wants a newer
PyMC than pymc-extras admits: ``--latest-python`` names an interpreter that has it. All of it takes
more than an hour on two cores; ``--models`` with ``--keep`` does it in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from report import Row, Section, as_json, as_markdown, machine, section_from_json
from rivals import ADVI, Entry
from svgd import table as svgd_table

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

# Steps of a warm repetition: long enough for a clock, the same for every rival.
STEPS = {
    "gamma": 50_000,
    "mixture": 50_000,
    "hierarchical": 10_000,
    "logistic": 2_000,
    "minibatch": 2_000,
}
COLD_STEPS = 10_000
# Cold runs of fewer seconds are repeated this often.
COLD_SHORT, COLD_REPEATS = 15.0, 3
# Rivals that return to Python at every step take this fraction of the steps: their time per step
# does not depend on the number, and they are slow.
FUSED = ("limit", "limit-apart", "vix-jax", "vix-jax-bar", "numpyro")
STEPWISE = 10
SVGD_MODELS = ("mixture", "gamma")
SVGD_STEPS, PARTICLES = 300, 1_000
QUICK = 20


class Worker:
    """A process that runs one rival on one model, with compilation caches of its own."""

    def __init__(self, rival: str, model: str, python: str, options: list[str], timeout: float):
        self._timeout = timeout
        self._caches = Path(tempfile.mkdtemp(prefix="bench-"))
        flags = [os.environ.get("PYTENSOR_FLAGS", ""), f"base_compiledir={self._caches / 'c'}"]
        environment = os.environ | {
            "PYTENSOR_FLAGS": ",".join(f for f in flags if f),
            "NUMBA_CACHE_DIR": str(self._caches / "numba"),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "PYMC_VI_EXT_CACHE": "off",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        }
        if rival == "vix-jax-bar":
            # A bar that is not on a terminal is not drawn, and costs nothing.
            environment |= {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "120"}
        with (self._caches / "stderr").open("w") as log:
            self._process = subprocess.Popen(
                [python, str(HERE / "worker.py"), rival, model, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            self._process.kill()
            return {"failed": f"took more than {self._timeout:,.0f} s"}
        except BrokenPipeError:
            line = ""
        if not line:
            said = (self._caches / "stderr").read_text().strip().splitlines()
            return {"failed": f"the process ended: {said[-1] if said else 'without a word'}"}
        return json.loads(line)

    def close(self) -> None:
        """End the process and remove its caches."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._caches, ignore_errors=True)


def measure(
    section: Section, table: dict[str, Entry], arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Fill the rows of `section`; returns the versions that ran, by kind of interpreter."""
    options = []
    if section.particles:
        options = ["--particles", str(section.particles), "--cap", str(arguments.cap)]
    running: list[tuple[Row, Worker]] = []
    versions: dict[str, dict[str, Any]] = {}
    started: dict[str, Callable[[], Worker]] = {}
    for name, entry in table.items():
        latest = entry.latest and arguments.latest_python is not None
        python = arguments.latest_python if latest else sys.executable
        row = Row(name, entry.label + (" [latest]" if latest else ""), entry.world)
        section.rows.append(row)
        start = partial(Worker, name, section.model, python, options, arguments.timeout)
        worker = start()
        answer = worker.ask(do="cold", steps=section.cold_steps)
        if _went_wrong(row, answer):
            worker.close()
        else:
            running.append((row, worker))
            started[name] = start
            row.cold_repetitions.append(answer["seconds"])
            row.cold_taken = answer["taken"]
            row.cold_extrapolated = row.cold_taken < section.cold_steps
            if not row.cold_extrapolated:
                row.loss, row.diverged = answer["loss"], answer["loss"] is None
            versions["latest" if latest else "main"] = answer["versions"]
        _say(section, row, f"{row.cold_s:.2f} s cold" if row.cold_s else row.problem)
    for _ in range(0 if arguments.quick else COLD_REPEATS - 1):
        _cold_again(section, [(row, started[row.rival]) for row, _ in running])

    for row, worker in running:
        row.steps = section.steps // (1 if section.particles or row.rival in FUSED else STEPWISE)
        _went_wrong(row, worker.ask(do="prepare", steps=row.steps))
    for _ in range(arguments.repeats):
        for row, worker in running:
            if row.problem:
                continue
            answer = worker.ask(do="run")
            if not _went_wrong(row, answer):
                row.repetitions.append(answer["seconds"] / answer["taken"] * 1e6)
                row.steps_cut |= answer["taken"] < row.steps
    for row, worker in running:
        worker.close()
        if row.cold_extrapolated and row.step_us:
            left = section.cold_steps - row.cold_taken
            row.cold_repetitions = [s + left * row.step_us / 1e6 for s in row.cold_repetitions]
        _say(section, row, f"{row.step_us:.3f} us a step" if row.step_us else row.problem)
    return versions


def _cold_again(section: Section, rows: list[tuple[Row, Callable[[], Worker]]]) -> None:
    """Repeat the short cold runs, in which a second more or less matters."""
    for row, start in rows:
        if row.cold_s is None or row.cold_s > COLD_SHORT or row.cold_extrapolated:
            continue
        worker = start()
        answer = worker.ask(do="cold", steps=section.cold_steps)
        worker.close()
        if not _went_wrong(row, answer):
            row.cold_repetitions.append(answer["seconds"])


def _went_wrong(row: Row, answer: dict[str, Any]) -> bool:
    for kind in ("failed", "skipped"):
        if kind in answer:
            row.problem = f"{kind}: {answer[kind]}"
            row.repetitions.clear()
            return True
    return False


def _say(section: Section, row: Row, text: str) -> None:
    print(f"{section.title:32s} {row.rival:14s} {text}", file=sys.stderr, flush=True)


def sections(arguments: argparse.Namespace) -> list[tuple[Section, dict[str, Entry]]]:
    """Say what to measure: a section per model, with its rivals."""
    small = QUICK if arguments.quick else 1
    steps = {m: arguments.steps or n // small for m, n in STEPS.items()}

    def chosen(table: dict[str, Entry]) -> dict[str, Entry]:
        return {n: e for n, e in table.items() if not arguments.rivals or n in arguments.rivals}

    particles = PARTICLES // 10 if arguments.quick else PARTICLES
    svgd_steps = SVGD_STEPS // 10 if arguments.quick else SVGD_STEPS
    found = []
    if arguments.methods in ("advi", "both"):
        for model in arguments.models:
            section = Section(model, 0, steps[model], COLD_STEPS // small)
            found.append((section, chosen(ADVI)))
    if arguments.methods in ("svgd", "both"):
        for model in SVGD_MODELS:
            if model in arguments.models:
                section = Section(model, particles, svgd_steps, svgd_steps)
                found.append((section, chosen(svgd_table(particles, arguments.cap))))
    return [(section, table) for section, table in found if table]


def main() -> None:
    """Measure and write ``speed-<cpu or gpu>.md`` and ``.json``, after every model anew."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    # This process only names the accelerator; it should leave its memory to the rivals.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    where = machine()
    label = arguments.label or where["jax_backend"]
    markdown = arguments.out / f"speed-{label}.md"
    numbers = arguments.out / f"speed-{label}.json"
    settings = {"repeats": arguments.repeats, "cap": arguments.cap, "quick": arguments.quick}
    done: dict[str, Section] = {}
    versions: dict[str, dict[str, Any]] = {"main": {}}
    if arguments.keep and numbers.exists():
        before = json.loads(numbers.read_text())
        done = {s.title: s for s in map(section_from_json, before["models"])}
        versions = before["versions"]
    for section, table in sections(arguments):
        versions |= measure(section, table, arguments)
        if arguments.rivals and section.title in done:
            measured = {row.rival for row in section.rows}
            kept = [row for row in done[section.title].rows if row.rival not in measured]
            order = list(ADVI) + list(svgd_table(2, 0.0))
            section.rows = sorted(section.rows + kept, key=lambda row: order.index(row.rival))
        done[section.title] = section
        found = list(done.values())
        text = json.dumps(as_json(found, where, versions, **settings), indent=1)
        numbers.write_text(text + "\n")
        markdown.write_text(as_markdown(found, where, versions, **settings))
    print(markdown.read_text())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = list(ADVI) + [n for n in svgd_table(2, 0.0) if n not in ADVI]
    parser.add_argument("--models", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--rivals", nargs="+", choices=names, help="all if not given")
    parser.add_argument("--methods", choices=["advi", "svgd", "both"], default="both")
    parser.add_argument("--repeats", type=int, help="of the time per step (5, quick: 3)")
    parser.add_argument("--steps", type=int, help="of a warm ADVI run, else by model")
    parser.add_argument(
        "--keep", action="store_true", help="models and rivals measured before stay"
    )
    parser.add_argument("--quick", action="store_true", help="a small part of the steps")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the results")
    parser.add_argument("--label", help="of the files; by default JAX's backend: cpu, gpu")
    parser.add_argument("--cap", type=float, default=20.0, help="seconds for a slow SVGD run")
    parser.add_argument("--timeout", type=float, default=1_200.0, help="seconds for any one run")
    parser.add_argument("--latest-python", help="interpreter with PyMC >= 6.4")
    arguments = parser.parse_args()
    if arguments.repeats is None:
        arguments.repeats = 3 if arguments.quick else 5
    return arguments


if __name__ == "__main__":
    main()
