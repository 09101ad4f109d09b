"""PyMC's documented uses of variational inference, with ``pm.fit`` replaced by ``vix.fit``.

The models and calls of the variational API quickstart, of the ADVI on minibatches example and of
Bambi's models, shortened.
"""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pymc.variational import callbacks
from pymc.variational.approximations import Empirical, MeanField
from pymc.variational.inference import KLqp
from pymc.variational.opvi import Approximation, Group

import pymc_vi_ext as vix

QUIET = {"progressbar": False}


@pytest.fixture
def bimodal():
    """The quickstart's mixture, with its two Deterministics."""
    with pm.Model() as model:
        x = pm.NormalMixture("x", w=np.array([0.2, 0.8]), mu=np.array([-0.3, 0.5]), sigma=0.1)
        pm.Deterministic("x2", x**2)
        pm.Deterministic("sin_x", pm.math.sin(x))
    return model


def test_mean_field_and_draws(bimodal):
    with bimodal:
        mean_field = vix.fit(method="advi", n=2000, random_seed=1, **QUIET)
        draws = mean_field.sample(1000, random_seed=1)
    assert set(draws.posterior.data_vars) == {"x", "x2", "sin_x"}
    # One mode: a single Gaussian of sd .1 around it.
    assert draws.posterior["x"].std() == pytest.approx(0.1, rel=0.2)


def test_svgd_finds_both_modes(bimodal):
    with bimodal:
        svgd = vix.fit(
            300,
            convergence=None,
            method="svgd",
            inf_kwargs={"n_particles": 500},
            obj_optimizer=pm.sgd(learning_rate=0.01),
            random_seed=1,
            **QUIET,
        )
    particles = svgd.histogram.get_value()[:, 0]
    assert 0.05 < (particles < 0.1).mean() < 0.95


def test_tracking_parameters():
    """The quickstart's tracker of mean and standard deviation, and its convergence check."""
    data = np.random.default_rng(42).gamma(2, 0.5, size=200)
    with pm.Model():
        alpha = pm.Exponential("alpha", 0.1)
        beta = pm.Exponential("beta", 0.1)
        pm.Gamma("y", alpha, beta, observed=data)
        advi = vix.ADVI()
        tracker = callbacks.Tracker(mean=advi.approx.mean.eval, std=advi.approx.std.eval)
        advi.fit(60, callbacks=[tracker], **QUIET)
        assert np.shape(tracker["mean"]) == np.shape(tracker["std"]) == (60, 2)
        approx = vix.fit(
            20_000,
            convergence=None,
            callbacks=[callbacks.CheckParametersConvergence(diff="absolute", tolerance=0.05)],
            random_seed=1,
            **QUIET,
        )
    assert approx.report.stopped_by == "CheckParametersConvergence", approx.report
    means = vix.to_datatree(approx, 2000, random_seed=1).posterior
    # The mean of a Gamma(alpha, beta) is alpha / beta: the data's, within a few standard errors.
    ratio = float((means["alpha"] / means["beta"]).mean())
    assert ratio == pytest.approx(data.mean(), rel=0.1)


def test_full_rank_from_an_approximation_object(bimodal):
    with bimodal:
        first = vix.fit(500, convergence=None, method=vix.FullRankADVI(random_seed=1), **QUIET)
        steps = first.hist
        approx = vix.fit(500, convergence=None, method=KLqp(first), **QUIET)
    assert approx is first
    assert len(approx.hist) == 500
    # It goes on where the first ended, far below where that began.
    assert approx.hist[:50].mean() < steps[:50].mean() - 1


def test_empirical_from_a_trace():
    # PyMC's Empirical takes traces without Deterministics only.
    with pm.Model() as bimodal:
        pm.NormalMixture("x", w=np.array([0.2, 0.8]), mu=np.array([-0.3, 0.5]), sigma=0.1)
        trace = vix.fit(500, convergence=None, random_seed=1, **QUIET).sample(
            50, return_inferencedata=False
        )
        approx = Empirical(trace)
        values = approx.evaluate_over_trace(bimodal["x"]).eval()
    assert values.shape == (50,)
    assert vix.to_datatree(approx, 20).posterior.sizes["draw"] == 20


