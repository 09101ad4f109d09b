"""Fits on minibatches against the exact posterior of all data."""

import warnings

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.minibatches import (
    doubtful_totals,
    has_minibatches,
    minibatch_scale,
    on_all_data,
    separate_batches,
    size_of_data,
)

QUIET = {"random_seed": 1, "progressbar": False}
RNG = np.random.default_rng(0)
ROWS, COLUMNS, BATCH = 4_000, 5, 100
X = RNG.normal(size=(ROWS, COLUMNS))
Y = X @ RNG.normal(size=COLUMNS) + RNG.normal(size=ROWS)
TABLE = RNG.normal(2.0, 3.0, (2_000, 3))


def regression(batch=BATCH):
    """Known noise: the posterior of the weights is normal."""
    with pm.Model() as model:
        weights = pm.Normal("weights", 0, 10, shape=COLUMNS)
        x, y = pm.Minibatch(X, Y, batch_size=batch) if batch else (X, Y)
        total = {"total_size": ROWS} if batch else {}
        pm.Normal("y", x @ weights, 1.0, observed=y, **total)
    return model


def exact():
    precision = X.T @ X + np.eye(COLUMNS) / 100
    return np.linalg.solve(precision, X.T @ Y), np.linalg.inv(precision)


def table(batch=50, **options):
    """Data of two dimensions: PyMC divides its loss by both axes."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 100.0, shape=3)
        data = pm.Minibatch(TABLE, batch_size=batch) if batch else TABLE
        pm.Normal("y", mu, 3.0, observed=data, **({"total_size": 2_000} | options))
    return model


def shortfall(approx):
    """Return nats below the optimum: KL to the exact posterior, for it is in the family."""
    mean, cov = exact()
    got, away = approx.cov.eval(), approx.mean.eval() - mean
    ratio = np.linalg.solve(cov, got)
    spread = np.trace(ratio) - COLUMNS - np.linalg.slogdet(ratio)[1]
    return 0.5 * (spread + away @ np.linalg.solve(cov, away))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fit_on_minibatches_ends_at_the_posterior_of_all_data(seed):
    """Within .1 nat and sds within 3 %."""
    approx = vix.fit(
        method="fullrank_advi", model=regression(), random_seed=seed, progressbar=False
    )
    assert approx.report.converged
    assert shortfall(approx) < 0.1
    ratio = np.sqrt(np.diag(approx.cov.eval()) / np.diag(exact()[1]))
    np.testing.assert_allclose(ratio, 1, atol=0.03)


def test_two_dimensions():
    approx = vix.fit(model=table(), **QUIET)
    assert approx.report.converged
    sd = 3.0 / 2_000**0.5
    np.testing.assert_allclose(approx.std.eval(), sd, rtol=0.03)
    np.testing.assert_allclose(approx.mean.eval(), TABLE.mean(axis=0), atol=0.1 * sd)


def test_without_the_data_the_batches_do_not_suffice(monkeypatch):
    """Too large to be read whole: an honest "not converged", or the posterior."""
    monkeypatch.setattr("pymc_vi_ext.inference.base._MOST_NUMBERS", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vix.ConvergenceWarning)
        approx = vix.fit(3_000, "fullrank_advi", model=regression(), **QUIET)
    assert not approx.report.converged or shortfall(approx) < 0.1


@pytest.mark.parametrize("make", [regression, table])
def test_losses_are_in_nats_of_all_data(make):
    """At one point they are on average those of the model without minibatches."""
    options = {"convergence": None, "obj_optimizer": pm.sgd(learning_rate=0.0), **QUIET}
    batches = vix.fit(400, model=make(), **options)
    whole = vix.fit(400, model=make(batch=0), **options)
    assert batches.report.loss == "negative ELBO"
    error = np.hypot(batches.hist.std(), whole.hist.std()) / 400**0.5
    assert abs(batches.hist.mean() - whole.hist.mean()) < 4 * error


@pytest.mark.parametrize(("make", "scale"), [(regression, 40.0), (table, 40.0)])
def test_under_pm_fit_they_are_scaled_to_the_minibatch(make, scale):
    """As PyMC scales them, with data of two dimensions by the rows alone."""
    with make():
        inference = vix.ADVI(random_seed=1)
    options = {"obj_optimizer": pm.sgd(learning_rate=0.0), "progressbar": False}
    scaled = inference.fit(50, random_seed=2, **options)
    assert scaled.report.loss == f"negative ELBO / {scale:g}"
    nats = vix.fit(50, model=make(), convergence=None, random_seed=2, method="advi", **options)
    assert nats.hist.mean() / scaled.hist.mean() == pytest.approx(scale, rel=0.1)


def test_the_elbo_of_a_datatree_is_that_of_all_data():
    """Two estimates agree within their own errors, which one batch for all draws would hide."""
    approx = vix.fit(method="fullrank_advi", model=regression(), **QUIET)
    found = [
        vix.diagnostics.elbo(vix.to_datatree(approx, 500, random_seed=seed)) for seed in (1, 2)
    ]
    error = np.hypot(found[0].se, found[1].se)
    assert error < 1
    assert abs(found[0].elbo - found[1].elbo) < 4 * error + 1e-6


def test_a_model_on_all_data_is_the_model_without_minibatches():
    model, plain = regression(), regression(batch=0)
    whole = on_all_data(model)
    point = {"weights": np.arange(5.0)}
    assert has_minibatches(model)
    assert not has_minibatches(whole)
    assert size_of_data(model) == ROWS * (COLUMNS + 1)
    np.testing.assert_allclose(whole.compile_logp()(point), plain.compile_logp()(point))


def test_data_of_two_dimensions_are_scaled_by_their_rows():
    assert minibatch_scale(table()) == 40.0
    assert minibatch_scale(table(total_size=(2_000, None))) == 40.0


@pytest.mark.parametrize(
    ("total", "sentence"),
    [
        (None, "`y` is observed in minibatches and has no total_size.*Give it total_size=2000"),
        (6_000, "`y` has total_size=6000, and its minibatches are drawn from 2000 rows.*3 times"),
    ],
)
def test_totals_that_are_forgotten_or_count_numbers_warn(total, sentence):
    model = table(total_size=total) if total else None
    if model is None:
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 100.0, shape=3)
            with pytest.warns(UserWarning, match="total_size not provided"):
                pm.Normal("y", mu, 3.0, observed=pm.Minibatch(TABLE, batch_size=50))
    with pytest.warns(UserWarning, match=sentence):
        vix.fit(5, model=model, convergence=None, **QUIET)
    assert not doubtful_totals(table())


def test_batches_drawn_apart_are_doubted():
    with pm.Model() as model:
        slope = pm.Normal("slope")
        x, y = (pm.Minibatch(data, batch_size=BATCH) for data in (X[:, 0], Y))
        pm.Normal("y", slope * x, 1.0, observed=y, total_size=ROWS)
    [sentence] = separate_batches(model)
    assert "`y`" in sentence
    with pytest.warns(UserWarning, match="Draw them in one"):
        vix.fit(1, model=model, convergence=None, **QUIET)
    assert not separate_batches(regression())
    assert not separate_batches(table())


def test_pathfinder_climbs_on_all_data():
    """Half an sd and a factor of 1.5: a thousand draws, by their importance weights resampled."""
    pytest.importorskip("pymc_extras")
    approx = vix.fit(method="pathfinder", model=regression(), **QUIET)
    draws = vix.to_datatree(approx, 1_000, random_seed=2).posterior["weights"].values[0]
    mean, cov = exact()
    sds = np.sqrt(np.diag(cov))
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean) / sds, 0.5)
    np.testing.assert_array_less(np.abs(np.log(draws.std(axis=0) / sds)), np.log(1.5))


def test_a_second_fit_begins_on_minibatches_again_and_is_the_same():
    with regression():
        inference = vix.FullRankADVI(random_seed=1)
    start = [p.get_value() for p in inference.approx.params]
    fits = []
    for _ in range(2):
        for parameter, value in zip(inference.approx.params, start, strict=True):
            parameter.set_value(value)
        inference.hist = np.empty(0)
        approx = inference.fit(5_000, convergence="default", random_seed=3, progressbar=False)
        fits.append((approx.hist.copy(), approx.mean.eval()))
    np.testing.assert_array_equal(fits[0][0], fits[1][0])
    np.testing.assert_array_equal(fits[0][1], fits[1][1])


@pytest.mark.parametrize("last", [500, 1_500], ids=["on minibatches", "on all data"])
def test_a_killed_fit_goes_on_bit_for_bit(tmp_path, last):
    """Killed before and after it goes over to all data."""
    path = tmp_path / "fit.npz"
    options = {"method": "fullrank_advi", "model": regression(), **QUIET}
    whole = vix.fit(callbacks=[vix.callbacks.Checkpoint(tmp_path / "other.npz", 250)], **options)

    def kill(approx, losses, i):
        if i == last:
            raise RuntimeError("killed")

    kill.every = 250
    assert whole.report.steps > last
    with pytest.raises(RuntimeError, match="killed"):
        vix.fit(callbacks=[vix.callbacks.Checkpoint(path, 250), kill], **options)
    saved = [vix.callbacks.Checkpoint(path, 250), lambda approx, losses, i: None]
    again = vix.resume(path, regression(), callbacks=saved, progressbar=False)
    assert again.report.steps == whole.report.steps
    np.testing.assert_array_equal(again.hist, whole.hist)
    np.testing.assert_array_equal(again.mean.eval(), whole.mean.eval())
