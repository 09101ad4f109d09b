"""Models on batches: what their losses are divided by, and the same graphs on all data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pymc as pm

from pymc.model.fgraph import fgraph_from_model, model_from_fgraph
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.traversal import ancestors, toposort
from pytensor.tensor.type_other import NoneConst

from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.streams import streams_in
from pymc_vi_ext.upstream import MinibatchOp, MinibatchRandomVariable, made_anew

_PYTHON = Mode(linker="py", optimizer=None)


def has_minibatches(model: pm.Model) -> bool:
    """Tell whether `model` reads batches, be they drawn from memory or read from disk."""
    return any(True for _ in _minibatches(_read(model))) or is_streamed(model)


def is_streamed(model: pm.Model) -> bool:
    """Tell whether `model` reads batches of data that are not in memory."""
    return bool(streams_in(_read(model)))


def refuse_streams(model: pm.Model, what: str) -> None:
    """Raise a ValueError if all data of `model` cannot be read at once, for `what` reads them.

    Parameters
    ----------
    model : pymc.Model
    what : str
        Completes "... needs all data at once".
    """
    if is_streamed(model):
        raise ValueError(
            f"{what} needs all data at once, and those of vix.data.Batches are read a batch at a "
            "time: build the model on data in memory for this, on some of the rows for instance."
        )


def on_all_data(model: pm.Model) -> pm.Model:
    """Return `model` with the data in place of the minibatches that are drawn from them.

    The model itself where there are none. Its variables have the same names, in the same order;
    data that are shared variables are shared. Totals are kept, so that a total which is the size of
    the data weighs them by 1.

    Raises
    ------
    ValueError
        If the data are read from disk, a batch at a time.
    """
    refuse_streams(model, "This")
    if not has_minibatches(model):
        return model
    graph, _ = fgraph_from_model(model)
    new: dict[Variable, Variable] = {
        batch: data
        for node in _minibatches(graph.outputs)
        for batch, data in zip(node.outputs, node.inputs, strict=True)
    }
    for node in toposort(graph.outputs):
        if isinstance(node.op, MinibatchOp) or not any(v in new for v in node.inputs):
            continue
        inputs: list[Any] = [new.get(v, v) for v in node.inputs]
        if isinstance(node.op, MinibatchRandomVariable):
            # It does not take the None that it gives.
            inputs = [None if NoneConst.equals(v) else v for v in inputs]
        new |= zip(node.outputs, made_anew(node, inputs), strict=True)
    whole = FunctionGraph(outputs=[new.get(v, v) for v in graph.outputs], clone=False)
    for note in ("_coords", "_dim_lengths"):
        setattr(whole, note, getattr(graph, note))
    found: pm.Model = model_from_fgraph(whole, mutate_fgraph=True)
    order = [variable.name for variable in model.free_RVs]
    found.free_RVs.sort(key=lambda variable: order.index(variable.name))
    return found


def size_of_data(model: pm.Model) -> int:
    """Return how many numbers minibatches are drawn from, in all; of those in memory."""
    data = {v for node in _minibatches(_read(model)) for v in node.inputs[:-1]}
    return sum(int(np.prod(_shape(variable))) for variable in data)


def minibatch_scale(model: pm.Model) -> float:
    """Return what losses are divided by where they are scaled to the minibatch, as PyMC does it.

    The largest ratio of total to batch of the observed variables; 1 without minibatches. (PyMC
    6.4 divides by the product of the ratios of a total to *each* axis of the data, where these have
    two: by N/b times N/k for a batch of b rows and k columns.)
    """
    ratios = [1.0]
    for variable in model.observed_RVs:
        if isinstance(variable.owner.op, MinibatchRandomVariable):
            totals, shape = _totals(variable), _shape(model.rvs_to_values[variable])
            ratios.append(
                float(np.prod([t / n for t, n in zip(totals, shape, strict=False) if t]))
                if shape
                else float(totals[0] or 1)
            )
    return max(ratios)


def doubtful_totals(model: pm.Model) -> list[str]:
    """Return a sentence for each observed variable whose `total_size` is not the size of its data.

    Their likelihood is weighted by total over batch: a posterior that is too wide, or too narrow.
    """
    sentences = []
    for variable in model.observed_RVs:
        value = model.rvs_to_values[variable]
        rows = [_shape(node.inputs[0])[0] for node in _minibatches([value])]
        rows += [stream.total_size for stream in streams_in([value])]
        if not rows:
            continue
        if not isinstance(variable.owner.op, MinibatchRandomVariable):
            sentences.append(
                f"`{variable.name}` is observed in minibatches and has no total_size: its "
                f"likelihood counts one batch, not the data. Give it total_size={rows[0]}."
            )
            continue
        given = _totals(variable)[0]
        if given is not None and given != rows[0]:
            sentences.append(
                f"`{variable.name}` has total_size={given}, and its minibatches are drawn from "
                f"{rows[0]} rows: its likelihood counts {given / rows[0]:.3g} times. total_size "
                f"counts rows, not numbers: give it total_size={rows[0]}."
            )
    return sentences


def separate_batches(model: pm.Model) -> list[str]:
    """Return a sentence for each observed variable whose data were drawn by several calls.

    Each call of ``pm.Minibatch`` picks rows of its own, so that what predicts and what is predicted
    are of different rows: an association that there is in the data is not found.
    """
    sentences = []
    for variable in model.observed_RVs:
        graphs = [variable, model.rvs_to_values[variable]]
        nodes = _minibatches(graphs)
        calls = {node.inputs[-1] for node in nodes}
        streams = streams_in(graphs)
        if len(streams) > 1 or (streams and calls):
            sentences.append(
                f"What `{variable.name}` is observed at, and what predicts it, come from different "
                "Batches, whose rows do not belong together. Take them from one: "
                'batches["X"], batches["y"].'
            )
        elif len(calls) > 1:
            sentences.append(
                f"What `{variable.name}` is observed at, and what predicts it, were drawn by "
                "separate calls of pm.Minibatch, which pick different rows. Draw them in one: "
                "x, y = pm.Minibatch(x, y, batch_size=...)."
            )
    return sentences


def _read(model: pm.Model) -> list[Variable]:
    """Return what the log density of `model` is made of, which costs a start nothing to look at."""
    observed = [model.rvs_to_values[variable] for variable in model.observed_RVs]
    return [*model.basic_RVs, *model.potentials, *observed]


def _minibatches(graphs: Sequence[Variable]) -> Iterator[Any]:
    """Return the nodes that draw minibatches."""
    nodes = {v.owner: None for v in ancestors(list(graphs)) if v.owner is not None}
    return (node for node in nodes if isinstance(node.op, MinibatchOp))


def _totals(variable: Variable) -> list[int | None]:
    """Return the total size of each axis, None where it is not given."""
    with python_only():
        found = [size.eval(mode=_PYTHON) for size in variable.owner.inputs[1:]]
    return [None if size is None else int(size) for size in found]


def _shape(variable: Variable) -> tuple[int, ...]:
    """Return the shape that `variable` has now."""
    if None not in variable.type.shape:
        return tuple(variable.type.shape)
    with python_only():
        return tuple(int(n) for n in variable.shape.eval(mode=_PYTHON))
