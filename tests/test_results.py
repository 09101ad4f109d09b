"""to_datatree: values, names, log densities."""

import json

import arviz as az
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr

from model_table import MODELS, X, Y, Z
from pymc.variational.opvi import Approximation, Group
from scipy import stats

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import Tracker

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


@pytest.mark.parametrize("name", ["data_and_dims", "censored", "dirichlet", "named_dims"])
def test_posterior_predictive_is_laid_out_as_the_data(name):
    approx = pm.MeanField(model=MODELS[name]())
    tree = vix.to_datatree(approx, 7, random_seed=1, posterior_predictive=True)
    repeated, y = tree.posterior_predictive["y"], tree.observed_data["y"]
    assert repeated.dims == ("chain", "draw", *y.dims)
    assert repeated.shape == (1, 7, *y.shape)
    again = vix.to_datatree(approx, 7, random_seed=1, posterior_predictive=True)
    xr.testing.assert_equal(again.posterior_predictive, tree.posterior_predictive)


def test_noise_of_the_data_is_not_that_of_the_draws():
    """Either is standard normal numbers, one a draw: from the same seed they would be the same."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=0.3)
    draws = 4_000
    approx = pm.MeanField(model=model)
    tree = vix.to_datatree(approx, draws, random_seed=1, posterior_predictive=True)
    mu = tree.posterior["mu"].values[0]
    noise = tree.posterior_predictive["y"].values[0] - mu
    # Four standard errors of a standard deviation, and of a correlation of 0.
    assert noise.std() == pytest.approx(1.0, abs=4 / (2 * draws) ** 0.5)
    assert np.corrcoef(mu, noise)[0, 1] == pytest.approx(0.0, abs=4 / draws**0.5)


def test_all_rows_behind_minibatches():
    """Of Deterministics, of the data, and of those that are drawn from the model."""
    x, z = pm.Minibatch(X, Z, batch_size=8)
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 1.0, shape=3)
        mean = pm.Deterministic("mean", x @ b)
        pm.Normal("y", mean, 0.3, observed=z, total_size=40)
    draws = 500
    approx = pm.MeanField(model=model)
    tree = vix.to_datatree(approx, draws, random_seed=1, posterior_predictive=True)
    mean = tree.posterior["mean"].values
    np.testing.assert_allclose(mean, tree.posterior["b"].values @ X.T)
    np.testing.assert_array_equal(tree.observed_data["y"], Z)
    noise = tree.posterior_predictive["y"].values - mean
    assert noise.shape == (1, draws, 40)
    # Five standard errors.
    assert noise.std() == pytest.approx(0.3, rel=5 / (2 * noise.size) ** 0.5)


def regression():
    """The model of the minibatches, on all data at once."""
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 1.0, shape=3)
        pm.Normal("y", X @ b, 0.3, observed=Z)
    return model


def exact_elpds():
    """Log densities of each row given the others."""
    for row in range(len(Z)):
        others = np.arange(len(Z)) != row
        precision = np.eye(3) + X[others].T @ X[others] / 0.09
        mean = np.linalg.solve(precision, X[others].T @ Z[others] / 0.09)
        variance = 0.09 + X[row] @ np.linalg.solve(precision, X[row])
        yield stats.norm.logpdf(Z[row], X[row] @ mean, variance**0.5)


# The mean field's weights have something to correct.
@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
@pytest.mark.parametrize("model", [regression, MODELS["minibatch"]])
def test_loo_is_exact(model, method):
    approx = vix.fit(method=method, model=model(), **QUIET)
    tree = vix.to_datatree(approx, 4_000, random_seed=1, log_likelihood=True)
    log_p, log_q = tree.sample_stats["lp"], tree.sample_stats["log_q"]
    loo = az.loo_approximate_posterior(tree, log_p, log_q, pointwise=True)
    exact = list(exact_elpds())
    # Four standard deviations over seeds of the draws.
    assert loo.elpd == pytest.approx(sum(exact), abs=0.15)
    np.testing.assert_allclose(loo.elpd_i, exact, atol=0.03)
    assert not loo.warning


def test_loo_without_its_groups():
    approx = pm.MeanField(model=regression())
    tree = vix.to_datatree(approx, 10, random_seed=1)
    log_p, log_q = tree.sample_stats["lp"], tree.sample_stats["log_q"]
    with pytest.raises(TypeError, match="log likelihood not found"):
        az.loo_approximate_posterior(tree, log_p, log_q)


@pytest.mark.parametrize("group", ["log_likelihood", "posterior_predictive"])
def test_groups_of_data_need_data(group):
    approx = fitted("correlated", n=0)
    with pytest.raises(ValueError, match=f"no observed variables: leave out {group}"):
        vix.to_datatree(approx, 5, **{group: True})


def test_attributes_say_what_made_the_draws():
    approx = fitted("conjugate")
    tree = vix.to_datatree(approx, draws=5, random_seed=1)
    assert tree.attrs["method"] == "advi"
    assert tree.attrs["stop_reason"] == "completed"
    assert tree.attrs["steps"] == 20
    assert tree.attrs["seed"] == 1
    assert "pymc" in json.loads(tree.attrs["versions"])
    assert not {"verdict", "khat"} & set(tree.attrs)


def test_khat_where_it_is_known():
    approx = vix.fit(model=MODELS["correlated"](), **QUIET)
    attributes = vix.to_datatree(approx, draws=5, random_seed=1).attrs
    assert attributes["khat"] == approx.report.khat == pytest.approx(0.8, abs=0.3)


def test_method_is_what_fit_was_given():
    model = MODELS["conjugate"]()
    named = vix.fit(5, "FullRank_ADVI", model, convergence=None, **QUIET)
    assert named.report.method == "fullrank_advi"
    advi = vix.ADVI(model=model)
    with model:
        assert pm.fit(5, advi, backend="jax", progressbar=False).report.method == "ADVI"


FITS = {
    "unfitted": lambda model: pm.MeanField(model=model),
    "a flow": lambda model: vix.FlowADVI(model=model).approx,
    "advi": lambda model: vix.fit(5, model=model, convergence=None, progressbar=False),
    "fullrank_advi": lambda model: vix.fit(5, "fullrank_advi", model, convergence=None, **QUIET),
    "svgd": lambda model: vix.fit(200, "svgd", model, convergence=None, **QUIET),
    "auto": lambda model: vix.fit(method="auto", model=model, **QUIET),
}


@pytest.mark.parametrize("name", FITS)
def test_what_is_saved_comes_back(name, tmp_path):
    with pm.Model(coords={"city": ["Rome", "Oslo"]}) as model:
        x = pm.Normal("x", dims="city")
        pm.Deterministic("sign", pt.cast(pt.sign(x), "int8"), dims="city")
        pm.Deterministic("warm", x > 0, dims="city")
        pm.Poisson("y", pt.exp(x), observed=[1, 3], dims="city")
    options = {"log_likelihood": True, "posterior_predictive": True}
    tree = vix.to_datatree(FITS[name](model), 30, random_seed=1, **options)
    tree.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf") as loaded:
        xr.testing.assert_identical(loaded.load(), tree)


def test_what_correct_returns_says_what_it_began_at(tmp_path):
    approx = vix.fit(method="fullrank_advi", model=MODELS["conjugate"](), **QUIET)
    tree = vix.correct(approx, random_seed=1)
    own = vix.to_datatree(approx, 5).attrs
    assert own.items() - tree.attrs.items() == {("khat", own["khat"])}
    tree.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf") as loaded:
        xr.testing.assert_identical(loaded.load(), tree)


def test_variational_group_holds_the_parameters():
    approx = fitted("hierarchical")
    group = vix.to_datatree(approx, 5)["variational/mean_field"]
    elements = ["mu", "tau_log__", *(f"eta[{i}]" for i in range(8))]
    assert group["element"].values.tolist() == elements
    for name, parameter in approx.params_dict.items():
        np.testing.assert_array_equal(group[name], parameter.get_value())
    # Copies: the fit may go on.
    approx.params[0].get_value(borrow=True)[:] = 7.0
    assert not (group["mu"] == 7.0).any()


def test_variational_group_of_several_groups():
    with MODELS["hierarchical"]() as model:
        blocks = [["mu"], ["tau"], ["eta"]]
        families = ["mean_field", "mean_field", "full_rank"]
        groups = [
            Group([model[name] for name in block], vfam=family)
            for block, family in zip(blocks, families, strict=True)
        ]
        approx = Approximation(groups)
    found = vix.to_datatree(approx, 5)["variational"].children
    assert [found[name]["element"].values.tolist() for name in found] == [
        ["mu"],
        ["tau_log__"],
        [f"eta[{i}]" for i in range(8)],
    ]
    assert list(found) == ["mean_field_0", "mean_field_1", "full_rank"]


def test_variational_group_holds_losses_by_step():
    approx = fitted("conjugate")
    loss = vix.to_datatree(approx, 5)["variational"]["loss"]
    np.testing.assert_array_equal(loss, approx.hist)
    np.testing.assert_array_equal(loss["step"], np.arange(1, 21))
    assert loss.attrs["long_name"] == "negative ELBO"
    particles = fitted("conjugate", n=200, method="svgd")
    assert vix.to_datatree(particles, 5)["variational"]["loss"].attrs["long_name"] == "KSD"
    unfitted = pm.MeanField(model=MODELS["conjugate"]())
    assert not vix.to_datatree(unfitted, 5)["variational"].data_vars


def test_variational_group_holds_what_trackers_recorded():
    model = MODELS["hierarchical"]()
    advi = vix.ADVI(model=model)
    trackers = [
        Tracker(every=5, mean=advi.approx.mean.eval, loss=lambda approx, losses, i: losses[-1]),
        Tracker(every=10, shapes=lambda approx, losses, i: np.zeros(i)),
    ]
    approx = vix.fit(20, advi, convergence=None, callbacks=trackers, **QUIET)
    with pytest.warns(UserWarning, match="Tracker's records .* shapes change"):
        group = vix.to_datatree(approx, 5)["variational"]
    tracked = group["tracked"]
    assert tracked["mean_eta"].dims == ("tracked_step", "school")
    np.testing.assert_array_equal(tracked["tracked_step"], [5, 10, 15, 20])
    np.testing.assert_array_equal(tracked["loss"], approx.hist[4::5])


def test_pymc_fit_works_too():
    with MODELS["conjugate"]():
        approx = pm.fit(2, progressbar=False)
    assert vix.to_datatree(approx, draws=5).posterior.sizes["draw"] == 5


def test_bad_draws():
    with pytest.raises(ValueError, match="`draws` must be a whole number from 1, not 0"):
        vix.to_datatree(fitted("conjugate", n=0), draws=0)
