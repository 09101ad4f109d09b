"""The default rule, on fits whose optimum is known."""

from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import StagedStop, staged
from pymc_vi_ext.optimizers import WhitenedAdam
from pymc_vi_ext.state import FitState

QUIET = {"backend": "jax", "progressbar": False}


def gaussian(scales, correlation=0.0):
    """A normal posterior with log evidence 0."""
    scales = np.asarray(scales, dtype=float)
    correlations = correlation + (1 - correlation) * np.eye(len(scales))
    covariance = scales[:, None] * correlations * scales
    with pm.Model() as model:
        pm.MvNormal("x", 10 * scales, covariance)
    return model, covariance


@pytest.fixture(scope="module")
def badly_scaled():
    return gaussian([1e-3, 1.0, 1e3], correlation=0.9)


def elbo(approx):
    stats = vix.to_datatree(approx, 20_000, random_seed=1).sample_stats
    difference = (stats["lp"] - stats["log_q"]).to_numpy()
    return difference.mean(), difference.std() / difference.size**0.5


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_stops_at_the_optimum_on_any_scale(badly_scaled, method):
    """Log Z is 0; the full-rank optimum has no gap to it, the mean field's is known."""
    model, covariance = badly_scaled
    approx = vix.fit(method=method, model=model, random_seed=1, **QUIET)
    assert approx.report.converged
    lost = _mean_field_gap(covariance) if method == "advi" else 0.0
    found, error = elbo(approx)
    assert -0.1 - 4 * error < found + lost < 4 * error


def _mean_field_gap(covariance):
    """KL of the best mean field to a Gaussian: (sum log precision_ii - log det precision) / 2."""
    precision = np.linalg.inv(covariance)
    return 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision).logabsdet)


def test_the_report_says_how_far_it_was(badly_scaled):
    with pytest.warns(UserWarning, match="all of its 200 steps before it converged"):
        approx = vix.fit(200, model=badly_scaled[0], random_seed=1, **QUIET)
    assert approx.report.stop_reason is vix.StopReason.COMPLETED
    assert not approx.report.converged
    assert approx.report.evidence.startswith("not converged: ")
    with pytest.warns(UserWarning, match="fewer than 150 steps"):
        vix.fit(100, model=badly_scaled[0], random_seed=1, **QUIET)


def test_refine_goes_on(badly_scaled):
    inference = vix.FullRankADVI(model=badly_scaled[0], random_seed=1)
    with pytest.warns(UserWarning, match="before it converged"):
        approx = vix.fit(300, method=inference, **QUIET)
    before, _ = elbo(approx)
    with pytest.warns(UserWarning, match="before it converged"):
        inference.refine(400, progressbar=False)
    assert approx.report.steps == len(approx.hist) == 700
    assert elbo(approx)[0] > before


def test_the_seed_fixes_everything(badly_scaled):
    fits = [vix.fit(model=badly_scaled[0], random_seed=5, **QUIET) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].hist, fits[1].hist)
    assert fits[0].report.evidence == fits[1].report.evidence


def test_with_an_optimizer_of_the_users():
    model, _ = gaussian([1.0])
    approx = vix.fit(model=model, obj_optimizer=pm.adam(learning_rate=0.05), random_seed=1, **QUIET)
    assert approx.report.converged
    found, error = elbo(approx)
    assert found > -0.1 - 4 * error


@pytest.mark.parametrize("score", [True, False])
def test_particles_and_fits_without_a_loss(score):
    model, _ = gaussian([2.0])
    method, options = ("svgd", {"n_particles": 200}) if score else ("advi", None)
    approx = vix.fit(
        method=method, model=model, inf_kwargs=options, score=score, random_seed=1, **QUIET
    )
    assert approx.report.converged
    assert approx.std.eval()[0] == pytest.approx(2.0, rel=0.1)


