"""Kernels of Stein variational methods."""

import re

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor.scan.op import Scan
from scipy.linalg import sqrtm

import pymc_vi_ext as vix

from pymc_vi_ext.inference._kernels import KERNELS, Particles
from pymc_vi_ext.inference._stein import PRECONDITIONERS
from pymc_vi_ext.python_only import python_only

MEAN = np.array([1.0, -2.0])
COV = np.array([[1.0, 0.7], [0.7, 2.0]])
QUIET = {"progressbar": False}


def kernel_of(name, x):
    """Return the kernel between two points, with the bandwidths that the particles `x` give."""
    half = len(x) // 2
    median = np.sort(np.sum((x[:half] - x[half:]) ** 2, axis=1))[half // 2]
    m, s = x.mean(axis=0), x.std(axis=0)

    def kernel(a, b):
        square = np.sum((a - b) ** 2)
        gaussian = np.exp(-square / (median / np.log(len(x) + 1)))
        linear = np.sum((a - m) * (b - m) / s**2) + 1
        return {
            "rbf": gaussian,
            "imq": (1 + square / median) ** -0.5,
            "linear": linear,
            "linear_rbf": linear + gaussian,
        }[name]

    return kernel


@pytest.mark.parametrize("name", KERNELS)
def test_sums_are_those_of_the_kernel_and_its_derivatives(name):
    """By central differences, bandwidths held fixed."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2)) * [1.0, 3.0] + [0.0, 5.0]
    scores = rng.normal(size=x.shape)
    particles, slopes = pt.matrix("x"), pt.matrix("scores")
    sums = KERNELS[name].sums(Particles(particles, slopes, *x.shape))
    with python_only():
        function = pm.pytensorf.compile([particles, slopes], list(sums), mode="FAST_COMPILE")
        driving, repulsion, trace = function(x, scores)
    kernel, step = kernel_of(name, x), 1e-4
    units = step * np.eye(2)
    expected = np.zeros((6, 2)), np.zeros((6, 2)), np.zeros(6)
    for i in range(6):
        for j in range(6):
            a, b = x[j], x[i]
            expected[0][i] += kernel(a, b) * scores[j]
            for axis, e in enumerate(units):
                expected[1][i, axis] += (kernel(a + e, b) - kernel(a - e, b)) / (2 * step)
                corners = kernel(a + e, b + e) - kernel(a + e, b - e)
                corners += kernel(a - e, b - e) - kernel(a - e, b + e)
                expected[2][i] += corners / (4 * step**2)
    for found, wanted in zip((driving, repulsion, trace), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def exact_sums(name, x, scores):
    """Return driving and repulsion by differences in float64, and the same of absolute terms."""
    half = len(x) // 2
    median = np.sort(np.sum((x[:half] - x[half:]) ** 2, axis=1))[half // 2]
    apart = x[:, None] - x
    squares = np.sum(apart**2, axis=2)
    if name == "rbf":
        h = 0.5 * median / np.log(len(x) + 1)
        k = np.exp(-squares / (2 * h))
        w, width = k / h, np.sqrt(h)
    else:
        k = (1 + squares / median) ** -0.5
        w, width = k**3 / median, np.sqrt(median)
    away = np.abs(x - x.mean(axis=0))
    sizes = k @ np.abs(scores), w @ away + w.sum(axis=1, keepdims=True) * away
    largest = np.max(np.sum(away**2, axis=1)) / width**2
    return (k @ scores, np.sum(w[:, :, None] * apart, axis=1)), sizes, largest


# What becomes of standard normal particles, what scores are multiplied by, whether float32 will do.
PLACES = {
    "near": (lambda z: z, 1.0, True),
    "far from the origin": (lambda z: z + 1e6, 1.0, True),
    "badly scaled": (lambda z: z * [1e-5, 1e5, 1.0], 1.0, True),
    "scores beyond float32": (lambda z: z, 1e45, True),
    "two narrow modes": (lambda z: z + 1e5 * (np.arange(600) % 10 == 0)[:, None], 1.0, False),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["rbf", "imq"])
def test_float32_inside_does_no_harm(name, place):
    """Bounds of rounding: of a sum of n terms, and of squared distances up to the largest.

    Both are far below the .04 by which 600 particles differ from others of the same posterior.
    """
    move, factor, single = PLACES[place]
    z = np.random.default_rng(4).normal(size=(600, 3))
    x, scores = move(z), -factor * z
    particles, slopes = pt.matrix("x"), pt.matrix("scores")
    sums = KERNELS[name].sums(Particles(particles, slopes, *x.shape))
    with python_only():
        found = pm.pytensorf.compile([particles, slopes], sums[:2], mode="FAST_COMPILE")(x, scores)
    expected, sizes, largest = exact_sums(name, x, scores)
    assert (largest <= 2**12) == single
    rounding = (len(x) + 4 * largest) * np.finfo("float32" if single else "float64").eps
    assert rounding < 1e-3 if single else rounding < 0.1
    errors = [np.max(np.abs(a - b) / s) for a, b, s in zip(found, expected, sizes, strict=True)]
    assert max(errors) < rounding
    if single:
        assert min(errors) > 1e-10


def test_one_precision_runs(monkeypatch):
    """PyTensor makes one loop of two that are alike, before it knows that only one is wanted."""
    monkeypatch.setattr("pymc_vi_ext.inference._pairs._MOST_BYTES", 1_200)
    monkeypatch.setattr("pymc_vi_ext.inference._pairs._SINGLE_FROM", 10)
    particles, slopes = pt.matrix("x", shape=(20, 2)), pt.matrix("scores", shape=(20, 2))
    sums = KERNELS["rbf"].sums(Particles(particles, slopes, 20, 2))
    with python_only():
        graph = pytensor.graph.FunctionGraph([particles, slopes], list(sums), clone=True)
        pytensor.compile.get_mode("JAX").optimizer.rewrite(graph)
    outside = [node for node in graph.apply_nodes if isinstance(node.op, Scan)]
    assert all(len(node.outputs) == 1 for node in outside)
    assert any("IfElse" in type(node.op).__name__ for node in graph.apply_nodes)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_finds_a_gaussian(name):
    """E7: with the linear kernel mean and covariance are exact at the fixed point."""
    with pm.Model() as model:
        pm.MvNormal("x", MEAN, COV)
    options = {"n_particles": 8 if name == "linear" else 200, "kernel": name}
    approx = vix.fit(
        20_000 if name == "linear" else 3_000,
        "svgd",
        model,
        random_seed=1,
        inf_kwargs=options,
        obj_optimizer=pm.adam(learning_rate=0.01),
        convergence=None,
        **QUIET,
    )
    particles = approx.histogram.get_value()
    exact = name == "linear"
    np.testing.assert_allclose(particles.mean(axis=0), MEAN, atol=1e-3 if exact else 0.1)
    ours = np.cov(particles.T, bias=True)
    np.testing.assert_allclose(ours, COV, rtol=1e-3 if exact else 0.2, atol=0 if exact else 0.1)


def test_unknown_kernel():
    with pm.Model() as model:
        pm.Normal("x")
    with pytest.raises(ValueError, match="Unknown kernel 'cubic': the known ones are imq, linear"):
        vix.SVGD(kernel="cubic", model=model)


def one_move(n_particles=20, d=2, **options):
    """Return particles, scores, the direction of a first step and the discrepancy at its start."""
    mean, cov = np.arange(d), np.eye(d) + 0.5
    with pm.Model() as model:
        pm.MvNormal("x", mean, cov)
    svgd = vix.SVGD(n_particles, model=model, random_seed=3, **options)
    before = svgd.approx.histogram.get_value()
    approx = vix.fit(
        1, svgd, convergence=None, obj_optimizer=pm.sgd(learning_rate=1.0), backend="c", **QUIET
    )
    scores = -(before - mean) @ np.linalg.inv(cov)
    return before, scores, approx.histogram.get_value() - before, approx


@pytest.mark.parametrize("name", KERNELS)
def test_direction_and_discrepancy(name):
    """Against the double sum of the Stein kernel over all pairs, by its definition."""
    x, scores, move, approx = one_move(6, kernel=name)
    kernel, step = kernel_of(name, x), 1e-4
    units = step * np.eye(2)
    direction, total = np.zeros_like(x), 0.0
    for i in range(6):
        for j in range(6):
            a, b = x[j], x[i]
            by_a = np.array([kernel(a + e, b) - kernel(a - e, b) for e in units]) / (2 * step)
            by_b = np.array([kernel(a, b + e) - kernel(a, b - e) for e in units]) / (2 * step)
            both = sum(
                kernel(a + e, b + e)
                - kernel(a + e, b - e)
                - kernel(a - e, b + e)
                + kernel(a - e, b - e)
                for e in units
            ) / (4 * step**2)
            direction[i] += (kernel(a, b) * scores[j] + by_a) / 6
            total += scores[j] @ scores[i] * kernel(a, b) + scores[j] @ by_b + scores[i] @ by_a
            total += both
    np.testing.assert_allclose(move, direction, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(approx.hist, [np.sqrt(total) / 6], rtol=1e-5)
    assert approx.report.loss == "KSD"


def test_blocks_change_nothing(monkeypatch):
    """The last of the blocks is not full."""
    *_, whole, approx = one_move(20, kernel="linear_rbf")
    monkeypatch.setattr("pymc_vi_ext.inference._pairs._MOST_BYTES", 1_200)
    *_, parts, blocked = one_move(20, kernel="linear_rbf")
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(blocked.hist, approx.hist, rtol=1e-9)


PAIRED = [name for name in KERNELS if name != "linear"]


@pytest.mark.parametrize("name", PAIRED)
def test_one_batch_of_all_is_exact(name):
    *_, whole, approx = one_move(20, kernel=name)
    *_, shuffled, batched = one_move(20, kernel=name, kernel_batch=20)
    np.testing.assert_allclose(shuffled, whole, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(batched.hist, approx.hist, rtol=1e-9)


@pytest.mark.parametrize("name", PAIRED)
def test_batches_are_right_in_the_mean(name):
    """Over shuffles, each of the 48 numbers within five standard errors; and no two are alike."""
    rng = np.random.default_rng(0)
    x, scores = rng.normal(size=(2, 12, 2))
    particles, slopes = pt.matrix("x"), pt.matrix("scores")
    sums = [KERNELS[name].sums(Particles(particles, slopes, 12, 2, batch)) for batch in (None, 3)]
    with python_only():
        exact, estimate = (
            pm.pytensorf.compile([particles, slopes], list(s), random_seed=1, mode="FAST_COMPILE")
            for s in sums
        )
    found = [np.column_stack(estimate(x, scores)) for _ in range(1_000)]
    errors = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.std(found, axis=0)[:, :4] > 0.01)
    away = np.mean(found, axis=0) - np.column_stack(exact(x, scores))
    np.testing.assert_array_less(abs(away), 5 * errors)


def test_batches_find_the_posterior_that_all_pairs_find():
    """By the default rule; the variance as Stein's identity has it of so many particles."""
    with pm.Model() as model:
        pm.Normal("x", MEAN, [1.0, 3.0])
    options = {"n_particles": 400, "kernel_batch": 50}
    fits = [
        vix.fit(600, "svgd", model, random_seed=1, inf_kwargs=options, backend="jax", **QUIET)
        for _ in range(2)
    ]
    assert fits[0].report.converged
    particles, again = (approx.histogram.get_value() for approx in fits)
    np.testing.assert_array_equal(particles, again)
    np.testing.assert_allclose((particles.mean(axis=0) - MEAN) / [1.0, 3.0], 0.0, atol=0.02)
    np.testing.assert_allclose(particles.std(axis=0) / [1.0, 3.0], 0.98, atol=0.02)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_particles": 1_000, "kernel_batch": 300}, "Take n_particles=900, or another"),
        ({"n_particles": 100, "kernel_batch": 300}, "Take n_particles=300, or another"),
        ({"kernel": "linear", "kernel_batch": 50}, "needs no pairs"),
        ({"kernel": lambda X: (X, X), "kernel_batch": 50}, "none that could be cut"),
    ],
)
def test_batches_that_cannot_be(options, sentence):
    with pm.Model() as model:
        pm.Normal("x")
    with pytest.raises(ValueError, match=sentence):
        vix.SVGD(model=model, **options)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_a_preconditioner_is_a_change_of_coordinates(name):
    """Without one, in coordinates where the metric is the identity, the moves are the same."""
    x, scores, move, _ = one_move(20, 3, preconditioner=name)
    if name == "hessian":
        metric = np.linalg.inv(np.eye(3) + 0.5)
    else:
        part = 3 / 23
        both = [np.cov(rows.T, bias=True) for rows in (x, scores)]
        c, gamma = ((1 - part) * m + part * np.diag(np.diag(m)) for m in both)
        # The geometric mean of gamma and the inverse of c.
        metric = gamma @ sqrtm(np.linalg.inv(gamma) @ np.linalg.inv(c)).real
        np.testing.assert_allclose(metric @ c @ metric, gamma)
    factor = np.linalg.cholesky(metric)
    y, of_y = x @ factor, scores @ np.linalg.inv(factor).T
    kernel = kernel_of("rbf", y)
    k = np.array([[kernel(a, b) for a in y] for b in y])
    median = np.sort(np.sum((y[:10] - y[10:]) ** 2, axis=1))[5]
    h = 0.5 * median / np.log(21)
    direction = (k @ of_y + (y * k.sum(axis=1, keepdims=True) - k @ y) / h) / 20
    np.testing.assert_allclose(move, direction @ np.linalg.inv(factor), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_scales_far_apart_with_a_preconditioner(name):
    """Standard deviations of .01 and 100, within 10 % (200 particles, RBF kernel)."""
    with pm.Model() as model:
        pm.Normal("x", [1.0, -300.0], [0.01, 100.0], shape=2)
    approx = vix.fit(
        6_000,
        "svgd",
        model,
        random_seed=1,
        inf_kwargs={"n_particles": 200, "preconditioner": name},
        convergence=None,
        obj_optimizer=pm.sgd(learning_rate=0.5),
        **QUIET,
    )
    particles = approx.histogram.get_value()
    np.testing.assert_allclose((particles.mean(axis=0) - [1, -300]) / [0.01, 100], 0, atol=0.1)
    np.testing.assert_allclose(particles.std(axis=0) / [0.01, 100], 1, atol=0.1)


def test_minibatches():
    """Of a normal mean with known noise: the posterior of all data, which PyMC's SVGD refuses."""
    data = np.random.default_rng(2).normal(3.0, 1.0, size=400)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 10.0)
        pm.Normal("y", mu, 1.0, observed=pm.Minibatch(data, batch_size=100), total_size=400)
    approx = vix.fit(
        2_000, "svgd", model, random_seed=1, convergence=None, learning_rate=0.01, **QUIET
    )
    particles = approx.histogram.get_value()[:, 0]
    # One standard deviation of the posterior is .05; the batches add to it.
    assert abs(particles.mean() - data.mean()) < 0.03
    assert 0.035 < particles.std() < 0.1


