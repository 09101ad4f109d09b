"""Verdicts: each check, on what it is for."""

import arviz as az
import numpy as np
import pymc as pm
import pytest

from model_table import MODELS
from rogues import edge
from xarray import DataTree

import pymc_vi_ext as vix

rng = np.random.default_rng(1)
CHAINS = rng.normal(size=(4, 1000))
DIVERGING = {"diverging": np.zeros((4, 1000), dtype=bool)}


def tree_of(draws, stats=None):
    groups = {"posterior": {"x": draws}}
    return az.from_dict(groups if stats is None else groups | {"sample_stats": stats})


def fitted(name, method="advi", **options):
    options = {"random_seed": 1, "progressbar": False} | options
    return vix.fit(method=method, model=MODELS[name](), **options)


def test_the_exact_posterior_passes():
    found = vix.diagnose(fitted("conjugate"), random_seed=1)
    assert found.verdict is vix.Verdict.PASS
    assert found["convergence"].value == "converged"
    assert found["importance ESS"].value > 1_900


def test_a_mean_field_of_correlated_variables_does_not():
    # E3: k-hat is .8 asymptotically, E2: the standard deviations are .6.
    found = vix.diagnose(fitted("correlated"), random_seed=1)
    assert found.verdict is not vix.Verdict.PASS
    assert found["k-hat"].value == pytest.approx(0.8, abs=0.3)
    worst = max(found.checks, key=lambda check: check.verdict is found.verdict)
    assert "vix.correct" in worst.advice


def test_an_approximation_says_the_same_by_its_draws():
    approx = fitted("conjugate")
    found = vix.diagnose(vix.to_datatree(approx, 2_000, random_seed=1))
    assert found.checks == vix.diagnose(approx, random_seed=1).checks[1:]


def test_a_fit_that_nothing_judged():
    found = vix.diagnose(fitted("conjugate", n=3_000, convergence=None), random_seed=1)
    assert found["convergence"].verdict is vix.Verdict.WARN
    with MODELS["conjugate"]():
        approx = pm.fit(10, progressbar=False)
    assert vix.diagnose(approx)["convergence"].value == "not known"


@pytest.mark.filterwarnings("ignore::pymc_vi_ext.ConvergenceWarning")
def test_mass_without_density_fails():
    approx = vix.fit(model=edge(), random_seed=1, progressbar=False)
    check = vix.diagnose(approx, random_seed=1)["mass without density"]
    assert check.verdict is vix.Verdict.FAIL
    assert check.value > 0


def test_starts_that_end_apart():
    model = vix.zoo.build("mixture")
    approx = vix.fit(model=model, n_starts=4, random_seed=1, progressbar=False)
    check = vix.diagnose(approx, random_seed=1)["spread over starts"]
    elbos = [start.elbo for start in approx.report.starts]
    assert check.value == pytest.approx(max(elbos) - min(elbos))
    assert (check.verdict is vix.Verdict.WARN) == (check.value > 0.6)


def test_particles_never_pass():
    options = {"n": 20, "convergence": None, "inf_kwargs": {"n_particles": 20}}
    approx = fitted("conjugate", "svgd", **options)
    assert vix.diagnose(approx).verdict is vix.Verdict.WARN
    approx.groups[0].histogram.set_value(np.zeros((20, 1)))
    found = vix.diagnose(approx)
    assert found["distinct particles"].value == 1
    assert found.verdict is vix.Verdict.FAIL


def test_too_much_data_is_not_checked(monkeypatch):
    monkeypatch.setattr("pymc_vi_ext.draws._AFFORDABLE", 100)
    found = vix.diagnose(fitted("conjugate"))
    assert found["importance weights"].value == "not checked"
    assert found.verdict is vix.Verdict.WARN


@pytest.mark.parametrize(
    ("draws", "stats", "name", "verdict"),
    [
        (CHAINS, DIVERGING, "R-hat", "PASS"),
        (CHAINS + np.arange(4)[:, None], DIVERGING, "R-hat", "FAIL"),
        (CHAINS[:, :40], None, "ESS", "WARN"),
        (CHAINS[:, :10], None, "ESS", "FAIL"),
        (CHAINS, {"diverging": rng.uniform(size=(4, 1000)) < 0.01}, "divergences", "WARN"),
        (CHAINS[:1], None, "density", "FAIL"),
    ],
)
def test_draws_of_a_sampler(draws, stats, name, verdict):
    assert vix.diagnose(tree_of(draws, stats))[name].verdict.value == verdict


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (DataTree(), "no group `posterior`"),
        (DataTree.from_dict({"posterior": None}), "no variables with the dims"),
        (tree_of(CHAINS[:1, :1]), "no more than a single draw"),
        (tree_of(np.where(CHAINS > 3, np.nan, CHAINS)), "Draws of `x`.* are NaN"),
    ],
)
def test_unusable_draws(tree, message):
    with pytest.raises(ValueError, match=message):
        vix.diagnose(tree)


def test_neither():
    with pytest.raises(TypeError, match="an approximation or a DataTree, not dict"):
        vix.diagnose({})


def test_it_prints():
    found = vix.diagnose(tree_of(CHAINS + np.arange(4)[:, None], DIVERGING))
    first, *rest = str(found).splitlines()
    assert first == "FAIL"
    assert any("R-hat" in line and "< 1.01" in line and "Draw longer" in line for line in rest)
    assert ">R-hat</td>" in found._repr_html_()
    with pytest.raises(KeyError, match="No check 'khat'"):
        found["khat"]
