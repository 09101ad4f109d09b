"""Normalizing flows: invertible maps of a Gaussian, made of simple layers."""

from __future__ import annotations

import logging

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pytensor.gradient import disconnected_grad
from pytensor.tensor.linalg import solve_triangular

from pymc_vi_ext.approximations._algebra import (
    normal_log_density,
    packed_factor,
    packed_identity,
    unpacked,
)
from pymc_vi_ext.approximations.coordinates import (
    Coordinates,
    FullRankCoordinates,
    NetworkCoordinates,
)
from pymc_vi_ext.approximations.family import with_gradient
from pymc_vi_ext.approximations.family_group import FamilyGroup
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.upstream import ParametrizationError, node_property, starting_means

logger = logging.getLogger(__name__)

# Spline: bins, and the interval [-b, b] outside of which it is the identity.
_BINS, _BOUND = 6, 5.0
_LEAST_BIN, _LEAST_SLOPE = 1e-3, 1e-3
# Log scales of an affine coupling stay within this of 0.
_MOST_LOG_SCALE = 2.0
# Draws behind `mean`, `cov` and `std`, which have no closed form.
_MOMENT_DRAWS = 2_000

type Pair = tuple[pt.TensorVariable, pt.TensorVariable]
# x (m, draws), raw numbers (m, k, draws) -> y (m, draws), log |dy/dx| (m, draws)
type Transform = Callable[[pt.TensorVariable, pt.TensorVariable], Pair]


def affine(x: pt.TensorVariable, raw: pt.TensorVariable) -> Pair:
    r""":math:`y = x e^s + t` (Dinh et al., 2017)."""
    log_scale = _MOST_LOG_SCALE * pt.tanh(raw[:, 0] / _MOST_LOG_SCALE)
    return x * pt.exp(log_scale) + raw[:, 1], log_scale + pt.zeros_like(x)


def knots(logits: pt.TensorVariable) -> pt.TensorVariable:
    """Return the edges of bins from -5 to 5, (m, bins + 1, ...), of raw sizes, (m, bins, ...).

    Bins side by side share an edge, the same number: what lies on it is in exactly one of them.
    """
    parts = _LEAST_BIN + (1 - _BINS * _LEAST_BIN) * pt.special.softmax(logits, axis=1)
    inner = pt.cumsum(2 * _BOUND * parts, axis=1)[:, :-1] - _BOUND
    end = pt.full_like(logits[:, :1], _BOUND)
    return pt.concatenate([-end, inner, end], axis=1)


def spline(x: pt.TensorVariable, raw: pt.TensorVariable) -> Pair:
    """Monotone rational-quadratic spline with identity tails (Durkan et al., 2019)."""
    edges, levels = knots(raw[:, :_BINS]), knots(raw[:, _BINS : 2 * _BINS])
    # 0 is slope 1, everywhere.
    shift = float(np.log(np.expm1(1 - _LEAST_SLOPE)))
    inner = _LEAST_SLOPE + pt.softplus(raw[:, 2 * _BINS :] + shift)
    ends = pt.ones_like(inner[:, :1])
    slopes = pt.concatenate([ends, inner, ends], axis=1)
    inside = pt.abs(x) < _BOUND
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
    "spline": (spline, 3 * _BINS - 1),
}


@dataclass(frozen=True)
class FlowOptions(Options):
    """Options of :class:`FlowGroup`."""

    kind: Literal["spline", "affine", "planar"] = option(
        "spline",
        "Rational-quadratic splines (the most flexible), RealNVP's affine couplings, or planar "
        "layers (the smallest).",
    )
    couplings: int = option(4, "Number of layers.", ge=1, le=100)
    width: int = option(
        32, "Of the two hidden layers of a coupling; planar ones have none.", ge=1, le=1_000
    )


