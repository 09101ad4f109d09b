"""Fits on the four devices that XLA_FLAGS makes of one CPU, beside the same on one.

What they come to goes to stdout.
"""

import gc
import json
import os
import sys
import tempfile

from pathlib import Path

import jax
import numpy as np
import pymc as pm

import pymc_vi_ext as vix

RNG = np.random.default_rng(1)


def regression(rows, batch_size=None):
    X = RNG.normal(size=(rows, 3))
    y = X @ [1.0, 2.0, 3.0] + RNG.normal(size=rows)
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 5.0, shape=3)
        if batch_size:
            rows_of_x, rows_of_y = pm.Minibatch(X, y, batch_size=batch_size)
        else:
            rows_of_x, rows_of_y = pm.Data("X", X), y
        pm.Normal("y", rows_of_x @ b, 1.0, observed=rows_of_y, total_size=rows)
    return model


def streamed():
    X = RNG.normal(size=(600, 3))
    y = X.sum(axis=1)
    batches = vix.data.Batches({"X": X, "y": y}, batch_size=40, random_seed=1)
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 5.0, shape=3)
        pm.Normal("y", batches["X"] @ b, 1.0, observed=batches["y"], total_size=600)
    return model


def few_data():
    with pm.Model() as model:
        pm.Normal("x", 2.0, 3.0, shape=2)
    return model


# Model, options, and the shape of what one of four then computes with; 42 and 6 do not divide.
CASES = {
    "draws": (few_data, {"obj_n_mc": 6}, "f64[2,2]"),
    "particles": (few_data, {"method": "svgd", "inf_kwargs": {"n_particles": 42}}, "f64[11,2]"),
    "rows that do not divide": (lambda: regression(602), {}, "f64[151,3]"),
    "a rule": (lambda: regression(600), {"convergence": "default", "n": 3000}, "f64[150,3]"),
    "rows of minibatches": (lambda: regression(600, 40), {}, "f64[10,3]"),
    "rows of batches": (streamed, {}, ",10,3]"),
}


def fitted(model, devices, **options):
    """The losses, what a callback saw, the parameters, and the compiled program."""
    seen = []

    def look(approx, losses, i):
        seen.append(np.concatenate([p.get_value().ravel() for p in approx.params]))

    look.every = 10
    options = {"n": 40, "convergence": None, **options}
    approx = vix.fit(
        model=model,
        devices=devices,
        random_seed=1,
        callbacks=[look],
        progressbar=False,
        **options,
    )
    parameters = [p.get_value(borrow=True) for p in approx.params]
    assert all(type(p) is np.ndarray for p in parameters)
    return approx.hist, np.array(seen), parameters, approx.fit_state.loop._loop.as_text()


def case(name):
    make, options, share = CASES[name]
    model = make()
    alone, together = (fitted(model, devices, **options) for devices in (None, 4))
    apart = [
        float(np.max(np.abs(a - b) / (1 + np.abs(a))))
        for a, b in zip([*alone[:2], *alone[2]], [*together[:2], *together[2]], strict=True)
    ]
    shared = [share in text and "all-reduce" in text for text in (alone[3], together[3])]
    return {"apart": apart, "shared": shared}


def data_lie_apart():
    """Rows of data that lie on each device, as JAX says of its arrays."""
    gc.collect()  # those of other cases
    fit = vix.ADVI(model=regression(600), random_seed=1)
    fit.fit(10, devices=4, progressbar=False)
    [X] = [a for a in jax.live_arrays() if a.shape == (600, 3) and not a.is_fully_replicated]
    return [list(shard.data.shape) for shard in X.addressable_shards]


def goes_on():
    """Losses of a fit that a checkpoint goes on with, beside those of the whole."""
    path = Path(tempfile.mkdtemp(), "fit.npz")
    model = streamed()
    save = vix.callbacks.Checkpoint(path, every=30)
    options = {"convergence": None, "random_seed": 1, "progressbar": False, "devices": "all"}
    whole = vix.fit(50, model=model, callbacks=[save], **options)
    again = vix.resume(path, model, progressbar=False)
    return bool((whole.hist == again.hist).all() and len(again.hist) == 50)


def chosen_devices():
    """Where data lie of fits on two devices and on one, by name; and programs kept meanwhile."""
    folder = tempfile.mkdtemp()
    before, os.environ["PYMC_VI_EXT_CACHE"] = os.environ["PYMC_VI_EXT_CACHE"], folder
    places = []
    for chosen in (jax.devices()[2:], jax.devices()[3:]):
        gc.collect()
        fit = vix.ADVI(model=regression(601 + len(chosen)), random_seed=1)
        fit.fit(5, devices=chosen, progressbar=False)
        shape = (601 + len(chosen), 3)
        [X] = [a for a in jax.live_arrays() if a.shape == shape and len(a.devices()) == len(chosen)]
        places.append(sorted(device.id for device in X.devices()))
    os.environ["PYMC_VI_EXT_CACHE"] = before
    return places, os.listdir(folder)


def nothing_to_share():
    try:
        vix.fit(5, model=few_data(), convergence=None, devices=4, progressbar=False)
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    found = {name: case(name) for name in CASES}
    more = (data_lie_apart, goes_on, chosen_devices, nothing_to_share)
    found |= {check.__name__: check() for check in more}
    json.dump(found, sys.stdout)
