"""The ports of posteriordb have the posteriors of which the reference draws were taken.

Let z be a draw on the unconstrained space and g the gradient of the log density there. Then, by
integration by parts (Stein's identities), E[g_i] = 0 and E[(z_i - E z_i) g_i] = -1. A wrong prior,
likelihood or Jacobian shifts them, and no sampler is needed to see it. A thousand draws show what
moves the posterior by .15 of its standard deviations.
"""

import os

from functools import cache

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pymc.blocking import DictToArrayBijection
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.special import expit

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.zoo import posteriordb
from pymc_vi_ext.zoo.posteriordb import POSTERIORS

needs_data = pytest.mark.skipif(
    "POSTERIORDB" not in os.environ, reason="POSTERIORDB names no folder of posteriordb"
)

NONCENTERED = "eight_schools-eight_schools_noncentered"
CENTERED = "eight_schools-eight_schools_centered"
GAUSSIAN_PROCESS = "gp_pois_regr-gp_pois_regr"
LOTKA_VOLTERRA = "hudson_lynx_hare-lotka_volterra"
ITEM_RESPONSE = "irt_2pl-irt_2pl"

# The variance of these terms is infinite for the centered schools, whose gradient grows as 1 / tau.
STEIN = [name for name, row in POSTERIORS.items() if row.draws and name != CENTERED]
THIN = {LOTKA_VOLTERRA: 40}

# One error in a thousand over all statistics: two moments of each coordinate, as it is and whitened
BOUND = stats.norm.isf(1e-3 / 2 / sum(4 * POSTERIORS[name].dimension for name in STEIN))


@cache
def density(name):
    """Return the model of a posterior, and a function from a point to log density and gradient."""
    return compiled(posteriordb.build(name))


@cache
def latent_process_density():
    """Return the same for the Gaussian process with its values as parameters.

    The reference holds these, and Stein's identities have far less noise in them.
    """
    data = posteriordb.data(GAUSSIAN_PROCESS)
    x = np.array(data["x"], float)
    with pm.Model() as model:
        rho = pm.Gamma("rho", 25.0, 4.0)
        alpha = pm.HalfNormal("alpha", 2.0)
        covariance = alpha**2 * pt.exp(-((x[:, None] - x) ** 2) / (2.0 * rho**2))
        f = pm.MvNormal("f", np.zeros(11), covariance + 1e-10 * np.eye(11))
        pm.Poisson("k", pt.exp(f), observed=data["k"])
    return compiled(model)


def compiled(model):
    # Compiled in a fraction of a second; none is called more than a few thousand times.
    function = model.logp_dlogp_function(ravel_inputs=True, mode="FAST_COMPILE")
    function.set_extra_values({})
    return model, lambda point: function(DictToArrayBijection.map(point))


def reference_points(name, model):
    """Return every tenth reference draw, or fewer, as a point of the unconstrained space."""
    draws = posteriordb.reference(name).stack(sample=("chain", "draw"))
    step = THIN.get(name, 10)
    values = {k: v.transpose("sample", ...).values[::step] for k, v in draws.items()}
    if name == NONCENTERED:
        values["theta_trans"] = (values["theta"] - values["mu"][:, None]) / values["tau"][:, None]
    transforms = [(rv, model.rvs_to_transforms[rv]) for rv in model.free_RVs]
    forward = pytensor.function(
        model.free_RVs,
        [rv if t is None else t.forward(rv, *rv.owner.inputs) for rv, t in transforms],
        mode="FAST_COMPILE",
    )
    names = [value.name for value in model.value_vars]
    for row in zip(*(values[rv.name] for rv in model.free_RVs), strict=True):
        yield dict(zip(names, forward(*row), strict=True))


def z_scores(values, expected):
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return np.abs(values.mean(axis=0) - expected) / error


@needs_data
@pytest.mark.parametrize("name", STEIN)
def test_reference_draws_fulfil_steins_identities(name):
    model, f = latent_process_density() if name == GAUSSIAN_PROCESS else density(name)
    points = list(reference_points(name, model))
    z = np.array([DictToArrayBijection.map(point).data for point in points])
    g = np.array([f(point)[1] for point in points])
    z = z - z.mean(axis=0)
    assert z_scores(g, 0).max() < BOUND
    assert z_scores(z * g, -1).max() < BOUND
    # Along correlated coordinates z g is noisy; whitened ones see more.
    factor = np.linalg.cholesky(np.cov(z.T))
    z, g = np.linalg.solve(factor, z.T).T, g @ factor
    assert z_scores(g, 0).max() < BOUND
    assert z_scores(z * g, -1).max() < BOUND


