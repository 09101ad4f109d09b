"""How stopping rules do on synthetic traces of losses.

``python tests/benchmarks/traces.py --out DIR`` writes ``stopping-traces.md`` and ``.json``.

A stop is false while more than half a nat is still to be gained; on traces that are flat from a
known step on, the delay from there to the stop is counted.
"""

from __future__ import annotations

import argparse
import json

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scipy.signal import lfilter

from pymc_vi_ext.callbacks import EarlyStopping, LossPlateau, RelativeELBO

STEPS = 20_000
EVERY = 100
TO_GO = 0.5  # nats
_DRIFT = np.arange(STEPS)


class Trace(NamedTuple):
    """Losses, what is still to be gained at each step, and from where on nothing is."""

    losses: np.ndarray
    to_go: np.ndarray
    flat_from: int | None


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=STEPS)


def student(rng: np.random.Generator) -> np.ndarray:
    """Heavy tails, of infinite fourth moment."""
    return rng.standard_t(2.5, size=STEPS)


def skewed(rng: np.random.Generator) -> np.ndarray:
    return rng.exponential(size=STEPS) - 1


def autocorrelated(rng: np.random.Generator) -> np.ndarray:
    """AR(1) with phi = .95: a mean has the error of one over a 39th of the steps."""
    return lfilter([(1 - 0.95**2) ** 0.5], [1, -0.95], rng.normal(size=STEPS))


def linear(rng: np.random.Generator) -> np.ndarray:
    """From 2 to 50 nats over the trace, and half a nat left at its end."""
    return TO_GO * 1.001 + log_uniform(rng, 2, 50) * (1 - _DRIFT / STEPS)


def power_law(rng: np.random.Generator) -> np.ndarray:
    return log_uniform(rng, 10, 1000) * (1 + _DRIFT / 50) ** -rng.uniform(0.5, 1.5)


def improving(
    mean: Callable, noise: Callable, shrinking: bool = False
) -> Callable[[np.random.Generator], Trace]:
    def draw(rng: np.random.Generator) -> Trace:
        to_go = mean(rng)
        scale = log_uniform(rng, 0.3, 3) * (1 + 9 * shrinking * (1 + _DRIFT / 50) ** -0.5)
        return Trace(to_go + scale * noise(rng), to_go, None)

    return draw


def flat(noise: Callable) -> Callable[[np.random.Generator], Trace]:
    def draw(rng: np.random.Generator) -> Trace:
        flat_from = int(rng.integers(1000, 4000))
        to_go = log_uniform(rng, 5, 500) * np.maximum(1 - _DRIFT / flat_from, 0) ** 2
        return Trace(to_go + log_uniform(rng, 0.3, 3) * noise(rng), to_go, flat_from)

    return draw


KINDS = {
    "linear drift": improving(linear, normal),
    "power law": improving(power_law, normal),
    "power law, shrinking noise": improving(power_law, normal, shrinking=True),
    "power law, shrinking skewed noise": improving(power_law, skewed, shrinking=True),
    "power law, Student t noise": improving(power_law, student),
    "power law, autocorrelated noise": improving(power_law, autocorrelated),
    "flat": flat(normal),
    "flat, Student t noise": flat(student),
    "flat, autocorrelated noise": flat(autocorrelated),
}

RULES: dict[str, Callable[[], Any]] = {
    "LossPlateau": LossPlateau,
    "RelativeELBO": RelativeELBO,
    "RelativeELBO(tol_rel_obj=0.001)": lambda: RelativeELBO(tol_rel_obj=0.001),
    "EarlyStopping": lambda: EarlyStopping(restore_best=False),
}


def stop(rule: Any, losses: np.ndarray) -> int | None:
    """Return the step at which the rule ends the fit, None if it never does."""
    for i in range(EVERY, len(losses) + 1, EVERY):
        try:
            rule(None, losses[:i], i)
        except StopIteration:
            return i
    return None


def evaluate(traces: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield a row per kind of trace and rule."""
    for kind, draw in KINDS.items():
        rng = np.random.default_rng(seed)
        false = dict.fromkeys(RULES, 0)
        never = dict.fromkeys(RULES, 0)
        delays: dict[str, list[float]] = {name: [] for name in RULES}
        for _ in range(traces):
            # A likelihood has a constant of any size, which relative rules go by.
            trace = draw(rng)
            losses = trace.losses + log_uniform(rng, 1, 1000)
            for name, build in RULES.items():
                step = stop(build(), losses)
                if step is None:
                    never[name] += 1
                elif trace.to_go[step - 1] > TO_GO:
                    false[name] += 1
                elif trace.flat_from is not None:
                    delays[name].append((step - trace.flat_from) / trace.flat_from)
        for name in RULES:
            quantiles = np.quantile(delays[name], [0.5, 0.95]) if delays[name] else [None, None]
            yield {
                "trace": kind,
                "rule": name,
                "traces": traces,
                "false stops": false[name] / traces,
                "never": never[name] / traces,
                "median delay": quantiles[0],
                "95 % delay": quantiles[1],
            }


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"# Stopping rules on synthetic traces of {STEPS:,} steps",
        "",
        f"{rows[0]['traces']:,} traces of each kind, noise of standard deviation .3 to 3 nats.",
        f"A false stop leaves more than {TO_GO:g} nats to gain. The delay, as a multiple of the",
        "step from which the trace is flat, is that of the stops that are not false.",
        "",
        "| trace | rule | false stops | never stops | delay, median | 95 % |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        delays = [
            "" if row[key] is None else f"{row[key]:.1f}" for key in ("median delay", "95 % delay")
        ]
        lines.append(
            f"| {row['trace']} | {row['rule']} | {row['false stops']:.1%} | {row['never']:.1%} | "
            f"{delays[0]} | {delays[1]} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--traces", type=int, default=1000, help="of each kind")
    arguments = parser.parse_args()
    rows = list(evaluate(arguments.traces))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "stopping-traces.json").write_text(json.dumps(rows, indent=1) + "\n")
    (arguments.out / "stopping-traces.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
