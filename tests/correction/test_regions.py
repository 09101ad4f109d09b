"""Regions that chains are in, and jumps between them."""

import numpy as np
import pymc as pm
import pytest

from scipy.stats import skewnorm

from pymc_vi_ext.correction._hmc import ManyChains
from pymc_vi_ext.correction._regions import Region, Regions, regions_of
from pymc_vi_ext.engine.density import LogDensity


def paths_around(centres, sd=1.0, n=40, seed=1):
    """Chains that stay around a place each."""
    rng = np.random.default_rng(seed)
    centres = np.atleast_2d(np.asarray(centres, dtype=float).T).T
    return centres[:, None] + sd * rng.normal(size=(len(centres), n, centres.shape[1]))


@pytest.mark.parametrize("dense", [True, False])
def test_two_modes_are_two_regions(dense):
    centres = np.zeros((32, 3))
    centres[:24, 1] = 8.0
    found = regions_of(paths_around(centres), dense, np.random.default_rng(1))
    assert len(found) == 2
    np.testing.assert_allclose(sorted(found.weights), [0.25, 0.75])
    assert sorted(round(region.mean[1]) for region in found.regions) == [0, 8]


def test_a_ridge_is_one_region():
    # Chains that see no more than a twentieth of it.
    found = regions_of(paths_around(np.linspace(0, 100, 32)), True, np.random.default_rng(1))
    assert len(found) == 1


def test_a_chain_that_is_held_fast_is_no_region():
    paths = paths_around(np.zeros(64))
    paths[0] = 50.0 + 1e-3 * paths[0]
    assert len(regions_of(paths, True, np.random.default_rng(1))) == 1


def test_chains_that_do_not_move_are_one_region():
    paths = np.repeat(np.random.default_rng(1).normal(size=(16, 1, 3)), 40, axis=1)
    assert len(regions_of(paths, True, np.random.default_rng(1))) == 1


def test_some_chains_that_do_not_move():
    paths = paths_around(np.zeros(64))
    paths[:16] = 50.0
    paths[16:32] = 90.0
    assert len(regions_of(paths, True, np.random.default_rng(1))) == 3


@pytest.mark.parametrize("dense", [True, False])
def test_standardised_and_back(dense):
    rng = np.random.default_rng(1)
    points = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3)) + 5.0
    region = Region.of(points, dense)
    standardised = region.standardised(points)
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(region.place(standardised), points)


def test_outside_is_beyond_what_was_seen():
    regions = Regions([Region.of(paths_around([0.0])[0], True)], np.ones(1))
    reach = regions.reach_of(np.array([[0.0], [5.0], [7.5]]))
    assert (reach[:2] < 1).all()
    assert reach[2] > 1
    other = Regions([Region.of(paths_around([c])[0], True) for c in (0.0, 30.0)], np.ones(2))
    assert len(regions.joined(other)) == 2


def skewed_modes():
    """Two modes of weights .3 and .7 and unlike scales, none of them Gaussian."""
    with pm.Model() as model:
        x = pm.Flat("x")
        one = pm.logp(pm.SkewNormal.dist(mu=0.0, sigma=1.0, alpha=4.0), x)
        other = pm.logp(pm.SkewNormal.dist(mu=20.0, sigma=0.2, alpha=4.0), x)
        pm.Potential("two", pm.math.logaddexp(np.log(0.3) + one, np.log(0.7) + other))
    return model


def test_jumps_leave_the_posterior_as_it_is():
    rng = np.random.default_rng(1)
    chains = ManyChains(LogDensity(skewed_modes()), 2_000, "c")
    # Regions that are off, with weights that are.
    regions = Regions(
        [Region.of(paths_around([c], sd)[0], True) for c, sd in ((1.5, 0.5), (19.0, 1.0))],
        np.array([0.5, 0.5]),
    )
    draws = skewnorm.rvs(4.0, size=2_000, random_state=rng)
    there = rng.uniform(size=2_000) < 0.7
    chains.begin(np.where(there, 20.0 + 0.2 * draws, draws)[:, None])
    jumps = 0
    for _ in range(20):
        jumps += chains._jump(regions, rng)
    # Of 2,000 independent draws, four standard errors.
    assert jumps > 200
    share = np.mean(chains.x > 10)
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / 2_000)
    near = chains.x[chains.x < 10]
    mean = 4 / np.sqrt(17) * np.sqrt(2 / np.pi)
    assert abs(near.mean() - mean) < 4 * np.sqrt((1 - mean**2) / len(near))