def test_tempered_particles_find_both_modes():
    """From a start in one of two modes, four standard deviations apart; without, all stay."""
    with pm.Model() as model:
        pm.NormalMixture("x", w=[0.5, 0.5], mu=[-4.0, 4.0], sigma=0.5)
    shares = {}
    for objective in ("elbo", vix.objectives.Tempered(0.01, 1_000)):
        approx = vix.fit(
            2_000,
            "svgd",
            model,
            random_seed=1,
            start={"x": -4.0},
            convergence=None,
            objective=objective,
            inf_kwargs={"n_particles": 50, "jitter": 0.5},
            **QUIET,
        )
        shares[objective] = (approx.histogram.get_value() > 0).mean()
    plain, tempered = shares.values()
    assert plain == 0
    assert 0.3 < tempered < 0.7


def test_the_report_says_what_it_cannot_know():
    """A tenth of the mass is in the left mode, and half of the particles stay there."""
    with pm.Model() as model:
        components = [pm.Normal.dist(-10.0, 1.0), pm.Normal.dist(10.0, 1.0)]
        pm.Mixture("x", w=[0.1, 0.9], comp_dists=components)
    method = vix.SVGD(50, jitter=10.0, model=model, random_seed=1, start={"x": 0.0})
    assert vix.fit(0, method, convergence=None, **QUIET).report.evidence == ""
    report = vix.fit(5_000, method, **QUIET).report
    assert report.converged
    assert (method.approx.histogram.get_value() < 0).mean() > 0.3
    assert "share in separate modes nothing here checks" in report.evidence
    assert re.search(r"variance is (0\.[7-9]\d*|1(\.\d+)?) of the posterior's", report.evidence)


