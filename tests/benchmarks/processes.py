"""Time whole processes, from ``python script.py`` to draws, beside the rivals; cold and once more.

Run as ``python tests/benchmarks/processes.py --out DIR``. Each script imports what it needs, writes
the model, fits it with its own defaults and makes a DataTree of draws. It runs twice in turn with
all others: with empty caches, and again with the caches that the first run has left. The clock is
that of whoever types the command: it starts before the interpreter does and ends with it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from dataclasses import dataclass
from pathlib import Path

from report import machine

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

MODEL = "from pymc_vi_ext import zoo\nmodel = zoo.build({model!r})\n"
# Of mean-field ADVI, where nothing stops by itself.
STEPS = 10_000


@dataclass(frozen=True)
class Case:
    """A script, and what it is called in the table."""

    label: str
    code: str


SCRIPTS = {
    "import": Case("`import pymc` alone", "import pymc"),
    "vix": Case(
        "`vix.fit`, converged, `to_datatree`",
        f"import pymc as pm\nimport pymc_vi_ext as vix\n{MODEL}"
        "with model:\n"
        "    approx = vix.fit(method={method!r}, random_seed=1, progressbar=False)\n"
        "assert approx.report.converged\n"
        "vix.to_datatree(approx)\n",
    ),
    "pymc": Case(
        f"`pm.fit`, {STEPS:,} steps, `sample`",
        f"import pymc as pm\n{MODEL}"
        "with model:\n"
        f"    approx = pm.fit({STEPS}, method={{method!r}}, random_seed=1, progressbar=False)\n"
        "    approx.sample(1_000)\n",
    ),
    "extras-dadvi": Case(
        "pymc-extras, `dadvi`",
        f"import pymc as pm, pymc_extras as pmx\n{MODEL}"
        "with model:\n    pmx.fit(method='dadvi', random_seed=1, progressbar=False)\n",
    ),
    "extras-pathfinder": Case(
        "pymc-extras, `pathfinder`",
        f"import pymc as pm, pymc_extras as pmx\n{MODEL}"
        "with model:\n    pmx.fit(method='pathfinder', random_seed=1, progressbar=False)\n",
    ),
    "numpyro": Case(
        f"NumPyro `SVI.run`, {STEPS:,} steps, the model's density on JAX",
        f"import pymc as pm\n{MODEL}"
        "from rivals import ADVI\n"
        "import jax\njax.config.update('jax_enable_x64', True)\n"
        f"ADVI['numpyro'].make(model).cold({STEPS})\n",
    ),
    "nutpie": Case(
        "nutpie's NUTS, its defaults",
        f"import pymc as pm, nutpie\n{MODEL}"
        "nutpie.sample(nutpie.compile_pymc_model(model), seed=1, progress_bar=False)\n",
    ),
}
MODELS = {"gamma": "advi", "hierarchical": "advi", "iris": "fullrank_advi"}


def seconds(script: str, caches: Path) -> float:
    """Run a script in a process of its own and return how long that took."""
    environment = os.environ | {
        "PYTENSOR_FLAGS": f"base_compiledir={caches / 'c'}",
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "PYMC_VI_EXT_CACHE": str(caches / "vix"),
        # JAX' own, for the rivals, as their users may turn it on.
        "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE)]),
    }
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return took


def measure(model: str, method: str, repeats: int) -> dict[str, dict[str, object]]:
    """Return seconds of each script on a model, cold and warm, all in turns."""
    found: dict[str, dict[str, object]] = {
        name: {"label": case.label, "cold": [], "warm": []} for name, case in SCRIPTS.items()
    }
    for _ in range(repeats):
        for name, case in SCRIPTS.items():
            if "problem" in found[name]:
                continue
            caches = Path(tempfile.mkdtemp(prefix="bench-"))
            script = case.code.format(model=model, method=method)
            try:
                for state in ("cold", "warm"):
                    found[name][state].append(seconds(script, caches))  # type: ignore[attr-defined]
            except RuntimeError as error:
                found[name]["problem"] = str(error)
            finally:
                shutil.rmtree(caches, ignore_errors=True)
            print(model, name, found[name], file=sys.stderr, flush=True)
    return found


def as_markdown(models: dict[str, dict[str, dict[str, object]]], where: dict[str, object]) -> str:
    """Return the tables."""
    lines = [
        "# Whole processes",
        "",
        "Seconds from `python script.py` to draws, median and all runs, in turn: with empty "
        "caches, and once more with what the first has left in them.",
        "",
        f"{where['cpu']}, {where['cores']} cores. `make bench-processes` reproduces it.",
    ]
    for model, rows in models.items():
        lines += ["", f"## {model}, {MODELS[model]}", ""]
        lines += ["| script | fresh process, cold | fresh process, warm cache |", "|---|--:|--:|"]
        for row in rows.values():
            if "problem" in row:
                lines.append(f"| {row['label']} | {row['problem']} | |")
                continue
            cells = [_cell(row[state]) for state in ("cold", "warm")]  # type: ignore[arg-type]
            lines.append(f"| {row['label']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({', '.join(f'{v:.2f}' for v in values)})"


def main() -> None:
    """Measure and write ``processes.md`` and ``.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the results")
    arguments = parser.parse_args()
    where = machine()
    models = {name: measure(name, MODELS[name], arguments.repeats) for name in arguments.models}
    (arguments.out / "processes.json").write_text(
        json.dumps({"machine": where, "models": models}, indent=1) + "\n"
    )
    (arguments.out / "processes.md").write_text(as_markdown(models, where))
    print(as_markdown(models, where))


if __name__ == "__main__":
    main()
