"""Shapes that are known, told to PyTensor: most of its time goes into symbolic ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.graph.traversal import toposort
from pytensor.scan.op import Scan
from pytensor.tensor.basic import Alloc
from pytensor.tensor.shape import Shape, Shape_i

from pymc_vi_ext.upstream import infer_static_shape, made_anew


def with_static_shapes(outputs: Sequence[Variable]) -> list[Variable]:
    """Make every node anew, so that it knows the shapes which its inputs have by now.

    PyMC replaces a matrix of any shape by draws of known shape, and what was made from it keeps
    the shapes unknown.
    """
    new: dict[Variable, Variable] = {}
    for node in toposort(outputs):
        made = made_anew(node, [new.get(v, v) for v in node.inputs])
        for old, fresh in zip(node.outputs, made, strict=True):
            new[old] = fresh
            if isinstance(node.op, Scan) and None in getattr(fresh.type, "shape", ()):
                # Its type does not say how many steps it takes, even where that is known.
                _, shape = infer_static_shape(list(fresh.shape))
                new[old] = pt.specify_shape(fresh, shape)
    return [new.get(v, v) for v in outputs]


@node_rewriter([Alloc])
def lengths_of_values(fgraph: Any, node: Apply) -> list[Variable] | None:
    """Let a value that is repeated keep the lengths it has.

    PyMC spreads the log density of an observed variable over its dims, which minibatches are
    shorter than. A length other than 1 can only be spread to itself.
    """
    value, *lengths = node.inputs
    new = len(lengths) - value.type.ndim
    kept = [*(None for _ in range(new)), *value.type.shape]
    lengths = [
        pt.constant(known, dtype="int64")
        if known not in (None, 1) and not isinstance(length, Constant)
        else length
        for known, length in zip(kept, lengths, strict=True)
    ]
    if lengths == node.inputs[1:]:
        return None
    return [pt.alloc(value, *lengths)]


@node_rewriter([Shape, Shape_i])
def known_shape(fgraph: Any, node: Apply) -> list[Variable] | None:
    """Write a shape that the type knows as a constant."""
    shape = node.inputs[0].type.shape
    wanted = shape if isinstance(node.op, Shape) else (shape[node.op.i],)
    if None in wanted:
        return None
    values = np.asarray(wanted, "int64")
    return [pt.constant(values if isinstance(node.op, Shape) else values[0])]