def test_the_evaluation_leaves_the_fit_as_it_was(badly_scaled):
    """Losses at other points, asked for in the middle, change nothing of what follows."""

    class Ask:
        every = 70
        calls = 0

        def __call__(self, approx, losses, i):
            self.calls += 1
            point = np.zeros(sum(p.get_value().size for p in approx.params))
            twice = approx.fit_state.losses_at([point, point], 20, 3)
            np.testing.assert_array_equal(twice[0], twice[1])
            assert np.ptp(twice[0]) > 0

    options = {"model": badly_scaled[0], "random_seed": 2, "convergence": None, **QUIET}
    plain = vix.fit(500, **options)
    ask = Ask()
    asked = vix.fit(500, callbacks=[ask], **options)
    assert ask.calls == 7
    np.testing.assert_array_equal(plain.hist, asked.hist)


def test_whitened_adam_is_free_of_scale():
    """A model in other units gives the same losses, once the starting scales are the same."""

    def losses(scale):
        with pm.Model() as model:
            pm.Normal("x", 5.0 * scale, scale)
        inference = vix.ADVI(model=model, start={"x": 0.0}, start_sigma={"x": scale}, random_seed=1)
        optimizer = WhitenedAdam(inference.approx)
        return inference.fit(500, obj_optimizer=optimizer, **QUIET).hist

    np.testing.assert_allclose(losses(1.0), losses(100.0), rtol=1e-6, atol=1e-6)


def test_comparisons_of_large_models_are_a_quarter_of_the_steps(monkeypatch, badly_scaled):
    """And the optimum is the same: few draws never say that a stage has settled."""
    monkeypatch.setattr(staged, "_LARGE", 1)
    evaluated = []
    losses_at = FitState.losses_at

    def counted(state, points, draws, seed):
        evaluated.append(len(points) * draws)
        return losses_at(state, points, draws, seed)

    monkeypatch.setattr(FitState, "losses_at", counted)
    model, covariance = badly_scaled
    rule = StagedStop(accuracy=None)
    approx = vix.fit(model=model, convergence=rule, random_seed=1, **QUIET)
    assert approx.report.converged
    # After the last comparison: a look at the result, and k-hat.
    assert sum(evaluated[:-2]) == rule.state_dict()["spent"] <= approx.report.steps / 4
    found, error = elbo(approx)
    assert -0.1 - 4 * error < found + _mean_field_gap(covariance) < 4 * error


@pytest.mark.parametrize(
    ("noise", "step", "draws"),
    # Errors are to be .00375 nats: 32 draws, then twice as many as long as a quarter of the steps
    # pays for three points. What these tell is the verdict.
    [(0.0, 2_000, 32), (0.02, 10_000, 128), (1.0, 10_000, 500), (1.0, 1_000, 64), (0.0, 400, None)],
)
def test_large_models_are_compared_on_as_many_draws_as_tell(monkeypatch, noise, step, draws):
    monkeypatch.setattr(staged, "_LARGE", 1)
    rng = np.random.default_rng(1)

    def losses_at(points, draws, seed):
        # Half the points' losses have the noise of the other half, the other sign.
        signs = np.resize([-1, 1, 0], len(points))[:, None]
        return signs * noise * rng.normal(size=draws)

    state = SimpleNamespace(
        step=step, in_batches=False, reads_all_data=False, feed=None, losses_at=losses_at
    )
    found = StagedStop()._losses_at(state, [np.zeros(2)] * 3, step)
    assert draws == (None if found is None else found.shape[1])


@pytest.mark.filterwarnings("ignore:The fit took all of its 1,600 steps")
def test_averages_of_large_models_are_of_few_vectors(monkeypatch, badly_scaled):
    """The average of 64 blocks' last half is that of 8 joined ones'."""

    def averaged():
        rule = StagedStop(tolerance=1e-9)
        vix.fit(1_600, model=badly_scaled[0], convergence=rule, random_seed=1, **QUIET)
        state = rule.state_dict()
        return rule.average(), len(state["blocks"]) + len(state["pending"])

    expected, many = averaged()
    monkeypatch.setattr(staged, "_LARGE", 1)
    monkeypatch.setattr(staged, "_BYTES_OF_BLOCKS", 1)
    found, few = averaged()
    assert (many, few) == (64, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("size", "blocks"), [(1, 512), (16_384, 512), (10**5, 64), (10**7, 16)])
def test_blocks_fit_in_memory(size, blocks):
    assert staged._most_blocks(size) == blocks
