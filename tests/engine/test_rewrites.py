"""The engine's own rewrites change no value."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import dfs_rewriter
from pytensor.tensor.basic import Split
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.shape import Shape, Shape_i

import pymc_vi_ext as vix

from pymc_vi_ext.engine.checks import drop_sure_conditions
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.engine.jax_step import _plain_splits, _row_products
from pymc_vi_ext.engine.shapes import known_shape, with_static_shapes
from pymc_vi_ext.python_only import python_only

X = pt.vector("x", shape=(3,))
VALUES = np.array([-1.0, 0.5, 2.0])


@pytest.mark.parametrize(
    ("condition", "sure"),
    [
        (pt.gt(pt.exp(X), 0), True),
        (pt.ge(2.0 / pt.sqrt(pt.softplus(X)), 0), True),
        (pt.gt(pt.exp(X)[:, None] + 1.0, 0.0), True),
        (pt.le(pt.sigmoid(X), 1), True),
        (pt.gt(X, 0), False),
        (pt.gt(pt.exp(X) - 1.0, 0), False),
        (pt.gt(pt.exp(X), 1), False),
        (pt.le(pt.exp(X), 1), False),
        (pt.gt(-2.0 * pt.exp(X), 0), False),
    ],
)
def test_conditions(condition, sure):
    graph = FunctionGraph([X], [condition], clone=True, copy_inputs=False)
    drop_sure_conditions(graph)
    [result] = graph.outputs
    values = [v.eval({X: VALUES}, mode="FAST_COMPILE") for v in (result, condition)]
    np.testing.assert_array_equal(*values)
    assert (result.owner.op != condition.owner.op) == sure


def test_a_condition_that_can_fail_still_gives_minus_infinity():
    """A standard deviation below 0 is an infinite loss, as in PyMC, not a NaN."""
    with pm.Model() as model:
        sigma = pm.Normal("sigma", -5.0, 0.1)
        pm.Normal("y", 0.0, sigma, observed=1.0)
    approx = vix.fit(
        3, convergence=None, model=model, backend="jax", progressbar=False, random_seed=1
    )
    assert np.isposinf(approx.hist).tolist() == [True] * 3


def test_row_products():
    matrix = pt.matrix("m", shape=(5, 3))
    column = pt.matrix("c", shape=(5, 1))
    product = matrix.T.dot(column)
    graph = FunctionGraph([matrix, column], [product], clone=True, copy_inputs=False)
    dfs_rewriter(_row_products).rewrite(graph)
    [dot] = [node for node in graph.toposort() if str(node.op) == "Dot"]
    assert dot.inputs[1] is matrix
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 3)), rng.normal(size=(5, 1))
    function = pytensor.function([matrix, column], graph.outputs[0], mode="FAST_COMPILE")
    np.testing.assert_allclose(function(*values), values[0].T @ values[1])


@pytest.mark.parametrize("sizes", [[[2, 3]], [[2, 3], [2, 3]], [[2, 3], [1, 4]]])
def test_plain_splits(sizes):
    """One split where all rows split alike, and the batch as it was where they do not."""
    x = pt.matrix("x", shape=(2, 5))
    core = Split(2, 0)
    parts = Blockwise(core, signature="(i00),(i10)->(o00),(o01)")(x, np.array(sizes))
    alike = all(row == sizes[0] for row in sizes)
    graph = FunctionGraph([x], list(parts), clone=True, copy_inputs=False)
    dfs_rewriter(_plain_splits).rewrite(graph)
    [node] = [node for node in graph.toposort() if "Split" in str(node.op)]
    assert isinstance(node.op, Split) == alike
    if alike:
        values = np.arange(10.0).reshape(2, 5)
        left, right = pytensor.function([x], graph.outputs, mode="FAST_COMPILE")(values)
        np.testing.assert_array_equal(np.concatenate([left, right], axis=1), values)
        assert left.shape == (2, 2)


def test_shapes_of_scans_and_of_what_the_types_know():
    """A scan's type does not say its length; its steps do."""
    x = pt.vector("x", shape=(4,))
    steps = pytensor.scan(lambda e: e**2, sequences=[x], return_updates=False)
    [known] = with_static_shapes([steps + 1.0])
    assert known.type.shape == (4,)
    graph = FunctionGraph([x], [x.shape * 2, x.shape[0] + 1], clone=True, copy_inputs=False)
    dfs_rewriter(known_shape).rewrite(graph)
    assert not [node for node in graph.toposort() if isinstance(node.op, Shape | Shape_i)]
    values = pytensor.function([], graph.outputs, mode="FAST_COMPILE")()
    assert [np.ravel(value).tolist() for value in values] == [[8], [5]]


def test_many_draws_of_a_model_with_a_scan_run_on_jax():
    """A recursion joined to its start, whose gradient splits a batch."""
    with pm.Model() as model:
        rho = pm.Normal("rho", 0.5, 0.1)
        noise = pm.Normal("noise", shape=5)
        path = pytensor.scan(
            lambda e, last, rho: rho * last + e,
            sequences=[noise],
            outputs_info=[pt.zeros(())],
            non_sequences=[rho],
            return_updates=False,
        )
        whole = pt.concatenate([pt.atleast_1d(rho), path])
        pm.Normal("y", whole, 1.0, observed=np.ones(6))
    approx = vix.fit(
        3, "advi", model, convergence=None, obj_n_mc=4, random_seed=1, progressbar=False
    )
    assert approx.report.backend == "jax"
    density = LogDensity(model)
    points = np.random.default_rng(0).normal(size=(3, 6))
    with python_only():
        logp = model.compile_logp(mode="FAST_COMPILE")
    expected = [logp({"rho": x[0], "noise": x[1:]}) for x in points]
    np.testing.assert_allclose(density(points)[0], expected)
    assert density.backend == "jax"
