"""to_datatree: values, names, log densities."""

import json

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr

from model_table import MODELS, X, Y, Z
from scipy import stats

import pymc_vi_ext as vix

QUIET = {"backend": "jax", "progressbar": False, "random_seed": 1}


def fitted(name, n=20, **kwargs):
    return vix.fit(n, convergence=None, model=MODELS[name](), **QUIET, **kwargs)


# The lp of a minibatch is random: it has a test of its own.
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"minibatch"}))
def test_every_model(name):
    """Values of free variables and Deterministics fit together, and lp is the model's own."""
    approx = fitted(name)
    model = approx.model
    tree = vix.to_datatree(approx, draws=7, random_seed=1)
    expected = [v.name for v in [*model.free_RVs, *model.deterministics]]
    assert list(tree.posterior.data_vars) == expected
    assert tree.sample_stats["lp"].dims == ("chain", "draw")
    again = vix.to_datatree(approx, draws=7, random_seed=1)
    assert tree.posterior.equals(again.posterior)
    points = model_points(model, tree)
    logp = model.compile_logp(mode="FAST_COMPILE")
    lp = np.array([logp(point) for point in points])
    np.testing.assert_allclose(tree.sample_stats["lp"].values[0], lp, rtol=1e-9)


def model_points(model, tree):
    """Draws on the unconstrained space, from the constrained ones in the tree."""
    points = []
    for draw in range(tree.posterior.sizes["draw"]):
        point = {}
        for rv in model.free_RVs:
            value = tree.posterior[rv.name].values[0, draw]
            transform = model.rvs_to_transforms[rv]
            if transform is not None:
                value = transform.forward(pt.as_tensor(value), *rv.owner.inputs).eval()
            point[model.rvs_to_values[rv].name] = value
        points.append(point)
    return points


def test_lp_of_a_minibatch_is_that_of_all_data():
    tree = vix.to_datatree(fitted("minibatch"), draws=20, random_seed=1)
    b = tree.posterior["b"].values[0]
    exact = stats.norm.logpdf(b).sum(axis=1) + stats.norm.logpdf(Z, b @ X.T, 0.3).sum(axis=1)
    np.testing.assert_allclose(tree.sample_stats["lp"].values[0], exact, rtol=1e-6)


def test_coords_deterministics_and_data():
    approx = fitted("data_and_dims")
    tree = vix.to_datatree(approx, draws=30, random_seed=2)
    b, mu = tree.posterior["b"], tree.posterior["mu"]
    assert list(b.coords["feature"].values) == ["a", "b", "c"]
    np.testing.assert_allclose(mu.values[0], b.values[0] @ X.T, rtol=1e-12)
    assert set(tree.children) >= {"posterior", "sample_stats", "observed_data", "constant_data"}
    assert (tree.posterior["sigma"] > 0).all()


def test_labels_that_do_not_fit_are_left_out():
    """As those of Bambi's ordinal models, on which PyMC's own conversion fails."""
    with pm.Model(coords={"level": list("abcd")}) as model:
        x = pm.Normal("x", dims="level")
        few = pytensor.shared(np.int64(3))
        pm.Deterministic("part", x[:few], dims="level")
        approx = pm.MeanField(model=model)
    tree = vix.to_datatree(approx, 5, random_seed=1)
    assert tree.posterior["part"].dims == ("chain", "draw", "part_dim_0")
    assert tree.posterior["x"].dims == ("chain", "draw", "level")
    assert tree.posterior["part"].shape == (1, 5, 3)


def test_log_q_is_the_density_of_the_draws():
    approx = fitted("correlated", method="fullrank_advi")
    tree = vix.to_datatree(approx, draws=50, random_seed=3)
    density = stats.multivariate_normal(approx.mean.eval(), approx.cov.eval())
    x = tree.posterior["x"].values[0]
    np.testing.assert_allclose(tree.sample_stats["log_q"].values[0], density.logpdf(x))
    # The target is normalised, so lp is a density too.
    target = stats.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]])
    np.testing.assert_allclose(tree.sample_stats["lp"].values[0], target.logpdf(x))


def test_draws_follow_the_approximation():
    approx = fitted("hierarchical", n=2000)
    draws = 20_000
    tree = vix.to_datatree(approx, draws=draws, random_seed=4)
    eta = tree.posterior["eta"].values[0]
    mean, std = approx.mean.eval()[2:], approx.std.eval()[2:]
    # Five standard errors of a mean and of a standard deviation.
    np.testing.assert_allclose(eta.mean(0), mean, atol=5 * std.max() / draws**0.5)
    np.testing.assert_allclose(eta.std(0), std, rtol=5 / (2 * draws) ** 0.5)


