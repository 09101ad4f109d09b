"""Draws of the posterior that begin at an approximation: exact anchors, verdicts, bad input."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr

from model_table import MODELS, X, Y, Z
from rogues import edge, labels
from scipy.stats import invgamma, multivariate_normal

import pymc_vi_ext as vix

from pymc_vi_ext.correction._covariance import factor_of
from pymc_vi_ext.correction._hmc import ManyChains
from pymc_vi_ext.engine.density import LogDensity

# Chains that have settled are worth 1,000 draws at least: four standard errors of a mean, in
# standard deviations, and of the logarithm of a standard deviation.
OF_MEANS, OF_SDS = 4 / np.sqrt(1_000), 4 / np.sqrt(2 * 1_000)


def normal(cov):
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(len(cov)), cov)
    return model


def fitted(model, method="advi", **options):
    return vix.fit(method=method, model=model, random_seed=1, progressbar=False, **options)


def assert_exact(tree, name, mean, sd):
    draws = tree.posterior[name].stack(sample=("chain", "draw")).transpose("sample", ...).to_numpy()
    assert (abs(draws.mean(axis=0) - mean) < OF_MEANS * sd).all()
    assert (abs(np.log(draws.std(axis=0) / sd)) < OF_SDS).all()


@pytest.fixture(scope="module")
def mean_field():
    return fitted(normal(np.array([[1.0, 0.8], [0.8, 1.0]])))


@pytest.fixture(scope="module")
def corrected(mean_field):
    return vix.correct(mean_field, draws=2_000, random_seed=1)


def test_chains_mend_a_mean_field(corrected, mean_field):
    assert corrected.attrs["correction"] == "chains"
    assert corrected.attrs["verdict"] == "PASS"
    assert_exact(corrected, "x", np.zeros(2), np.ones(2))
    x = corrected.posterior["x"].to_numpy().reshape(-1, 2)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(0.8, abs=4 * (1 - 0.8**2) / np.sqrt(1_000))
    # E2: what the fit was off by, .6 for 1.
    assert corrected.attrs["fit_sd_ratio_least"] == pytest.approx(0.6, abs=0.6 * OF_SDS)
    assert mean_field.report.correction.verdict is vix.Verdict.PASS


def test_chains_are_kept_apart(corrected):
    assert dict(corrected.posterior.sizes) == {"chain": 64, "draw": 32, "x_dim_0": 2}
    superchain = corrected.posterior["superchain"]
    assert superchain.dims == ("chain",)
    assert (np.bincount(superchain) == 4).all()
    stats = corrected.sample_stats
    assert {"lp", "acceptance_rate", "step_size", "n_steps", "energy", "diverging"} == set(stats)
    # The log density belongs to its draw.
    exact = multivariate_normal(np.zeros(2), [[1, 0.8], [0.8, 1]]).logpdf(corrected.posterior["x"])
    np.testing.assert_allclose(stats["lp"], exact)
    assert (stats["energy"] > -stats["lp"]).all()


def test_it_saves_and_loads(corrected, tmp_path):
    corrected.to_netcdf(tmp_path / "draws.nc")
    loaded = xr.open_datatree(tmp_path / "draws.nc")
    assert vix.diagnose(loaded).checks == vix.diagnose(corrected).checks
    assert loaded.attrs["verdict"] == "PASS"
    loaded.close()


def test_the_same_seed_gives_the_same_draws(corrected, mean_field):
    again = vix.correct(mean_field, draws=2_000, random_seed=1)
    xr.testing.assert_equal(again.posterior.dataset, corrected.posterior.dataset)


@pytest.mark.parametrize(("correlation", "how"), [(0.25, "importance weights"), (0.5, "chains")])
def test_weights_where_they_have_little_to_correct(correlation, how):
    # At .5 the standard deviations are 13 % off.
    cov = np.array([[1.0, correlation], [correlation, 1.0]])
    tree = vix.correct(fitted(normal(cov)), random_seed=1)
    assert tree.attrs["correction"] == how
    assert tree.attrs["verdict"] == "PASS"
    assert_exact(tree, "x", np.zeros(2), np.ones(2))
    assert tree.posterior.sizes["chain"] * tree.posterior.sizes["draw"] >= 4_000


def test_minibatches_are_judged_on_all_data():
    approx = fitted(MODELS["minibatch"](), n=300, convergence=None)
    tree = vix.correct(approx, draws=1_000, random_seed=1)
    cov = np.linalg.inv(np.eye(3) + X.T @ X / 0.3**2)
    assert_exact(tree, "b", cov @ X.T @ Z / 0.3**2, np.sqrt(np.diag(cov)))


def test_particles_have_no_weights():
    model = MODELS["conjugate"]()
    approx = fitted(model, "svgd", n=50, convergence=None, inf_kwargs={"n_particles": 20})
    tree = vix.correct(approx, random_seed=1)
    assert tree.attrs["correction"] == "chains"
    assert np.isnan(tree.attrs["khat"])
    assert_exact(tree, "mu", Y.sum() / 11, 1 / np.sqrt(11))


def test_scales_that_are_wrong_by_a_thousand():
    with pm.Model() as model:
        pm.Normal("x", 3.0, 1e-3)
        pm.Normal("y", 0.0, 1e3)
    # At its start, with standard deviations of about 1.
    approx = fitted(model, n=1, convergence=None)
    tree = vix.correct(approx, random_seed=1)
    assert tree.attrs["verdict"] == "PASS"
    assert_exact(tree, "x", 3.0, 1e-3)
    assert_exact(tree, "y", 0.0, 1e3)


@pytest.mark.filterwarnings("ignore::pymc_vi_ext.ConvergenceWarning")
def test_chains_stay_inside_the_support():
    tree = vix.correct(fitted(edge()), random_seed=1)
    assert np.isfinite(tree.sample_stats["lp"]).all()


@pytest.mark.filterwarnings("ignore::pymc_vi_ext.ConvergenceWarning")
def test_what_has_no_end_is_no_pass():
    with pm.Model() as model:
        pm.Flat("x")
    tree = vix.correct(fitted(model, n=200, convergence=None), max_seconds=2, random_seed=1)
    assert tree.attrs["verdict"] != "PASS"


@pytest.mark.filterwarnings("ignore::pymc_vi_ext.ConvergenceWarning")
def test_a_standard_deviation_that_does_not_exist_is_no_pass():
    with pm.Model() as model:
        pm.HalfCauchy("x", 1.0)
    tree = vix.correct(fitted(model), max_seconds=30, random_seed=1)
    found = vix.diagnose(tree)
    assert found.verdict is vix.Verdict.WARN
    assert found["standard error of log sds"].verdict is vix.Verdict.WARN
    # All else is in order: the median is 1, and quartiles are right.
    x = tree.posterior["x"].to_numpy().ravel()
    shares = [np.mean(x < np.tan(np.pi / 2 * q)) for q in (0.25, 0.5, 0.75)]
    np.testing.assert_allclose(shares, (0.25, 0.5, 0.75), atol=4 * 0.5 / np.sqrt(1_000))


def far_apart():
    """Two Gaussians, 6 standard deviations of the wider apart, in ten dimensions."""
    with pm.Model() as model:
        x = pm.Flat("x", shape=10)
        wide = pm.logp(pm.MvNormal.dist(np.zeros(10), np.eye(10)), x)
        narrow = pm.logp(pm.MvNormal.dist(6.0 * np.eye(10)[0], 0.25 * np.eye(10)), x)
        pm.Potential("two", pm.math.logaddexp(np.log(0.3) + wide, np.log(0.7) + narrow))
    return model


# Weights w of modes that are (m, s) each have the mean w.m and the variance w.(s^2 + m^2) - mean^2.
FAR_MEAN, FAR_SD = np.full(10, 0.0), np.full(10, np.sqrt(0.3 + 0.7 * 0.25))
FAR_MEAN[0], FAR_SD[0] = 4.2, np.sqrt(0.3 + 0.7 * 0.25 + 0.3 * 0.7 * 6**2)


@pytest.mark.parametrize(
    ("build", "mean", "sd"),
    [
        (lambda: vix.zoo.build("mixture"), 0.34, np.sqrt(0.01 + 0.2 * 0.8 * 0.8**2)),
        (far_apart, FAR_MEAN, FAR_SD),
    ],
)
def test_modes_that_the_fit_has_not_seen_are_weighed(build, mean, sd):
    tree = vix.correct(fitted(build()), max_seconds=60, random_seed=1)
    assert tree.attrs["verdict"] == "PASS"
    assert tree.attrs["regions"] == 2
    assert tree.attrs["jumps"] > 1
    assert_exact(tree, "x", mean, sd)


def test_a_prior_that_cannot_be_drawn_from():
    """An inverse gamma whose draws are one over 0: scouts begin around the draws."""
    with pm.Model() as model:
        variance = pm.InverseGamma("variance", 0.001, 0.001)
        pm.Normal("y", 0.0, pm.math.sqrt(variance), observed=Y)
    tree = vix.correct(fitted(model), random_seed=1)
    assert tree.attrs["scouts"] == 64
    # Conjugate: an inverse gamma of shape .001 + n / 2 and scale .001 + sum of squares / 2.
    exact = invgamma(0.001 + len(Y) / 2, scale=0.001 + np.sum(Y**2) / 2)
    assert_exact(tree, "variance", exact.mean(), exact.std())


def test_labels_change_places():
    tree = vix.correct(fitted(labels()), random_seed=1)
    assert tree.attrs["verdict"] == "PASS"
    assert tree.attrs["regions"] == 6
    # What the components are is the same for all.
    mu = tree.posterior["mu"].to_numpy().reshape(-1, 3)
    assert_exact(tree, "mu", mu.mean(), mu.std())
    assert_exact(tree, "w", 1 / 3, tree.posterior["w"].to_numpy().std())


def test_out_of_time(mean_field):
    tree = vix.correct(mean_field, max_seconds=1e-6, random_seed=1)
    assert tree.attrs["verdict"] == "FAIL"
    assert tree.posterior.sizes["draw"] >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "`draws` must be a whole number from 1"),
        ({"chains": 18}, "`chains` must be a multiple of 4, 16 at least, not 18"),
        ({"chains": 8}, "`chains` must be a multiple of 4, 16 at least, not 8"),
        ({"max_seconds": 0}, "`max_seconds` must be a positive number"),
    ],
)
def test_bad_options(mean_field, options, message):
    with pytest.raises(ValueError, match=message):
        vix.correct(mean_field, **options)


def test_nowhere_to_begin():
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("never", pm.math.switch(x > 1e6, 0.0, -np.inf))
    approx = vix.ADVI(model=model).approx
    with pytest.raises(ValueError, match="No draw of the approximation has a finite log density"):
        vix.correct(approx)


@pytest.mark.parametrize("backend", ["jax", "numba", "c"])
def test_every_backend_takes_the_same_steps(backend):
    chains = ManyChains(LogDensity(MODELS["data_and_dims"]()), 6, backend)
    rng = np.random.default_rng(1)
    points = rng.normal(0, 0.1, (6, 4))
    chains.adapt_to(points)
    chains.begin(points)
    np.testing.assert_allclose(chains.lp, LogDensity(MODELS["data_and_dims"](), "c")(points)[0])
    chains.step_size = 1e-3
    path = chains.run(3, rng, adapting=False)
    # Leapfrog steps this short keep the energy, and so are all accepted.
    assert path.acceptance.min() > 0.99
    np.testing.assert_allclose(chains.log_density(chains.x), path.logp[:, -1], rtol=1e-9)


def test_a_factor_of_few_points_is_of_full_rank():
    rng = np.random.default_rng(1)
    factor = factor_of(rng.normal(size=(5, 20)) * 10.0 ** rng.integers(-8, 8, 20))
    assert np.isfinite(factor).all()
    assert (np.diag(factor) > 0).all()