@needs_data
def test_centered_schools_are_the_noncentered_ones_transformed():
    (model, centered), (other, noncentered) = density(CENTERED), density(NONCENTERED)
    assert posteriordb.reference(CENTERED).equals(posteriordb.reference(NONCENTERED))
    rng = np.random.default_rng(0)
    for _ in range(3):
        point = {name: np.asarray(rng.normal()) for name in ("mu", "tau_log__")}
        log_tau, t = point["tau_log__"], rng.normal(size=8)
        a, _ = centered(point | {"theta": point["mu"] + np.exp(log_tau) * t})
        b, _ = noncentered(point | {"theta_trans": t})
        assert a == pytest.approx(b - 8 * log_tau)
    assert {rv.name for rv in model.free_RVs} == {"mu", "tau", "theta"}
    assert [d.name for d in other.deterministics] == ["theta"]


@needs_data
def test_gaussian_process_is_the_latent_one_transformed():
    (_, latent), (model, whitened) = latent_process_density(), density(GAUSSIAN_PROCESS)
    process = pytensor.function(model.free_RVs, model["f"], mode="FAST_COMPILE")
    x = np.arange(-10.0, 11.0, 2.0)
    rng = np.random.default_rng(0)
    for rho, alpha in rng.uniform(3, 6, size=(3, 2)):
        covariance = alpha**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * rho**2)) + 1e-10 * np.eye(11)
        z = rng.normal(size=11)
        f = process(rho, alpha, z)
        np.testing.assert_allclose(f, np.linalg.cholesky(covariance) @ z)
        point = {"rho_log__": np.log(rho), "alpha_log__": np.log(alpha)}
        a, _ = latent(point | {"f": f})
        b, _ = whitened(point | {"f_tilde": z})
        assert a == pytest.approx(b - np.linalg.slogdet(covariance)[1] / 2)


@needs_data
@pytest.mark.parametrize("name", POSTERIORS)
def test_dimension_and_finite_start(name):
    model, f = density(name)
    logp, gradient = f(model.initial_point())
    assert gradient.shape == (POSTERIORS[name].dimension,)
    assert np.isfinite(logp)
    assert np.isfinite(gradient).all()


@needs_data
@pytest.mark.parametrize("name", [name for name, row in POSTERIORS.items() if row.draws])
def test_reference_draws_have_names_and_shapes_of_the_model(name):
    draws, moments = posteriordb.reference(name), posteriordb.moments(name)
    model, _ = density(name)
    assert draws.sizes["chain"] == 10
    assert draws.sizes["draw"] == 1000
    for variable, values in draws.items():
        assert values.dims[:2] == ("chain", "draw")
        assert values.shape[2:] == tuple(model[variable].shape.eval())
        both = moments[variable]
        assert both.dims == ("moment", *values.dims[2:])
        flat = values.values.reshape(10_000, *values.shape[2:])
        np.testing.assert_allclose(both.sel(moment="mean"), flat.mean(axis=0))
        np.testing.assert_allclose(both.sel(moment="sd"), flat.std(axis=0, ddof=1))


@needs_data
def test_published_moments_of_the_item_response_model():
    moments = posteriordb.moments(ITEM_RESPONSE)
    assert dict(moments.sizes) == {
        "moment": 2,
        "theta_dim_0": 100,
        "a_dim_0": 20,
        "b_dim_0": 20,
    }
    np.testing.assert_allclose(moments["b"].isel(b_dim_0=19), [1.4999, 0.69626])


@needs_data
def test_predators_and_prey_follow_the_differential_equation():
    model, _ = density(LOTKA_VOLTERRA)
    y = next(rv for rv in model.observed_RVs if rv.name == "y")
    theta, z_init = model["theta"], model["z_init"]
    median = pytensor.function([theta, z_init], y.owner.inputs[-2], mode="FAST_COMPILE")
    draws = posteriordb.reference(LOTKA_VOLTERRA).isel(draw=0)
    for t, z in zip(draws["theta"].values, draws["z_init"].values, strict=True):
        solution = solve_ivp(
            lambda _, w, t=t: (t[0] - t[1] * np.exp(w[1]), -t[2] + t[3] * np.exp(w[0])),
            (0, 20),
            np.log(z),
            t_eval=np.arange(1, 21),
            method="DOP853",
            rtol=1e-10,
            atol=1e-10,
        )
        np.testing.assert_allclose(median(t, z), solution.y.T, atol=2e-5)


def positive(dist, value):
    return dist.logpdf(value) + np.log(2) + np.log(value)