class FlowGroup(FamilyGroup[FlowOptions]):
    r"""Normalizing flow on top of a Gaussian of full rank.

    A draw is :math:`\mu + L\, g(\epsilon)` where `g` is a chain of couplings: each leaves half of
    the variables as they are and moves every other one by a monotone function, whose shape a
    small network of two hidden layers computes from the first half. At the start `g` is the
    identity and the family the full-rank Gaussian.

    Parameters
    ----------
    {options}

    Notes
    -----
    A planar layer is :math:`x + u \tanh(w^T x + b)`.

    In one dimension no half is left to compute the other from: the flow is one spline, and says
    so in the log.

    Raises
    ------
    ParametrizationError
        If `kind` is unknown, or a size no whole number from 1.

    References
    ----------
    Rezende, D. and Mohamed, S. (2015). Variational inference with normalizing flows.
    https://arxiv.org/abs/1505.05770

    Dinh, L., Sohl-Dickstein, J. and Bengio, S. (2017). Density estimation using Real NVP.
    https://arxiv.org/abs/1605.08803

    Durkan, C. et al. (2019). Neural spline flows. https://arxiv.org/abs/1906.04032

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext.approximations
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     group = pm.Group([x], vfam="flow", kind="affine", couplings=4)
    >>> sorted(group.params_dict)
    ['L_tril', 'mu', 'weights']
    """

    __param_spec__ = {  # noqa: RUF012, PyMC's own
        "mu": ("d",),
        "L_tril": ("int(d * (d + 1) / 2)",),
        "weights": ("w",),
    }
    short_name = "flow"
    Options = FlowOptions

    def start_values(self, start: Any, options: FlowOptions) -> dict[str, np.ndarray]:
        """Return PyMC's full-rank start, and weights that make the couplings the identity."""
        d = self.ddim
        if d == 1 and (options.kind, options.couplings) != ("spline", 1):
            logger.warning("A flow in one dimension is one spline: there is nothing to couple.")
            options = replace(options, kind="spline", couplings=1)
        self._layers = _Layers(
            [
                _Planar(d)
                if options.kind == "planar"
                else _Coupling(options.kind, d, i, options.width)
                for i in range(options.couplings)
            ]
        )
        weights = self._layers.start(self.rng)
        self._first_weights = floatX(weights)
        return {
            "mu": starting_means(self, start),
            "L_tril": packed_identity(d),
            "weights": weights,
        }

    def _takes_params(self) -> bool:
        if self.user_params is not None:
            raise ParametrizationError(
                'A flow makes its own parameters: use vfam="flow" instead of `params`.'
            )
        return False

    @node_property
    def L(self) -> pt.TensorVariable:
        """Factor of the map on top, (d, d)."""
        return unpacked(self.params_dict["L_tril"], self.ddim)

    @node_property
    def _mapped(self) -> Pair:
        """Draws of the couplings alone, and log q of them, along the layers."""
        return self._layers.apply(self.symbolic_initial.T, self.params_dict["weights"])

    def _on_top(self, x: pt.TensorVariable) -> pt.TensorVariable:
        return self.params_dict["mu"] + x.T.dot(self.L.T)

    def density_gradient(self) -> pt.TensorVariable:
        r"""Return d log q / d z at the draws, (draws, d), without the inverse of the map.

        Carried along with the draws: where a layer maps `x` to `y` with Jacobian `J`, the gradient
        at `y` is :math:`J^{-T} (\nabla_x \log q(x) - \nabla_x \log |\det J|)` (Vaitl et al., 2022,
        https://arxiv.org/abs/2206.09016).
        """
        noise = self.symbolic_initial.T
        gradient = self._layers.carry(noise, self._mapped[0], self.params_dict["weights"])
        return solve_triangular(self.L, gradient, lower=True, trans=1).T

    def path_logq(self) -> pt.TensorVariable:
        """Return log q of the draws, (draws,), with the gradient through the draws alone."""
        return with_gradient(self.symbolic_logq, self.symbolic_random, self.density_gradient())

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return the map on top; the Gaussian itself while the couplings are the identity."""
        return {"mu": mean, "L_tril": packed_factor(cov)}

    def is_round(self) -> bool:
        """Tell whether couplings are those of the start, and scales equal in every direction."""
        weights, packed = (self.params_dict[name].get_value() for name in ("weights", "L_tril"))
        rows, columns = np.tril_indices(self.ddim)
        diagonal = packed[rows == columns]
        return bool(
            (weights == self._first_weights).all()
            and (packed[rows != columns] == 0).all()
            and np.allclose(diagonal, diagonal[0])
        )

    def coordinates(self) -> list[Coordinates]:
        """Return those of the map on top, and the weights in a unit of their own."""
        return [FullRankCoordinates(self), NetworkCoordinates(self)]

    @node_property
    def symbolic_random(self) -> pt.TensorVariable:
        """Draws, (draws, d)."""
        return self._on_top(self._mapped[0][-1])

    @node_property
    def symbolic_logq_not_scaled(self) -> pt.TensorVariable:
        """Log q of the draws, by the change of variables along them."""
        log_det = self._mapped[1][-1] + pt.sum(pt.log(pt.diagonal(self.L)))
        return normal_log_density(self.symbolic_initial) - log_det

    @node_property
    def _some_draws(self) -> pt.TensorVariable:
        half = np.random.default_rng(0).normal(size=(_MOMENT_DRAWS // 2, self.ddim))
        noise = pt.constant(floatX(np.concatenate([half, -half])).T)
        return self._on_top(self._layers.apply(noise, self.params_dict["weights"])[0][-1])

    @node_property
    def mean(self) -> pt.TensorVariable:
        """Means over 2,000 draws, always of the same noise, (d,)."""
        return self._some_draws.mean(axis=0)

    @node_property
    def cov(self) -> pt.TensorVariable:
        """Covariance over the draws of `mean`, (d, d)."""
        away = self._some_draws - self.mean
        return away.T.dot(away) / _MOMENT_DRAWS

    @node_property
    def std(self) -> pt.TensorVariable:
        """Standard deviations over the draws of `mean`, (d,)."""
        return self._some_draws.std(axis=0)

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Raise: the moments of a flow are no function of its parameters in closed form."""
        raise TypeError(
            "A flow's means and standard deviations have no closed form: use a rule that watches "
            "the loss."
        )


