"""Deterministic ADVI, against its closed form for a Gaussian posterior."""

import numpy as np
import pymc as pm
import pytest

from pymc.variational.opvi import ParametrizationError

import pymc_vi_ext as vix

QUIET = {"progressbar": False}
MEAN = np.array([1.0, -2.0, 0.5])
COV = np.array([[1.0, 0.7, 0.2], [0.7, 2.0, -0.3], [0.2, -0.3, 0.5]])


@pytest.fixture(scope="module")
def fitted():
    with pm.Model() as model:
        x = pm.MvNormal("x", MEAN[:2], COV[:2, :2])
        gain = COV[2, :2] @ np.linalg.inv(COV[:2, :2])
        rest = COV[2, 2] - gain @ COV[:2, 2]
        pm.Normal("y", MEAN[2] + gain @ (x - MEAN[:2]), rest**0.5)
    inference = vix.DADVI(n_draws=16, model=model, random_seed=1)
    vix.fit(method=inference, **QUIET)
    return inference


def test_optimum_and_linear_response_of_a_gaussian(fitted):
    """E5: mu = mean - sd zbar, whose zbar is 0; linear response is the covariance."""
    z, precision = fitted.draws, np.linalg.inv(COV)
    sd = fitted.mean_field_std
    # The optimal sds: of the expected quadratic form only the draws' second moments remain.
    moments = np.cov(z.T, bias=True)
    np.testing.assert_allclose(sd * ((precision * moments) @ sd), 1.0, rtol=1e-5)
    approx = fitted.approx
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(approx.mean.eval(), MEAN, rtol=1e-5)
    # A Gaussian's means need no more draws than these.
    np.testing.assert_allclose(fitted.sampling_error.means, 0, atol=1e-6)
    np.testing.assert_allclose(approx.cov.eval(), COV, rtol=1e-5)


def test_converges_with_its_evidence(fitted):
    report = fitted.approx.report
    assert report.converged
    assert report.steps == len(fitted.hist) + 1 < 40
    assert "16 draws suffice" in report.evidence
    assert fitted.sampling_error.means.shape == (3,)


def test_named_linear_response_is_the_dense_one(fitted):
    ours = fitted.linear_response(["y", "x"])
    dense = fitted.approx.cov.eval()[np.ix_([2, 0, 1], [2, 0, 1])]
    np.testing.assert_allclose(ours, dense, rtol=1e-5)
    with pytest.raises(ValueError, match="'z' is no free variable: there are x, y"):
        fitted.linear_response(["z"])


def test_the_sampling_error_is_that_of_other_draws():
    """Standard errors against the scatter of the optimum over 40 sets of draws.

    A standard deviation of 40 values has a relative error of 11 %; three of these.
    """
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Potential("skew", -pm.math.exp(x))
    inference = vix.DADVI(n_draws=64, model=model)
    means, errors = [], []
    for seed in range(40):
        half = np.random.default_rng(seed).normal(size=(32, 1))
        inference.draws = np.concatenate([half, -half])
        approx = inference.fit(**QUIET)
        means.append(approx.mean.eval(mode="FAST_COMPILE")[0])
        sd = approx.std.eval(mode="FAST_COMPILE")[0]
        errors.append(inference.sampling_error.means[0] * sd)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.33)


def test_callbacks_see_newton_steps(fitted):
    seen = []

    def stop(approx, losses, i):
        seen.append((len(losses), i))
        if i == 3:
            raise StopIteration("enough")

    inference = vix.DADVI(model=fitted.approx.model, random_seed=2)
    approx = vix.fit(method=inference, callbacks=[stop], **QUIET)
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert approx.report.stop_reason is vix.StopReason.STOPPED
    assert approx.report.stopped_by == "stop"


def test_errors(fitted):
    model = fitted.approx.model
    with pytest.raises(ValueError, match="leave out learning_rate"):
        vix.fit(10, "dadvi", model=model, learning_rate=0.1, **QUIET)
    with pytest.raises(ValueError, match="leave out obj_n_mc"):
        vix.fit(10, "dadvi", model=model, obj_n_mc=4, **QUIET)
    with pytest.raises(ParametrizationError, match="`n_draws` must be a whole number from 4"):
        vix.DADVI(n_draws=2, model=model)
    with pytest.raises(ParametrizationError, match="must be even, not 7"):
        vix.DADVI(n_draws=7, model=model)
    with pytest.raises(TypeError, match="Need to call"):
        vix.DADVI(model=model).linear_response(["x"])
    with pytest.raises(ValueError, match="DADVI finds its optimum by itself: leave out n_starts"):
        vix.fit(10, "dadvi", model=model, n_starts=2, **QUIET)
    with pytest.raises(ValueError, match="leave out start; values by name"):
        vix.fit(10, "dadvi", model=model, start="prior", **QUIET)


def test_densities_that_it_cannot_optimise():
    data = pm.Minibatch(np.ones(50), batch_size=5)
    with pm.Model() as batches:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, observed=data, total_size=50)
    with pytest.raises(ValueError, match="needs the same data at every step"):
        vix.fit(10, "dadvi", model=batches, **QUIET)
    with pytest.raises(ValueError, match="mode of a model with minibatches"):
        vix.fit(method="laplace", model=batches, **QUIET)
    with pm.Model() as bounded:
        top = pm.HalfNormal("top", 10.0)
        pm.Uniform("y", 0.0, top, observed=[3.0, 30.0])
    with pytest.raises(FloatingPointError, match="not finite around the start"):
        vix.fit(10, "dadvi", model=bounded, **QUIET)


def normals(d):
    with pm.Model() as model:
        pm.Normal("x", np.arange(d), np.logspace(-2, 2, d), shape=d)
    return model


def test_callbacks_have_their_rhythm_and_may_stop_it():
    seen = []

    def fifth(approx, losses, i):
        seen.append(i)

    fifth.every = 3

    class Enough(vix.callbacks.Rule):
        def _begin(self):
            pass

        def _work(self, approx, losses, i, steps):
            if i == 4:
                raise StopIteration("near enough")

    approx = vix.fit(
        method="dadvi", model=normals(4), callbacks=[fifth, Enough(1)], progressbar=False
    )
    assert seen == [3]
    assert approx.report.steps == 4
    # A rule of the user's that finds convergence is believed as the default one is.
    assert approx.report.stop_reason is vix.StopReason.CONVERGED
    assert approx.report.stopped_by == "Enough"


def test_another_backend_is_taken():
    method = vix.DADVI(model=normals(2), random_seed=1)
    for backend in ("jax", "c"):
        approx = method.fit(3, backend=backend, convergence=None, progressbar=False)
        assert approx.report.backend == backend


def test_rules_of_noisy_steps_are_refused():
    with pytest.raises(ValueError, match="StagedStop judges steps along noisy gradients"):
        vix.fit(
            method="dadvi",
            model=normals(2),
            convergence=vix.callbacks.StagedStop(),
            progressbar=False,
        )
