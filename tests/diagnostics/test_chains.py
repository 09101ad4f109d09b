"""What the chains of a sampler tell."""

import arviz_base as azb
import numpy as np
import pytest

from pymc_vi_ext.diagnostics import divergences, ess_min, is_sampled, rhat_max

RNG = np.random.default_rng(0)


def tree(draws, **stats):
    groups = {"posterior": {"x": np.asarray(draws, float)}}
    if stats:
        groups["sample_stats"] = {k: np.full(np.shape(draws)[:2], v) for k, v in stats.items()}
    return azb.from_dict(groups)


@pytest.mark.parametrize(
    ("dt", "sampled"),
    [
        (tree(RNG.normal(size=(2, 50))), True),
        (tree(RNG.normal(size=(1, 50)), lp=0.0, diverging=False), True),
        (tree(RNG.normal(size=(1, 50)), lp=0.0, log_q=0.0), False),
        (tree(RNG.normal(size=(1, 50)), lp=0.0), False),  # particles
        (tree(RNG.normal(size=(1, 50))), False),
    ],
)
def test_chains_are_told_from_draws_of_an_approximation(dt, sampled):
    assert is_sampled(dt) is sampled


def test_independent_draws_count_in_full_and_agree():
    dt = tree(RNG.normal(size=(4, 1000)))
    # The estimate of an effective size of 4000 scatters by some hundreds.
    assert ess_min(dt) == pytest.approx(4000, rel=0.2)
    assert rhat_max(dt) == pytest.approx(1, abs=0.01)


def test_the_worst_element_counts():
    draws = RNG.normal(size=(2, 500, 2))
    draws[0, :, 1] += 5
    assert rhat_max(tree(draws)) > 1.5
    assert ess_min(tree(draws)) < 10


def test_elements_without_a_number_are_left_out():
    draws = np.stack([RNG.normal(size=(2, 500)), np.ones((2, 500))], axis=-1)
    assert rhat_max(tree(draws)) == pytest.approx(1, abs=0.02)
    assert ess_min(tree(draws)) > 500


@pytest.mark.parametrize("draws", [np.full((2, 50), np.nan), np.arange(6.0).reshape(2, 3)])
def test_draws_that_tell_nothing_give_nan(draws):
    assert np.isnan(rhat_max(tree(draws)))
    assert np.isnan(ess_min(tree(draws)))


def test_divergences_are_counted_where_they_are_recorded():
    assert divergences(tree(RNG.normal(size=(2, 50)), diverging=True)) == 100
    assert divergences(tree(RNG.normal(size=(2, 50)))) == 0