def test_collapsed_particles_are_told():
    with pm.Model() as model:
        pm.Normal("x", shape=60)
    with pytest.warns(UserWarning, match=r"have collapsed: .* variance is 0\.\d+ of the posterior"):
        vix.fit(1_000, "svgd", model, random_seed=1, convergence=None,
                inf_kwargs={"n_particles": 20}, **QUIET)  # fmt: skip


def test_a_function_as_kernel():
    """As PyMC's take: no discrepancy is known of it, and the moves are those of the table's."""

    def rbf(X):
        squares = pt.sum((X[:, None] - X[None]) ** 2, axis=2)
        half = X.shape[0] // 2
        median = pt.sort(pt.sum((X[:half] - X[half:]) ** 2, axis=1))[half // 2]
        h = 0.5 * median / np.log(21)
        k = pt.exp(-squares / (2 * h))
        return k, (X * k.sum(axis=1, keepdims=True) - k.dot(X)) / h

    *_, ours, _ = one_move(20)
    *_, theirs, approx = one_move(20, kernel=rbf)
    np.testing.assert_allclose(theirs, ours, rtol=1e-7, atol=1e-10)
    assert len(approx.hist) == 0
    assert approx.report.loss == ""


def test_unknown_preconditioner():
    with pm.Model() as model:
        pm.Normal("x")
    with pytest.raises(ValueError, match="Unknown preconditioner 'newton'"):
        vix.SVGD(preconditioner="newton", model=model)