def item_response(p, data):
    a, theta, b = np.exp(p["a_log__"]), p["theta"], p["b"]
    scales = [np.exp(p[f"sigma_{name}_log__"]) for name in ("theta", "a", "b")]
    chance = expit(a[:, None] * (theta - b[:, None]))
    return (
        sum(positive(stats.cauchy(0, 2), s) for s in scales)
        + stats.norm.logpdf(theta, 0, scales[0]).sum()
        + (stats.lognorm.logpdf(a, s=scales[1]) + np.log(a)).sum()
        + stats.norm.logpdf(p["mu_b"], 0, 5)
        + stats.norm.logpdf(b, p["mu_b"], scales[2]).sum()
        + stats.bernoulli.logpmf(data["y"], chance).sum()
    )


def wells(p, data):
    distance = (data["dist"] - data["dist"].mean()) / 100
    arsenic = data["arsenic"] - data["arsenic"].mean()
    rows = [distance, arsenic, distance * arsenic, data["assoc"], data["educ"] / 4]
    chance = expit(p["alpha"] + p["beta"] @ np.array(rows))
    return stats.bernoulli.logpmf(data["switched"], chance).sum()


def peregrines(p, data):
    total, coefficients = 0.0, []
    for name, low, high in (
        ("alpha", -20, 20),
        ("beta_1", -10, 10),
        ("beta_2", -10, 10),
        ("beta_3", -10, 10),
        ("sigma", 0, 5),
    ):
        u = expit(p[f"{name}_interval__"])
        # Uniform on (0, 1) once scaled.
        total += np.log(u * (1 - u))
        coefficients.append(low + (high - low) * u)
    *cubic, sigma = coefficients
    rate = np.exp(np.polynomial.polynomial.polyval(data["year"], cubic) + p["eps"])
    total += stats.norm.logpdf(p["eps"], 0, sigma).sum()
    return total + stats.poisson.logpmf(data["C"], rate).sum()


def radon(p, data):
    sigma_alpha, sigma_y = np.exp(p["sigma_alpha_log__"]), np.exp(p["sigma_y_log__"])
    alpha = p["mu_alpha"] + sigma_alpha * p["alpha_raw"]
    slopes = p["beta"] @ np.array([data["log_uppm"], data["floor_measure"]])
    mean = alpha[data["county_idx"] - 1] + slopes
    return (
        positive(stats.norm(0, 1), sigma_alpha)
        + positive(stats.norm(0, 1), sigma_y)
        + stats.norm.logpdf([p["mu_alpha"], *p["beta"]], 0, 10).sum()
        + stats.norm.logpdf(p["alpha_raw"]).sum()
        + stats.norm.logpdf(data["log_radon"], mean, sigma_y).sum()
    )


@needs_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (ITEM_RESPONSE, item_response),
        ("wells_data-wells_daae_c_model", wells),
        ("GLMM_Poisson_data-GLMM_Poisson_model", peregrines),
        ("radon_mn-radon_hierarchical_intercept_noncentered", radon),
    ],
)
def test_models_without_reference_draws_have_the_density_written_out(name, expected):
    model, f = density(name)
    rng = np.random.default_rng(1)
    point = {k: 0.3 * rng.normal(size=v.shape) for k, v in model.initial_point().items()}
    data = posteriordb.data(name)
    assert f(point)[0] == pytest.approx(
        expected(point, {k: np.asarray(v) for k, v in data.items()})
    )


@needs_data
@pytest.mark.parametrize("name", [name for name, row in POSTERIORS.items() if not row.draws])
def test_posteriors_without_reference_say_so(name):
    with pytest.raises(LookupError, match=f"no reference draws of '{name}'"):
        posteriordb.reference(name)
    if name != ITEM_RESPONSE:
        with pytest.raises(LookupError, match=f"nor moments of '{name}'"):
            posteriordb.moments(name)


@pytest.mark.parametrize("read", [posteriordb.build, posteriordb.reference, posteriordb.moments])
def test_unknown_names_and_missing_folders(read, monkeypatch, tmp_path):
    with pytest.raises(UnknownNameError, match=r"Unknown posterior 'arK': .* arK-arK,"):
        read("arK")
    monkeypatch.delenv("POSTERIORDB", raising=False)
    clone = r"POSTERIORDB is not set: .*https://github.com/stan-dev/posteriordb"
    with pytest.raises(FileNotFoundError, match=clone):
        read("arK-arK")
    with pytest.raises(FileNotFoundError, match="No folder 'posterior_database' in"):
        read("arK-arK", tmp_path)
    monkeypatch.setenv("POSTERIORDB", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="No folder 'posterior_database' in"):
        read("arK-arK")
