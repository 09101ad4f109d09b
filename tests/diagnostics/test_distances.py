"""Distances between draws of known distributions, against their closed forms."""

import arviz_base as azb
import numpy as np
import pytest
import xarray as xr

from scipy.stats import norm

from pymc_vi_ext.diagnostics import distances

N = 20_000


def posterior(**draws):
    return azb.from_dict({"posterior": {k: np.asarray(v).reshape(4, -1) for k, v in draws.items()}})


def normal(seed, mean=0.0, sd=1.0):
    return np.random.default_rng(seed).normal(mean, sd, N)


def test_gaussians_of_equal_width_have_closed_form_distances():
    d = distances(posterior(x=normal(1, 3 + 2 * 1.0, 2)), posterior(x=normal(2, 3, 2)))
    # Shifted by one sd: W1 is the shift, the overlap 2 Phi(-1/2). The standard error of a
    # difference of two means of N draws is sqrt(2/N) = .01; 4 of them.
    assert d.mean_error_sd_max == pytest.approx(1, abs=0.04)
    assert d.wasserstein_mean == pytest.approx(1, abs=0.04)
    # A ratio of sds has standard error sqrt(1/N) = .007.
    assert d.sd_ratio_worst == pytest.approx(1, abs=0.03)
    # The KDE smooths both: its bandwidth, about .15 sd, widens them by 1 %.
    assert d.kde_overlap_min == pytest.approx(2 * norm.cdf(-0.5), abs=0.03)


def test_gaussian_of_half_the_width_has_closed_form_distances():
    d = distances(posterior(x=normal(1, 0, 0.5)), posterior(x=normal(2)))
    assert d.sd_ratio_worst == pytest.approx(0.5, abs=0.015)
    # Comonotone coupling: E|z - z/2| = sqrt(2/pi)/2.
    assert d.wasserstein_mean == pytest.approx(np.sqrt(2 / np.pi) / 2, abs=0.03)
    # The densities cross where exp(-x^2/2) = 2 exp(-2 x^2).
    c = np.sqrt(2 * np.log(2) / 3)
    overlap = 2 * norm.cdf(-c / 0.5) + norm.cdf(c) - norm.cdf(-c)
    assert d.kde_overlap_min == pytest.approx(overlap, abs=0.03)


def test_identical_draws_are_at_distance_zero():
    x = posterior(x=normal(1))
    d = distances(x, x)
    assert (d.mean_error_sd_max, d.sd_ratio_worst, d.wasserstein_mean) == (0, 1, 0)
    assert d.kde_overlap_min == pytest.approx(1, abs=1e-6)


def test_distances_do_not_depend_on_location_and_scale():
    x, z = normal(1, 0.3, 1.2), normal(2)
    plain = distances(posterior(x=x), posterior(x=z))
    moved = distances(posterior(x=1e4 * x - 7), posterior(x=1e4 * z - 7))
    for metric in ("mean_error", "sd_ratio", "wasserstein", "kde_overlap"):
        np.testing.assert_allclose(getattr(moved, metric).x, getattr(plain, metric).x, rtol=1e-5)


def test_densities_far_narrower_than_the_reference_keep_their_mass():
    d = distances(posterior(x=normal(1, 0, 1e-4)), posterior(x=normal(2)))
    # A spike under the reference's density overlaps by about its own width.
    assert 0 < d.kde_overlap_min < 1e-2


def test_elements_keep_dims_and_coords_and_summaries_take_the_worst():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 1000, 3))
    reference = azb.from_dict(
        {"posterior": {"b": z}}, coords={"k": ["p", "q", "r"]}, dims={"b": ["k"]}
    )
    x = z * [1, 3, 0.5] + [0, 0, 2]
    d = distances(azb.from_dict({"posterior": {"b": x}}), reference)
    assert d.mean_error.b.dims == ("k",)
    assert list(d.mean_error.k.values) == ["p", "q", "r"]
    np.testing.assert_allclose(d.sd_ratio.b, [1, 3, 0.5])
    assert d.sd_ratio_worst == pytest.approx(3)  # log 3 > log 2
    assert d.mean_error_sd_max == pytest.approx(float(d.mean_error.b.sel(k="r")))


def test_constant_elements_are_left_out():
    x = np.stack([normal(1), np.full(N, 0.1)], axis=-1).reshape(4, -1, 2)
    dt = azb.from_dict({"posterior": {"x": x}})
    d = distances(dt, dt)
    assert np.isnan(d.sd_ratio.x.values).tolist() == [False, True]
    assert d.sd_ratio_worst == 1


def test_a_collapsed_approximation_is_the_worst():
    d = distances(posterior(x=np.zeros(N), y=normal(1)), posterior(x=normal(2), y=normal(3)))
    assert d.sd_ratio_worst < 1e-12  # rounding
    assert d.kde_overlap_min == 0


def test_draws_that_are_not_finite_give_nan():
    d = distances(posterior(x=np.full(N, np.inf)), posterior(x=normal(2)))
    assert np.isnan(d.mean_error_sd_max)
    assert np.isnan(d.sd_ratio_worst)


def test_a_single_draw_has_a_place_but_no_width():
    single = azb.from_dict({"posterior": {"x": np.full((1, 1), 2.0)}})
    d = distances(single, posterior(x=normal(1)))
    assert d.mean_error_sd_max == pytest.approx(2, abs=0.04)
    # E|2 - z| = 2 (2 Phi(2) - 1) + 2 phi(2).
    expected = 2 * (2 * norm.cdf(2) - 1) + 2 * norm.pdf(2)
    assert d.wasserstein_mean == pytest.approx(expected, abs=0.04)
    assert np.isnan([d.sd_ratio_worst, d.kde_overlap_min]).all()


