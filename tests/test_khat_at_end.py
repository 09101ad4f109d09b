"""k-hat of a converged fit, from its own losses."""

import itertools
import math

import numpy as np
import pymc as pm
import pytest

from model_table import MODELS

import pymc_vi_ext as vix

from pymc_vi_ext import khat_at_end, loop


def fitted(model, **options):
    return vix.fit(model=model, random_seed=1, progressbar=False, **options)


def correlated(r):
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(2), [[1.0, r], [r, 1.0]])
    return model


@pytest.mark.parametrize("r", [0.5, 0.8])
def test_a_mean_field_of_a_gaussian(r):
    """The exact index is r; with a tail of 95 draws its standard error is (1 + r) / sqrt(95)."""
    report = fitted(correlated(r)).report
    assert abs(report.khat - r) < 3 * (1 + r) / np.sqrt(95)


def test_what_is_far_from_the_posterior_warns_and_says_where_to_go():
    with pytest.warns(vix.ApproximationWarning, match=r"k-hat .* vix\.correct\(approx\)") as caught:
        approx = fitted(correlated(0.99))
    assert len(caught) == 1
    assert caught[0].message.approx is approx
    assert caught[0].filename == __file__
    assert approx.report.converged
    assert approx.report.warnings == ()


@pytest.mark.filterwarnings("error::pymc_vi_ext.ApproximationWarning")
@pytest.mark.parametrize("options", [{}, {"method": "auto"}])
def test_what_is_near_or_was_corrected_does_not(options):
    model = correlated(0.99) if options else correlated(0.1)
    assert fitted(model, **options).report.converged


@pytest.mark.filterwarnings("error::pymc_vi_ext.ApproximationWarning")
def test_a_tail_of_nearly_equal_weights_is_no_alarm():
    """The best Gaussian of Student's t with 30 degrees of freedom has its sd to 1 %."""
    with pm.Model() as model:
        pm.StudentT("x", nu=np.float64(30), shape=2)
    approx = fitted(model)
    assert approx.report.khat > 0.7
    assert approx.report.weights_worth > 0.95
    np.testing.assert_allclose(approx.std.eval(), np.sqrt(30 / 28), rtol=0.03)
    found = vix.diagnose(approx, random_seed=1)
    assert found.verdict is found["k-hat"].verdict is vix.Verdict.WARN
    assert "nearly equal" in found["k-hat"].advice


def test_a_heavy_tail_of_unequal_weights_is():
    with pm.Model() as model:
        pm.StudentT("x", nu=np.float64(3), shape=2)
    with pytest.warns(vix.ApproximationWarning):
        approx = fitted(model)
    assert approx.report.weights_worth < 0.95
    assert vix.diagnose(approx, random_seed=1).verdict is vix.Verdict.FAIL


def test_dadvi_knows_it_of_other_draws():
    # Exact of a Gaussian: all weights are equal, and the tail has no length.
    assert fitted(correlated(0.8), method="dadvi").report.khat == -np.inf
    approx = fitted(MODELS["hierarchical"](), method="dadvi")
    other = vix.diagnostics.khat(vix.to_datatree(approx, 1_000, 3))
    assert abs(approx.report.khat - other) < 4 * np.sqrt(2) * (1 + other) / np.sqrt(95)


def test_it_is_what_fresh_draws_give():
    approx = fitted(MODELS["hierarchical"]())
    tree = vix.to_datatree(approx, 1_000, random_seed=3)
    other = vix.diagnostics.khat(tree)
    assert abs(approx.report.khat - other) < 4 * np.sqrt(2) * (1 + other) / np.sqrt(95)


def test_it_is_the_same_on_a_slow_machine(monkeypatch):
    quick = fitted(MODELS["conjugate"]()).report
    times = itertools.count(step=10.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    slow = fitted(MODELS["conjugate"]()).report
    assert slow.timings.run_s > 100
    assert np.isfinite(quick.khat)
    assert (slow.khat, slow.weights_worth) == (quick.khat, quick.weights_worth)


def test_more_work_than_a_tenth_of_the_steps_is_not_done(monkeypatch):
    monkeypatch.setattr(khat_at_end, "_WORK", 0.0)
    assert math.isnan(fitted(MODELS["conjugate"]()).report.khat)  # 300 steps
    monkeypatch.setattr(khat_at_end, "_PART", 1.0)
    assert math.isfinite(fitted(MODELS["conjugate"]()).report.khat)


def test_the_exact_posterior():
    assert fitted(MODELS["conjugate"]()).report.khat < 0.5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("conjugate", {"n": 50, "convergence": None}),
        ("conjugate", {"obj_n_mc": 4}),
        ("conjugate", {"score": False}),
        ("conjugate", {"objective": vix.objectives.ELBO(gradient="entropy")}),
        ("minibatch", {}),
    ],
)
def test_losses_of_something_else_give_none(name, options):
    assert math.isnan(fitted(MODELS[name](), **options).report.khat)


@pytest.mark.filterwarnings("ignore:The fit took all of its 20 steps")
def test_the_fit_is_left_as_it_was(monkeypatch):
    def losses():
        inference = vix.ADVI(model=MODELS["conjugate"](), random_seed=1)
        inference.fit(50_000, convergence="default", progressbar=False)
        assert inference.approx.report.converged
        inference.refine(20, progressbar=False)
        return inference.hist

    looked = losses()
    monkeypatch.setattr(loop, "khat_at_end", lambda *_: (math.nan, math.nan))
    np.testing.assert_array_equal(losses(), looked)
