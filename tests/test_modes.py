"""Modes of small densities, and the log density behind them."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

import pymc_vi_ext as vix

from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.modes import find_mode, find_modes, prior_points, within_reach

QUIET = {"progressbar": False}


def bimodal():
    """E10: weights .2 and .8, log Z = 0."""
    with pm.Model() as model:
        pm.NormalMixture("x", w=[0.2, 0.8], mu=[-0.3, 0.5], sigma=0.1)
    return model


def test_modes_and_their_masses():
    density = LogDensity(bimodal())
    modes = find_modes(density, np.linspace(-1, 1.5, 8)[:, None])
    np.testing.assert_allclose([m.point[0] for m in modes], [0.5, -0.3], atol=1e-5)
    np.testing.assert_allclose([m.cov[0, 0] for m in modes], 0.01, rtol=1e-4)
    np.testing.assert_allclose(np.exp([m.log_mass for m in modes]), [0.8, 0.2], rtol=1e-4)


@pytest.mark.parametrize("K", [2, 5])
def test_mixture_advi_finds_both_modes_from_every_seed(K):
    """E10: weights within .01 from every seed, KL below .01 nat."""
    model = bimodal()
    for seed in range(2):
        approx = vix.fit(
            method="mixture_advi", model=model, random_seed=seed, inf_kwargs={"K": K}, **QUIET
        )
        [group] = approx.groups
        weights = group.weights.eval(mode="FAST_COMPILE")
        left = group.params_dict["mu"].get_value()[:, 0] < 0.1
        assert weights[left].sum() == pytest.approx(0.2, abs=0.01)
        stats = vix.to_datatree(approx, 4_000, random_seed=1).sample_stats
        gaps = (stats["log_q"] - stats["lp"]).to_numpy()
        # log Z is 0: the mean is KL(q || p).
        assert gaps.mean() - 3 * gaps.std() / gaps.size**0.5 < 0.01


def test_a_narrow_ridge_is_climbed_to_its_end():
    """A quadratic trend on raw years: the mode is least squares, to a thousandth of an sd."""
    years = np.arange(1960.0, 2020.0)
    x = np.stack([np.ones_like(years), years, years**2 / 1000], axis=1)
    y = 0.1 * (years - 1990) + np.random.default_rng(1).normal(size=60)
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 100.0, shape=3)
        pm.Normal("y", x @ b, 1.0, observed=y)
    mode = find_mode(LogDensity(model), np.zeros(3))
    precision = x.T @ x + np.eye(3) / 100.0**2
    away = mode.point - np.linalg.solve(precision, x.T @ y)
    assert away @ precision @ away < 1e-4


def test_a_flat_mode_is_shortened():
    """exp(-x^4) is flat to second order: its Gaussian would be endless."""
    with pm.Model() as model:
        x = pm.Flat("x")
        pm.Potential("quartic", -((x - 1.0) ** 4) - 1e-8 * (x - 1.0) ** 2)
    density = LogDensity(model)
    mode = find_mode(density, np.array([1.3]))
    assert mode.cov[0, 0] > 100
    near = within_reach(density, mode)
    # Where the density is 2 lower: |x - 1| = 2^(1/4); halving stops within a factor of 2.
    assert 0.5 * 2**0.25 < near.cov[0, 0] ** 0.5 <= 2**0.25


def test_no_mode_where_the_density_is_not_finite():
    with pm.Model() as model:
        x = pm.Flat("x")
        pm.Potential("log", pm.math.log(x))
    assert find_mode(LogDensity(model), np.array([-1.0])) is None


def test_density_is_pymcs():
    with pm.Model() as model:
        s = pm.HalfNormal("s", 1.0, shape=2)
        x = pm.Normal("x", 0.0, s.sum())
        pm.Normal("y", x, s, observed=[0.1, 0.4])
    density = LogDensity(model)
    point = model.initial_point()
    logp, gradient = density(density.start[None])
    assert logp[0] == pytest.approx(float(model.compile_logp(mode="FAST_COMPILE")(point)))
    expected = model.compile_dlogp(mode="FAST_COMPILE")(point)
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-9)
    step = 1e-5 * np.eye(3)
    numeric = (density(density.start + step)[1] - density(density.start - step)[1]) / 2e-5
    np.testing.assert_allclose(density.hessian(density.start), numeric, rtol=1e-5, atol=1e-6)


def test_prior_points_are_unconstrained():
    with pm.Model() as model:
        pm.HalfNormal("s", 1.0)
        pm.Dirichlet("p", np.ones(3))
    points = prior_points(model, 400, np.random.default_rng(1))
    assert points.shape == (400, 3)
    # Of log |normal| the mean is -(log 2 + Euler's constant) / 2.
    log_s = points[:, 0]
    exact = -(np.log(2) + np.euler_gamma) / 2
    assert abs(log_s.mean() - exact) < 5 * log_s.std() / 20
    assert prior_points(model, 1, np.random.default_rng(1)).shape == (1, 3)


class Slope(Op):
    """The derivative of -x^2 / 2, without one of its own."""

    def make_node(self, x):
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.asarray(-inputs[0])


class Parabola(Slope):
    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.asarray(-0.5 * inputs[0] ** 2)

    def pullback(self, inputs, outputs, cotangents):
        return [cotangents[0] * Slope()(inputs[0])]

    def L_op(self, inputs, outputs, cotangents):
        return self.pullback(inputs, outputs, cotangents)


@pytest.mark.parametrize(
    "term",
    [
        # A branch that is not taken, whose second derivative is infinite at 0: NaN times 0.
        lambda x: pt.switch(x > -5.0, -0.5 * x**2, abs(x) ** 1.5),
        lambda x: Parabola()(x),
    ],
    ids=["infinite", "absent"],
)
def test_curvature_without_second_derivatives(term):
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 2.0)
        pm.Potential("term", term(x))
    density = LogDensity(model, "c")
    # Exact for a parabola but for rounding, of eps / h = eps^(2/3).
    np.testing.assert_allclose(density.hessian(np.zeros(1)), [[-1.25]], rtol=1e-8)
    assert find_mode(density, np.ones(1)).cov == pytest.approx(0.8)
