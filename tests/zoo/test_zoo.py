"""The example models are what their docstrings say."""

import inspect

import numpy as np
import pytest

from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors
from pytensor.tensor.type import TensorType
from scipy.special import softmax
from scipy.stats import kstest, norm

from pymc_vi_ext import zoo

SMALL = {
    "gamma": {"n": 20},
    "hierarchical": {"groups": 5, "rows": 30},
    "iris": {},
    "logistic": {"n": 50, "k": 3},
    "minibatch": {"n": 100, "k": 3, "batch_size": 10},
    "mixture": {},
}


def logp(model, point):
    return float(model.compile_logp()(point))


@pytest.mark.parametrize("name", zoo.MODELS)
def test_models_build_and_have_a_finite_density(name):
    model = zoo.build(name, **SMALL[name])
    assert np.isfinite(logp(model, model.initial_point()))


def data(model):
    """All numbers of which the likelihood is made, those behind batches included."""
    values = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    nodes = [v for v in ancestors([*model.observed_RVs, *values]) if isinstance(v.type, TensorType)]
    constants = [v.data for v in nodes if isinstance(v, Constant)]
    shared = [v.get_value() for v in nodes if hasattr(v, "get_value")]
    return np.concatenate([np.ravel(v).astype(float) for v in (*constants, *shared)])


# The others show data that are published, or none.
@pytest.mark.parametrize("name", sorted(set(zoo.MODELS) - {"iris", "mixture"}))
def test_the_seed_decides_the_data(name):
    first, again, other = (data(zoo.build(name, seed=s, **SMALL[name])) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    # Not only a few of them: observations, one for each row at least, differ.
    rows = SMALL[name].get("n") or SMALL[name]["rows"]
    assert first.shape == other.shape
    assert (first != other).sum() >= 0.2 * rows


def test_mixture_is_normalised():
    model = zoo.build("mixture")
    f = model.compile_logp()
    x = np.linspace(-1.5, 1.5, 2001)
    density = np.exp([float(f({"x": v})) for v in x])
    np.testing.assert_allclose(np.trapezoid(density, x), 1, atol=1e-6)
    np.testing.assert_allclose(
        density, 0.2 * norm.pdf(x, -0.3, 0.1) + 0.8 * norm.pdf(x, 0.5, 0.1), atol=1e-9
    )
    assert {d.name for d in model.deterministics} == {"x2", "sin_x"}


def test_iris_is_a_softmax_regression():
    from sklearn.datasets import load_iris

    data = load_iris()
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=3), rng.normal(size=(4, 3))
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    probabilities = softmax(a + x @ b, axis=1)[np.arange(150), data.target]
    expected = norm.logpdf(a, 0, 5).sum() + norm.logpdf(b, 0, 2).sum() + np.log(probabilities).sum()
    model = zoo.build("iris")
    assert logp(model, {"intercept": a, "slope": b}) == pytest.approx(expected)
    assert model.coords["species"] == ("setosa", "versicolor", "virginica")
    assert model.named_vars_to_dims["slope"] == ("measurement", "species")


def test_sizes_are_those_of_the_benchmark_by_default():
    sizes = {
        name: {k: p.default for k, p in inspect.signature(factory).parameters.items()}
        for name, factory in zoo.MODELS.items()
    }
    assert sizes["gamma"]["n"] == 200
    assert (sizes["hierarchical"]["groups"], sizes["hierarchical"]["rows"]) == (85, 919)
    assert (sizes["logistic"]["n"], sizes["logistic"]["k"]) == (10_000, 50)
    assert [sizes["minibatch"][k] for k in ("n", "k", "batch_size")] == [40_000, 100, 500]


def test_exact_draws_of_the_mixture_are_its_own():
    draws = zoo.exact("mixture", 20_000, random_seed=3)["posterior"]
    x = draws["x"].to_numpy().ravel()
    cdf = lambda x: 0.2 * norm.cdf(x, -0.3, 0.1) + 0.8 * norm.cdf(x, 0.5, 0.1)  # noqa: E731
    assert kstest(x, cdf).pvalue > 1e-3  # independent draws of a seed
    np.testing.assert_array_equal(draws["x2"], draws["x"] ** 2)
    np.testing.assert_array_equal(draws["sin_x"], np.sin(draws["x"]))
    again = zoo.exact("mixture", 20_000, random_seed=3)["posterior"]
    assert again.equals(draws)
    assert not np.isin(zoo.exact("mixture", 100, random_seed=4)["posterior"]["x"], x).any()


@pytest.mark.parametrize("name", zoo.EXACT)
def test_exact_draws_are_of_all_variables_and_have_their_shapes(name):
    model, draws = zoo.build(name), zoo.exact(name, 5)
    assert draws.name == "exact"
    assert set(draws["posterior"].data_vars) == {rv.name for rv in model.unobserved_RVs}
    for variable, shape in model.eval_rv_shapes().items():
        if variable in draws["posterior"]:
            assert draws["posterior"][variable].shape == (1, 5, *shape)


@pytest.mark.parametrize(
    ("name", "draws", "message"),
    [
        ("gamma", 10, "No exact draws of the model 'gamma' are known; there are some of mixture"),
        ("mixture", 1, "`draws` must be at least 2, not 1"),
    ],
)
def test_exact_draws_that_there_are_not(name, draws, message):
    with pytest.raises(ValueError, match=message):
        zoo.exact(name, draws)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gama", {}, "Unknown model 'gama': the known ones are gamma, hierarchical"),
        ("gamma", {"m": 1}, "model 'gamma' has no parameter 'm'; its parameters: n, seed"),
        ("mixture", {"m": 1}, "its parameters: none"),
    ],
)
def test_unknown_names_list_the_known_ones(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        zoo.build(name, **parameters)
