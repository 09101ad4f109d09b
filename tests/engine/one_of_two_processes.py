"""One of two processes that make one fit; its number and the port are arguments."""

import json
import sys

import jax
import numpy as np
import pymc as pm

import pymc_vi_ext as vix


def main():
    """Fit with the other process, and alone; print what comes of it."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    number = int(sys.argv[1])
    jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, number)

    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3))
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 5.0, shape=3)
        pm.Normal("y", pm.Data("X", X) @ b, 1.0, observed=X.sum(axis=1))
    options = {"model": model, "convergence": None, "progressbar": False}
    together = vix.fit(20, devices="all", random_seed=1, **options)
    alone = vix.fit(20, random_seed=1, **options)
    try:
        vix.fit(20, devices="all", random_seed=number, **options)
        said = ""
    except ValueError as error:
        said = str(error)
    found = {
        "devices": len(jax.devices()),
        "together": [together.hist.tolist(), *(p.get_value().tolist() for p in together.params)],
        "alone": [alone.hist.tolist(), *(p.get_value().tolist() for p in alone.params)],
        "said": said,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
