import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import NonFinite

QUIET = {"backend": "jax", "progressbar": False}


def cliff(edge):
    """Return a model whose log density is NaN above `edge`, and falls off far below it."""
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Potential("edge", pt.switch(pt.gt(x, edge), np.nan, 0.0))
    return model


def test_goes_back_and_goes_on():
    guard = NonFinite(retries=50, every=10)
    approx = vix.fit(
        3_000, model=cliff(2.8), random_seed=1, callbacks=[guard], convergence=None, **QUIET
    )
    assert np.isnan(approx.hist).sum() == guard._returns > 0
    assert approx.report.stop_reason is vix.StopReason.COMPLETED
    assert approx.fit_state.rate_scale.get_value() == 0.5**guard._returns
    assert np.isfinite(approx.mean.eval()).all()


@pytest.mark.parametrize(("options", "returns"), [({"policy": "stop"}, 0), ({"retries": 2}, 2)])
def test_stops_with_a_good_state_and_names_variables(options, returns):
    guard = NonFinite(every=10, **options)
    approx = vix.fit(
        100_000, model=cliff(2.5), random_seed=1, callbacks=[guard], convergence=None, **QUIET
    )
    assert approx.report.stop_reason is vix.StopReason.STOPPED
    assert approx.report.stopped_by == "NonFinite"
    assert f"after {returns} returns" in approx.report.evidence
    assert "`x`" in approx.report.evidence or "log density" in approx.report.evidence
    assert np.isfinite(approx.mean.eval()).all()
    assert np.isfinite(approx.std.eval()).all()


def test_a_nan_before_the_first_copy_raises():
    with pytest.raises(FloatingPointError, match="NaN occurred in optimization at step 1"):
        vix.fit(100, model=cliff(-50.0), callbacks=[NonFinite()], **QUIET)


def test_parameters_in_plain_pymc_fit():
    """A parameter that somebody sets to NaN is set back before PyMC meets it."""

    def vandal(approx, losses, i):
        if i == 15:
            approx.params[0].set_value(np.array([np.nan]))

    with pm.Model():
        pm.Normal("x")
        approx = pm.fit(30, callbacks=[vandal, NonFinite(every=1)], progressbar=False, backend="c")
    assert len(approx.hist) == 30
    assert np.isfinite(approx.params[0].get_value()).all()


@pytest.mark.parametrize("options", [{"policy": "panic"}, {"retries": 0}, {"every": 0}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"Unknown policy 'panic'|whole number from 1"):
        NonFinite(**options)
