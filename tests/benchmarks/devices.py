"""What a step costs on several devices, over one.

Run as ``python tests/benchmarks/devices.py [--devices 2] [--rounds 5]``. The devices are those that
JAX has; where it has only a CPU, as many are made of it, which share its cores. Seconds are of
calls in turn, on one device and on all, and the median of the ratios is shown. Operations are
XLA's count of those of one device, of what a step is outside of loops within it.
"""

from __future__ import annotations

import argparse
import os
import time

from typing import Any

import numpy as np


def _steps() -> dict[str, tuple[Any, dict[str, Any], int]]:
    """Return by name a model, options of a fit, and steps of a call."""
    import pymc as pm

    rng = np.random.default_rng(0)

    def logistic(rows: int, batch_size: int | None = None) -> Any:
        X = rng.normal(size=(rows, 50))
        y = rng.random(rows) < 0.5
        with pm.Model() as model:
            b = pm.Normal("b", 0.0, 1.0, shape=50)
            xs, ys = pm.Minibatch(X, y, batch_size=batch_size) if batch_size else (X, y)
            pm.Bernoulli("y", logit_p=xs @ b, observed=ys, total_size=rows)
        return model

    with pm.Model() as gaussian:
        pm.Normal("x", shape=10)
    small = logistic(10_000)
    return {
        "100,000 rows": (logistic(100_000), {}, 50),
        "10,000 rows": (small, {}, 300),
        "10,000 rows, 64 draws": (small, {"obj_n_mc": 64}, 20),
        "minibatches of 500": (logistic(100_000, 500), {}, 300),
        "800 particles": (gaussian, {"method": "svgd", "inf_kwargs": {"n_particles": 800}}, 30),
        "3,000 particles": (gaussian, {"method": "svgd", "inf_kwargs": {"n_particles": 3_000}}, 5),
    }


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    # Before JAX is there; of a GPU it makes nothing.
    flag = f"--xla_force_host_platform_device_count={given.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    import pymc_vi_ext as vix

    print(f"| a step with | one device, us | {given.devices}, over one | operations, over one |")
    print("|---|--:|--:|--:|")
    for name, (model, options, steps) in _steps().items():
        loops = [
            vix.fit(
                1,
                model=model,
                devices=devices,
                convergence=None,
                random_seed=1,
                progressbar=False,
                **options,
            ).fit_state.loop
            for devices in (None, given.devices)
        ]
        seconds = np.empty((given.rounds + 1, 2))
        for times in seconds:
            for i, loop in enumerate(loops):
                started = time.perf_counter()
                loop.run(steps)
                times[i] = time.perf_counter() - started
        alone, together = seconds[1:].T
        work = [loop._loop.cost_analysis()["flops"] for loop in loops]
        ratio = np.median(together / alone)
        print(
            f"| {name} | {np.median(alone) / steps * 1e6:,.0f} | {ratio:.2f} | "
            f"{work[1] / work[0]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
