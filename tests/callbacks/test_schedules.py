"""Schedules: their values, and that every optimizer goes by them."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor.compile.mode import Mode

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import Tracker
from pymc_vi_ext.schedules import Schedule, constant, cosine, exponential, one_cycle

MODE = Mode(linker="py", optimizer="fast_compile")
STEPS = np.arange(0, 130, 10)


def bump(done):
    return (1 + np.cos(np.pi * np.minimum(done, 1))) / 2


SCHEDULES = {
    "constant": (lambda: constant(0.2), np.full(13, 0.2)),
    "cosine": (lambda: cosine(0.2, 100, floor=0.1), 0.2 * (0.1 + 0.9 * bump(STEPS / 100))),
    "exponential": (lambda: exponential(0.2, half_life=20), 0.2 * 0.5 ** (STEPS / 20)),
    "one_cycle": (
        lambda: one_cycle(0.2, 100, warmup=0.2, start=0.1, floor=0.05),
        0.2
        * np.where(
            STEPS < 20,
            1 - 0.9 * bump(STEPS / 20),
            0.05 + 0.95 * bump((STEPS - 20) / 80),
        ),
    ),
}
each = pytest.mark.parametrize(("build", "expected"), SCHEDULES.values(), ids=SCHEDULES)


@each
def test_values(build, expected):
    import jax

    schedule = build()
    np.testing.assert_allclose(schedule(STEPS), expected)
    np.testing.assert_allclose([schedule(int(step)) for step in STEPS], expected)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(STEPS), expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(schedule(pt.constant(STEPS)).eval(mode=MODE), expected)
    assert schedule.decays == (expected[-1] < expected[0])


@each
def test_the_rate_counts_its_steps(build, expected):
    schedule = build()
    function = pytensor.function([], schedule.rate, mode=MODE)
    rates = np.array([function() for _ in range(130)])
    np.testing.assert_allclose(rates[::10], expected)
    assert schedule.step.get_value() == 130
    schedule.scale.set_value(0.5)
    schedule.step.set_value(50.0)
    np.testing.assert_allclose(function(), 0.5 * expected[5])
    schedule.restart()
    np.testing.assert_allclose(function(), expected[0])


@pytest.mark.parametrize("floatx", ["float32", "float64"])
def test_float_x(floatx):
    with pytensor.config.change_flags(floatX=floatx):
        for build, _ in SCHEDULES.values():
            assert build().rate.dtype == floatx
        parameter = pytensor.shared(np.ones(2, floatx), "x")
        updates = pm.adam([parameter], [parameter], learning_rate=cosine(0.1, 10))
        assert updates[parameter].dtype == floatx


def test_the_published_cycle():
    """optax's is Smith's, with the defaults of PyTorch."""
    optax = pytest.importorskip("optax")
    theirs = optax.cosine_onecycle_schedule(1000, 0.1)
    ours = one_cycle(0.1, 1000)
    for step in (0, 100, 299, 301, 700, 1000, 1200):
        assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-4, abs=1e-8)


def test_optax_takes_a_schedule():
    optax = pytest.importorskip("optax")
    import jax
    import jax.numpy as jnp

    schedule = cosine(0.1, 20)
    optimizer = optax.sgd(schedule)
    step = jax.jit(lambda state: optimizer.update(jnp.float32(1.0), state))
    state = optimizer.init(jnp.float32(0.0))
    for i in range(5):
        update, state = step(state)
        assert float(-update) == pytest.approx(schedule(i), rel=1e-5)


def optimizers(schedule):
    gradients = pytensor.shared(np.ones(3), "g")
    for name in ("sgd", "momentum", "nesterov_momentum", "adagrad", "adagrad_window"):
        yield name, getattr(pm, name), gradients, schedule
    for name in ("rmsprop", "adadelta", "adam", "adamax"):
        yield name, getattr(pm, name), gradients, schedule


def test_every_pymc_optimizer_takes_a_schedule():
    for name, optimizer, gradients, schedule in optimizers(constant(0.25)):
        ours, theirs = (pytensor.shared(np.zeros(3), "p") for _ in range(2))
        with_schedule = pytensor.function(
            [], updates=optimizer([gradients], [ours], learning_rate=schedule), mode=MODE
        )
        with_number = pytensor.function(
            [], updates=optimizer([gradients], [theirs], learning_rate=0.25), mode=MODE
        )
        with_schedule()
        with_number()
        np.testing.assert_allclose(ours.get_value(), theirs.get_value(), err_msg=name)
    assert schedule.step.get_value() == 9


def test_arithmetic():
    schedule = constant(0.5)
    x = pt.constant(2.0)
    for product in (schedule * x, x * schedule, np.float64(2.0) * schedule, schedule * 2.0):
        assert product.eval(mode=MODE) == 1.0
    assert (schedule / x).eval(mode=MODE) == 0.25
    assert pt.as_tensor_variable(schedule) is schedule.rate
    assert isinstance(schedule, Schedule)


@pytest.mark.parametrize("where", ["pymc", "engine"])
def test_a_fit_goes_by_the_schedule(where):
    """Each step has the next rate, whoever takes the steps."""
    schedule = cosine(0.1, 20, floor=0.1)
    rate = pytensor.shared(0.0, "rate")
    with pm.Model():
        pm.Normal("x")
        fit, options = (
            (pm.fit, {"compile_kwargs": {"mode": MODE}})
            if where == "pymc"
            else (vix.fit, {"backend": "jax", "convergence": None})
        )
        tracker = Tracker(rate=rate.get_value)
        fit(
            30,
            obj_optimizer=pm.adam(learning_rate=schedule),
            more_updates={rate: schedule.rate},
            callbacks=[tracker],
            progressbar=False,
            **options,
        )
    np.testing.assert_allclose(tracker["rate"], schedule(np.arange(30)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: constant(0), "`rate` must be a positive number, not 0"),
        (lambda: constant("fast"), "`rate` must be a positive number, not 'fast'"),
        (lambda: cosine(0.1, -1), "`steps` must be a positive number"),
        (lambda: cosine(0.1, 10, floor=1.0), "`floor` is a part"),
        (lambda: exponential(0.1, np.inf), "`half_life` must be a positive number"),
        (lambda: one_cycle(0.1, 10, warmup=1.0), "`warmup` is a part"),
        (lambda: one_cycle(0.1, 10, warmup=0), "`warmup` must be a positive number"),
        (lambda: one_cycle(0.1, 10, start=2), "`start` is a part"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
