"""Ctrl-C: real signals at random moments, and what is safe from them."""

import os
import random
import signal
import threading
import time

import numpy as np
import pymc as pm
import pytensor
import pytest

from model_table import MODELS

import pymc_vi_ext as vix

from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.comparison import Status
from pymc_vi_ext.interrupts import allowed, check, held, pending, take
from pymc_vi_ext.python_only import python_only

# A finaliser of somebody else's that an interrupt meets may print it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
QUIET = {"backend": "jax", "progressbar": False}


@pytest.fixture(scope="module")
def conjugate():
    return MODELS["conjugate"]()


@pytest.fixture(autouse=True)
def as_before():
    """No test may leave another handler, or PyTensor without its compiler."""
    handler, cxx = signal.getsignal(signal.SIGINT), pytensor.config.cxx
    yield
    assert signal.getsignal(signal.SIGINT) is handler
    assert pytensor.config.cxx == cxx


def press():
    signal.raise_signal(signal.SIGINT)


class Later:
    """Presses Ctrl-C in the main thread after some seconds, unless the block is over by then."""

    def __init__(self, seconds):
        self.timer = threading.Timer(seconds, self.press)
        self.over = self.pressed = False

    def press(self):
        if not self.over:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)

    def __enter__(self):
        self.timer.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.timer.cancel()
        self.timer.join()


def test_an_interrupt_waits_for_a_safe_point():
    done = []
    with pytest.raises(KeyboardInterrupt), held():  # noqa: PT012
        press()
        done.append("the line after")
        assert pending()
        check()
        done.append("not reached")
    assert done == ["the line after"]


def test_it_acts_at_the_end_at_the_latest_and_of_the_outermost():
    done = []
    with pytest.raises(KeyboardInterrupt), held():  # noqa: PT012
        with held():
            press()
        done.append("between")
    assert done == ["between"]


def test_it_may_be_answered():
    answers = []
    with held(lambda: answers.append("too late")):
        press()
        assert take()
        assert not take()
    assert answers == []
    with held(lambda: answers.append("too late")):
        press()
    assert answers == ["too late"]


def test_allowed_acts_at_once_and_holds_again():
    with held():
        with pytest.raises(KeyboardInterrupt), allowed() as block:  # noqa: PT012
            press()
            pytest.fail("it went on")
        assert block.interrupted
        press()
        assert take()


def test_what_cannot_leave_is_raised_at_the_end():
    class Finalised:
        def __del__(self):
            press()

    with held(), pytest.raises(KeyboardInterrupt), allowed():  # noqa: PT012
        del (kept := [Finalised()])[0]
        assert kept == []


def test_what_is_caught_on_purpose_stays_caught():
    with held(), allowed(may_be_caught=True) as block:
        try:
            press()
        except KeyboardInterrupt:
            pass
    assert block.interrupted


def test_a_second_one_acts_at_once_after_a_second(monkeypatch):
    monkeypatch.setattr("pymc_vi_ext.interrupts._IMPATIENCE_S", 0.05)
    with held():
        press()
        press()  # a shell's copy of the first
        time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt):
            press()


def test_handlers_of_others_are_asked():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("theirs"))
    try:
        with held():
            press()
            assert seen == []
            check()
            assert seen == ["theirs"]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with held():
            press()
            assert not pending()
    finally:
        signal.signal(signal.SIGINT, before)


def test_flags_are_put_back_when_building_is_interrupted():
    with pytest.raises(KeyboardInterrupt), python_only():  # noqa: PT012
        assert not pytensor.config.cxx
        press()
    with held(), pytest.raises(KeyboardInterrupt), python_only():
        press()


def test_nothing_happens_in_other_threads():
    def work():
        with held(), allowed():
            check()
        found.append(pending() or take())

    found = []
    thread = threading.Thread(target=work)
    with held():
        press()
        thread.start()
        thread.join()
        assert take()
    assert found == [False]


def interrupted(approx):
    report = approx.report
    assert report.stop_reason is vix.StopReason.INTERRUPTED
    assert np.isfinite(flat_parameters(approx)).all()
    return report


