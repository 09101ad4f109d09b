"""A fit in a process of its own, to be killed and resumed; see test_checkpoint.py.

``interrupted.py fit PATH BACKEND`` fits with checkpoints and prints each step it reaches;
``interrupted.py resume PATH BACKEND OUT`` goes on from the file, fits once more without
interruption, and writes losses and parameters of both to OUT.
"""

import sys
import time

import numpy as np
import pymc as pm

import pymc_vi_ext as vix


class Report:
    """Prints the step, slowly enough for a reader to follow."""

    every = 25

    def __call__(self, approx, losses, i):
        print(i, flush=True)
        time.sleep(0.05)


def model():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        sigma = pm.HalfNormal("sigma", 1.0)
        pm.Normal("y", mu, sigma, observed=[0.3, 1.2, 0.7, -0.4, 2.0])
    return model


def main():
    what, path, backend = sys.argv[1:4]
    options = {"progressbar": False, "random_seed": 7, "backend": backend, "model": model()}
    if what == "fit":
        callbacks = [Report(), vix.callbacks.Checkpoint(path, every=25)]
        vix.fit(1_500, callbacks=callbacks, **options)
        return
    resumed = vix.resume(path, options["model"], progressbar=False)
    whole = vix.fit(1_500, **options)
    results = {}
    for name, approx in (("resumed", resumed), ("whole", whole)):
        results[f"{name}_losses"] = approx.hist
        for parameter in approx.params:
            results[f"{name}_{parameter.name}"] = parameter.get_value()
    np.savez(sys.argv[4], **results)


if __name__ == "__main__":
    main()
