"""Variables whose axes have names (those of ``pymc.dims``) beside plain ones."""

from __future__ import annotations

from typing import Any

from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.xtensor import as_xtensor
from pytensor.xtensor.type import XTensorType

from pymc_vi_ext.upstream import LOWER_XTENSOR


def has_labels(variable: Variable) -> bool:
    """Tell whether the axes of `variable` have names."""
    return isinstance(variable.type, XTensorType)


def plain(variable: Any) -> Any:
    """Return `variable` without names of its axes."""
    return variable.values if has_labels(variable) else variable


def labelled_as(other: Any, values: Any) -> Any:
    """Return plain `values` with the names of the axes of `other`, where it has names."""
    return as_xtensor(values, dims=other.type.dims) if has_labels(other) else values


def in_plain_operations(outputs: list[Variable]) -> list[Variable]:
    """Write `outputs` without operations on named axes, which have no gradients of their own."""
    return list(rewrite_graph(outputs, include=(LOWER_XTENSOR,), clone=True))