@pytest.mark.parametrize(
    ("method", "options", "longest"),
    [
        ("ADVI", {}, 0.3),
        ("ADVI", {"callbacks": [lambda approx, losses, i: None]}, 0.3),
        ("ADVI", {"n_starts": 50}, 0.3),
        ("SVGD", {}, 0.3),
        ("BaM", {}, 0.3),
    ],
)
def test_random_moments_of_the_steps(conjugate, method, options, longest):
    """The compiled call consumes the state: between it and the next assignment there is none."""
    moments = random.Random(1)
    built = getattr(vix, method)(model=conjugate, random_seed=1)
    built.fit(3, **QUIET)
    counted = 0
    for _ in range(6):
        with Later(moments.uniform(0.02, longest)) as later:
            approx = vix.fit(10**7, method=built, convergence=None, **options, **QUIET)
        assert later.pressed
        report = interrupted(approx)
        counted += report.steps
        assert report.starts or len(approx.hist) in (0, sum(approx.hist.shape))
    assert counted > 0
    before = flat_parameters(approx)
    built.refine(10, progressbar=False)
    assert approx.report.stop_reason is vix.StopReason.COMPLETED
    assert approx.report.steps == report.steps + 10
    assert np.isfinite(flat_parameters(approx)).all()
    # BaM may be at its fixed point by then, which a normal posterior is.
    assert method == "BaM" or (flat_parameters(approx) != before).any()


@pytest.mark.parametrize("method", ["ADVI", "DADVI", "Laplace"])
def test_moments_before_the_first_step(conjugate, method):
    """While graphs are written and compiled the start is the result, and the next fit is whole."""
    built = getattr(vix, method)(model=conjugate, random_seed=1)
    start = flat_parameters(built.approx)
    for seconds in (0.1, 0.3, 0.8):
        with Later(seconds) as later:
            approx = vix.fit(method=built, progressbar=False)
        if not later.pressed:
            break
        report = interrupted(approx)
        if report.steps or "after the last step" in report.evidence:
            # Later moments may be after the first step, on a fast machine; the first is not.
            assert seconds > 0.1
            break
        np.testing.assert_array_equal(flat_parameters(approx), start)
    report = vix.fit(method=built, progressbar=False).report
    assert report.stop_reason is not vix.StopReason.INTERRUPTED


def test_while_steps_are_compiled_nothing_is_kept(conjugate, monkeypatch):
    method = vix.ADVI(model=conjugate, random_seed=1)
    method.fit(3, **QUIET)
    monkeypatch.setattr("pymc_vi_ext.engine.jax_loop.jax_step", lambda *_: press())
    approx = method.fit(5, obj_n_mc=2, **QUIET)
    report = interrupted(approx)
    assert report.steps == 0
    assert "before the first step" in report.evidence
    with pytest.raises(TypeError, match=r"Need to call `\.fit` first"):
        method.refine(3, progressbar=False)
    monkeypatch.undo()
    assert method.fit(5, obj_n_mc=2, **QUIET).report.steps == 5


def test_while_a_start_is_searched(conjugate, monkeypatch):
    monkeypatch.setattr("pymc_vi_ext.fitting.begin_at", lambda *_: press())
    report = interrupted(vix.fit(model=conjugate, start="map", **QUIET))
    assert report.steps == 0


def test_while_a_rule_evaluates_losses(conjugate, monkeypatch):
    """The parameters tried are put back, and the rule's average is the result."""
    method = vix.ADVI(model=conjugate, random_seed=1)
    rule = vix.callbacks.StagedStop()
    losses_here = vix.state.FitState._losses_here

    def at_the_second_point(state, draws):
        calls.append(draws)
        if len(calls) == 2:
            press()
        return losses_here(state, draws)

    calls = []
    monkeypatch.setattr(vix.state.FitState, "_losses_here", at_the_second_point)
    approx = method.fit(100_000, convergence=rule, **QUIET)
    report = interrupted(approx)
    assert len(calls) == 2
    assert len(approx.hist) == report.steps - 1
    np.testing.assert_array_equal(flat_parameters(approx), rule.average())
    assert approx.fit_state.rate_scale.get_value() == 1


