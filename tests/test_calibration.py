"""Simulation-based calibration: uniform where posteriors are right, and not where they are not."""

import json

import numpy as np
import pymc as pm
import pytest

from compilations import compilations
from model_table import MODELS
from scipy import stats

import pymc_vi_ext as vix

# Enough steps for these, and soon taken.
FAST = {"n": 2_000, "convergence": None}


def conjugate():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Deterministic("twice", 2 * mu)
        pm.Normal("y", mu, 1.0, observed=np.zeros(10))
    return model


def sums():
    """The posterior has the correlation -.8, whatever the data."""
    with pm.Model(coords={"part": ["a", "b"]}) as model:
        x = pm.Normal("x", 0.0, 1.0, dims="part")
        pm.Normal("y", x.sum(), 0.5, observed=0.0)
    return model


def test_right_posteriors_are_uniform():
    tree = vix.check_calibration("fullrank_advi", conjugate(), 100, random_seed=1, **FAST)
    ranks = tree["prior_sbc/mu"]
    assert ranks.sizes == {"chain": 1, "draw": 100}
    assert tree["p_value/mu"] > 0.05
    assert tree["p_value/twice"] > 0.05
    # Four standard errors of the mean and the mean square of uniform numbers.
    assert float(ranks.mean()) == pytest.approx(1 / 2, abs=4 / 1200**0.5)
    assert float((ranks**2).mean()) == pytest.approx(1 / 3, abs=4 * (4 / 45 / 100) ** 0.5)
    assert json.loads(tree.attrs["stop_reasons"]) == {"completed": 100}


def test_mean_field_is_seen_to_be_too_narrow():
    """Its standard deviations are .6 of the right ones: the truth is at the ends of its draws."""
    tree = vix.check_calibration("advi", sums(), 100, random_seed=1, **FAST)
    ranks = tree["prior_sbc/x"]
    assert ranks.dims == ("chain", "draw", "part")
    expected = 2 * stats.norm.sf(stats.norm.ppf(0.95) * 0.6)
    outside = (abs(ranks - 0.5) > 0.45).mean(("chain", "draw"))
    # Four standard errors.
    error = 4 * (expected * (1 - expected) / 100) ** 0.5
    np.testing.assert_allclose(outside, expected, atol=error)
    assert (tree["p_value/x"] < 1e-3).all()


def test_one_program_serves_all_data():
    with compilations() as seen:
        vix.check_calibration("bam", conjugate(), 2, random_seed=1)
    few = len(seen)
    with compilations() as seen:
        vix.check_calibration("bam", conjugate(), 6, random_seed=1)
    assert len(seen) == few > 0


@pytest.mark.parametrize("name", ["data_and_dims", "named_dims"])
def test_every_kind_of_model(name):
    """Data, dims and transforms; the user's model stays as it is."""
    model = MODELS[name]()
    before = dict(model.rvs_to_values)
    tree = vix.check_calibration("bam", model, 3, random_seed=1, n=5)
    assert set(tree["prior_sbc"].data_vars) == {
        variable.name for variable in [*model.free_RVs, *model.deterministics]
    }
    values = tree["prior_sbc"].to_dataset().to_array()
    assert ((values >= 0) & (values <= 1)).all()
    assert model.rvs_to_values == before


def test_same_seed_same_ranks():
    one, other = (vix.check_calibration("bam", conjugate(), 4, random_seed=3) for _ in range(2))
    assert one.equals(other)


def test_arviz_draws_it():
    from arviz_plots import plot_ecdf_pit

    tree = vix.check_calibration("bam", conjugate(), 20, random_seed=1)
    plot_ecdf_pit(tree, backend="none")


def test_ctrl_c_keeps_the_simulations_so_far():
    fits = []

    def interrupt_the_third(approx, losses, i):
        fits.extend([i] * (i == 1))
        if len(fits) == 3:
            raise KeyboardInterrupt

    options = {"n": 10, "convergence": None, "callbacks": [interrupt_the_third]}
    tree = vix.check_calibration("advi", conjugate(), 5, random_seed=1, **options)
    assert tree["prior_sbc/mu"].sizes["draw"] == 2


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("conjugate", {"method": "auto"}, "compiles its chains anew"),
        ("conjugate", {"method": "avdi"}, "Unknown method 'avdi'"),
        ("conjugate", {"simulations": 1}, "`simulations` must be a whole number from 2"),
        ("conjugate", {"draws": -1}, "`draws` must be a whole number from 1"),
        ("correlated", {}, "no observed variables"),
        ("minibatch", {}, "observes minibatches"),
        ("potential", {}, "no observed variables"),
    ],
)
def test_bad_input(model, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        vix.check_calibration(**{"model": MODELS[model](), **options})


def test_potentials_are_refused():
    with conjugate() as model:
        pm.Potential("tilt", -(model["mu"] ** 2))
        with pytest.raises(ValueError, match=r"The Potential tilt .* nothing can be drawn"):
            vix.check_calibration()


def test_method_is_a_name():
    with conjugate() as model, pytest.raises(TypeError, match="`method` is the name"):
        vix.check_calibration(vix.ADVI(model=model))