def test_elbo_of_draws_is_minus_the_loss():
    approx = fitted("conjugate", n=5000)
    stat = vix.to_datatree(approx, draws=4000, random_seed=5).sample_stats
    gap = (stat["lp"] - stat["log_q"]).values
    late = approx.hist[-1000:]
    error = np.hypot(gap.std() / 4000**0.5, late.std() / 1000**0.5)
    assert gap.mean() == pytest.approx(-late.mean(), abs=5 * error + 2e-3)


def test_particles_have_no_log_q():
    approx = fitted("conjugate", method="svgd", inf_kwargs={"n_particles": 10})
    tree = vix.to_datatree(approx, draws=100, random_seed=1)
    assert list(tree.sample_stats.data_vars) == ["lp"]
    assert np.isin(tree.posterior["mu"].values, approx.histogram.get_value()).all()


def test_batches_join(monkeypatch):
    approx = fitted("data_and_dims")
    vix.to_datatree(approx, draws=1)  # builds the sampler
    names, sampler, *rest = approx.datatree_sampler
    sizes = []
    approx.datatree_sampler = names, lambda n: sizes.append(n) or sampler(n), *rest
    monkeypatch.setattr("pymc_vi_ext.draws._NUMBERS_PER_BATCH", 400)
    tree = vix.to_datatree(approx, draws=23, random_seed=1)
    assert sizes == [10, 10, 3]
    assert tree.posterior.sizes["draw"] == 23
    assert len(np.unique(tree.posterior["sigma"].values)) == 23
    # Values of one draw stay together.
    b, mu = tree.posterior["b"].values[0], tree.posterior["mu"].values[0]
    np.testing.assert_allclose(mu, b @ X.T, rtol=1e-12)


def test_draws_follow_new_parameters_and_data():
    approx = fitted("data_and_dims")
    vix.to_datatree(approx, draws=3)
    approx.params[0].set_value(np.full(4, 50.0))
    with approx.model:
        pm.set_data({"x": 2 * X})
    tree = vix.to_datatree(approx, draws=3, random_seed=1)
    b, mu = tree.posterior["b"].values[0], tree.posterior["mu"].values[0]
    assert (b > 40).all()
    np.testing.assert_allclose(mu, b @ (2 * X.T), rtol=1e-12)


def test_log_likelihood():
    approx = fitted("conjugate")
    tree = vix.to_datatree(approx, draws=5, random_seed=1, log_likelihood=True)
    exact = stats.norm.logpdf(Y, tree.posterior["mu"].values[..., None], 1.0)
    assert exact.shape == (1, 5, 10)
    np.testing.assert_allclose(tree.log_likelihood["y"].values, exact)


def test_log_likelihood_of_all_rows_behind_minibatches():
    tree = vix.to_datatree(fitted("minibatch"), draws=5, random_seed=1, log_likelihood=True)
    exact = stats.norm.logpdf(Z, tree.posterior["b"].values @ X.T, 0.3)
    np.testing.assert_allclose(tree.log_likelihood["y"].values, exact)


def test_attributes_say_what_made_the_draws(tmp_path):
    approx = fitted("conjugate")
    tree = vix.to_datatree(approx, draws=5, random_seed=1)
    assert tree.attrs["stop_reason"] == "completed"
    assert tree.attrs["steps"] == 20
    assert tree.attrs["seed"] == 1
    assert "pymc" in json.loads(tree.attrs["versions"])
    assert "verdict" not in tree.attrs
    tree.to_netcdf(tmp_path / "draws.nc")
    loaded = xr.open_datatree(tmp_path / "draws.nc")
    assert loaded.attrs == tree.attrs
    xr.testing.assert_equal(loaded, tree)
    loaded.close()


def test_pymc_fit_works_too():
    with MODELS["conjugate"]():
        approx = pm.fit(2, progressbar=False)
    assert vix.to_datatree(approx, draws=5).posterior.sizes["draw"] == 5


def test_bad_draws():
    with pytest.raises(ValueError, match="`draws` must be at least 1"):
        vix.to_datatree(fitted("conjugate", n=0), draws=0)
