"""Fits whose data are read while they run: which rows each step sees, and what is claimed."""

import numpy as np
import pymc as pm
import pytensor
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks.checkpoint import CheckpointError
from pymc_vi_ext.engine import Feed, StepProgram, feed, make_loop

N, K, BATCH = 4_000, 3, 50


@pytest.fixture(autouse=True)
def _short_stacks(monkeypatch):
    """Let stacks end within the intervals of callbacks."""
    monkeypatch.setattr(feed, "_MOST", 7)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, K))
    y = rng.random(N) < 1 / (1 + np.exp(-X @ [1.0, -0.5, 0.0]))
    return {"X": X, "y": y.astype("int8")}


def normal(batches, name="x"):
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 10.0)
        pm.Normal(name, mu, 1.0, **batches.observed(name))
    return model


def numbers(seed=0, source=None, n=N):
    source = {"x": np.random.default_rng(1).normal(3.0, 1.0, n)} if source is None else source
    return vix.data.Batches(source, batch_size=BATCH, random_seed=seed, total_size=n)


FIXED = {
    "convergence": None,
    "random_seed": 1,
    "progressbar": False,
    "obj_optimizer": pm.adam(learning_rate=0.01),
}


@pytest.mark.parametrize("backend", ["jax", "numba", "c"])
def test_each_step_sees_its_batch(backend):
    batches = numbers()
    [wanted] = batches.reader().batches(0, 60)
    sums = wanted.sum(axis=1)
    total = pytensor.shared(0.0, "total")
    fed, [after, loss] = Feed.of([total + batches["x"].sum(), batches["x"].sum()])
    program = StepProgram({total: after}, loss, feed=fed)
    assert program.feed.rows == 7
    loop = make_loop(program, backend)
    np.testing.assert_allclose(loop.run(20), sums[:20])
    # What is closed after its first interval is at the end of that.
    intervals = loop.intervals(2, 3)
    np.testing.assert_allclose(next(intervals), sums[20:22])
    intervals.close()
    loop.write_back()
    assert fed.position == 22
    np.testing.assert_allclose(loop.run(8), sums[22:30])
    loop.write_back()
    np.testing.assert_allclose(total.get_value(), sums[:30].sum())
    fed.begin_at(3)
    np.testing.assert_allclose(loop.run(8), sums[3:11])
    loop.write_back()
    program.restart(0)
    np.testing.assert_allclose(loop.run(1), sums[:1])


def test_a_fit_that_is_stopped_goes_on_with_the_next_batch():
    def stop(approx, losses, i):
        if i == 60 and len(losses) == 60:
            raise StopIteration("enough")

    stop.every = 4
    whole = vix.ADVI(model=normal(numbers()), random_seed=1)
    parts = vix.ADVI(model=normal(numbers()), random_seed=1)
    # PyMC does not keep the loss of a step whose callback ends the fit.
    options = FIXED | {"callbacks": [stop]}
    vix.fit(100, method=whole, **FIXED)
    vix.fit(100, method=parts, **options)
    assert parts.approx.fit_state.feed.position == 60
    parts.refine(40, progressbar=False)
    np.testing.assert_array_equal(parts.hist[-40:], whole.hist[-40:])
    assert parts.approx.fit_state.feed.position == 100


def test_a_checkpoint_goes_on_in_the_middle_of_a_pass(tmp_path):
    save = vix.callbacks.Checkpoint(tmp_path / "fit.npz", every=60)
    whole = vix.fit(100, model=normal(numbers()), callbacks=[save], **FIXED)
    again = vix.resume(tmp_path / "fit.npz", normal(numbers()), progressbar=False)
    assert len(again.hist) == 100
    np.testing.assert_array_equal(again.hist, whole.hist)
    np.testing.assert_array_equal(again.mean.eval(), whole.mean.eval())
    with pytest.raises(CheckpointError, match=r"stream 'x' is .* seed 0.* seed 2"):
        vix.resume(tmp_path / "fit.npz", normal(numbers(seed=2)), progressbar=False)


def logistic(batches):
    with pm.Model() as model:
        w = pm.Normal("w", 0.0, 10.0, shape=K)
        eta = pm.Deterministic("eta", batches["X"] @ w)
        pm.Deterministic("odds", pm.math.exp(w[0]))
        pm.Bernoulli("y", logit_p=eta, **batches.observed("y"))
    return model


