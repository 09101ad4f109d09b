"""k-hat and the ELBO on Gaussians, where both are known."""

import numpy as np
import pytest
import xarray as xr

from scipy.stats import norm

from pymc_vi_ext.diagnostics import elbo, khat


def weighted(lp, log_q):
    dims = ("chain", "draw")
    stats = {"lp": (dims, np.atleast_2d(lp)), "log_q": (dims, np.atleast_2d(log_q))}
    return xr.DataTree.from_dict({"sample_stats": xr.Dataset(stats)})


def gaussian(sd, n=20_000):
    """Draws of N(0, sd) as the approximation of N(0, 1)."""
    x = np.random.default_rng(0).normal(0, sd, n)
    return weighted(norm.logpdf(x), norm.logpdf(x, scale=sd))


def test_elbo_is_minus_the_divergence_from_a_normalised_target():
    sd = 0.7
    estimate = elbo(gaussian(sd))
    exact = -(sd**2 / 2 - 0.5 - np.log(sd))
    # log w = const - x^2 (1 - 1/sd^2) / 2, whose standard deviation is |sd^2 - 1| / sqrt(2).
    se = abs(sd**2 - 1) / np.sqrt(2) / np.sqrt(20_000)
    assert estimate.se == pytest.approx(se, rel=0.05)
    assert estimate.elbo == pytest.approx(exact, abs=4 * se)
    assert estimate.draws == 20_000


def test_elbo_of_the_exact_posterior_has_no_error():
    estimate = elbo(weighted(norm.logpdf(np.arange(5.0)) + 2, norm.logpdf(np.arange(5.0))))
    assert estimate.elbo == pytest.approx(2)
    assert estimate.se == pytest.approx(0, abs=1e-12)


def test_elbo_is_minus_infinity_outside_the_support():
    estimate = elbo(weighted([-np.inf, 0.0], [0.0, 0.0]))
    assert estimate.elbo == -np.inf
    assert np.isnan(estimate.se)


@pytest.mark.parametrize("sd", [0.5, 0.7])
def test_khat_of_a_gaussian_too_narrow(sd):
    # Weights exp(x^2 (1/sd^2 - 1) / 2) under N(0, sd): their tail index is 1 - sd^2. Convergence is
    # slow: .1 short here. The standard error with 3 sqrt(20000) = 424 tail draws is about .05.
    assert khat(gaussian(sd)) == pytest.approx(1 - sd**2, abs=0.2)


def test_khat_of_a_wider_approximation_is_low_and_grows_as_it_narrows():
    assert khat(gaussian(1.5)) < 0.2
    assert khat(gaussian(0.4)) > khat(gaussian(0.7)) > khat(gaussian(1.5))


NOISE = np.random.default_rng(1).normal(size=400)


@pytest.mark.parametrize(
    ("lp", "expected"),
    [
        ([np.nan, 1.0], np.inf),
        ([np.inf, 1.0], np.inf),
        (np.full(300, -np.inf), np.inf),
        (1e4 * NOISE, np.inf),
        (np.zeros(300), -np.inf),
        (1e3 + 1e-13 * NOISE, -np.inf),
        (np.r_[np.zeros(100), np.full(300, -np.inf)], -np.inf),
    ],
    ids=["nan", "inf", "all 0", "one above all", "equal", "equal but for rounding", "equal or 0"],
)
def test_khat_at_its_limits(lp, expected):
    assert khat(weighted(lp, np.zeros(len(lp)))) == expected


def test_draws_of_weight_0_count_for_nothing():
    some = weighted(np.r_[NOISE, np.full(50, -np.inf)], np.zeros(450))
    assert khat(some) == khat(weighted(NOISE, np.zeros(400)))


def test_elbo_of_a_single_draw_has_no_error():
    estimate = elbo(weighted([1.0], [0.5]))
    assert estimate.elbo == 0.5
    assert np.isnan(estimate.se)


@pytest.mark.parametrize(
    ("lp", "message"),
    [
        (np.arange(24.0), "at least 25 draws, not of 24"),
        (np.r_[np.arange(10.0), np.full(290, -np.inf)], "not of 10, besides 290 of weight 0"),
        (np.r_[1.0, np.zeros(299)], "Of the 51 largest weights too many are equal"),
    ],
)
def test_khat_without_a_tail_says_so(lp, message):
    with pytest.raises(ValueError, match=message):
        khat(weighted(lp, np.zeros(lp.size)))


@pytest.mark.parametrize("diagnostic", [elbo, khat])
def test_without_log_q_the_message_says_what_is_missing(diagnostic):
    particles = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({"x": (("chain", "draw"), [[1.0]])})}
    )
    with pytest.raises(ValueError, match="need `lp` and `log_q` in /sample_stats"):
        diagnostic(particles)