class _Layer:
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


class _Layers:
    """Layers one after the other, as a loop: what is written and compiled is one of them.

    Layers of an odd number of variables move one more and one less in turn: two of these are a
    round of the loop. What is left of a round follows it.
    """

    def __init__(self, layers: Sequence[_Layer]):
        self.layers = layers
        same = len({layer.size for layer in layers}) == 1
        self._round = layers[: 1 if same else 2]
        self._rounds = len(layers) // len(self._round)
        self._rest = layers[self._rounds * len(self._round) :]

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        """Return the weights of all layers, one after the other."""
        return np.concatenate([layer.start(rng) for layer in self.layers])

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
        layers: Sequence[_Layer],
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
        layers: Sequence[_Layer],
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


class _Coupling(_Layer):
    """Half of the variables, moved by functions that the other half shapes."""

    def __init__(self, kind: str, d: int, index: int, width: int):
        self._transform, self._numbers = _COUPLINGS[kind]
        # Two layers in a row move the two halves of one random partition.
        order = np.random.default_rng(index // 2).permutation(d)
        halves = order[: d // 2], order[d // 2 :]
        kept, moved = halves if index % 2 == 0 else halves[::-1]
        if not len(moved):
            kept, moved = moved, kept
        self._kept, self._moved = len(kept), len(moved)
        order = np.concatenate([kept, moved])
        # Where the kept and the moved are, and how all get back to their places.
        self.places = np.stack([order, np.argsort(order)])
        out = self._moved * self._numbers
        # Weights and biases of the network; in one dimension the biases of its output alone.
        inputs = [self._kept, width, width]
        self._shapes = [(i, o) for i, o in zip(inputs, [width, width, out], strict=True)]
        if not self._kept:
            self._shapes = [(0, out)]
        self.size = sum((i + 1) * o for i, o in self._shapes)

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        """Return random hidden weights and an output of 0, where the map is the identity."""
        parts = []
        for i, o in self._shapes[:-1]:
            parts += [rng.normal(size=i * o) / np.sqrt(i), np.zeros(o)]
        i, o = self._shapes[-1]
        return np.concatenate([*parts, np.zeros((i + 1) * o)])

    def _split(self, x: pt.TensorVariable, places: pt.TensorVariable) -> Pair:
        x = x[places[0]]
        return x[: self._kept], x[self._kept :]

    def _move(
        self, kept: pt.TensorVariable, moved: pt.TensorVariable, weights: pt.TensorVariable
    ) -> Pair:
        """Return the moved and the logarithms of their slopes, (moved, draws)."""
        hidden, used = kept, 0
        for layer, (i, o) in enumerate(self._shapes):
            matrix = weights[used : used + i * o].reshape((i, o))
            bias = weights[used + i * o : used + (i + 1) * o]
            hidden = matrix.T.dot(pt.tanh(hidden) if layer else hidden) + bias[:, None]
            used += (i + 1) * o
        return self._transform(moved, hidden.reshape((self._moved, self._numbers, -1)))

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
        if self._kept:
            rest = rest - pt.grad(log_det + pt.sum(y * onward), kept)
        return pt.concatenate([rest, onward])[places[1]]


class _Planar(_Layer):
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
