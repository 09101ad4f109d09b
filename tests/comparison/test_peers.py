"""Methods of other libraries, each on a model whose posterior is known."""

import importlib.util

import numpy as np
import pymc as pm
import pytensor
import pytest

from scipy.stats import multivariate_normal

from pymc_vi_ext.comparison import PEERS, Status, run_method
from pymc_vi_ext.inference import METHODS
from pymc_vi_ext.testing import gaussian_model

Y = np.random.default_rng(0).normal(1.0, 1.0, 10)
# mu ~ N(0, 1), y ~ N(mu, 1): mean sum(y) / 11, sd 1 / sqrt(11).
MEAN, SD = Y.sum() / 11, 1 / np.sqrt(11)
DRAWS = 2_000
PACKAGES = {"pymc": "pymc", "extras": "pymc_extras", "numpyro": "numpyro", "blackjax": "blackjax"}
# What each may miss mean and sd by, in sds, beyond the Monte Carlo error of its draws: PyMC's
# default optimiser stops with sds 9 % too wide; constant rates leave the mean in a noise of some
# 5 %; thirty fixed draws have a mean that is off by 1 / sqrt(30) sds; BFGS' own estimate of the
# inverse Hessian, which `fit_laplace` takes, knows little after few steps; particles, of which the
# draws are a choice, have too small a spread.
MISSES = {
    "pymc_advi": (0.1, 0.12),
    "extras_advi": (0.1, 0.1),
    "extras_dadvi": (4 / np.sqrt(30), 0.3),
    "extras_laplace": (0.05, 0.6),
    "extras_pathfinder": (0.05, 0.05),
    "numpyro_svi": (0.1, 0.1),
    "blackjax_meanfield": (0.1, 0.1),
    "blackjax_svgd": (0.1, 0.2),
}
WITH_LOSSES = ("pymc_advi", "extras_advi", "numpyro_svi", "blackjax_meanfield")


@pytest.fixture(scope="module")
def model():
    with pm.Model(coords={"k": ["p", "q"]}) as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("z", 0.0, [1.0, 2.0], dims="k")
        pm.Deterministic("double", 2.0 * mu)
        pm.Normal("y", mu, 1.0, observed=Y)
    return model


@pytest.fixture(scope="module", autouse=True)
def in_python():
    """Compilation by numba takes most of a peer's minutes, and changes no result."""
    with pytensor.config.change_flags(linker="py"):
        yield


@pytest.fixture(scope="module", params=PEERS)
def result(model, in_python, request):
    pytest.importorskip(PACKAGES[request.param.partition("_")[0]])
    return run_method(model, request.param, 3, DRAWS)


def test_draws_are_of_the_posterior_with_dims_and_deterministics(result):
    r = result
    assert r.status is Status.FINISHED, r.error
    posterior = r.datatree["posterior"]
    assert set(posterior.data_vars) == {"mu", "z", "double"}
    assert dict(posterior.sizes) == {"chain": 1, "draw": DRAWS, "k": 2}
    assert list(posterior["k"].values) == ["p", "q"]
    np.testing.assert_allclose(posterior["double"], 2 * posterior["mu"])
    of_mean, of_sd = MISSES[r.name]
    noise = 4 / np.sqrt(DRAWS)
    draws = [posterior["mu"], posterior["z"].sel(k="p"), posterior["z"].sel(k="q")]
    for x, mean, sd in zip(draws, (MEAN, 0.0, 0.0), (SD, 1.0, 2.0), strict=True):
        assert float(x.mean()) == pytest.approx(mean, abs=sd * (of_mean + noise))
        assert float(x.std()) == pytest.approx(sd, rel=of_sd + noise)
    assert r.fit_s > 0
    assert np.isnan(r.compile_s)
    assert r.backend in r.versions or r.backend.replace("_", "-") in r.versions


def test_losses_are_negative_elbos_in_nats(result):
    if result.name not in WITH_LOSSES:
        assert result.losses.size == 0
        return
    # The family holds the posterior; the marginal density of y is N(0, I + 1).
    evidence = multivariate_normal(np.zeros(10), np.eye(10) + 1).logpdf(Y)
    assert -np.mean(result.losses[-500:]) == pytest.approx(evidence, abs=0.1)


@pytest.mark.parametrize("name", [name for name in PEERS if "n" in PEERS[name].names])
def test_the_seed_and_the_steps_are_those_asked_for(name, capsys):
    pytest.importorskip(PACKAGES[name.partition("_")[0]])
    spec = {"name": name, "n": 20}
    one, again, other = (run_method(gaussian_model(), spec, seed, 30) for seed in (1, 1, 2))
    assert capsys.readouterr().out == ""  # no progress bar
    assert one.steps == 20
    assert one.losses.size in (0, 20)
    assert one.datatree["posterior"].equals(again.datatree["posterior"])
    assert not one.datatree["posterior"].equals(other.datatree["posterior"])


@pytest.mark.parametrize("name", [name for name in PEERS if not name.startswith("pymc")])
def test_a_missing_package_names_the_extra(model, name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    r = run_method(model, name, 1)
    assert r.status is Status.FAILED
    extra = "extras" if name.startswith("extras") else "samplers"
    assert r.reason.startswith("ImportError: This method needs ")
    assert r.reason.endswith(f"which is not installed: pip install 'pymc-vi-ext[{extra}]'.")


def test_peers_are_no_methods_of_fit():
    assert not set(PEERS) & set(METHODS)


@pytest.mark.parametrize("name", ["blackjax_meanfield", "blackjax_svgd"])
def test_minibatches_are_refused_where_they_cannot_be_drawn(name):
    pytest.importorskip("blackjax")
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=pm.Minibatch(Y, batch_size=2), total_size=10)
    assert "take no minibatches" in run_method(model, name, 1).reason
