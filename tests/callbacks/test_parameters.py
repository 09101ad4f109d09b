"""Rules on the variational parameters."""

from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytensor
import pytest

from pymc.variational import callbacks as pymc_callbacks
from pymc.variational.opvi import Approximation, Group
from pytensor.compile.mode import Mode

import pymc_vi_ext as vix

from pymc_vi_ext.approximations.parameters import flat_parameters, moments, set_parameters
from pymc_vi_ext.callbacks import CheckParametersConvergence, EarlyStopping, IterateRhat
from pymc_vi_ext.callbacks._statistics import split_rhat, standard_error
from pymc_vi_ext.optimizers import AnnealedAdam, Given, Optimizer
from pymc_vi_ext.schedules import constant, cosine

MODE = Mode(linker="py", optimizer="fast_compile")


@pytest.fixture(scope="module")
def model():
    with pm.Model() as model:
        pm.Normal("x", shape=2)
        pm.Normal("y")
    return model


def fake(d=2, dtype=float):
    """Return what a mean-field approximation shows to a rule."""
    mu, rho = (pytensor.shared(np.zeros(d, dtype), name) for name in ("mu", "rho"))
    group = SimpleNamespace(params=[mu, rho], params_dict={"mu": mu, "rho": rho}, ddim=d)
    return SimpleNamespace(params=[mu, rho], groups=[group])


