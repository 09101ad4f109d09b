"""Monte Carlo samples and particles as a batch dimension instead of a scan.

PyMC evaluates the log density at several draws with :func:`pytensor.scan`, one draw after the
other. Here the same graph is vectorised once, symbolically, so that every backend gets batched
arithmetic and JAX gets static shapes.
"""

import copy

from collections.abc import Mapping, Sequence
from typing import Any

import pymc as pm
import pytensor
import pytensor.tensor as pt

# Registers the rewrites that `batchable` asks for; they cannot be registered after that.
import pytensor.xtensor

from pymc.pytensorf import floatX
from pymc.variational.opvi import Approximation
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.replace import clone_replace, graph_replace, vectorize_graph
from pytensor.graph.rewriting.basic import node_rewriter
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.graph.traversal import ancestors
from pytensor.scan.op import Scan
from pytensor.tensor.blockwise import Blockwise

from pymc_vi_ext.engine.quasi_noise import QuasiNoise
from pymc_vi_ext.engine.shapes import known_shape, with_static_shapes
from pymc_vi_ext.minibatches import minibatch_scale
from pymc_vi_ext.upstream import (
    LOWER_XTENSOR,
    AllocDiag,
    LogAddExp,
    LogSumExp,
    ObjectiveFunction,
    ViewOp,
    XLog1PY,
    XLogY,
    _known_scan_ignored_inputs,
    dfs_rewriter,
    inline_ofg_node,
    without_cache,
)


class _VectorizedSampling:
    """Mixin for an :class:`~pymc.variational.opvi.Approximation`: batches instead of scans.

    Attributes
    ----------
    whole : pymc.Model or None
        The model on all of its data, where the draws are not to see minibatches.
    quasi_noise : QuasiNoise or None
        What may stand for the random numbers that draws are made of.
    """

    whole: pm.Model | None
    quasi_noise: QuasiNoise | None

    @property
    def model(self) -> pm.Model:
        return super().model if self.whole is None else self.whole  # type: ignore[misc]

    @property
    def symbolic_normalizing_constant(self) -> Any:
        # Right for data of two dimensions too, where PyMC's is not.
        scaled = self.scale_cost_to_minibatch  # type: ignore[attr-defined]
        return floatX(minibatch_scale(super().model) if scaled else 1.0)  # type: ignore[misc]

    def to_flat_input(self, node: Any, more_replacements: Any = None) -> Any:
        if self.whole is not None:
            own = {v.name: v for v in super().model.value_vars}  # type: ignore[misc]
            same = {v: own[v.name] for v in self.whole.value_vars}
            node = graph_replace(node, same, strict=False)
        return super().to_flat_input(node, more_replacements=more_replacements)  # type: ignore[misc]

    def make_size_and_deterministic_replacements(
        self, s: Any, d: Any, more_replacements: Any = None
    ) -> dict[Variable, Variable]:
        found: dict[Variable, Variable] = super().make_size_and_deterministic_replacements(  # type: ignore[misc]
            s, d, more_replacements
        )
        groups = self.groups  # type: ignore[attr-defined]
        if self.quasi_noise is None or any(g.initial_dist_name != "normal" for g in groups):
            return found
        # Of no known width where it is one column a variable.
        widths = {g.symbolic_initial: g.symbolic_initial.type.shape[-1] or g.ddim for g in groups}
        random = {noise: found[noise] for noise in widths}
        return {**found, **self.quasi_noise.in_place_of(random, widths, s or 1)}

    def symbolic_sample_over_posterior(self, node: Any, more_replacements: Any = None) -> Any:
        flat = self.to_flat_input(node)
        outputs = list(flat) if isinstance(flat, Sequence) else [flat]
        batched = {
            group.input: pt.specify_shape(random, (None, group.ddim))
            for group, random in zip(self.groups, self.symbolic_randoms, strict=True)  # type: ignore[attr-defined]
        }
        result = over_rows(outputs, batched)
        draws = self.symbolic_randoms[0].shape[0]  # type: ignore[attr-defined]
        result = [
            # What depends on no draw (the data term of a model without data) is the same for all.
            pt.broadcast_to(new, (draws, *new.shape)) if new.type.ndim == old.type.ndim else new
            for new, old in zip(result, outputs, strict=True)
        ]
        return result if isinstance(flat, Sequence) else result[0]


class _SingleDraw(_VectorizedSampling):
    """Mixin for one draw a step: its log density straight away, without a batch to take it from."""

    @property
    def varlogp(self) -> Any:
        return self.single_symbolic_varlogp  # type: ignore[attr-defined]

    @property
    def datalogp(self) -> Any:
        return self.single_symbolic_datalogp  # type: ignore[attr-defined]

    def get_optimization_replacements(self, s: Any, d: Any) -> dict[Variable, Variable]:
        return {}