def test_in_the_last_lines(conjugate, monkeypatch):
    """It came too late to end anything; the report has it nevertheless."""
    versions = vix.loop.versions
    monkeypatch.setattr("pymc_vi_ext.loop.versions", lambda: press() or versions())
    method = vix.ADVI(model=conjugate, random_seed=1)
    report = interrupted(method.fit(30, **QUIET))
    assert report.steps == 30
    assert "after the last step" in report.evidence
    with conjugate:
        assert interrupted(pm.fit(30, method=method, progressbar=False)).steps == 30
    method.refine(5, progressbar=False)
    assert interrupted(method.approx).steps == 35


def test_a_hanging_callback(conjugate):
    def hang(approx, losses, i):
        time.sleep(20)

    started = time.perf_counter()
    with Later(8.0):
        vix.fit(method=vix.ADVI(model=conjugate), callbacks=[hang], convergence=None, **QUIET)
    assert time.perf_counter() - started < 20


# After the first, the best start is the one that was interrupted.
@pytest.mark.parametrize("k", [1, 3])
def test_several_starts_give_the_best_of_those_there_are(conjugate, k):
    seen = []

    def kth(approx, losses, i):
        seen.append(i)
        if len(seen) == k:
            press()

    kth.every = 200
    approx = vix.fit(200, model=conjugate, n_starts=9, callbacks=[kth], convergence=None, **QUIET)
    report = interrupted(approx)
    assert len(report.starts) == k
    assert f"start {k} of 9" in report.evidence


def test_an_interrupt_while_starts_are_compared(conjugate, monkeypatch):
    monkeypatch.setattr(vix.state.FitState, "losses_at", lambda *_: (press(), check()))
    approx = vix.fit(200, model=conjugate, n_starts=2, convergence=None, **QUIET)
    starts = interrupted(approx).starts
    assert len(starts) == 2
    assert np.isfinite([start.elbo for start in starts]).all()


def test_a_comparison_stops(conjugate, monkeypatch):
    """The run that Ctrl-C meets is INTERRUPTED, with its draws; those after it are not run."""
    methods = ["laplace", {"name": "advi", "n": 10_000_000, "convergence": None}, "bam", "svgd"]
    fit = vix.fitting.fit

    def interrupt(*, callbacks=(), **options):
        def at(approx, losses, i):
            if i == 400:
                press()

        at.every = 400
        own = [at] if options["method"] == "advi" else []
        return fit(callbacks=own, **options)

    monkeypatch.setattr("pymc_vi_ext.fitting.fit", interrupt)
    comparison = vix.compare(conjugate, methods, reference="laplace", draws=50)
    assert [r.status for r in comparison.results] == [
        Status.FINISHED,
        Status.INTERRUPTED,
        Status.NOT_RUN,
        Status.NOT_RUN,
    ]
    table = comparison.table.iloc[: len(methods)]
    assert list(table["status"]) == ["FINISHED", "INTERRUPTED", "NOT_RUN", "NOT_RUN"]
    assert table["compare/wasserstein_mean"].notna().tolist() == [True, True, False, False]
    assert table["note"].str.contains("keyboard interrupt").tolist() == [False, True, True, True]
    assert comparison.results[1].datatree["posterior"].sizes["draw"] == 50


def test_nuts_keeps_the_draws_so_far(conjugate, monkeypatch):
    sample = pm.sample

    def interrupt(*arguments, callback, **options):
        def at(trace, draw):
            if draw.chain == 0 and draw.draw_idx == 250:
                press()
            callback(trace=trace, draw=draw)

        return sample(*arguments, callback=at, **options)

    monkeypatch.setattr("pymc.sample", interrupt)
    spec = {"name": "nuts", "tune": 100, "chains": 3}
    first, second = vix.compare(conjugate, [spec, "advi"], reference=None, draws=400).results
    assert (first.status, second.status) == (Status.INTERRUPTED, Status.NOT_RUN)
    assert first.datatree["posterior"].sizes["chain"] == 1
    assert 140 <= first.datatree["posterior"].sizes["draw"] <= 160
