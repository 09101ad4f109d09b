"""Who judges a fit, what a method leaves behind, and what its report says of time."""

import gc
import time
import warnings
import weakref

import numpy as np
import pymc as pm
import pytest

from model_table import MODELS

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import RULES, IterateRhat, LossPlateau, StagedStop
from pymc_vi_ext.inference import mixture_advi
from pymc_vi_ext.modes import MOST_CURVED

QUIET = {"backend": "jax", "progressbar": False}


@pytest.fixture(scope="module")
def conjugate():
    return MODELS["conjugate"]()


def test_a_rule_with_options_takes_the_place_of_the_default(conjugate):
    """A smaller tolerance takes more steps, and says so."""
    fits = {
        tolerance: vix.fit(
            model=conjugate, random_seed=1, convergence=StagedStop(tolerance=tolerance), **QUIET
        ).report
        for tolerance in (0.1, 1e-6)
    }
    assert all(report.stopped_by == "StagedStop" for report in fits.values())
    assert fits[1e-6].steps > fits[0.1].steps
    assert "within 0.1 nat" in fits[0.1].evidence


def test_a_rule_among_the_callbacks_is_the_fits_rule(conjugate):
    """It is part of the step, so the default gives way to it, and without one it judges too."""
    expected = vix.fit(
        model=conjugate, random_seed=1, convergence=StagedStop(tolerance=0.1), **QUIET
    )
    for convergence in ("default", None):
        rule = StagedStop(tolerance=0.1)
        approx = vix.fit(
            model=conjugate, random_seed=1, callbacks=[rule], convergence=convergence, **QUIET
        )
        assert approx.report.converged
        np.testing.assert_array_equal(approx.hist, expected.hist)


def test_a_rule_with_options_is_asked_for_again(conjugate, tmp_path):
    """A file cannot hold it, and another rule must not judge in its place without a word."""
    for place in ("convergence", "callbacks"):
        save = vix.callbacks.Checkpoint(tmp_path / f"{place}.npz", every=100)
        rule = StagedStop(tolerance=1e-6)
        given = {"convergence": rule} if place == "convergence" else {}
        callbacks = [save] if place == "convergence" else [save, rule]
        whole = vix.fit(model=conjugate, random_seed=1, callbacks=callbacks, **given, **QUIET)
        with pytest.raises(ValueError, match=r"convergence=.* pass it to `resume` again"):
            vix.resume(save.path, conjugate, progressbar=False)
        again = vix.resume(
            save.path, conjugate, convergence=StagedStop(tolerance=1e-6), progressbar=False
        )
        np.testing.assert_array_equal(again.hist, whole.hist)


def test_a_rule_in_pymcs_entry_point(conjugate):
    with conjugate:
        approx = pm.fit(
            20_000, vix.ADVI(random_seed=1), callbacks=[StagedStop()], progressbar=False
        )
        assert approx.report.stopped_by == "StagedStop"
        with pytest.raises(TypeError, match=r"use vix.fit\(convergence=StagedStop"):
            pm.fit(50, callbacks=[StagedStop()], backend="c", progressbar=False)


def test_two_rules_that_are_part_of_the_step(conjugate):
    with pytest.raises(ValueError, match="both judge the fit: give one"):
        vix.fit(10, model=conjugate, callbacks=[StagedStop()], convergence=StagedStop(), **QUIET)


@pytest.mark.parametrize(
    "rule", [IterateRhat(mcse=0.1), LossPlateau(window=200)], ids=lambda rule: rule.name
)
def test_any_rule_may_judge(conjugate, rule):
    approx = vix.fit(20_000, model=conjugate, random_seed=1, convergence=rule, **QUIET)
    assert approx.report.converged
    assert approx.report.stopped_by == rule.name
    assert approx.report.steps < 20_000


def test_rules_by_name(conjugate):
    approx = vix.fit(500, model=conjugate, random_seed=1, convergence="staged", **QUIET)
    assert approx.report.stopped_by == "StagedStop"
    with pytest.raises(ValueError, match=r"Unknown stopping rule 'soon'.*staged") as error:
        vix.fit(10, model=conjugate, convergence="soon", **QUIET)
    assert all(name in str(error.value) for name in RULES)


def test_one_rule_for_several_fits(conjugate):
    """The sums inside the step are one approximation's; a rule that comes back gets new ones."""
    rule = StagedStop()
    first, second = (vix.ADVI(model=conjugate, random_seed=seed) for seed in (1, 2))
    for method in (first, second, first):
        approx = vix.fit(method=method, convergence=rule, random_seed=3, **QUIET)
        assert approx.report.converged
        np.testing.assert_allclose(approx.std.eval(), 11**-0.5, rtol=0.02)


@pytest.mark.parametrize("close", ["callback", "plain"])
def test_methods_are_let_go(conjugate, close):
    """Nothing outside of a method keeps it, nor what its callbacks close over."""

    class Kept:
        pass

    def fit():
        kept, method = Kept(), vix.ADVI(model=conjugate, random_seed=1)

        def callback(approx, losses, i):
            return kept, method

        callbacks = [callback] if close == "callback" else []
        vix.to_datatree(method.fit(20, callbacks=callbacks, **QUIET), draws=10)
        vix.fit(20, method=method, objective="renyi", convergence=None, **QUIET)
        return weakref.ref(kept), weakref.ref(method), weakref.ref(method.approx)

    references = fit()
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


