"""Time limits, on a clock that only steps of the engine turn."""

import numpy as np
import pytest

from model_table import MODELS

import pymc_vi_ext as vix

from pymc_vi_ext import StopReason
from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.callbacks import StagedStop, WallTime
from pymc_vi_ext.engine.jax_loop import JaxLoop


@pytest.fixture
def slow_steps(monkeypatch):
    """Let each step take a second, those of evaluations too."""
    now = 0.0
    call = JaxLoop._call

    def slowly(loop, every, times):
        nonlocal now
        taken, snapshots = call(loop, every, times)
        now += taken
        loop.run_s += taken
        return taken, snapshots

    monkeypatch.setattr(JaxLoop, "_call", slowly)
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.perf_counter", lambda: now)


def seconds_of(clock):
    return int(clock.status.split()[0])


# The first comparison is at step 150, and evaluates 600 losses.
@pytest.mark.usefixtures("slow_steps")
@pytest.mark.parametrize(("seconds", "steps"), [(25, 25), (400, 150)])
def test_it_holds_within_two_steps(seconds, steps):
    clock, rule = WallTime(seconds), StagedStop()
    approx = vix.fit(
        model=MODELS["conjugate"](),
        convergence=rule,
        callbacks=[clock],
        random_seed=1,
        progressbar=False,
    )
    report = approx.report
    assert seconds <= seconds_of(clock) <= seconds + 2
    assert abs(report.steps - steps) <= 2
    assert report.stop_reason is StopReason.STOPPED
    assert report.stopped_by == "WallTime"
    assert f"{seconds_of(clock)}.0 s have passed at step {report.steps}" in report.evidence
    if rule.average() is not None:
        np.testing.assert_array_equal(flat_parameters(approx), rule.average())


@pytest.mark.usefixtures("slow_steps")
def test_time_that_runs_out_after_convergence_costs_khat_alone():
    options = {"model": MODELS["conjugate"](), "random_seed": 1, "progressbar": False}
    clock = WallTime(1e9)
    whole = vix.fit(callbacks=[clock], **options).report
    assert np.isfinite(whole.khat)
    report = vix.fit(callbacks=[WallTime(seconds_of(clock) - 500)], **options).report
    assert report.converged
    assert report.steps == whole.steps
    assert np.isnan(report.khat)


@pytest.mark.usefixtures("slow_steps")
def test_refine_has_its_time_anew():
    clock = WallTime(10)
    inference = vix.ADVI(model=MODELS["conjugate"](), random_seed=1)
    inference.fit(1_000, callbacks=[clock], progressbar=False)
    first = inference.approx.report.steps
    inference.refine(1_000, progressbar=False)
    assert abs(first - 10) <= 1
    assert abs(inference.approx.report.steps - 2 * first) <= 1
