"""Batch and match, on posteriors whose Gaussian is known."""

import numpy as np
import pymc as pm
import pytest

from pymc.variational.opvi import ParametrizationError
from pytensor.tensor import constant

import pymc_vi_ext as vix

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.approximations._algebra import nearest_factors, softplus_inverse
from pymc_vi_ext.approximations.gaussians import Dense, LowRank, kind_of
from pymc_vi_ext.engine import StepProgram, make_loop

QUIET = {"progressbar": False}
MEAN = np.array([1.0, -2.0, 0.5])
COV = np.array([[1.0, 0.7, 0.2], [0.7, 2.0, -0.3], [0.2, -0.3, 0.5]])


def gaussian(mean=MEAN, cov=COV):
    with pm.Model() as model:
        pm.MvNormal("x", mean, cov)
    return model


JAX, NUMBA, PYTHON = ("jax",), ("numba",), ("auto", {"mode": "FAST_COMPILE"})


# numba compiles the low rank for minutes.
@pytest.mark.parametrize(
    ("backend", "rank"),
    [(JAX, None), (NUMBA, None), (PYTHON, None), (JAX, 3), (PYTHON, 3)],
)
def test_the_posterior_is_a_fixed_point_for_any_batch(backend, rank):
    """E6: at (mean, cov) a step with any draws goes nowhere, and the loss is -log Z = 0."""
    inference = vix.BaM(rank, model=gaussian())
    [group] = inference.approx.groups
    family_of(group).set_gaussian(MEAN, COV)
    if rank:
        # Its nearest Gaussian of this rank has the covariance itself.
        values, vectors = np.linalg.eigh(COV - 0.1 * np.eye(3))
        group.params_dict["rho"].set_value(np.full(3, softplus_inverse(0.1**0.5)))
        group.params_dict["W"].set_value(vectors * np.sqrt(values))
    before = [p.get_value() for p in inference.approx.params]
    draws = constant(np.random.default_rng(3).normal(2.0, 3.0, size=(5, 3 + (rank or 0))))
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


@pytest.mark.parametrize("rank", [None, 10])
def test_ten_dimensions_in_thirty_steps(rank):
    """E4, from a start away from the mode. KL(q || p) is what the ELBO lacks: below .02 nat."""
    a = np.random.default_rng(0).normal(size=(10, 10))
    cov = a @ a.T / 10 + 0.1 * np.eye(10)
    method = vix.BaM(
        rank, model=gaussian(np.ones(10), cov), random_seed=1, start={"x": np.zeros(10)}
    )
    approx = vix.fit(method=method, **QUIET)
    assert approx.report.converged
    assert approx.report.steps <= 30
    fitted = kind_of(approx.groups[0]).of(approx.groups[0]).dense()
    assert fitted.divergence(Dense(np.ones(10), cov)) < 0.02