def test_pymcs_own_inference_is_let_go(conjugate):
    def fit():
        with conjugate:
            inference = pm.ADVI(random_seed=1)
        vix.fit(20, method=inference, convergence=None, **QUIET)
        return weakref.ref(inference)

    reference = fit()
    gc.collect()
    assert reference() is None


def test_a_warning_that_is_an_error_carries_the_fit(conjugate):
    method = vix.ADVI(model=conjugate, random_seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(vix.ConvergenceWarning, match="before it converged") as raised:
            vix.fit(60, method=method, **QUIET)
        approx = raised.value.approx
        with pytest.raises(vix.ConvergenceWarning) as several:
            vix.fit(60, method=method, n_starts=3, **QUIET)
    assert approx is several.value.approx is method.approx
    assert len(approx.report.starts) == 3
    assert len(approx.hist) == approx.report.steps == 60
    assert "not converged" in approx.report.evidence
    assert approx.report.warnings == (str(several.value),)


def test_warnings_point_at_the_users_line(conjugate):
    method = vix.ADVI(model=conjugate, random_seed=1)

    def refined():
        method.refine(5, progressbar=False)

    calls = [
        lambda: vix.fit(60, method=method, **QUIET),
        lambda: vix.fit(60, method=method, n_starts=2, **QUIET),
        lambda: pm.fit(
            60, method=method, model=conjugate, convergence="default", progressbar=False
        ),
        refined,
    ]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        [warning] = [w for w in caught if issubclass(w.category, vix.ConvergenceWarning)]
        code = call.__code__
        lines = {line for _, _, line in code.co_lines()}
        assert warning.filename == __file__
        assert warning.lineno in lines


def test_construction_counts(conjugate, monkeypatch):
    """The seconds of a constructor are in the report, once, whoever calls it."""
    built = vix.inference.FlowADVI.group

    def slowly(self, *arguments):
        time.sleep(0.3)
        return built(self, *arguments)

    monkeypatch.setattr(vix.inference.FlowADVI, "group", slowly)
    options = {"kind": "affine", "couplings": 1, "width": 2}
    method = vix.FlowADVI(**options, model=conjugate, random_seed=1)
    time.sleep(2.0)  # not the method's
    first, second = (vix.fit(5, method=method, convergence=None, **QUIET).report for _ in range(2))
    assert 0.3 <= first.timings.construct_s < 2.0
    assert second.timings.construct_s < 0.3
    started = time.perf_counter()
    named = vix.fit(
        5, "flow_advi", conjugate, inf_kwargs=options, convergence=None, **QUIET
    ).report.timings
    passed = time.perf_counter() - started
    assert 0.3 <= named.construct_s < 2.0
    assert passed - max(0.1, 0.05 * passed) < named.total_s <= passed
    assert named.total_s == named.construct_s + named.graph_s + named.compile_s + named.run_s


def test_comparisons_tell_all_seconds(conjugate, monkeypatch):
    built = vix.inference.MixtureADVI.group

    def slowly(self, *arguments):
        time.sleep(0.5)
        return built(self, *arguments)

    monkeypatch.setattr(vix.inference.MixtureADVI, "group", slowly)
    started = time.perf_counter()
    [result] = vix.compare(conjugate, ["mixture_advi"], reference=None, draws=10).results
    passed = time.perf_counter() - started
    assert result.compile_s > 0.5
    told = result.compile_s + result.fit_s + result.sample_s
    # Scores and the table are the comparison's own.
    assert 0.5 * passed < told <= passed


def test_seconds_of_all_starts(conjugate):
    alone = vix.fit(300, model=conjugate, convergence=None, **QUIET).report
    started = time.perf_counter()
    report = vix.fit(300, model=conjugate, convergence=None, n_starts=3, **QUIET).report
    passed = time.perf_counter() - started
    assert len(report.starts) == 3
    assert alone.timings.compile_s > 0 < report.timings.compile_s
    assert report.timings.total_s <= passed


def test_many_dimensions_are_not_climbed_with_hessians(monkeypatch):
    climbed = []
    monkeypatch.setattr(mixture_advi, "find_modes", lambda *_: climbed.append(1) or [])
    for d, expected in ((MOST_CURVED + 1, 0), (2, 1)):
        with pm.Model() as model:
            pm.Normal("x", shape=d)
        vix.MixtureADVI(K=2, model=model, random_seed=1)
        assert len(climbed) == expected


def test_an_interrupt_while_a_method_concludes(conjugate, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pymc_vi_ext.inference.laplace.mode_of", interrupted)
    report = vix.fit(method="laplace", model=conjugate, progressbar=False).report
    assert report.stop_reason is vix.StopReason.INTERRUPTED


def test_an_error_while_a_method_concludes():
    with pm.Model() as model:
        pm.Flat("x")
    with pytest.raises(ValueError, match="No proper mode") as error:
        vix.fit(method="laplace", model=model, progressbar=False)
    assert error.value.approx.report.stop_reason is vix.StopReason.FAILED


def test_comparisons_run_what_fit_runs(conjugate):
    """Same name, same method, same defaults: the same losses."""
    for name in ("advi", "svgd", "bam"):
        [result] = vix.compare(conjugate, [name], reference=None, draws=10).results
        approx = vix.fit(method=name, model=conjugate, random_seed=1, progressbar=False)
        assert result.steps == approx.report.steps
        assert result.stop_reason == approx.report.stop_reason.value
        if name != "svgd":
            np.testing.assert_array_equal(result.losses, approx.hist)
