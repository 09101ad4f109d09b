"""Conditions that hold by construction, taken out of a step.

PyMC guards densities with conditions on their parameters (``sigma > 0``). A parameter that the
model computes as an exponential, as the transforms of positive variables do, always passes; in a
compiled loop the guard costs as much as the density and keeps XLA from fusing it.
"""

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.tensor.basic import Alloc
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.shape import Reshape, SpecifyShape

from pymc_vi_ext.upstream import dfs_rewriter

_POSITIVE = (ps.Exp, ps.Softplus, ps.Sigmoid)
_POSITIVE_OF_POSITIVE = (ps.Add, ps.Mul, ps.TrueDiv, ps.Reciprocal, ps.Sqrt, ps.Second, ps.Cast)
_SAME_VALUES = (Alloc, DimShuffle, Reshape, SpecifyShape)


def _is_positive(variable: Variable) -> bool:
    """Tell whether all values of `variable` are above 0, overflow and underflow apart."""
    if isinstance(variable, Constant):
        return bool(np.all(np.asarray(variable.data) > 0))
    if variable.owner is None:
        return False
    op, inputs = variable.owner.op, variable.owner.inputs
    if isinstance(op, _SAME_VALUES):
        return _is_positive(inputs[0])
    if not isinstance(op, Elemwise):
        return False
    if isinstance(op.scalar_op, _POSITIVE):
        return True
    return isinstance(op.scalar_op, _POSITIVE_OF_POSITIVE) and all(map(_is_positive, inputs))


def _is_constant(variable: Variable, value: float) -> bool:
    while variable.owner is not None and isinstance(variable.owner.op, _SAME_VALUES):
        variable = variable.owner.inputs[0]
    return isinstance(variable, Constant) and bool(np.all(np.asarray(variable.data) == value))


def _is_sigmoid(variable: Variable) -> bool:
    owner = variable.owner
    return (
        owner is not None
        and isinstance(owner.op, Elemwise)
        and isinstance(owner.op.scalar_op, ps.Sigmoid)
    )


@node_rewriter([Elemwise])
def _hold(fgraph: FunctionGraph, node: Apply) -> list[Variable] | None:
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    scalar_op = node.op.scalar_op
    above_zero = isinstance(scalar_op, ps.GT | ps.GE) and _is_constant(right, 0.0)
    below_one = isinstance(scalar_op, ps.LE | ps.LT) and _is_constant(right, 1.0)
    if (above_zero and _is_positive(left)) or (below_one and _is_sigmoid(left)):
        return [pt.ones_like(node.outputs[0])]
    return None


def drop_sure_conditions(graph: FunctionGraph) -> None:
    """Replace, in place, comparisons of `graph` that are true by construction."""
    dfs_rewriter(_hold).rewrite(graph)