@pytest.mark.parametrize("start", [None, {"x": np.zeros(100)}])
def test_a_hundred_dimensions_of_condition_thousand_in_a_hundred_steps(start):
    """E4. From the mode, which is where it starts by itself, it says so; 32 draws a step."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0]
    cov = q * np.logspace(-1.5, 1.5, 100) @ q.T
    method = vix.BaM(model=gaussian(np.ones(100), cov), random_seed=1, start=start)
    rule = None if start else "default"
    approx = vix.fit(100, method, convergence=rule, **QUIET)
    assert approx.report.converged == (start is None)
    assert Dense.of(approx.groups[0]).divergence(Dense(np.ones(100), cov)) < 0.02


def test_factors_in_many_dimensions():
    """Three common factors of 200 variables: the covariance that the model has, within 2 nat.

    The step's noise in 200 variances of 32 draws each leaves about half a nat.
    """
    rng = np.random.default_rng(0)
    loadings, sd, mean = rng.normal(size=(200, 3)), np.exp(rng.normal(size=200) / 2), np.ones(200)
    with pm.Model() as model:
        pm.CustomDist("x", logp=lambda x: _factor_logp(x, mean, loadings, sd), shape=200)
    method = vix.BaM(3, model=model, random_seed=1, start={"x": np.zeros(200)})
    approx = vix.fit(600, method, convergence=None, **QUIET)
    assert approx.hist[0] > 200
    assert approx.hist[-50:].mean() < 2


def _factor_logp(x, mean, loadings, sd):
    """Log density of N(mean, diag(sd^2) + loadings loadings')."""
    cov = np.diag(sd**2) + loadings @ loadings.T
    away = x - mean
    constant_part = np.linalg.slogdet(2 * np.pi * cov)[1]
    return -0.5 * (away.dot(np.linalg.inv(cov)).dot(away) + constant_part)


def test_nearest_factors():
    """What is of low rank is its own nearest, with a part taken away too; else KL falls."""
    rng = np.random.default_rng(1)
    noise, factors = np.exp(rng.normal(size=8)), rng.normal(size=(8, 2))
    more = rng.normal(size=(8, 3))
    library = {"solve": np.linalg.solve, "eye": np.eye, "maximum": np.maximum}
    plus = np.concatenate([factors, more], axis=1)
    psi, W = nearest_factors(noise, plus, more, (noise, factors), 1, **library)
    np.testing.assert_allclose(psi, noise, rtol=1e-9)
    np.testing.assert_allclose(W, factors, rtol=1e-9)
    true = LowRank(np.zeros(8), noise, plus)
    none = np.zeros((8, 0))
    apart = []
    for rounds in (1, 5, 50):
        found = nearest_factors(noise, plus, none, (noise, factors), rounds, **library)
        apart.append(true.divergence(LowRank(np.zeros(8), *found)))
    assert apart[0] > apart[1] > apart[2] > 0


@pytest.mark.parametrize("full", [True, False])
def test_divergences_and_averages_of_gaussians(full):
    """Against the dense formula; the average of equal ones is each."""
    rng = np.random.default_rng(2)
    several = [LowRank(*rng.normal(size=(2, 5)), rng.normal(size=(5, 2))) for _ in range(2)]
    several = [one._replace(noise=np.exp(one.noise)) for one in several]
    dense = [one.dense() for one in several]
    a, b = dense if full else several
    away, inverse = b.mean - a.mean, np.linalg.inv(dense[1].cov)
    log_dets = [np.linalg.slogdet(one.cov)[1] for one in dense]
    trace = np.trace(inverse @ dense[0].cov)
    expected = 0.5 * (trace - 5 + away @ inverse @ away + log_dets[1] - log_dets[0])
    assert a.divergence(b) == pytest.approx(expected)
    same = type(a).average([a, a, a])
    assert abs(same.divergence(a)) < 1e-9


def test_a_step_too_far_is_taken_back():
    """The scores point to 8, and beyond 4 the density is lower by a million nats."""
    with pm.Model() as model:
        x = pm.Flat("x")
        pm.Potential("density", -0.5 * (x - 8) ** 2 - pm.math.switch(x > 4, 1e6, 0.0))
    inference = vix.BaM(model=model, random_seed=1, start={"x": np.array(0.0)})
    seen = []

    def watch(approx, losses, i):
        approx.fit_state.sync()
        mean = float(approx.groups[0].params_dict["mu"].get_value()[0])
        seen.append((mean, float(inference.objective.op.trust.get_value())))

    vix.fit(3, inference, callbacks=[watch], convergence=None, **QUIET)
    [(far, whole), (back, part), (nearer, _)] = seen
    assert far > 5
    assert back == 0
    assert part == whole / 16
    assert 0 < nearer < 4


def test_a_regression_on_raw_scales():
    """Far from its mode the density is not concave, and steps from the usual start creep."""
    rng = np.random.default_rng(4)
    iq = rng.normal(100, 15, size=200)
    score = 26 + 0.6 * iq + rng.normal(0, 18, size=200)
    with pm.Model() as model:
        a, b, sigma = pm.Flat("a"), pm.Flat("b"), pm.HalfFlat("sigma")
        pm.Normal("y", a + b * iq, sigma, observed=score)
    approx = vix.fit(method="bam", model=model, random_seed=1, **QUIET)
    assert approx.report.converged
    design = np.stack([np.ones(200), iq], axis=1)
    ols, [rest], *_ = np.linalg.lstsq(design, score)
    sd = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * rest / 198)
    assert (abs(approx.mean.eval()[:2] - ols) < 0.1 * sd).all()
    np.testing.assert_allclose(approx.std.eval()[:2], sd, rtol=0.05)


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


@pytest.mark.parametrize("options", [{}, {"start": {"mu": 0.0}}, {"rank": 1}])
def test_minibatches_are_refused(options):
    """Matched scores of another batch at every step lead nowhere."""
    with pm.Model() as model:
        mu = pm.Normal("mu")
        batch = pm.Minibatch(np.ones(50), batch_size=5)
        pm.Normal("y", mu, observed=batch, total_size=50)
    with pytest.raises(ValueError, match="BaM needs the same data at every step"):
        vix.BaM(model=model, **options)
