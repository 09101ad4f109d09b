"""A flow's couplings as two operations, along the layers and back; JAX has functions for them."""

from __future__ import annotations

import functools

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt

from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from pymc_vi_ext.approximations._layers import Coupling, Layers
from pymc_vi_ext.native import Native


class _Couplings(Native):
    """Couplings by what tells them from others."""

    __props__: tuple[str, ...] = ("kind", "d", "couplings", "width")

    def __init__(self, kind: str, d: int, couplings: int, width: int):
        self.kind, self.d, self.couplings, self.width = kind, d, couplings, width

    @property
    def layers(self) -> list[Coupling]:
        """The couplings."""
        return _layers(self.kind, self.d, self.couplings, self.width)

    def _left_behind(self, noise: pt.TensorVariable) -> list[pt.TensorVariable]:
        first = self.layers[0]
        rounds, draws = self.couplings, noise.type.shape[1]
        kept = max(layer.kept for layer in self.layers)
        moved = max(layer.moved for layer in self.layers)
        inputs = [kept, *(o for _, o in first.shapes[:-1])]
        each, by_raw = (rounds, moved, draws), (rounds, moved, first.numbers, draws)
        shapes = [*((rounds, i + 1, draws) for i in inputs), each, by_raw, each, by_raw]
        return [pt.tensor(dtype=noise.type.dtype, shape=shape) for shape in shapes]


@functools.lru_cache(maxsize=8)
def _layers(kind: str, d: int, couplings: int, width: int) -> list[Coupling]:
    return [Coupling(kind, d, i, width) for i in range(couplings)]


class Along(_Couplings):
    """Draws, log |determinants| and gradients of the log density, as :class:`Mapped` has them.

    Of standard normal numbers, (d, draws), and the weights. What else it returns is for `Back`.
    """

    def make_node(self, noise: Any, weights: Any) -> Apply:
        """Return the node, of the shapes that are known."""
        noise, weights = pt.as_tensor_variable(noise), pt.as_tensor_variable(weights)
        dtype, draws = noise.type.dtype, noise.type.shape[1]
        outputs = [
            pt.tensor(dtype=dtype, shape=(self.d, draws)),
            pt.tensor(dtype=dtype, shape=(draws,)),
            pt.tensor(dtype=dtype, shape=(self.d, draws)),
            *self._left_behind(noise),
        ]
        return Apply(self, [noise, weights], outputs)

    def graph(self, node: Apply) -> dict[Variable, Variable]:
        """Return the loops that :class:`Layers` writes; what is left behind has no part in them."""
        found = Layers(self.layers).mapped(*node.inputs)
        return dict(zip(node.outputs, found, strict=False))

    def jax_function(self) -> Callable[..., Any]:
        """Return the loop along the layers."""
        from pymc_vi_ext.approximations._flow_jax import JaxCouplings

        return JaxCouplings(self.layers).along

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Say that the gradient of the density is not differentiated."""
        return [[i < 2 for i in range(len(node.outputs))]] * 2

    def pullback(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        cotangents: Sequence[Variable],
    ) -> list[Variable]:
        """Return the gradients of :class:`Back`."""
        noise, weights = inputs
        of_draws, of_log_det, *_ = cotangents
        if isinstance(of_draws.type, DisconnectedType):
            of_draws = pt.zeros_like(noise)
        given = [of_draws]
        both = not isinstance(of_log_det.type, DisconnectedType)
        if both:
            given.append(of_log_det)
        back = Back(self.kind, self.d, self.couplings, self.width, both)
        return list(back(noise, weights, *given, *outputs[3:]))


class Back(_Couplings):
    """Gradients in the noise and the weights, by those in the draws and log |determinants|.

    Inputs are those of `Along`, the gradients, and what `Along` leaves behind.
    """

    __props__ = (*_Couplings.__props__, "of_both")

    def __init__(self, kind: str, d: int, couplings: int, width: int, of_both: bool):
        super().__init__(kind, d, couplings, width)
        # Whether there is a gradient in the determinants.
        self.of_both = of_both

    def make_node(self, *inputs: Any) -> Apply:
        """Return the node, whose outputs are like the first two inputs."""
        given = [pt.as_tensor_variable(one) for one in inputs]
        return Apply(self, given, [one.type() for one in given[:2]])

    def graph(self, node: Apply) -> dict[Variable, Variable]:
        """Return the gradients that PyTensor writes of the loops."""
        noise, weights, *given = node.inputs
        draws, log_det, _ = Layers(self.layers).mapped(noise, weights)
        known = dict(zip((draws, log_det)[: 1 + self.of_both], given, strict=False))
        found = pt.grad(None, [noise, weights], known_grads=known, disconnected_inputs="ignore")
        return dict(zip(node.outputs, found, strict=True))

    def jax_function(self) -> Callable[..., Any]:
        """Return the loop back."""
        from pymc_vi_ext.approximations._flow_jax import JaxCouplings

        couplings = JaxCouplings(self.layers)

        def function(noise: Any, weights: Any, of_draws: Any, *more: Any) -> Any:
            of_log_det, left = (more[0], more[1:]) if self.of_both else (None, more)
            return couplings.back(weights, of_draws, of_log_det, left)

        return function
