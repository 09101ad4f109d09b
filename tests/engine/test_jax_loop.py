"""The loop inside XLA: any number of steps, one compilation, state that PyMC can use."""

import cloudpickle
import jax
import numpy as np
import pymc as pm
import pytensor
import pytest

from compilations import compilations
from model_table import MODELS, Y
from pymc.variational.approximations import MeanField
from pymc.variational.inference import KLqp
from pytensor.graph.op import Op
from pytensor.link.jax.dispatch import jax_funcify
from pytensor.tensor.elemwise import Elemwise

import pymc_vi_ext as vix

from pymc_vi_ext.engine import StepProgram, jax_loop, make_loop
from pymc_vi_ext.engine.jax_step import UnsupportedOpError, jax_step
from pymc_vi_ext.engine.keys import generator_from_key, key_from_generator

QUIET = {"backend": "jax", "progressbar": False}


def test_second_fit_and_refine_compile_nothing():
    inference = vix.ADVI(model=MODELS["conjugate"](), random_seed=1)
    with compilations() as seen:
        inference.fit(50, **QUIET)
        assert seen
        seen.clear()
        inference.fit(777, **QUIET)
        inference.refine(33, progressbar=False)
        assert seen == []
    assert inference.approx.report.timings.compile_s == 0.0
    assert len(inference.hist) == 50 + 777 + 33


def test_equal_optimizers_share_a_program():
    inference = vix.ADVI(model=MODELS["conjugate"](), random_seed=1)
    inference.fit(10, obj_optimizer=pm.adam(learning_rate=0.1), **QUIET)
    with compilations() as seen:
        inference.fit(10, obj_optimizer=pm.adam(learning_rate=0.1), **QUIET)
        assert seen == []
        inference.fit(10, obj_optimizer=pm.adam(learning_rate=0.2), **QUIET)
        assert seen


def test_same_seed_same_losses_whatever_the_chunks(monkeypatch):
    def losses(callbacks=()):
        fit = vix.fit(
            100,
            convergence=None,
            model=MODELS["minibatch"](),
            random_seed=4,
            callbacks=callbacks,
            **QUIET,
        )
        return fit.hist

    def callback(approx, losses, i):
        pass

    expected = losses()
    np.testing.assert_array_equal(losses([callback]), expected)
    callback.every = 7
    np.testing.assert_array_equal(losses([callback]), expected)
    monkeypatch.setattr(jax_loop, "CAPACITY", 30)
    np.testing.assert_array_equal(losses(), expected)


def test_other_seeds_give_other_losses():
    def losses(seed):
        return vix.fit(
            20, convergence=None, model=MODELS["conjugate"](), random_seed=seed, **QUIET
        ).hist

    assert not np.array_equal(losses(1), losses(2))


def test_a_second_fit_restarts_the_optimizer_but_keeps_the_parameters():
    """Adam's very first step is its learning rate, in each coordinate; later ones are shorter."""
    inference = vix.ADVI(model=MODELS["conjugate"](), random_seed=1)
    adam = pm.adam(learning_rate=1e-3)
    inference.fit(3000, obj_optimizer=adam, **QUIET)
    reached = [p.get_value() for p in inference.approx.params]
    inference.fit(1, obj_optimizer=adam, **QUIET)
    for before, parameter in zip(reached, inference.approx.params, strict=True):
        np.testing.assert_allclose(abs(parameter.get_value() - before), 1e-3, rtol=1e-3)


def test_state_is_numpy_and_pymc_goes_on():
    with MODELS["data_and_dims"]() as model:
        inference = vix.FullRankADVI(random_seed=1)
        approx = inference.fit(200, **QUIET)
        program_state = [p.container.storage[0] for p in approx.params]
        assert all(type(value) is np.ndarray for value in program_state)
        assert all(value.flags.writeable for value in program_state)
        assert approx.mean.eval().shape == (4,)
        assert approx.sample(5, random_seed=1).posterior["b"].sizes["feature"] == 3
        with_numba = pytensor.function([], approx.sample_node(model["b"], size=6))
        assert with_numba().shape == (6, 3)
        # PyMC's own fit continues where ours stopped.
        before = approx.params[0].get_value()
        assert (before != 0).all()
        pm.fit(1, method=KLqp(approx), obj_optimizer=pm.sgd(learning_rate=0.0), progressbar=False)
        np.testing.assert_array_equal(approx.params[0].get_value(), before)


