"""What a flow costs beside the comparison itself: ``make bench-flows``.

Every row is a command in a folder of its own. CPU seconds are those of all its processes: the
command, Prefect's server, the runs and the process that they are forked from. This process adopts
the orphans among them (``PR_SET_CHILD_SUBREAPER``, Linux) and waits for all.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <sys/prctl.h>
# Prefect sets its database up once, at the first command of a machine.
HOME = tempfile.mkdtemp(prefix="bench-flows-prefect-")

COMPARISON = """
name: overhead
model: gamma
methods:
  - {name: laplace}
  - {name: advi}
  - {name: fullrank_advi}
  - {name: svgd, n: 300, convergence: null, n_particles: 200}
reference: null
draws: 1000
"""
# The same by hand, with nothing kept.
BY_HAND = """
import sys
import pymc_vi_ext as vix
from pymc_vi_ext.comparison.config import build_model, load_config
config = load_config(sys.argv[1])
vix.compare(build_model(config, sys.argv[1]), config.specs(), None, draws=config.draws)
"""
LONG = """
name: long
model: logistic
methods: [{name: advi, n: 60000, convergence: null}]
reference: null
"""
LONG_BY_HAND = BY_HAND.replace("vix.compare(", "found = vix.compare(") + (
    "print(float(found.table['time/fit_s'].iloc[0]))"
)
SUITE = """
name: sixty
models: [gamma, mixture]
methods: [{name: laplace}, {name: advi}, {name: fullrank_advi}]
reference: null
seeds: {root: 1, number: 10}
draws: 500
"""


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds on the clock and of all cores, and what it printed."""

    wall: float
    cpu: float
    output: str


def cost(arguments: list[str], folder: Path) -> Cost:
    """Run a command to its end, and to that of everything that it has started."""
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": HOME,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    env.pop("PREFECT_API_URL", None)
    output = folder / "printed.txt"
    began = time.monotonic()
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=env, stdout=file, stderr=file
        )
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{arguments} ended with {status}:\n{output.read_text()}")
    cpu = usage.ru_utime + usage.ru_stime
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return Cost(wall, cpu, output.read_text())
        cpu += usage.ru_utime + usage.ru_stime


def in_a_folder(text: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bench-flows-"))
    (folder / "c.yaml").write_text(text)
    return folder


def fit_seconds(folder: Path) -> float:
    import json

    [result] = folder.glob("runs/results/*/result.json")
    return float(json.loads(result.read_text())["fit_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    out = parser.parse_args().out
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    flows = ["-m", "flows"]

    # What is compiled and cached on disk is the same for both, after the first.
    cost(["-c", BY_HAND, "c.yaml"], in_a_folder(COMPARISON))
    cost([*flows, "compare", "c.yaml"], in_a_folder(COMPARISON))
    by_hand = cost(["-c", BY_HAND, "c.yaml"], in_a_folder(COMPARISON))
    folder = in_a_folder(COMPARISON)
    flow = cost([*flows, "compare", "c.yaml"], folder)
    again = cost([*flows, "compare", "c.yaml"], folder)
    lines = in_a_folder(COMPARISON)
    jsonl = cost([*flows, "compare", "c.yaml", "--tracking-uri", "jsonl:runs/lines"], lines)
    long_by_hand = cost(["-c", LONG_BY_HAND, "c.yaml"], in_a_folder(LONG))
    long_folder = in_a_folder(LONG)
    cost([*flows, "compare", "c.yaml"], long_folder)
    alone, within = float(long_by_hand.output.split()[-1]), fit_seconds(long_folder)
    suites = {}
    for runner in ("sequential", "process"):
        folder = in_a_folder(SUITE)
        suites[runner] = cost([*flows, "suite", "c.yaml", "--runner", runner], folder)
    sixty_again = cost([*flows, "suite", "c.yaml"], folder)

    rows = [
        ("`vix.compare`, four methods on `gamma`", by_hand),
        ("`pymc-vi compare`, the same, kept in MLflow", flow),
        ("the same, kept as JSON lines", jsonl),
        ("`pymc-vi compare` again, where everything has finished", again),
        ("`pymc-vi suite`, 60 fits, one at a time", suites["sequential"]),
        (f"the same, {os.cpu_count()} at a time", suites["process"]),
        ("`pymc-vi suite` again, where everything has finished", sixty_again),
    ]
    table = "\n".join(f"| {what} | {c.wall:.1f} | {c.cpu:.1f} |" for what, c in rows)
    text = f"""# What flows cost

`make bench-flows`, on {os.cpu_count()} cores. Seconds on the clock and CPU seconds of all
processes: the command, Prefect's server, the runs.

| what | seconds | CPU seconds |
|---|---|---|
{table}

Beside `vix.compare` the flow takes {flow.cpu - by_hand.cpu:.1f} CPU seconds more: Prefect's import
and server, a process and an XLA client for each run, scores, figures and what MLflow writes. Steps
of a long fit (ADVI on 10,000 rows, 60,000 steps) take {alone:.1f} s by hand and {within:.1f} s
within a flow ({100 * (within / alone - 1):+.1f} %).
"""
    (out / "flows.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
