"""Batch and match, on posteriors whose Gaussian is known."""

import numpy as np
import pymc as pm
import pytest

from pymc.variational.opvi import ParametrizationError
from pytensor.tensor import constant

import pymc_vi_ext as vix

from pymc_vi_ext.approximations.start import set_gaussian
from pymc_vi_ext.engine import StepProgram, make_loop

QUIET = {"progressbar": False}
MEAN = np.array([1.0, -2.0, 0.5])
COV = np.array([[1.0, 0.7, 0.2], [0.7, 2.0, -0.3], [0.2, -0.3, 0.5]])


def gaussian(mean=MEAN, cov=COV):
    with pm.Model() as model:
        pm.MvNormal("x", mean, cov)
    return model


@pytest.mark.parametrize("backend", [("jax",), ("c", {"mode": "FAST_COMPILE"})])
def test_the_posterior_is_a_fixed_point_for_any_batch(backend):
    """E6: at (mean, cov) a step with any draws goes nowhere, and the loss is -log Z = 0."""
    inference = vix.BaM(model=gaussian())
    [group] = inference.approx.groups
    set_gaussian(group, MEAN, COV)
    before = [p.get_value() for p in inference.approx.params]
    draws = constant(np.random.default_rng(3).normal(2.0, 3.0, size=(5, 3)))
    program = StepProgram.from_inference(
        inference, obj_n_mc=5, more_replacements={group.symbolic_initial: draws}
    )
    loop = make_loop(program, *backend)
    losses = loop.run(3)
    loop.write_back()
    np.testing.assert_allclose(losses, 0.0, atol=1e-9)
    for old, parameter in zip(before, inference.approx.params, strict=True):
        np.testing.assert_allclose(parameter.get_value(), old, atol=1e-8)


def test_a_step_solves_its_equation():
    """Sigma' U Sigma' + Sigma' = V, with U and V written out as in the paper."""
    inference = vix.BaM(model=gaussian(), start={"x": np.zeros(3)})
    [group] = inference.approx.groups
    mean, cov = inference.approx.mean.eval(), inference.approx.cov.eval()
    noise = np.random.default_rng(3).normal(size=(4, 3))
    program = StepProgram.from_inference(
        inference, obj_n_mc=4, more_replacements={group.symbolic_initial: constant(noise)}
    )
    loop = make_loop(program, "jax")
    loop.run(1)
    loop.write_back()
    z = mean + noise @ np.linalg.cholesky(cov).T
    g = -(z - MEAN) @ np.linalg.inv(COV)
    rate = 4 * 3
    part = rate / (1 + rate)
    z_bar, g_bar = z.mean(axis=0), g.mean(axis=0)
    u = rate * np.cov(g.T, bias=True) + part * np.outer(g_bar, g_bar)
    v = cov + rate * np.cov(z.T, bias=True) + part * np.outer(mean - z_bar, mean - z_bar)
    new = inference.approx.cov.eval()
    np.testing.assert_allclose(new @ u @ new + new, v, rtol=1e-6, atol=1e-8)
    expected = mean / (1 + rate) + part * (new @ g_bar + z_bar)
    np.testing.assert_allclose(inference.approx.mean.eval(), expected, rtol=1e-8)


def test_ten_dimensions_in_thirty_steps_and_a_hundred_in_a_hundred():
    """E4. The mean ELBO over draws is -KL: within .02 nat."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(10, 10))
    q = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    for most, cov in (
        (30, a @ a.T / 10 + 0.1 * np.eye(10)),
        (100, q * np.logspace(-1.5, 1.5, 100) @ q.T),
    ):
        approx = vix.fit(
            method="bam", model=gaussian(np.ones(len(cov)), cov), random_seed=1, **QUIET
        )
        assert approx.report.converged
        assert approx.report.steps <= most
        fitted = approx.cov.eval()
        ratio = np.linalg.solve(cov, fitted)
        away = approx.mean.eval() - 1
        kl = np.trace(ratio) - len(cov) - np.linalg.slogdet(ratio)[1]
        assert 0.5 * (kl + away @ np.linalg.solve(cov, away)) < 0.02


def test_where_no_score_is_finite_nothing_breaks():
    """A density that is not finite on one side loses its draws there, and no more."""
    with pm.Model() as model:
        x = pm.Normal("x", 3.0, 0.3)
        pm.Potential("half", pm.math.log(x))
    approx = vix.fit(200, "bam", model=model, random_seed=1, **QUIET)
    assert np.isfinite(approx.hist[-1])
    # The mode of x exp(-(x - 3)^2 / .18) is a little above 3.
    assert approx.mean.eval()[0] == pytest.approx(3.03, abs=0.02)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"obj_n_mc": 1}, ParametrizationError, "obj_n_mc=1 has none: use at least 2"),
        ({"learning_rate": 0.1}, ValueError, "BaM has no learning rate: leave out learning_rate"),
        ({"obj_optimizer": pm.adam()}, ValueError, "leave out obj_optimizer"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        vix.fit(10, "bam", model=gaussian(), **options, **QUIET)


def test_steps_that_run_out_warn():
    with pytest.warns(UserWarning, match="all of its 8 steps before it converged"):
        vix.fit(8, "bam", model=gaussian(), random_seed=1, **QUIET)
