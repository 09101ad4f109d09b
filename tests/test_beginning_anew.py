"""Fits whose usual start meets NaN."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pymc_vi_ext as vix

# Normal posterior of `x`: precision 1/100 + 1/.25, mean .3 * 4 / precision.
SD = (1 / 100 + 4) ** -0.5
MEAN = 0.3 * 4 * SD**2


def model_of(initval: float, edge: float = 5.0) -> pm.Model:
    """NaN from `edge` on; below, a Potential of at most 1e-8 nat."""
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 10.0, initval=initval)
        pm.Potential("edge", 1e-9 * pt.sqrt(edge - x))
        pm.Normal("y", x, 0.5, observed=0.3)
    return model


@pytest.mark.parametrize("method", ["advi", "fullrank_advi", "lowrank_advi", "dadvi"])
def test_a_start_beside_nan(method):
    options = {"inf_kwargs": {"rank": 1}} if method == "lowrank_advi" else {}
    approx = vix.fit(
        method=method, model=model_of(4.99), random_seed=1, progressbar=False, **options
    )
    report = approx.report
    assert report.stop_reason is vix.StopReason.CONVERGED
    assert "begun anew near a mode, after NaN at step" in report.evidence
    assert len(approx.hist) == report.steps - (report.stopped_by is not None)
    # What a converged fit may be off by.
    assert float(approx.mean.eval()[0]) == pytest.approx(MEAN, abs=0.1 * SD)
    assert float(approx.std.eval()[0]) == pytest.approx(SD, rel=0.1)


@pytest.mark.parametrize("options", [{"start": "map"}, {"method": "laplace"}], ids=str)
def test_a_mode_from_where_there_is_no_density(options):
    approx = vix.fit(model=model_of(6.0), random_seed=1, progressbar=False, **options)
    assert float(approx.mean.eval()[0]) == pytest.approx(MEAN, abs=0.1 * SD)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        # No density anywhere that is looked at.
        (lambda: model_of(0.0, edge=-1e9), {}),
        # What the user chose stands: where it begins, by what, and how many steps.
        (lambda: model_of(4.99), {"start": {"x": np.array(4.99)}}),
        (lambda: model_of(4.99), {"obj_optimizer": pm.adam(learning_rate=0.01)}),
        (lambda: model_of(4.99), {"n": 100, "convergence": None}),
        (lambda: None, {"method": lambda: vix.ADVI(model=model_of(4.99), random_seed=1)}),
    ],
    ids=["nowhere", "start", "optimizer", "steps", "method"],
)
def test_nan_is_raised(model, options):
    method = options.get("method", lambda: "advi")()
    with pytest.raises(FloatingPointError, match="NaN occurred") as caught:
        vix.fit(model=model(), random_seed=1, progressbar=False, **{**options, "method": method})
    assert caught.value.approx.report.stop_reason is vix.StopReason.NOT_FINITE
