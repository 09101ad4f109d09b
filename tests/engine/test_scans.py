"""Gradients that go through a loop of the model's own."""

import numpy as np
import pymc as pm
import pytensor
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.engine import StepProgram, numbers_computed

RNG = np.random.default_rng(1)
POWERS = 0.9 ** np.arange(1, 26)
PATH = 1.4 * POWERS + RNG.normal(0, 0.5, 25)


def decaying(shape):
    """A state that decays: its posterior is normal, with the data's part in every step."""
    with pm.Model() as model:
        state = pm.Normal("state", 0, 2, shape=shape)
        path = pytensor.scan(
            lambda z: 0.9 * z, outputs_info=[state], n_steps=25, return_updates=False
        )
        pm.Normal("y", path[:, 0] if shape else path, 0.5, observed=PATH)
    return model


@pytest.mark.parametrize("backend", ["jax", "c"])
@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "one"])
def test_the_first_state_of_a_loop_gets_its_gradient(shape, backend):
    """Exact: precision 1/4 + sum of squared powers over 1/4; the family has the posterior."""
    variance = 1 / (1 / 4 + np.sum(POWERS**2) / 0.25)
    mean = variance * np.sum(POWERS * PATH) / 0.25
    approx = vix.fit(model=decaying(shape), random_seed=1, backend=backend, progressbar=False)
    assert approx.report.converged
    np.testing.assert_allclose(approx.mean.eval(), mean, atol=0.02 * variance**0.5)
    np.testing.assert_allclose(approx.std.eval(), variance**0.5, rtol=0.02)


@pytest.mark.parametrize(("method", "backend"), [("svgd", "jax"), ("bam", "jax"), ("dadvi", "c")])
def test_every_method_fits_a_loop(method, backend):
    """Exact but for particles, which have the mean within their own standard error."""
    variance = 1 / (1 / 4 + np.sum(POWERS**2) / 0.25)
    mean = variance * np.sum(POWERS * PATH) / 0.25
    options = {"n": 400, "convergence": None, "learning_rate": 0.1} if method == "svgd" else {}
    model = decaying((1,))
    approx = vix.fit(
        model=model, method=method, random_seed=1, backend=backend, progressbar=False, **options
    )
    draws = np.asarray(vix.to_datatree(approx, 4_000, random_seed=1)["posterior"]["state"])
    error = variance**0.5 / (100 if method == "svgd" else 4_000) ** 0.5
    np.testing.assert_allclose(draws.mean(), mean, atol=4 * error)


def test_draws_of_a_slice_read_backwards():
    """The last state, by an index from the end of a loop, in what a DataTree holds."""
    with pm.Model() as model:
        state = pm.Normal("state", 0, 2, shape=(1,))
        path = pytensor.scan(
            lambda z: 0.9 * z, outputs_info=[state], n_steps=3, return_updates=False
        )
        pm.Deterministic("last", path[:1:-1][0])
    approx = vix.fit(100, model=model, random_seed=1, convergence=None, progressbar=False)
    posterior = vix.to_datatree(approx, draws=20, random_seed=1)["posterior"]
    np.testing.assert_allclose(posterior["last"], 0.9**3 * posterior["state"], rtol=1e-6)


@pytest.mark.parametrize("length", [10, 1_000])
def test_the_numbers_of_a_loop_are_those_of_its_rounds(length):
    x = pytensor.shared(np.ones(7), "x", shape=(7,))
    path = pytensor.scan(lambda z: 0.9 * z, outputs_info=[x], n_steps=length, return_updates=False)
    program = StepProgram({x: path[-1]})
    assert numbers_computed(program) == np.inf
    found = numbers_computed(program, in_loops=True)
    assert 7 * length <= found <= 7 * length * 4 + 100
