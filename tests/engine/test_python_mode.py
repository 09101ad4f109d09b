"""Models whose graphs are wide: sums of more terms than NumPy's functions have operands."""

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.starting_points import begin_at


@pytest.fixture(params=[30, 100, 500])
def unrolled(request):
    weights = np.linspace(0.1, 1.0, request.param)
    with pm.Model() as model:
        x = pm.Normal("x")
        total = 0.0
        for weight in weights:
            total = total + x * weight
        pm.Deterministic("total", total)
        pm.Normal("y", total, 2.0, observed=1.0)
    return model, weights.sum()


def test_draws_of_a_sum_written_as_a_loop(unrolled):
    model, weight = unrolled
    draws = vix.to_datatree(vix.ADVI(model=model, random_seed=1).approx, 50, random_seed=2)
    x = draws["posterior"]["x"].to_numpy()
    np.testing.assert_allclose(draws["posterior"]["total"], weight * x, rtol=1e-9)
    log_density = -0.5 * (x**2 + (1 - weight * x) ** 2 / 4) - np.log(2 * np.pi) - np.log(2)
    np.testing.assert_allclose(draws["sample_stats"]["lp"], log_density, rtol=1e-9)


def test_starts_where_a_bound_is_a_sum_written_as_a_loop():
    with pm.Model() as model:
        x = pm.Normal("x", 1.0, 0.1)
        width = sum(x**2 * weight for weight in np.full(40, 0.1))
        pm.Uniform("u", -width, width)
    approx = vix.ADVI(model=model, random_seed=1).approx
    for start in ("prior", vix.to_datatree(approx, 10, random_seed=2)):
        begin_at(approx, start, 1)
        assert np.isfinite(approx.mean.eval()).all()


def test_a_fit_of_a_sum_written_as_a_loop():
    with pm.Model():
        x = pm.Normal("x")
        pm.Normal("y", sum(x * weight for weight in np.full(40, 0.05)), 1.0, observed=1.0)
        approx = vix.fit(0, start="laplace", convergence=None, random_seed=1, progressbar=False)
    assert float(approx.mean.eval()[0]) == pytest.approx(2 / 5, abs=1e-4)
    assert float(approx.std.eval()[0]) == pytest.approx(np.sqrt(1 / 5), abs=1e-4)