def mode_and_sds(X, y):
    """Return the mode, and the standard deviations of the best mean field of a normal there."""
    w = np.zeros(K)
    for _ in range(20):
        p = 1 / (1 + np.exp(-X @ w))
        precision = X.T @ (X * (p * (1 - p))[:, None]) + np.eye(K) / 100
        w = w + np.linalg.solve(precision, X.T @ (y - p) - w / 100)
    return w, np.diag(precision) ** -0.5


@pytest.fixture(scope="module")
def fitted(rows):
    # 3,990 rows: no whole number of batches.
    rows = {name: values[:3_990] for name, values in rows.items()}
    batches = vix.data.Batches(rows, batch_size=BATCH, pool_rows=700)
    return vix.fit(model=logistic(batches), random_seed=1, progressbar=False), rows


def test_the_default_rule_ends_at_the_posterior_of_all_rows(fitted):
    approx, rows = fitted
    mode, sds = mode_and_sds(**rows)
    report = approx.report
    assert report.converged
    assert "passes of the data" in report.evidence
    assert np.isnan(report.khat)
    # The mean of a posterior of 4,000 rows is within .03 of its standard deviations of the mode;
    # the standard error reported is below .05 of them.
    assert np.abs((approx.mean.eval() - mode) / sds).max() < 0.1
    np.testing.assert_allclose(approx.std.eval(), sds, rtol=0.06)


def test_what_would_read_all_rows_is_left_out_and_said(fitted):
    approx, _ = fitted
    tree = vix.to_datatree(approx, draws=50, random_seed=1)
    assert set(tree.posterior.data_vars) == {"w", "odds"}
    assert set(tree.sample_stats.data_vars) == {"log_q"}
    assert "observed_data" not in tree.children
    assert tree.attrs["not_evaluated"] == "lp, observed_data, eta"
    checks = vix.diagnose(approx)
    assert "read from disk" in checks["importance weights"].advice
    assert vix.diagnose(tree).verdict is vix.Verdict.FAIL  # nothing shows what drew it


def call(name):
    return lambda approx, model: getattr(vix, name)(approx)


def by(**options):
    return lambda approx, model: vix.fit(model=model, progressbar=False, **options)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (call("correct"), "needs all data at once"),
        (lambda approx, _: vix.to_datatree(approx, log_likelihood=True), "log_likelihood needs"),
        (by(method="auto"), "needs all data at once"),
        (by(method="bam"), "minibatches"),
        (by(method="dadvi"), "same data at every step"),
        (by(method="laplace"), "minibatches"),
        (by(start="map"), "minibatches"),
    ],
)
def test_what_needs_all_rows_is_refused(use, said, fitted):
    approx, _ = fitted
    with pytest.raises(ValueError, match=said):
        use(approx, approx.model)


def test_too_few_steps_for_a_pass_are_no_convergence(rows):
    batches = vix.data.Batches(rows, batch_size=BATCH, pool_rows=700)
    with pytest.warns(vix.ConvergenceWarning, match="takes 80 steps, and to judge by passes takes"):
        approx = vix.fit(2_500, model=logistic(batches), random_seed=1, progressbar=False)
    assert approx.report.stop_reason is vix.StopReason.COMPLETED
    mode, sds = mode_and_sds(**rows)
    assert np.abs((approx.mean.eval() - mode) / sds).max() < 1.5


def test_totals_and_rows_that_do_not_belong_together_warn(rows):
    one, other = (vix.data.Batches(rows, batch_size=BATCH, random_seed=s) for s in (0, 1))
    with pm.Model() as model:
        w = pm.Normal("w", shape=K)
        pm.Bernoulli("y", logit_p=one["X"] @ w, observed=other["y"], total_size=N // 2)
    with (
        pytest.warns(UserWarning, match="likelihood counts 0.5 times.*give it total_size=4000"),
        pytest.warns(UserWarning, match="come from different Batches"),
    ):
        vix.fit(1, model=model, convergence=None, progressbar=False)


def test_what_reading_raises_ends_the_fit():
    def chunks():
        yield {"x": np.ones(N)}

    batches = vix.data.Batches(chunks, batch_size=BATCH, total_size=N + 10, pool_rows=500)
    with pytest.raises(ValueError, match="ended before 4,010 rows") as raised:
        vix.fit(200, model=normal(batches), **FIXED)
    assert raised.value.approx.report.stop_reason is vix.StopReason.FAILED
