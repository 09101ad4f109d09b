"""Operations that JAX runs as a function of its own, and everything else as a graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor

from pytensor.compile.mode import Mode, optdb
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.graph.traversal import ancestors

from pymc_vi_ext.upstream import dfs_rewriter

# Name of the rewrite that writes the graphs out, and its place: before graphs are merged.
WRITE_OUT = "write_out_native"
_FIRST = -0.02


class Native(Op):
    """An operation with two meanings that agree: a graph, and a JAX function.

    PyTensor rewrites and lowers a graph node by node, loops and their gradients at length. What is
    large, and known beforehand, takes JAX a fraction of that. A subclass has ``__props__``, since
    graphs are told apart by them.
    """

    __props__: tuple[str, ...] = ()

    @abstractmethod
    def graph(self, node: Apply) -> dict[Variable, Variable]:
        """Return what the outputs of `node` are in operations of PyTensor.

        What only other native operations use may be left out.
        """

    @abstractmethod
    def jax_function(self) -> Callable[..., Any]:
        """Return the function that JAX runs: of the inputs, a tuple of the outputs."""

    def perform(
        self, node: Apply, inputs: Sequence[Any], output_storage: Any, *arguments: Any
    ) -> None:
        """Evaluate the graph, where nothing has written it out."""
        fresh = [variable.type() for variable in node.inputs]
        again = node.op.make_node(*fresh)
        written = self.graph(again)
        reached = set(ancestors(written.values()))
        used = {v: value for v, value in zip(fresh, inputs, strict=True) if v in reached}
        mode = Mode(linker="py", optimizer="fast_compile")
        function = pytensor.function([*used], [*written.values()], mode=mode)
        found = dict(zip(written, function(*used.values()), strict=True))
        for cell, variable in zip(output_storage, again.outputs, strict=True):
            nothing = np.empty((0,) * variable.type.ndim, variable.type.dtype)
            cell[0] = found.get(variable, nothing)


@node_rewriter([Native])
def _write_out(fgraph: Any, node: Apply) -> Any:
    return node.op.graph(node)


optdb.register(WRITE_OUT, dfs_rewriter(_write_out), "fast_run", "fast_compile", position=_FIRST)
