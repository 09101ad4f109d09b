"""``method="auto"``: from a model to a verdict."""

import warnings

import numpy as np
import pymc as pm
import pytest

from model_table import MODELS, X, Z

import pymc_vi_ext as vix

from pymc_vi_ext import automatic
from pymc_vi_ext.inference import DADVI

OF_MEANS = 4 / np.sqrt(1_000)


def fitted(model, **options):
    return vix.fit(method="auto", model=model, random_seed=1, progressbar=False, **options)


@pytest.fixture(scope="module")
def correlated():
    with pm.Model(coords={"axis": ["a", "b"]}) as model:
        x = pm.MvNormal("x", [1.0, -1.0], [[1.0, 0.8], [0.8, 1.0]], dims="axis")
        pm.Deterministic("total", x.sum())
        pm.Normal("y", x[0], 1e3, observed=[0.0])
    return fitted(model)


def test_it_ends_at_the_posterior(correlated):
    report = correlated.report
    assert report.verdict is vix.Verdict.PASS
    assert report.stop_reason is vix.StopReason.CONVERGED
    assert report.warnings == ()
    assert report.rungs[0].name == "dadvi"
    assert all(rung.seconds > 0 for rung in report.rungs)
    assert report.rungs[-1].found.startswith("PASS: ")
    assert sum(rung.seconds for rung in report.rungs) < report.timings.total_s
    tree = vix.to_datatree(correlated, 2_000, random_seed=1)
    assert (abs(tree.posterior["x"].mean(("chain", "draw")) - [1.0, -1.0]) < OF_MEANS).all()
    assert abs(float(tree.posterior["total"].std()) / np.sqrt(3.6) - 1) < OF_MEANS


def test_it_is_judged_by_its_draws(correlated):
    assert vix.diagnose(correlated).checks == vix.diagnose(correlated.draws).checks
    assert correlated.draws.attrs["verdict"] == "PASS"


def test_pymc_takes_it(correlated):
    trace = correlated.sample(100, random_seed=1)
    found = pm.sample_posterior_predictive(
        trace, model=correlated.model, random_seed=1, progressbar=False
    )
    assert found["posterior_predictive"]["y"].shape == (1, 100, 1)


def test_minibatches_begin_at_advi():
    approx = fitted(MODELS["minibatch"]())
    assert approx.report.rungs[0].name == "advi"
    cov = np.linalg.inv(np.eye(3) + X.T @ X / 0.3**2)
    mean, sd = cov @ X.T @ Z / 0.3**2, np.sqrt(np.diag(cov))
    assert (abs(approx.histogram.get_value().mean(axis=0) - mean) < OF_MEANS * sd).all()


def test_what_is_no_pass_warns_once(monkeypatch):
    # The fit has all the time it needs, and its correction none.
    monkeypatch.setattr(automatic, "_OF_FIT", 1e6)
    with pytest.warns(
        vix.ConvergenceWarning, match="WARN: mass elsewhere not looked for"
    ) as caught:
        approx = fitted(MODELS["conjugate"](), max_seconds=1e-6)
    assert len([w for w in caught if w.category is vix.ConvergenceWarning]) == 1
    assert approx.report.verdict is vix.Verdict.WARN
    assert approx.report.stop_reason is vix.StopReason.STOPPED


def test_the_next_rung_where_the_first_breaks(monkeypatch):
    def broken(self, request):
        raise FloatingPointError("no curvature here")

    monkeypatch.setattr(DADVI, "prepare", broken)
    approx = fitted(MODELS["conjugate"]())
    names = [rung.name for rung in approx.report.rungs]
    assert names[:2] == ["dadvi", "advi"]
    assert approx.report.rungs[0].found == "no curvature here"
    assert approx.report.verdict is vix.Verdict.PASS


def test_ctrl_c_leaves_the_fit(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(automatic, "correct", interrupted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vix.ConvergenceWarning)
        approx = fitted(MODELS["conjugate"]())
    assert approx.report.stop_reason is vix.StopReason.INTERRUPTED
    assert [rung.name for rung in approx.report.rungs] == ["dadvi"]
    assert len(approx.sample(10, return_inferencedata=False)) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 10}, "chooses by itself how to fit: leave out n, or"),
        ({"convergence": None}, "leave out convergence"),
        ({"callbacks": [print]}, "leave out callbacks"),
        ({"start": {"mu": 0.0}}, "leave out start"),
        ({"more_replacements": {}}, "leave out more_replacements"),
        ({"max_seconds": 0}, "`max_seconds` must be a positive number"),
    ],
)
def test_options_that_it_chooses(options, message):
    with pytest.raises(ValueError, match=message):
        fitted(MODELS["conjugate"](), **options)


def test_seconds_are_its_own():
    with pytest.raises(ValueError, match=r"`callbacks=\[WallTime\(3\)\]`"):
        vix.fit(method="advi", model=MODELS["conjugate"](), max_seconds=3)
