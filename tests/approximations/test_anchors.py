"""Fits of the families where log Z is known exactly."""

import numpy as np
import pymc as pm
import pytest

from scipy.special import betaln, gammaln

import pymc_vi_ext as vix

from pymc_vi_ext.diagnostics import elbo

QUIET = {"progressbar": False}


def fitted_elbo(model, method, **options):
    """Return the ELBO of a default fit and its standard error, in nats."""
    approx = vix.fit(method=method, model=model, random_seed=1, inf_kwargs=options, **QUIET)
    found = elbo(vix.to_datatree(approx, 20_000, random_seed=2))
    return found.elbo, found.se


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fullrank_advi", {}),
        ("lowrank_advi", {"rank": 10}),
        ("studentt_advi", {}),
        ("mixture_advi", {"K": 1, "full_rank": True}),
        ("flow_advi", {}),
        ("flow_advi", {"kind": "affine"}),
        ("bam", {}),
        ("dadvi", {}),
        ("laplace", {}),
    ],
)
def test_a_correlated_gaussian_in_ten_dimensions(method, options):
    """E4: log Z = 0, within .02 nat and four standard errors."""
    a = np.random.default_rng(0).normal(size=(10, 10))
    with pm.Model() as model:
        pm.MvNormal("x", np.arange(10.0), a @ a.T + np.eye(10))
    value, error = fitted_elbo(model, method, **options)
    assert -0.02 - 4 * error < value < 4 * error + 1e-9


def test_a_large_flow_for_exactly_n_steps():
    """Begun at the posterior it stays there: within .3 nat of log Z = 0 while its rate falls."""
    with pm.Model() as model:
        pm.Normal("x", shape=20)
    flow = vix.FlowADVI(kind="affine", couplings=6, width=64, model=model, random_seed=1)
    approx = vix.fit(300, flow, convergence=None, **QUIET)
    assert -0.1 < approx.hist[-50:].mean() < 0.3


def test_a_flow_on_beta_bernoulli():
    """E8: log B(a + k, b + n - k) / B(a, b), within .02 nat and four standard errors."""
    y = np.array([1, 1, 0, 1, 0, 1, 1, 1, 0, 1])
    with pm.Model() as model:
        p = pm.Beta("p", 2.0, 3.0)
        pm.Bernoulli("y", p, observed=y)
    evidence = betaln(2 + y.sum(), 3 + len(y) - y.sum()) - betaln(2, 3)
    value, error = fitted_elbo(model, "flow_advi")
    assert evidence - 0.02 - 4 * error < value < evidence + 4 * error


def test_a_flow_on_normal_gamma():
    """E8: a normal of unknown mean and precision, within .03 nat and four standard errors."""
    y = np.array([1.2, -0.3, 0.8, 2.1, 0.4, 1.1])
    n, m, k, a, b = len(y), 0.5, 2.0, 3.0, 2.0
    with pm.Model() as model:
        tau = pm.Gamma("tau", a, b)
        mu = pm.Normal("mu", m, tau=k * tau)
        pm.Normal("y", mu, tau=tau, observed=y)
    k_n, a_n = k + n, a + n / 2
    squares = np.sum((y - y.mean()) ** 2)
    b_n = b + 0.5 * squares + 0.5 * k * n * (y.mean() - m) ** 2 / k_n
    evidence = gammaln(a_n) - gammaln(a) + a * np.log(b) - a_n * np.log(b_n)
    evidence += 0.5 * np.log(k / k_n) - 0.5 * n * np.log(2 * np.pi)
    value, error = fitted_elbo(model, "flow_advi")
    assert evidence - 0.03 - 4 * error < value < evidence + 4 * error
