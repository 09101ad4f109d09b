"""Where ADVI with a flow begins: at a full-rank fit, unless somebody has said where."""

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import Checkpoint, StagedStop
from pymc_vi_ext.diagnostics import elbo
from pymc_vi_ext.inference import flow_advi
from pymc_vi_ext.method import Request
from pymc_vi_ext.results import StopReason
from pymc_vi_ext.session import mark_interrupted

QUIET = {"progressbar": False}
SMALL = {"kind": "planar", "couplings": 1}
JUDGED = Request(rule=StagedStop())


@pytest.fixture(scope="module")
def gamma():
    with pm.Model() as model:
        rate = pm.Gamma("rate", 2.0, 1.0)
        pm.Exponential("y", rate * pm.Gamma("scale", 3.0, 2.0), observed=[0.3, 1.1, 0.6, 2.0])
    return model


def flow(model, **options):
    return vix.FlowADVI(**SMALL, model=model, random_seed=1, **options)


def values_of(approx):
    return {p.name: p.get_value() for p in approx.params}


def test_predictors_in_thousands_and_collinear_columns():
    """A Gaussian whose sds differ 300 times; 20,000 draws tell means to .007 sd, sds to .5 %."""
    rng = np.random.default_rng(0)
    income = rng.normal(3_000, 500, 200)
    spent = 2 * income + rng.normal(0, 50, 200)
    x = np.column_stack([np.ones(200), income, spent, rng.normal(size=200)])
    y = x @ [1.0, 0.002, 0.001, 0.5] + rng.normal(size=200)
    with pm.Model() as model:
        beta = pm.Normal("beta", 0.0, 10.0, shape=4)
        pm.Normal("y", x @ beta, 1.0, observed=y)
    cov = np.linalg.inv(x.T @ x + np.eye(4) / 100)
    mean, sd = cov @ x.T @ y, np.sqrt(np.diag(cov))
    assert sd.max() > 300 * sd.min()
    log_z = -100 * np.log(2 * np.pi) - (y @ y - y @ x @ mean) / 2
    log_z += np.linalg.slogdet(cov)[1] / 2 - 2 * np.log(100)
    first = []
    approx = vix.fit(
        method="flow_advi",
        model=model,
        random_seed=1,
        inf_kwargs=SMALL,
        callbacks=[lambda approx, losses, i: first.append(losses[-1]) if i == 1 else None],
        **QUIET,
    )
    assert approx.report.stop_reason is StopReason.CONVERGED
    assert approx.report.steps < 8_000  # 100,000 from the usual start, and not there
    assert "begun at a full-rank fit of" in approx.report.evidence
    assert abs(first[0] + log_z) < 0.5
    draws = vix.to_datatree(approx, 20_000, random_seed=1)["posterior"]["beta"].values[0]
    np.testing.assert_allclose((draws.mean(axis=0) - mean) / sd, 0.0, atol=0.1)
    np.testing.assert_allclose(draws.std(axis=0) / sd, 1.0, rtol=0.1)


def test_it_begins_at_the_full_rank_fit_itself(gamma):
    method = flow(gamma)
    assert method.find_beginning(JUDGED, 10_000, 1).startswith("begun at a full-rank fit of ")
    gaussian = vix.fit(
        10_000,
        "fullrank_advi",
        gamma,
        random_seed=1,
        convergence=StagedStop(tolerance=0.1, accuracy=None),
        **QUIET,
    )
    for name, value in values_of(gaussian).items():
        np.testing.assert_allclose(values_of(method.approx)[name], value, rtol=1e-10)
    ours, theirs = (
        elbo(vix.to_datatree(approx, 10_000, random_seed=seed))
        for approx, seed in ((method.approx, 1), (gaussian, 2))
    )
    assert abs(ours.elbo - theirs.elbo) < 4 * np.hypot(ours.se, theirs.se)
    # A second fit goes on from there.
    assert method.find_beginning(JUDGED, 10_000, 1) == ""


@pytest.mark.parametrize(
    ("asked", "n"),
    [
        (Request(), 100),
        (JUDGED, 0),
        (Request(rule=StagedStop(), more={"total_grad_norm_constraint": 1.0}), 100),
    ],
    ids=["exactly n steps", "no step", "options of PyMC's"],
)
def test_fits_that_begin_where_they_are(gamma, asked, n):
    method = flow(gamma)
    before = values_of(method.approx)
    assert method.find_beginning(asked, n, 1) == ""
    for name, value in values_of(method.approx).items():
        np.testing.assert_array_equal(value, before[name])


def test_scales_and_couplings_that_are_set_stay(gamma):
    method = flow(gamma)
    [group] = method.approx.groups
    round_ = values_of(method.approx)
    group.place(np.array([0.3, -0.2]))
    assert group.is_round()  # values of `start` are where the full-rank fit begins
    group.set_gaussian(np.zeros(2), 1e-4 * np.eye(2))
    assert group.is_round()  # as where NaN has ended the fit, and it begins anew
    group.set_gaussian(np.zeros(2), np.array([[1.0, 0.5], [0.5, 2.0]]))
    assert method.find_beginning(JUDGED, 100, 1) == ""
    group.params_dict["L_tril"].set_value(round_["L_tril"])
    group.params_dict["weights"].set_value(round_["weights"] + 0.1)
    assert method.find_beginning(JUDGED, 100, 1) == ""


def test_ctrl_c_on_the_way_to_the_beginning(gamma, monkeypatch):
    """The Gaussian so far is the result."""

    def interrupted(gaussian, n, call, **options):
        approx = fit_method(gaussian, 0, call, **{**options, "convergence": None})
        approx.groups[0].params_dict["mu"].set_value(np.ones(2))
        mark_interrupted(approx)

    fit_method = flow_advi.fit_method
    monkeypatch.setattr(flow_advi, "fit_method", interrupted)
    method = flow(gamma)
    approx = vix.fit(5_000, method, **QUIET)
    assert approx.report.stop_reason is StopReason.INTERRUPTED
    assert approx.report.steps == 0
    np.testing.assert_allclose(approx.groups[0].params_dict["mu"].get_value(), 1.0)


def test_without_a_full_rank_fit_it_begins_as_it_was(gamma, monkeypatch):
    def fails(*arguments, **options):
        raise FloatingPointError("NaN")

    monkeypatch.setattr(flow_advi, "fit_method", fails)
    method = flow(gamma)
    before = values_of(method.approx)
    assert method.find_beginning(JUDGED, 100, 1) == ""
    for name, value in values_of(method.approx).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_checkpoint_goes_on_without_another_full_rank_fit(gamma, tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    with pytest.warns(vix.ConvergenceWarning, match="before it converged"):
        whole = vix.fit(
            300,
            "flow_advi",
            gamma,
            random_seed=2,
            callbacks=[Checkpoint(path, 200)],
            inf_kwargs=SMALL,
            **QUIET,
        )
    assert "begun at a full-rank fit of 300 steps" in whole.report.evidence
    monkeypatch.setattr(vix.FlowADVI, "find_beginning", None)
    with pytest.warns(vix.ConvergenceWarning, match="before it converged"):
        resumed = vix.resume(path, gamma, progressbar=False)
    np.testing.assert_array_equal(resumed.hist, whole.hist)
    for name, value in values_of(whole).items():
        np.testing.assert_array_equal(values_of(resumed)[name], value)