def test_multilabel_logistic_regression_and_sample_node():
    """The quickstart's iris classifier: `sample_node` with replaced data, then its accuracy."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:112], order[112:]
    shared_x, shared_y = pytensor.shared(x[train]), pytensor.shared(y[train])
    with pm.Model():
        weights = pm.Normal("W", 0.0, 10.0, shape=(4, 3))
        bias = pm.Normal("b", 0.0, 10.0, shape=3)
        p = pt.special.softmax(shared_x.dot(weights) + bias, axis=-1)
        pm.Categorical("y", p, observed=shared_y)
        inference = vix.ADVI(random_seed=1)
        approx = vix.fit(5_000, convergence=None, method=inference, backend="jax", **QUIET)
        inputs = pt.matrix("inputs")
        probabilities = approx.sample_node(p, size=100, more_replacements={shared_x: inputs})
    predict = pytensor.function([inputs], probabilities.mean(0), mode="FAST_COMPILE")
    accuracy = (predict(x[test]).argmax(-1) == y[test]).mean()
    assert accuracy > 0.85


def test_minibatches():
    """The quickstart's 40,000 rows in batches of 500, smaller."""
    rng = np.random.default_rng(1)
    data = rng.random((4_000, 10)) * np.arange(1, 11) + 2.0
    batch = pm.Minibatch(data, batch_size=50)
    with pm.Model():
        mu = pm.Normal("mu", 0.0, 100.0, shape=10)
        sigma = pm.HalfNormal("sd", 10.0, shape=10)
        pm.Normal("y", mu, sigma, observed=batch, total_size=len(data))
        approx = vix.fit(8_000, convergence=None, random_seed=1, **QUIET)
    means = vix.to_datatree(approx, 500, random_seed=1).posterior["mu"].mean(("chain", "draw"))
    # Noise of batches of 50: a few percent of the spread of a column.
    np.testing.assert_allclose(means, data.mean(0), atol=0.1 * data.std())


def test_groups_by_family():
    with pm.Model() as model:
        a = pm.Normal("a")
        pm.Normal("b", a, 1.0, shape=2)
        pm.HalfNormal("c")
        groups = [Group([a], vfam="mf"), Group(None, vfam="fr")]
        approx = vix.fit(
            2_000, convergence=None, method=KLqp(Approximation(groups)), random_seed=1, **QUIET
        )
    assert [group.ddim for group in approx.groups] == [1, 3]
    assert vix.to_datatree(approx, 10).posterior["b"].shape == (1, 10, 2)
    assert model.free_RVs == [model["a"], model["b"], model["c"]]


def test_custom_group_parameters():
    """Parameters of the user's own, optimised with `more_obj_params`."""
    with pm.Model():
        x = pm.Normal("x", 3.0, 1.0)
        mu, rho = pytensor.shared(np.zeros(1), "mu"), pytensor.shared(np.zeros(1), "rho")
        approx = Approximation([Group([x], params={"mu": mu, "rho": rho})])
        vix.fit(4_000, convergence=None, method=KLqp(approx), random_seed=1, **QUIET)
    assert mu.get_value()[0] == pytest.approx(3.0, abs=0.1)


def test_fit_state_and_data_of_an_approximation(bimodal):
    with bimodal:
        approx = vix.fit(500, convergence=None, random_seed=1, **QUIET)
    assert set(approx.mean_data.data_vars) == set(approx.std_data.data_vars) == {"x"}
    assert float(approx.state.mean["x"]) == approx.mean.eval()[0]


def test_mean_field_object(bimodal):
    given = MeanField(model=bimodal)
    approx = vix.fit(10, convergence=None, method=KLqp(given), **QUIET)
    assert approx is given
    assert len(approx.hist) == 10


# formulae, which reads Bambi's formulas, calls pandas as pandas 2 wants it.
@pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes:DeprecationWarning")
def test_bambi():
    bambi = pytest.importorskip("bambi")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(2)
    frame = pandas.DataFrame({"x": rng.normal(size=60), "g": rng.choice(list("abc"), 60)})
    frame["y"] = 1.0 + 2.0 * frame["x"] + rng.normal(0, 0.5, 60)
    model = bambi.Model("y ~ x + (1|g)", frame)
    model.build()
    approx = vix.fit(
        8_000, convergence=None, model=model.backend.model, backend="jax", random_seed=1, **QUIET
    )
    slope = vix.to_datatree(approx, 1000, random_seed=1).posterior["x"]
    # Least squares has a standard error of .5 / sqrt(60) = .065.
    assert float(slope.mean()) == pytest.approx(2.0, abs=0.2)
