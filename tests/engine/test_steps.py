"""A step gives the same numbers on every backend as PyMC's own step function."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from model_table import MODELS
from pymc.variational.approximations import FullRank, MeanField
from pymc.variational.inference import KLqp
from pymc.variational.opvi import Approximation, Group
from pymc.variational.test_functions import Kernel
from pytensor.compile.mode import Mode
from pytensor.tensor import constant

import pymc_vi_ext as vix

from pymc_vi_ext.engine import StepProgram, make_loop
from pymc_vi_ext.python_only import python_only

STEPS = 4
PYTHON = Mode(linker="py", optimizer="fast_compile")
# Their draws of rows cannot be fixed from outside.
RANDOM_ROWS = {"minibatch"}
FIXED = sorted(set(MODELS) - RANDOM_ROWS)


def fixed_draws(approx, n_mc):
    """Replacements that put the same draws into every step, whatever the backend."""
    rng = np.random.default_rng(5)
    return {
        group.symbolic_initial: constant(0.3 * rng.normal(size=(n_mc, group.ddim)))
        for group in approx.groups
    }


def options(approx, n_mc):
    return {
        "obj_n_mc": n_mc,
        "obj_optimizer": pm.adam(learning_rate=0.05),
        "more_replacements": fixed_draws(approx, n_mc),
    }


def pymc_steps(inference, n_mc):
    """Losses and parameters after PyMC's own step function, in plain Python."""
    with python_only():
        step = inference.objective.step_function(
            score=True, compile_kwargs={"mode": PYTHON}, **options(inference.approx, n_mc)
        )
        losses = [step() for _ in range(STEPS)]
    return np.array(losses), [p.get_value() for p in inference.approx.params]


def our_steps(inference, n_mc, backend):
    program = StepProgram.from_inference(inference, **options(inference.approx, n_mc))
    loop = make_loop(program, backend)
    losses = loop.run(STEPS)
    loop.write_back()
    return losses, [p.get_value() for p in inference.approx.params]


def check(make, n_mc, backend):
    expected, parameters = pymc_steps(make(), n_mc)
    losses, ours = our_steps(make(), n_mc, backend)
    # Same arithmetic in another order: rounding, amplified a little by four steps of Adam.
    np.testing.assert_allclose(losses, expected, rtol=1e-7)
    for mine, theirs in zip(ours, parameters, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "n_mc"),
    # PyMC's scan over draws cannot take labelled tensors.
    [(name, n_mc) for name in FIXED for n_mc in (1, 3) if (name, n_mc) != ("named_dims", 3)],
)
def test_jax_equals_pymc(name, n_mc):
    model = MODELS[name]()
    check(lambda: KLqp(MeanField(model=model)), n_mc, "jax")


@pytest.mark.parametrize("backend", ["numba", "c"])
@pytest.mark.parametrize(("name", "n_mc"), [("conjugate", 1), ("ordered", 3)])
def test_pytensor_backends_equal_pymc(name, n_mc, backend):
    model = MODELS[name]()
    check(lambda: KLqp(MeanField(model=model)), n_mc, backend)


def test_full_rank_equals_pymc():
    model = MODELS["correlated"]()
    check(lambda: KLqp(FullRank(model=model)), 2, "jax")


def test_groups_equal_pymc():
    model = MODELS["data_and_dims"]()

    def grouped():
        with model:
            return KLqp(
                Approximation(
                    [Group([model["b"]], vfam="full_rank"), Group(None, vfam="mean_field")]
                ),
                beta=0.7,
            )

    inference = grouped()
    # PyMC 6 itself looks for the generator of a single group.
    inference.approx.rng = inference.approx.groups[0].rng
    expected, _ = pymc_steps(inference, 2)
    losses, _ = our_steps(grouped(), 2, "jax")
    np.testing.assert_allclose(losses, expected, rtol=1e-7)


class PairsRBF(Kernel):
    """PyMC's kernel with the median over disjoint pairs, six particles."""

    def __call__(self, X):
        squares = pt.sum((X[:, None] - X[None]) ** 2, axis=2)
        h = 0.5 * pt.sort(pt.diagonal(squares[:3, 3:]))[1] / np.log(7)
        k = pt.exp(-squares / (2 * h))
        return k, (X * k.sum(axis=1, keepdims=True) - k.dot(X)) / h


@pytest.mark.parametrize("backend", ["jax", "numba"])
def test_svgd_equals_pymc(backend):
    """Particles after four steps of PyMC's SVGD with the same kernel."""
    model = MODELS["hierarchical"]()

    def particles(run, method, kernel):
        inference = method(n_particles=6, model=model, jitter=0, kernel=kernel)
        histogram = inference.approx.histogram
        rng = np.random.default_rng(1)
        histogram.set_value(histogram.get_value() + rng.normal(size=histogram.get_value().shape))
        run(inference)
        return histogram.get_value()

    def theirs(inference):
        with python_only():
            step = inference.objective.step_function(
                obj_optimizer=pm.adam(learning_rate=0.05), compile_kwargs={"mode": PYTHON}
            )
            for _ in range(STEPS):
                step()

    def ours(inference):
        program = StepProgram.from_inference(inference, obj_optimizer=pm.adam(learning_rate=0.05))
        loop = make_loop(program, backend)
        assert len(loop.run(STEPS)) == STEPS
        loop.write_back()

    expected = particles(theirs, pm.SVGD, PairsRBF())
    np.testing.assert_allclose(particles(ours, vix.SVGD, "rbf"), expected, rtol=1e-6)


def test_asvgd_equals_pymc():
    model = MODELS["correlated"]()

    def inference():
        return vix.ASVGD(model=model)

    def theirs(asvgd):
        with python_only():
            step = asvgd.objective.step_function(
                compile_kwargs={"mode": PYTHON}, **options(asvgd.approx, 8)
            )
            for _ in range(STEPS):
                step()

    one, two = inference(), inference()
    theirs(one)
    loop = make_loop(StepProgram.from_inference(two, **options(two.approx, 8)), "jax")
    loop.run(STEPS)
    loop.write_back()
    for mine, expected in zip(two.approx.params, one.approx.params, strict=True):
        np.testing.assert_allclose(mine.get_value(), expected.get_value(), rtol=1e-6)


@pytest.mark.parametrize("constraint", [None, 0.1])
def test_more_updates_and_gradient_norm(constraint):
    """Options that PyMC passes to `objective.updates` reach the step."""
    counter = pytensor.shared(0.0, "counter")
    approx = vix.fit(
        3,
        convergence=None,
        model=MODELS["conjugate"](),
        backend="jax",
        start={"mu": 3.0},
        obj_optimizer=pm.sgd(learning_rate=0.1),
        total_grad_norm_constraint=constraint,
        more_updates={counter: counter + 2.0},
        progressbar=False,
        random_seed=1,
    )
    assert counter.get_value() == 6.0
    # From 3, the gradient is about 30: three steps go far, unless each is of length .1 * .1.
    moved = abs(approx.params[0].get_value()[0] - 3.0)
    assert 0.02 < moved <= 0.03 if constraint else moved > 1.0