def test_pymc_refine_of_a_foreign_inference():
    with MODELS["conjugate"]() as model:
        inference = KLqp(MeanField(model=model, random_seed=1))
        vix.fit(10, convergence=None, method=inference, **QUIET)
        inference.refine(5, progressbar=False)
    assert len(inference.hist) == 15
    assert inference.state.i >= 14


def test_shared_values_set_between_steps_are_read():
    """A callback may change parameters and data; another shape of the data compiles again."""
    with pm.Model() as model:
        y = pm.Data("y", Y)
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("obs", mu, 1.0, observed=y)
    more = np.concatenate([Y, Y + 1.0])

    def exact(values):
        return values.sum() / (len(values) + 1)

    inference = vix.ADVI(model=model, random_seed=1)
    approx = inference.fit(4000, **QUIET)
    # The averaged iterate scatters by about .006 at this many steps.
    assert approx.mean.eval()[0] == pytest.approx(exact(Y), abs=0.025)
    for values in (Y + 2.0, more):
        with model:
            pm.set_data({"y": values})
        inference.fit(4000, **QUIET)
        assert approx.mean.eval()[0] == pytest.approx(exact(values), abs=0.025)

    def jump(approx, losses, i):
        approx.params[0].set_value(np.array([100.0]))

    jump.every = 5
    inference.fit(6, callbacks=[jump], obj_optimizer=pm.sgd(learning_rate=0.0), **QUIET)
    assert approx.mean.eval()[0] == 100.0


def test_a_value_set_by_a_callback_leaves_the_rest_of_the_state():
    """Optimizer and random stream go on as they would have: only the parameter jumps."""

    def losses(shift):
        def nudge(approx, losses, i):
            if i == 20:
                approx.params[0].set_value(approx.params[0].get_value() + shift)

        nudge.every = 10
        model = MODELS["conjugate"]()
        fit = vix.fit(
            40,
            convergence=None,
            model=model,
            random_seed=1,
            callbacks=[nudge] * (shift > -1),
            **QUIET,
        )
        return fit.hist

    untouched = losses(-1.0)
    np.testing.assert_array_equal(losses(0.0), untouched)
    moved = losses(1.0)
    np.testing.assert_array_equal(moved[:20], untouched[:20])
    assert not np.allclose(moved[20:], untouched[20:])


def test_large_constants_become_arguments():
    rows = np.random.default_rng(0).normal(size=(300, 4))
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 1.0, shape=4)
        pm.Normal("y", rows @ b, 1.0, observed=np.ones(300))
    step = jax_step(StepProgram.from_inference(vix.ADVI(model=model)))
    assert (300, 4) in {constant.shape for constant in step.constants}
    assert all(constant.nbytes > 4096 for constant in step.constants)


def test_keys_and_generators_are_inverse():
    key = key_from_generator(np.random.default_rng(3))
    back = key_from_generator(generator_from_key(np.asarray(jax.random.key_data(key))))
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(back))
    other = np.random.Generator(np.random.MT19937(1))
    before = other.bit_generator.state["state"]["pos"]
    np.testing.assert_array_equal(
        jax.random.key_data(key_from_generator(other)),
        jax.random.key_data(key_from_generator(other)),
    )
    assert other.bit_generator.state["state"]["pos"] == before


class NoJax(pytensor.graph.op.Op):
    """The identity, for NumPy alone."""

    __props__ = ()

    def make_node(self, x):
        return pytensor.graph.basic.Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0].copy()

    def pullback(self, inputs, outputs, cotangents):
        return list(cotangents)

    grad = L_op = lambda self, inputs, *args: list(args[-1])


def model_without_jax():
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Potential("p", -(NoJax()(x) ** 2))
    return model


def test_op_without_jax_is_named():
    with pytest.raises(UnsupportedOpError, match=r"The Op NoJax.*cannot run on JAX") as error:
        vix.fit(5, convergence=None, model=model_without_jax(), **QUIET)
    assert 'backend="numba"' in "".join(error.value.__notes__)


# numba runs the Op through Python, and says so.
@pytest.mark.filterwarnings("ignore:.*Numba will use object mode.*:UserWarning")
def test_auto_goes_on_with_numba():
    with pytest.warns(UserWarning, match=r"NoJax.*Fitting with numba instead") as warned:
        approx = vix.fit(2, convergence=None, model=model_without_jax(), progressbar=False)
    assert approx.report.backend == "numba"
    [warning] = [w for w in warned if "Fitting with numba" in str(w.message)]
    assert warning.filename == __file__


