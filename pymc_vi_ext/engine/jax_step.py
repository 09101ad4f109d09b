"""From a :class:`StepProgram` to a JAX function."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.tensor.basic import Split
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.math import Dot
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.type import TensorType

from pymc_vi_ext import upstream
from pymc_vi_ext.engine.checks import drop_sure_conditions
from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.engine.shapes import lengths_of_values, with_static_shapes
from pymc_vi_ext.native import WRITE_OUT, Native
from pymc_vi_ext.upstream import (
    DIAGONAL_PRODUCTS,
    SELECTION_PRODUCTS,
    dfs_rewriter,
    fgraph_to_python,
)

_barrier: Any = jax.lax.optimization_barrier  # without types
# Larger constants become arguments: XLA folds what it finds inside a program, at compile time.
_LARGEST_CONSTANT = 4_096  # bytes
# What a message says of an Op and of what failed, in characters.
_LONGEST_NAME, _LONGEST_REASON = 60, 120


# They look through a whole graph at every product, for diagonal matrices and selections.
_SLOW_REWRITES = (DIAGONAL_PRODUCTS, SELECTION_PRODUCTS)
# And what JAX has a function of its own for stays what it is.
_LEFT_OUT = (*_SLOW_REWRITES, WRITE_OUT)


class UnsupportedOpError(NotImplementedError):
    """The step needs an Op that JAX cannot run.

    Attributes
    ----------
    op : str
        Name of the Op.
    """

    def __init__(self, op: Op, cause: Exception):
        # Of an Op that holds a graph the text may be that graph.
        name = str(op)
        self.op = name if len(name) <= _LONGEST_NAME and "\n" not in name else type(op).__name__
        reason = str(cause).strip().split("\n")[0] or type(cause).__name__
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[: _LONGEST_REASON - 3]}..."
        super().__init__(f"The Op {self.op} of this model cannot run on JAX ({reason}).")


@dataclass(frozen=True)
class JaxStep:
    """A step as a JAX function.

    Attributes
    ----------
    function : callable
        ``function(*state, *arrays, *constants) -> (*state, loss)``, without the loss where the
        program has none.
    arrays : list of SharedVariable
        The program's data that are arguments. The rest, integers that give shapes, are part of
        the function with the values they have now.
    constants : list of array
        Large constants of the graph.
    """

    function: Callable[..., Any]
    arrays: list[SharedVariable]
    constants: list[np.ndarray]


def jax_step(
    program: StepProgram, placed: Callable[[jax.Array], jax.Array] = lambda draw: draw
) -> JaxStep:
    """Lower `program` to JAX, with the shapes its shared variables have now.

    Parameters
    ----------
    program : StepProgram
    placed : callable
        Says of random numbers on which devices they are drawn.

    Raises
    ------
    UnsupportedOpError
        If an Op has no JAX implementation, naming the Op.
    """
    # Rewrites load PyTensor's JAX functions; this way without a warning about notebooks.
    _ = upstream.jax_funcify
    static = [v for v in program.data if gives_shape(v)]
    arrays = arguments_of(program)
    inputs = {v: _static_input(v) for v in [*program.state, *arrays]}
    values = {v: v.type.constant_type(v.type, v.get_value()) for v in static}
    spread = dfs_rewriter(lengths_of_values)
    outputs = rewrite_graph(program.outputs, include=(), custom_rewrite=spread, clone=True)
    outputs = clone_replace(outputs, replace=inputs | values, rebuild_strict=False)
    graph = FunctionGraph(list(inputs.values()), with_static_shapes(outputs), clone=True)
    drop_sure_conditions(graph)
    program.mode("JAX").excluding(*_LEFT_OUT).optimizer.rewrite(graph)
    dfs_rewriter(_row_products, _plain_splits).rewrite(graph)
    constants = _constants_to_inputs(graph)
    funcify = partial(_funcify, placed=placed)
    function = fgraph_to_python(graph, funcify, type_conversion_fn=_constant)
    return JaxStep(function, arrays, constants)


def _funcify(
    op: Op,
    node: Apply | None = None,
    *,
    placed: Callable[[jax.Array], jax.Array],
    **kwargs: Any,
) -> Callable[..., Any]:
    """Dispatch as PyTensor does, naming an Op that fails, and draw random numbers once."""
    try:
        own = isinstance(op, Native)
        function = op.jax_function() if own else upstream.jax_funcify(op, node=node, **kwargs)
    except NotImplementedError as error:
        raise UnsupportedOpError(op, error) from error

    def traced(*args: Any) -> Any:
        try:
            result = function(*args)
        except Exception as error:
            raise UnsupportedOpError(op, error) from error
        if isinstance(op, RandomVariable):
            # Without the barrier XLA draws again inside every operation that uses the draw.
            rng, draw = result
            return rng, _barrier(placed(draw))
        if node is None or isinstance(result, tuple | list):
            return result
        return _typed(result, node.outputs[0])

    return traced


def _typed(value: Any, variable: Variable) -> Any:
    """Give `value` the dtype that PyTensor knows: JAX promotes int8 and float to float64."""
    dtype = getattr(variable.type, "dtype", None)
    if isinstance(value, jax.Array) and dtype is not None and value.dtype != dtype:
        return value.astype(dtype)
    return value


def _constant(data: Any, **kwargs: Any) -> Any:
    """Bring a constant to JAX. PyTensor's own way compiles a copy kernel per shape."""
    if isinstance(data, np.ndarray) and data.ndim:
        return jax.device_put(data)
    return upstream.jax_typify(data, **kwargs)


