"""PyTensor's Python mode, for functions that are called too seldom to be compiled."""

from typing import Any

import pytensor.scalar as ps

from pytensor.compile.mode import Mode
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.tensor.elemwise import Elemwise

from pymc_vi_ext.upstream import dfs_rewriter

# NumPy's functions have 32 operands at most, the result among them.
_MOST_OPERANDS = 31
# Among PyTensor's rewrites: after those that join sums of sums into one.
_AFTER_JOINING = 48.0


@node_rewriter([Elemwise])
def _sums_of_sums(fgraph: Any, node: Apply) -> list[Variable] | None:
    """Write a sum or product of many operands as one of sums, each of as many as NumPy takes."""
    parts = list(node.inputs)
    if len(parts) <= _MOST_OPERANDS or not isinstance(node.op.scalar_op, ps.Add | ps.Mul):
        return None
    while len(parts) > _MOST_OPERANDS:
        starts = range(0, len(parts), _MOST_OPERANDS)
        groups = [parts[start : start + _MOST_OPERANDS] for start in starts]
        parts = [node.op(*group) if len(group) > 1 else group[0] for group in groups]
    return [node.op(*parts)]


PYTHON_MODE = Mode(linker="py", optimizer="fast_compile").register(
    (dfs_rewriter(_sums_of_sums), _AFTER_JOINING)
)
"""Evaluates a model with terms of any number, as one written by a loop in Python has."""
