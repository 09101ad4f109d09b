"""Layers of a flow as graphs, in a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt

from pytensor.gradient import disconnected_grad

# Spline: bins, and the interval [-b, b] outside of which it is the identity.
BINS, BOUND = 6, 5.0
LEAST_BIN, LEAST_SLOPE = 1e-3, 1e-3
# Of raw slopes, of which 0 is slope 1.
SHIFT = float(np.log(np.expm1(1 - LEAST_SLOPE)))
# Log scales of an affine coupling stay within this of 0.
MOST_LOG_SCALE = 2.0

type Pair = tuple[pt.TensorVariable, pt.TensorVariable]
# x (m, draws), raw numbers (m, k, draws) -> y (m, draws), log |dy/dx| (m, draws)
type Transform = Callable[[pt.TensorVariable, pt.TensorVariable], Pair]


def affine(x: pt.TensorVariable, raw: pt.TensorVariable) -> Pair:
    r""":math:`y = x e^s + t` (Dinh et al., 2017)."""
    log_scale = MOST_LOG_SCALE * pt.tanh(raw[:, 0] / MOST_LOG_SCALE)
    return x * pt.exp(log_scale) + raw[:, 1], log_scale + pt.zeros_like(x)


def knots(logits: pt.TensorVariable) -> pt.TensorVariable:
    """Return the edges of bins from -5 to 5, (m, bins + 1, ...), of raw sizes, (m, bins, ...).

    Bins side by side share an edge, the same number: what lies on it is in exactly one of them.
    """
    parts = LEAST_BIN + (1 - BINS * LEAST_BIN) * pt.special.softmax(logits, axis=1)
    inner = pt.cumsum(2 * BOUND * parts, axis=1)[:, :-1] - BOUND
    end = pt.full_like(logits[:, :1], BOUND)
    return pt.concatenate([-end, inner, end], axis=1)


def spline(x: pt.TensorVariable, raw: pt.TensorVariable) -> Pair:
    """Monotone rational-quadratic spline with identity tails (Durkan et al., 2019)."""
    edges, levels = knots(raw[:, :BINS]), knots(raw[:, BINS : 2 * BINS])
    inner = LEAST_SLOPE + pt.softplus(raw[:, 2 * BINS :] + SHIFT)
    ends = pt.ones_like(inner[:, :1])
    slopes = pt.concatenate([ends, inner, ends], axis=1)
    inside = pt.abs(x) < BOUND
    # Outside, where the result is dropped, any place that is in a bin.
    at = pt.switch(inside, x, 0.0)
    # Of the numbers of all bins those of the draw's own: a sum over bins, where all others are 0.
    mine = pt.and_(at[:, None] >= edges[:, :-1], at[:, None] < edges[:, 1:])

    def own(numbers: pt.TensorVariable) -> pt.TensorVariable:
        return pt.sum(pt.switch(mine, numbers, 0.0), axis=1)

    x0, width = own(edges[:, :-1]), own(edges[:, 1:] - edges[:, :-1])
    y0, height = own(levels[:, :-1]), own(levels[:, 1:] - levels[:, :-1])
    d0, d1 = own(slopes[:, :-1]), own(slopes[:, 1:])
    slope = height / width
    t = (at - x0) / width
    mixed = t * (1 - t)
    below = slope + (d0 + d1 - 2 * slope) * mixed
    y = y0 + height * (slope * t**2 + d0 * mixed) / below
    numerator = d1 * t**2 + 2 * slope * mixed + d0 * (1 - t) ** 2
    log_slope = 2 * pt.log(slope) + pt.log(numerator) - 2 * pt.log(below)
    return pt.switch(inside, y, x), pt.switch(inside, log_slope, 0.0)


# transform and numbers it takes for each variable
_COUPLINGS: dict[str, tuple[Transform, int]] = {
    "affine": (affine, 2),
    "spline": (spline, 3 * BINS - 1),
}


class Mapped(NamedTuple):
    """Draws of a flow.

    Attributes
    ----------
    draws : tensor of shape (d, draws)
    log_det : tensor of shape (draws,)
        Logarithms of the determinants of the map.
    gradient : tensor of shape (d, draws)
        Of the log density of the draws, at these.
    """

    draws: pt.TensorVariable
    log_det: pt.TensorVariable
    gradient: pt.TensorVariable


class Layer:
    """A layer: how many weights it takes, their start, and the map.

    Attributes
    ----------
    size : int
        Number of its weights.
    places : array of shape (rows, d)
        Indices that set it apart from others of its shape.
    """

    size: int
    places: np.ndarray

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        raise NotImplementedError

    def apply(
        self, x: pt.TensorVariable, weights: pt.TensorVariable, places: pt.TensorVariable
    ) -> Pair:
        """Return the mapped draws, (d, draws), and log |determinant|, (draws,)."""
        raise NotImplementedError

    def carry(
        self,
        gradient: pt.TensorVariable,
        x: pt.TensorVariable,
        weights: pt.TensorVariable,
        places: pt.TensorVariable,
    ) -> pt.TensorVariable:
        """Return the gradient of the log density of the mapped draws at these, (d, draws).

        `gradient`, (d, draws), is that of the log density of `x` at `x`.
        """
        raise NotImplementedError


class Layers:
    """Layers one after the other, as a loop: what is written and compiled is one of them.

    Layers of an odd number of variables move one more and one less in turn: two of these are a
    round of the loop. What is left of a round follows it.
    """

    def __init__(self, layers: Sequence[Layer]):
        self.layers = layers
        same = len({layer.size for layer in layers}) == 1
        self._round = layers[: 1 if same else 2]
        self._rounds = len(layers) // len(self._round)
        self._rest = layers[self._rounds * len(self._round) :]

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        """Return the weights of all layers, one after the other."""
        return np.concatenate([layer.start(rng) for layer in self.layers])

    def mapped(self, noise: pt.TensorVariable, weights: pt.TensorVariable) -> Mapped:
        """Return what the layers make of standard normal numbers, (d, draws)."""
        xs, log_dets = self.apply(noise, weights)
        return Mapped(xs[-1], log_dets[-1], self.carry(noise, xs, weights))

    def apply(self, x: pt.TensorVariable, weights: pt.TensorVariable) -> Pair:
        """Return the draws, (rounds, d, draws), and log |determinants|, (rounds, draws), so far.

        What is left of a round is one more.
        """
        nothing = pt.zeros_like(x[0])
        xs, log_dets = pytensor.scan(
            lambda weights, places, x, log_det: self._apply(
                self._round, x, log_det, weights, places
            ),
            sequences=self._sequences(weights),
            outputs_info=[x, nothing],
            n_steps=self._rounds,
            return_updates=False,
        )
        if self._rest:
            last = self._apply(self._rest, xs[-1], log_dets[-1], *self._rests(weights))
            xs, log_dets = (
                pt.concatenate([whole, one[None]])
                for whole, one in zip((xs, log_dets), last, strict=True)
            )
        return xs, log_dets

    def carry(
        self, noise: pt.TensorVariable, xs: pt.TensorVariable, weights: pt.TensorVariable
    ) -> pt.TensorVariable:
        """Return the gradient of the log density of the last draws, (d, draws).

        Parameters
        ----------
        noise, xs : tensor of shape (d, draws) and (rounds, d, draws)
            Standard normal numbers, and what :meth:`apply` makes of them.
        weights : tensor
        """
        before = pt.concatenate([noise[None], xs[: self._rounds - 1]])
        gradients = pytensor.scan(
            lambda weights, places, x, gradient: self._carry(
                self._round, gradient, x, weights, places
            ),
            sequences=[*self._sequences(weights), before],
            outputs_info=[-noise],
            n_steps=self._rounds,
            return_updates=False,
        )
        gradient = gradients[-1]
        if self._rest:
            at = xs[self._rounds - 1]
            gradient = self._carry(self._rest, gradient, at, *self._rests(weights))
        return gradient

    def _sequences(self, weights: pt.TensorVariable) -> list[pt.TensorVariable]:
        of_round = sum(layer.size for layer in self._round)
        rows = weights[: self._rounds * of_round].reshape((self._rounds, of_round))
        places = np.stack([layer.places for layer in self.layers])
        places = places[: self._rounds * len(self._round)]
        shape = (self._rounds, len(self._round), *places.shape[1:])
        return [rows, pt.constant(places.reshape(shape))]

    def _rests(self, weights: pt.TensorVariable) -> Pair:
        used = sum(layer.size for layer in self._rest)
        places = np.stack([layer.places for layer in self._rest])
        return weights[weights.shape[0] - used :], pt.constant(places)

    def _apply(
        self,
        layers: Sequence[Layer],
        x: pt.TensorVariable,
        log_det: pt.TensorVariable,
        weights: pt.TensorVariable,
        places: pt.TensorVariable,
    ) -> Pair:
        used = 0
        for i, layer in enumerate(layers):
            x, more = layer.apply(x, weights[used : used + layer.size], places[i])
            log_det, used = log_det + more, used + layer.size
        return x, log_det

    def _carry(
        self,
        layers: Sequence[Layer],
        gradient: pt.TensorVariable,
        x: pt.TensorVariable,
        weights: pt.TensorVariable,
        places: pt.TensorVariable,
    ) -> pt.TensorVariable:
        used = 0
        for i, layer in enumerate(layers):
            own = weights[used : used + layer.size]
            gradient = layer.carry(gradient, x, own, places[i])
            x, _ = layer.apply(x, own, places[i])
            used += layer.size
        return gradient


class Coupling(Layer):
    """Half of the variables, moved by functions that the other half shapes."""

    def __init__(self, kind: str, d: int, index: int, width: int):
        self.kind = kind
        self._transform, self.numbers = _COUPLINGS[kind]
        # Two layers in a row move the two halves of one random partition.
        order = np.random.default_rng(index // 2).permutation(d)
        halves = order[: d // 2], order[d // 2 :]
        kept, moved = halves if index % 2 == 0 else halves[::-1]
        if not len(moved):
            kept, moved = moved, kept
        self.kept, self.moved = len(kept), len(moved)
        order = np.concatenate([kept, moved])
        # Where the kept and the moved are, and how all get back to their places.
        self.places = np.stack([order, np.argsort(order)])
        out = self.moved * self.numbers
        # Weights and biases of the network; in one dimension the biases of its output alone.
        inputs = [self.kept, width, width]
        self.shapes = [(i, o) for i, o in zip(inputs, [width, width, out], strict=True)]
        if not self.kept:
            self.shapes = [(0, out)]
        self.size = sum((i + 1) * o for i, o in self.shapes)

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        """Return random hidden weights and an output of 0, where the map is the identity."""
        parts = []
        for i, o in self.shapes[:-1]:
            parts += [rng.normal(size=i * o) / np.sqrt(i), np.zeros(o)]
        i, o = self.shapes[-1]
        return np.concatenate([*parts, np.zeros((i + 1) * o)])

    def _split(self, x: pt.TensorVariable, places: pt.TensorVariable) -> Pair:
        x = x[places[0]]
        return x[: self.kept], x[self.kept :]

    def _move(
        self, kept: pt.TensorVariable, moved: pt.TensorVariable, weights: pt.TensorVariable
    ) -> Pair:
        """Return the moved and the logarithms of their slopes, (moved, draws)."""
        hidden, used = kept, 0
        for layer, (i, o) in enumerate(self.shapes):
            matrix = weights[used : used + i * o].reshape((i, o))
            bias = weights[used + i * o : used + (i + 1) * o]
            hidden = matrix.T.dot(pt.tanh(hidden) if layer else hidden) + bias[:, None]
            used += (i + 1) * o
        return self._transform(moved, hidden.reshape((self.moved, self.numbers, -1)))

    def apply(
        self, x: pt.TensorVariable, weights: pt.TensorVariable, places: pt.TensorVariable
    ) -> Pair:
        kept, moved = self._split(x, places)
        y, log_slopes = self._move(kept, moved, weights)
        return pt.concatenate([kept, y])[places[1]], pt.sum(log_slopes, axis=0)

    def carry(
        self,
        gradient: pt.TensorVariable,
        x: pt.TensorVariable,
        weights: pt.TensorVariable,
        places: pt.TensorVariable,
    ) -> pt.TensorVariable:
        # J' is [[1, A'], [0, D]] in (kept, moved), with D the slopes and A = d y / d kept.
        kept, moved = self._split(x, places)
        rest, onward = self._split(gradient, places)
        y, log_slopes = self._move(kept, moved, weights)
        log_det = pt.sum(log_slopes)
        # An affine one's determinant does not depend on what it moves.
        own = pt.grad(log_det, moved, disconnected_inputs="ignore")
        onward = disconnected_grad((onward - own) * pt.exp(-log_slopes))
        if self.kept:
            rest = rest - pt.grad(log_det + pt.sum(y * onward), kept)
        return pt.concatenate([rest, onward])[places[1]]


class Planar(Layer):
    r""":math:`x + u \tanh(w^T x + b)`, with `u` bent so that the map is invertible."""

    def __init__(self, d: int):
        self._d = d
        self.size = 2 * d + 1
        self.places = np.empty((0, d), dtype=int)

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        """Return `u` for which the bent one is 0, a random `w`, and `b` 0."""
        d = self._d
        w = rng.normal(size=d) / np.sqrt(d)
        u = w * np.log(np.expm1(1.0)) / np.sum(w**2)
        return np.concatenate([u, w, np.zeros(1)])

    def _parts(self, x: pt.TensorVariable, weights: pt.TensorVariable) -> Sequence[Any]:
        """Return `u` bent, `w`, the tanh and its slope, (draws,), and `w'u`."""
        d = self._d
        u, w, b = weights[:d], weights[d : 2 * d], weights[2 * d]
        # w'u above -1: Rezende and Mohamed (2015), appendix A.1.
        inner = w.dot(u)
        u = u + (pt.softplus(inner) - 1 - inner) * w / (pt.sum(w**2) + 1e-12)
        bent = pt.tanh(w.dot(x) + b)
        return u, w, bent, 1 - bent**2, w.dot(u)

    def apply(
        self, x: pt.TensorVariable, weights: pt.TensorVariable, places: pt.TensorVariable
    ) -> Pair:
        u, _, bent, slope, along = self._parts(x, weights)
        return x + u[:, None] * bent, pt.log1p(slope * along)

    def carry(
        self,
        gradient: pt.TensorVariable,
        x: pt.TensorVariable,
        weights: pt.TensorVariable,
        places: pt.TensorVariable,
    ) -> pt.TensorVariable:
        # J' is 1 + slope w u', a change of rank one.
        u, w, _, slope, along = self._parts(x, weights)
        onward = gradient - pt.grad(pt.sum(pt.log1p(slope * along)), x)
        share = slope * u.dot(onward) / (1 + slope * along)
        return onward - w[:, None] * share