def arguments_of(program: StepProgram) -> list[SharedVariable]:
    """Return the data of a program that are arguments of its step; the rest gives shapes."""
    return [v for v in program.data if not gives_shape(v)]


def gives_shape(variable: SharedVariable) -> bool:
    """Tell whether `variable` is an integer scalar, of which shapes may be made."""
    value = variable.get_value(borrow=True)
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer)


def _static_input(variable: SharedVariable) -> Variable:
    """Return an input of the shared variable's type with the shape of its value."""
    if isinstance(variable.type, RandomType):
        return variable.type(name=variable.name)
    shape = np.shape(variable.get_value(borrow=True))
    return variable.type.clone(shape=shape)(name=variable.name)


@node_rewriter([Dot])
def _row_products(graph: FunctionGraph, node: Apply) -> list[Variable] | None:
    """Write ``X.T @ column`` as ``(row @ X).T``: XLA copies a transposed matrix at every step."""
    left, right = node.inputs
    if left.owner is None or right.type.shape[1] != 1:
        return None
    if not (isinstance(left.owner.op, DimShuffle) and left.owner.op.new_order == (1, 0)):
        return None
    [matrix] = left.owner.inputs
    if matrix.type.shape[1] == 1:
        return None
    return [right.T.dot(matrix).T]


@node_rewriter([Blockwise])
def _plain_splits(graph: FunctionGraph, node: Apply) -> list[Variable] | None:
    """Write a batch of splits at the same constant places as one split; JAX has no other."""
    split = node.op.core_op
    if not isinstance(split, Split) or not isinstance(node.inputs[1], Constant):
        return None
    values, sizes = node.inputs[0], node.inputs[1].data
    rows = sizes.reshape(-1, sizes.shape[-1])
    if (rows != rows[0]).any():
        return None
    whole = Split(split.len_splits, node.op.batch_ndim(node) + split.axis)
    return list(whole.make_node(values, rows[0]).outputs)


def _constants_to_inputs(graph: FunctionGraph) -> list[np.ndarray]:
    large = [
        v
        for v in graph.variables
        if isinstance(v, Constant)
        and isinstance(v.type, TensorType)
        and np.asarray(v.data).nbytes > _LARGEST_CONSTANT
    ]
    for constant in large:
        argument = constant.type(name=constant.name)
        graph.add_input(argument)
        graph.replace(constant, argument, import_missing=True)
    return [np.asarray(v.data) for v in large]