def test_op_that_fails_while_tracing_is_named(monkeypatch):
    def fails(op, **kwargs):
        def trace(*args):
            raise TypeError("needs a concrete value")

        return trace

    monkeypatch.setattr(
        "pymc_vi_ext.upstream.jax_funcify",
        lambda op, **kw: fails(op) if isinstance(op, Elemwise) else jax_funcify(op, **kw),
    )
    with pytest.raises(UnsupportedOpError, match="needs a concrete value"):
        vix.fit(5, convergence=None, model=MODELS["conjugate"](), **QUIET)


def test_nan_stops_at_once_and_names_the_variable():
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0, shape=3)
        # Below 0 the gradient is infinity (the root's) times 0 (the maximum's).
        pm.Potential("p", pm.math.sqrt(pm.math.maximum(x[1], 0.0)))
    with pytest.raises(FloatingPointError, match=r"`x`.ravel\(\)\[1\] is NaN") as error:
        vix.fit(100_000, convergence=None, model=model, random_seed=2, **QUIET)
    approx = error.value.approx
    assert approx.report.stop_reason is vix.StopReason.NOT_FINITE
    assert len(approx.hist) == approx.report.steps < 1000
    assert np.isfinite(approx.hist[:-1]).all()


def test_float32():
    with pytensor.config.change_flags(floatX="float32"):
        with pm.Model() as model:
            mu = pm.Normal("mu", 0.0, 1.0)
            pm.Normal("y", mu, 1.0, observed=Y.astype("float32"))
        approx = vix.fit(3000, convergence=None, model=model, random_seed=1, **QUIET)
        assert approx.params[0].get_value().dtype == np.float32
        assert approx.mean.eval()[0] == pytest.approx(Y.sum() / 11, abs=0.025)


def test_losses_longer_than_the_buffer(monkeypatch):
    monkeypatch.setattr(jax_loop, "CAPACITY", 8)
    program = StepProgram.from_inference(vix.ADVI(model=MODELS["conjugate"]()))
    loop = make_loop(program, "jax")
    assert loop.run(0).shape == (0,)
    assert loop.run(21).shape == (21,)


@pytest.mark.parametrize("every", [1, 3])
def test_running_ahead_shows_each_state_and_goes_back(every):
    """Losses, parameters and the steps after a stop are those of a loop that never runs ahead."""
    shown = []

    class Callback:
        def __init__(self, stop):
            self.every = every
            self.stop = stop

        def __call__(self, approx, losses, i):
            shown.append((i, len(losses), approx.params[0].get_value()[0]))
            if i == self.stop:
                raise StopIteration("there")

    def fit(ahead, stop):
        shown.clear()
        inference = vix.ADVI(model=MODELS["minibatch"](), random_seed=1)
        inference.fit(3, **QUIET)  # compiles; no callbacks
        loop = inference.session.prepared.loop
        loop._ahead, loop._furthest = ahead, ahead
        inference.session.chunk = 1000  # as after longer fits
        call, runs = loop._call, []
        loop._call = lambda every, times: runs.append(times) or call(every, times)
        inference.fit(30, callbacks=[Callback(stop)], random_seed=5, **QUIET)
        assert max(runs) == min(ahead, 30 // every)
        stopped = list(shown)
        inference.state = inference.state._replace(callbacks=[])
        inference.refine(10, progressbar=False)
        return stopped, inference.hist[3:], [p.get_value() for p in inference.approx.params]

    for stop in (6, 12, None):
        calls, losses, parameters = fit(1, stop)
        again, same_losses, same_parameters = fit(16, stop)
        assert again == calls
        assert [i for i, *_ in calls] == list(range(every, (stop or 30) + 1, every))
        np.testing.assert_array_equal(same_losses, losses)
        for one, other in zip(parameters, same_parameters, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_op_that_holds_a_graph_is_named_in_one_short_line():
    """Its text may be the whole graph."""

    class Wordy(Op):
        def __str__(self):
            return "Wordy(" + "\n a node" * 500

        def perform(self, *arguments):
            raise AssertionError

    error = UnsupportedOpError(Wordy(), ValueError("no " * 500))
    assert error.op == "Wordy"
    assert "The Op Wordy of this model cannot run on JAX (no no " in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 200


def test_a_loop_that_was_pickled_goes_on():
    x = pytensor.shared(8.0, "x")
    loop = make_loop(StepProgram({x: x / 2}, loss=x), "jax")
    loop.run(1)
    assert cloudpickle.loads(cloudpickle.dumps(loop)).run(2).tolist() == [4.0, 2.0]
    assert loop.run(2).tolist() == [4.0, 2.0]