@node_rewriter([Blockwise])
def _unwrap_batches(fgraph: Any, node: Apply) -> list[Variable] | None:
    """Write a batch of a graph (the gradient of a factorisation) as a graph of batches."""
    core = node.op.core_op
    if not isinstance(core, OpFromGraph):
        return None
    single = core.make_node(*(v.type() for v in core.fgraph.inputs))
    batches = dict(zip(single.inputs, node.inputs, strict=True))
    return list(vectorize_graph(inline_ofg_node(single), batches))


@node_rewriter([AllocDiag, LogAddExp, LogSumExp, ViewOp, XLog1PY, XLogY])
def _unwrap(fgraph: Any, node: Apply) -> list[Variable]:
    return list(node.inputs) if isinstance(node.op, ViewOp) else inline_ofg_node(node)


def batchable(outputs: list[Variable]) -> list[Variable]:
    """Write `outputs` in operations that have a batched form.

    Labelled operations (``pymc.dims``) become plain ones. Operations that stand for a graph of
    their own become that graph, and views what they view. PyTensor does so too, but later: by
    then vectorising has made loops in Python of them.

    Raises
    ------
    NotImplementedError
        If there is a Scan among them, of which no backend has a batched form.
    """
    flat = list(
        rewrite_graph(
            with_static_shapes(outputs),
            include=(LOWER_XTENSOR,),
            custom_rewrite=dfs_rewriter(_unwrap_batches, _unwrap),
            clone=True,
        )
    )
    if has_scan(flat):
        raise NotImplementedError("A Scan has no batched form.")
    rewriter = dfs_rewriter(known_shape)
    return list(
        rewrite_graph(with_static_shapes(flat), include=(), custom_rewrite=rewriter, clone=True)
    )


def has_scan(outputs: Sequence[Variable]) -> bool:
    """Tell whether a loop takes part in computing `outputs`."""
    return any(isinstance(v.owner.op, Scan) for v in ancestors(outputs) if v.owner)


def over_rows(outputs: list[Variable], rows: Mapping[Variable, Variable]) -> list[Variable]:
    """Return `outputs` for every row of other values of some inputs, batched or in a loop.

    Parameters
    ----------
    outputs : list of Variable
    rows : mapping of Variable to Variable
        For each input its values, with one leading axis.
    """
    try:
        return list(vectorize_graph(batchable(outputs), rows))
    except NotImplementedError:
        # The length of a row is part of the loop's type, which an engine that knows the shapes of
        # all data could not change any more.
        known = [
            pt.specify_shape(values, (None, *variable.type.shape))
            for variable, values in rows.items()
        ]
        # Ops that read shared variables of their own inside a loop (minibatches) are given them.
        given = _known_scan_ignored_inputs(outputs)
        found = pytensor.scan(
            lambda *row: clone_replace(
                outputs,
                dict(zip(rows, row[: len(known)], strict=True)),
                rebuild_strict=False,
            ),
            sequences=known,
            non_sequences=given,
            return_updates=False,
        )
        return list(found) if isinstance(found, list | tuple) else [found]


def vectorized(
    objective: ObjectiveFunction,
    draws: int | None,
    whole: pm.Model | None = None,
    quasi_noise: QuasiNoise | None = None,
) -> ObjectiveFunction:
    """Return a view of `objective` whose draws are a batch dimension.

    The view shares every parameter with the original (the same shared variables) and leaves the
    original as it is: no method is patched and no cached graph of it is touched.

    Parameters
    ----------
    objective : ObjectiveFunction
        The objective of any PyMC :class:`~pymc.variational.inference.Inference`.
    draws : int, optional
        Draws a step; None is one, as in PyMC.
    whole : pymc.Model, optional
        The model on all of its data, in place of its own on minibatches.
    quasi_noise : QuasiNoise, optional
        What may stand for the random numbers of the draws.

    Returns
    -------
    ObjectiveFunction
        Same operator, same groups, batched sampling.
    """
    # Objectives with a test function (Stein's) always work on a batch.
    single = draws in (None, 1) and not objective.op.has_test_function
    op = copy.copy(objective.op)
    mixin = _SingleDraw if single else _VectorizedSampling
    op.approx = _view(objective.approx, mixin, whole, quasi_noise)
    clone = copy.copy(objective)
    clone.op = op
    return clone


def vectorized_approximation(approx: Approximation, whole: pm.Model | None = None) -> Approximation:
    """Return a view of `approx` whose draws are a batch dimension; see :func:`vectorized`."""
    return _view(approx, _VectorizedSampling, whole)


def _view(
    approx: Approximation,
    mixin: type,
    whole: pm.Model | None,
    quasi_noise: QuasiNoise | None = None,
) -> Approximation:
    cls = type(approx)
    view: Approximation = object.__new__(type(cls.__name__, (mixin, cls), {}))
    vars(view).update(without_cache(approx), whole=whole, quasi_noise=quasi_noise)
    return view