def follow(rule, trajectory, steps, dtype=float, approx=None):
    """Show a rule the rows of a trajectory at `steps`; return where it stops, and the fake."""
    approx = approx or fake(trajectory.shape[1] // 2, dtype)
    for i in steps:
        set_parameters(approx, trajectory[i - 1])
        try:
            rule(approx, None, i)
        except StopIteration as stop:
            return i, approx, str(stop)
    return None, approx, ""


def autoregressive(rng, n, d, phi=0.9, sd=1.0):
    values = np.empty((n, d))
    values[0] = rng.normal(size=d)
    for t, noise in enumerate(rng.normal(size=(n - 1, d)), start=1):
        values[t] = phi * values[t - 1] + (1 - phi**2) ** 0.5 * noise
    return sd * values


@pytest.mark.parametrize("every", [1, 7, 50])
@pytest.mark.parametrize("calls", ["each step", "when due"])
@pytest.mark.parametrize(
    ("diff", "order", "tolerance"),
    [("relative", np.inf, 0.3), ("absolute", np.inf, 0.02), ("absolute", 2, 0.05)],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_stops_where_pymc_stops(every, calls, diff, order, tolerance, dtype):
    rng = np.random.default_rng(4)
    steps = np.arange(1, 1501)
    trajectory = 1 + rng.normal(size=(1500, 6)) / steps[:, None] ** 0.7
    shown = steps if calls == "each step" else steps[every - 1 :: every]
    options = {"every": every, "tolerance": tolerance, "diff": diff, "ord": order}
    theirs = follow(pymc_callbacks.CheckParametersConvergence(**options), trajectory, shown, dtype)
    ours = follow(CheckParametersConvergence(**options), trajectory, shown, dtype)
    assert ours[0] == theirs[0]
    assert ours[0] is not None


def test_scaled_change_has_no_unit():
    """A mean near zero, in thousands: a tenth of a standard deviation is a tenth."""
    approx = fake(1)
    sd = 1000.0
    approx.params[1].set_value(np.array([sd]))  # softplus of something large is itself
    rule = CheckParametersConvergence(every=1, tolerance=0.11, diff="scaled")
    rule(approx, None, 1)
    approx.params[0].set_value(np.array([0.5 * sd]))
    rule(approx, None, 2)
    assert rule.status == "change 0.5 ≥ 0.11"
    approx.params[1].set_value(np.array([sd * np.exp(0.2)]))
    rule(approx, None, 3)
    assert rule.status == "change 0.2 ≥ 0.11"
    approx.params[0].set_value(np.array([0.5 * sd + 0.1 * sd * np.exp(0.2)]))
    with pytest.raises(StopIteration, match=r"changed by 0\.1 \(scaled\) from step 3 to 4"):
        rule(approx, None, 4)


def test_scaled_change_after_a_restart():
    rng = np.random.default_rng(1)
    trajectory = rng.normal(size=(60, 4)) / np.arange(1, 61)[:, None]

    def rule():
        return CheckParametersConvergence(every=2, tolerance=0.05, diff="scaled")

    before, after = rule(), rule()
    assert follow(before, trajectory, range(1, 11))[0] is None
    after.load_state_dict(before.state_dict())
    stopped = follow(rule(), trajectory, range(1, 61))
    assert follow(after, trajectory, range(11, 61))[::2] == stopped[::2]
    assert stopped[0] is not None


def test_moments_of_pymc_families(model):
    rng = np.random.default_rng(0)
    with model:
        families = [
            pm.MeanField(),
            pm.FullRank(),
            pm.Empirical(size=7),
            Approximation([Group([model["y"]], vfam="mean_field"), Group(None, vfam="full_rank")]),
        ]
    for approx in families:
        set_parameters(approx, rng.normal(size=flat_parameters(approx).size))
        flat = flat_parameters(approx)
        means, log_sds = moments(approx, np.stack([flat, 0 * flat, flat]))
        groups = approx.groups
        mean = np.concatenate([group.mean.eval(mode=MODE) for group in groups])
        std = np.concatenate([group.std.eval(mode=MODE) for group in groups])
        np.testing.assert_allclose(means[[0, 2]], [mean, mean])
        np.testing.assert_allclose(np.exp(log_sds[[0, 2]]), [std, std])
        assert means.shape == (3, 3)


def test_a_family_without_moments():
    weights = pytensor.shared(np.zeros(3), "weights")
    group = SimpleNamespace(params=[weights], params_dict={"weights": weights})
    flow = SimpleNamespace(params=[weights], groups=[group])
    for rule in (CheckParametersConvergence(diff="scaled"), IterateRhat()):
        with pytest.raises(TypeError, match="has the parameters weights: means and standard"):
            rule(flow, None, 100)


@pytest.mark.parametrize(("particles", "stopped"), [([0.0], None), ([0.0, 1e6], 2)])
def test_a_single_particle_is_no_reason_to_stop(particles, stopped):
    """It has no spread, in which a move of 1 would be little; two particles far apart have."""
    histogram = pytensor.shared(np.tile(np.array(particles)[:, None], 2), "histogram")
    group = SimpleNamespace(params=[histogram], params_dict={"histogram": histogram})
    approx = SimpleNamespace(params=[histogram], groups=[group])
    rule = CheckParametersConvergence(every=1, diff="scaled")
    moves = histogram.get_value().ravel() + np.arange(4.0)[:, None]
    assert follow(rule, moves, range(1, 5), approx=approx)[0] == stopped
    assert rule.status.startswith("change ")


def test_split_rhat_is_arvizs():
    from arviz_stats.base import array_stats

    chains = autoregressive(np.random.default_rng(2), 400, 3).cumsum(axis=0)[:, :2]
    halves = chains.reshape(2, 200, 2)
    expected = array_stats.rhat(halves, chain_axis=0, draw_axis=1, method="identity")
    np.testing.assert_allclose(split_rhat(chains), expected)
    assert split_rhat(np.ones((10, 1))) == 1


def test_standard_error_sees_autocorrelation():
    """AR(1) with phi = .8: the variance of the mean is (1 + phi) / (1 - phi) / n = 9 / n."""
    chains = autoregressive(np.random.default_rng(3), 20_000, 50, phi=0.8)
    error = standard_error(chains, 20).mean()
    assert error == pytest.approx((9 / 20_000) ** 0.5, rel=0.1)


@pytest.fixture(scope="module")
def settling():
    """A descent of 2000 steps, then a stationary scatter around (1, 2, -1, 0)."""
    rng = np.random.default_rng(5)
    target = np.array([1.0, 2.0, -1.0, 0.0])
    descent = 20 * np.exp(-np.arange(40_000) / 400)[:, None]
    return target, target + descent + autoregressive(rng, 40_000, 4, phi=0.95, sd=0.1)


def test_iterates_are_averaged_once_they_are_stationary(settling):
    target, trajectory = settling
    stopped, approx, reason = follow(IterateRhat(), trajectory, range(1, 40_001))
    assert 2500 < stopped < 30_000
    assert "the parameters are set to that average" in reason
    assert_averaged(approx, target)


def assert_averaged(approx, target):
    # Four times .02 standard deviations, which are softplus(-1) = .31 and softplus(0) = .69, and
    # four times .02 of their logarithms.
    np.testing.assert_allclose(flat_parameters(approx)[:2], target[:2], atol=0.08 * 0.69)
    np.testing.assert_allclose(flat_parameters(approx)[2:], target[2:], atol=0.08 / 0.7)


def test_iterates_of_a_random_walk_never_settle():
    walk = 0.1 * np.random.default_rng(6).normal(size=(20_000, 6)).cumsum(axis=0)
    rule = IterateRhat()
    assert follow(rule, walk, range(10, 20_001, 10))[0] is None
    assert rule.status.startswith("rhat ")


def test_iterates_are_merged_and_none_is_lost(settling):
    _, trajectory = settling
    rule = IterateRhat(every=1, window=100, mcse=1e-9)
    assert follow(rule, trajectory, range(1, 2801))[0] is None
    filled, stride = rule._filled, rule._stride
    assert filled < 100 == len(rule._iterates)
    kept = filled * stride
    assert 2800 - stride < kept <= 2800
    np.testing.assert_allclose(
        rule._iterates[:filled].mean(axis=0), trajectory[:kept].mean(axis=0), rtol=1e-12
    )


def test_iterates_after_a_restart(settling):
    _, trajectory = settling
    expected = follow(IterateRhat(), trajectory, range(10, 40_001, 10))
    assert expected[0] > 3010
    before, after = IterateRhat(), IterateRhat()
    follow(before, trajectory, range(10, 3011, 10))
    after.load_state_dict(before.state_dict())
    result = follow(after, trajectory, range(3020, 40_001, 10))
    assert result[::2] == expected[::2]
    np.testing.assert_array_equal(flat_parameters(result[1]), flat_parameters(expected[1]))


def test_broken_iterates_are_left_out(settling):
    target, trajectory = settling
    broken = trajectory.copy()
    # Every fifth that the rule sees, in one coordinate.
    broken[9::50, 0] = np.nan
    stopped, approx, _ = follow(IterateRhat(), broken, range(10, 40_001, 10))
    assert stopped is not None
    assert_averaged(approx, target)


def test_a_falling_rate_is_refused():
    falling = cosine(0.1, 100)
    with pytest.raises(ValueError, match="needs a constant learning rate"):
        IterateRhat(learning_rate=falling)
    IterateRhat(learning_rate=constant(0.1))
    for optimizer in (AnnealedAdam(), Given(pm.adam(learning_rate=falling))):
        approx = fake()
        approx.fit_state = SimpleNamespace(optimizer=optimizer, rate_scale=pytensor.shared(1.0))
        with pytest.raises(ValueError, match="needs a constant learning rate"):
            IterateRhat(every=1)(approx, None, 1)
    approx.fit_state.optimizer = Given(pm.adam(learning_rate=0.1))
    rule = IterateRhat(every=1)
    rule(approx, None, 1)
    assert rule._filled == 1


def test_iterates_of_another_rate_are_forgotten():
    approx = fake()
    approx.fit_state = SimpleNamespace(optimizer=Optimizer(), rate_scale=pytensor.shared(1.0))
    rule = IterateRhat(every=1)
    for i in range(1, 11):
        rule(approx, None, i)
    assert rule._filled == 10
    approx.fit_state.rate_scale.set_value(0.5)
    rule(approx, None, 11)
    rule(approx, None, 12)
    assert rule._filled == 2


def test_in_pymc_fit(model):
    """Callbacks at every step, and parameters that stay what the rule made them."""
    seen = []

    def rising(approx):
        seen.append(approx.params[0].get_value())
        return len(seen)

    rule = EarlyStopping(rising, patience=2, every=5)
    with model:
        approx = pm.fit(
            100,
            callbacks=[rule],
            obj_optimizer=pm.sgd(learning_rate=0.05),
            compile_kwargs={"mode": MODE},
            progressbar=False,
            random_seed=1,
        )
    assert len(seen) == 3
    np.testing.assert_array_equal(approx.params[0].get_value(), seen[0])


def test_in_a_fit_of_the_engine(model):
    seen = []

    def rising(approx):
        seen.append(approx.params[0].get_value())
        return len(seen)

    approx = vix.fit(
        100,
        model=model,
        convergence=None,
        obj_optimizer=pm.adam(learning_rate=0.05),
        callbacks=[EarlyStopping(rising, patience=2, every=5)],
        backend="jax",
        progressbar=False,
    )
    assert (approx.report.stopped_by, approx.report.steps) == ("EarlyStopping", 15)
    np.testing.assert_array_equal(approx.params[0].get_value(), seen[0])
