"""The engine's own rewrites change no value."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import dfs_rewriter

import pymc_vi_ext as vix

from pymc_vi_ext.engine.checks import drop_sure_conditions
from pymc_vi_ext.engine.jax_step import _row_products

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
    assert np.isposinf(approx.hist).all()


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