def test_a_reference_of_a_single_draw_is_refused():
    single = azb.from_dict({"posterior": {"x": np.zeros((1, 1))}})
    with pytest.raises(ValueError, match="has a single draw, which gives no scale"):
        distances(posterior(x=normal(1)), single)


@pytest.mark.parametrize(
    ("dt", "reference", "message"),
    [
        ({"x": normal(1)}, {"y": normal(1)}, r"share no variable: \['x'\] against \['y'\]"),
        ({"x": normal(1)}, {"x": np.ones(N)}, "No element varies"),
        ({"x": normal(1)}, {"x": np.full(N, np.nan)}, "No element of the reference has finite"),
        ({"x": normal(1)}, {"x": np.full(N, np.inf)}, "No element of the reference has finite"),
    ],
)
def test_posteriors_that_cannot_be_compared_are_refused(dt, reference, message):
    with pytest.raises(ValueError, match=message):
        distances(posterior(**dt), posterior(**reference))


def test_shapes_that_differ_are_refused():
    wide = azb.from_dict({"posterior": {"x": normal(1).reshape(4, -1, 2)}})
    with pytest.raises(ValueError, match=r"'x' has shape \(2,\), but \(\) in the reference"):
        distances(wide, posterior(x=normal(1)))


def test_quantiles_of_a_shifted_and_wider_gaussian_have_closed_form_errors():
    d = distances(posterior(x=normal(1, 1, 2)), posterior(x=normal(2)))
    # 1 + 2 q - q at the 95 % quantile q. Its standard error, sqrt(.05 * .95 / N) over the density
    # at the quantile, .103 / 2, is .03 of an sd.
    assert d.quantile_error_sd_max == pytest.approx(1 + norm.ppf(0.95), abs=4 * 0.03)


def test_the_sliced_distance_of_a_single_element_is_its_wasserstein_distance():
    d = distances(posterior(x=normal(1, 1)), posterior(x=normal(2)))
    assert d.sliced_wasserstein == pytest.approx(d.wasserstein_mean)


def test_the_sliced_distance_of_shifted_gaussians_is_the_shift_along_directions():
    """Moved by m, in d dimensions: E |m' u| of a direction u, |m| times that of its first entry."""
    z = {name: normal(i) for i, name in enumerate("abcd")}
    x = {name: normal(10 + i) + 2.0 for i, name in enumerate("abcd")}
    d = distances(posterior(**x), posterior(**z))
    # |m| = 4; E |u_1| on the sphere in four dimensions is 4 / (3 pi), sd .265, of 50 directions.
    assert d.sliced_wasserstein == pytest.approx(16 / (3 * np.pi), abs=4 * 4 * 0.265 / np.sqrt(50))
    again = distances(posterior(**x), posterior(**z))
    assert again.sliced_wasserstein == d.sliced_wasserstein


def correlated(seed, r):
    a, b = np.random.default_rng(seed).normal(size=(2, N))
    return posterior(x=a, y=3 + 2 * (r * a + np.sqrt(1 - r**2) * b))


def test_correlations_that_are_lost_are_the_correlation_error():
    d = distances(correlated(1, 0.0), correlated(2, 0.8))
    # Standard errors 1 / sqrt(N) and (1 - .64) / sqrt(N).
    assert d.correlation_error == pytest.approx(0.8, abs=4 * 1.07 / np.sqrt(N))
    # What the marginals do not show, some of the directions do.
    assert d.wasserstein_mean < 0.05 < d.sliced_wasserstein


def test_a_single_element_has_no_correlation():
    assert np.isnan(distances(posterior(x=normal(1)), posterior(x=normal(2))).correlation_error)


def test_correlations_of_many_elements_are_those_of_few():
    """The rows are computed in blocks."""
    rng = np.random.default_rng(0)
    x, z = (rng.normal(size=(1, 20, 1_100)) for _ in range(2))
    d = distances(*(azb.from_dict({"posterior": {"x": v}}) for v in (x, z)))
    expected = np.max(np.abs(np.corrcoef(x[0].T) - np.corrcoef(z[0].T)))
    assert d.correlation_error == pytest.approx(expected)


def test_moments_give_errors_of_means_and_sds_alone():
    moments = xr.Dataset(
        {"x": ("moment", [3.0, 2.0]), "b": (("moment", "k"), [[0.0, 1.0], [1.0, 4.0]])},
        coords={"moment": ["mean", "sd"]},
    )
    b = np.stack([normal(2), normal(3, 1, 2)], axis=-1).reshape(4, -1, 2)
    draws = azb.from_dict({"posterior": {"x": normal(1, 4, 2).reshape(4, -1), "b": b}})
    d = distances(draws, moments)
    # Draws of 1 sd: standard errors .007 of a mean, .005 of an sd.
    assert float(d.mean_error.x) == pytest.approx(0.5, abs=4 * 0.007)
    np.testing.assert_allclose(d.mean_error.b, [0, 0], atol=4 * 0.007)
    np.testing.assert_allclose(d.sd_ratio.b, [1, 0.5], atol=4 * 0.005)
    unknown = [d.wasserstein_mean, d.kde_overlap_min, d.quantile_error_sd_max]
    assert np.isnan([*unknown, d.sliced_wasserstein, d.correlation_error]).all()
