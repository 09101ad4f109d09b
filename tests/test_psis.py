"""Pareto smoothed importance sampling, against ArviZ."""

import numpy as np
import pytest

from arviz_stats.base import array_stats

from pymc_vi_ext.psis import pareto_smoothed

RNG = np.random.default_rng(0)
LOG_RATIOS = {
    "equal but for noise": 1e-6 * RNG.normal(size=1_000),
    "light": RNG.normal(size=300),
    "few": RNG.normal(size=26),
    "moderate": 0.4 * RNG.exponential(size=1_000),
    "heavy": 1.5 * RNG.standard_t(2, size=1_000),
    "very heavy": 30 * RNG.normal(size=1_000),
    "heavier than floats": -(10.0 ** RNG.uniform(0, 2.8, size=1_000)),
    "bounded": np.log(RNG.beta(1, 3, size=2_000)),
    "far from 0": RNG.normal(size=1_000) - 1e4,
    "ties": np.round(RNG.normal(size=1_000), 1),
    "a quarter of the tail is equal": np.sort(np.append(RNG.normal(size=400) - 9, np.zeros(20))),
}


@pytest.mark.parametrize("name", LOG_RATIOS)
def test_as_arviz(name):
    ratios = LOG_RATIOS[name]
    with np.errstate(all="ignore"):
        expected, shape = array_stats.psislw(-ratios)
    logs, found = pareto_smoothed(ratios)
    # Sums in another order, of up to 1e3 terms, under logarithms and differences of exponentials.
    np.testing.assert_allclose(found, shape, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(logs, expected, rtol=1e-9, atol=1e-9)
    assert np.exp(logs).sum() == pytest.approx(1)
