"""Couplings of a flow in JAX: as few operations as do, since XLA's time goes by their number.

One loop takes the draws and the gradient of their log density through the layers, and leaves the
slopes of each behind: the way back then has no transforms in it, only products of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pymc_vi_ext.approximations._layers import (
    BINS,
    BOUND,
    LEAST_BIN,
    LEAST_SLOPE,
    MOST_LOG_SCALE,
    SHIFT,
    Coupling,
)

# What a bin's share is multiplied by, and added to, for its width.
_SPAN, _LEAST_WIDTH = 2 * BOUND * (1 - BINS * LEAST_BIN), 2 * BOUND * LEAST_BIN


class Moved(NamedTuple):
    """What a transform makes of x, (m, draws), by raw numbers, (m, k, draws).

    Attributes
    ----------
    y, log_slope, slope : array of shape (m, draws)
        The moved, log |dy/dx| and dy/dx.
    bend : array of shape (m, draws)
        Slope of `log_slope` in x.
    by_raw, log_slope_by_raw : array of shape (m, k, draws)
        Slopes of `y` and `log_slope` in the raw numbers.
    """

    y: jax.Array
    log_slope: jax.Array
    slope: jax.Array
    bend: jax.Array
    by_raw: jax.Array
    log_slope_by_raw: jax.Array


def affine(x: jax.Array, raw: jax.Array) -> Moved:
    """Move as :func:`pymc_vi_ext.approximations._layers.affine` does."""
    bent = jnp.tanh(raw[:, 0] / MOST_LOG_SCALE)
    log_slope, inner = MOST_LOG_SCALE * bent, 1 - bent**2
    slope, zero = jnp.exp(log_slope), jnp.zeros_like(x)
    by_raw = jnp.stack([x * slope * inner, jnp.ones_like(x)], axis=1)
    of_log_slope = jnp.stack([inner, zero], axis=1)
    return Moved(x * slope + raw[:, 1], log_slope, slope, zero, by_raw, of_log_slope)


def spline(x: jax.Array, raw: jax.Array) -> Moved:
    """Move as :func:`pymc_vi_ext.approximations._layers.spline` does."""
    m, _, draws = raw.shape
    inside = jnp.abs(x) < BOUND
    at = jnp.where(inside, x, 0.0)
    # Bins along both axes, (m, 2, bins, draws): their shares, sizes, and where they begin.
    logits = raw[:, : 2 * BINS].reshape(m, 2, BINS, draws)
    shares = jnp.exp(logits - jnp.max(logits, axis=2, keepdims=True))
    shares = shares / jnp.sum(shares, axis=2, keepdims=True)
    sizes = _LEAST_WIDTH + _SPAN * shares
    ends = [sizes[:, :, 0]]
    for i in range(1, BINS - 1):
        ends.append(ends[-1] + sizes[:, :, i])
    inner = jnp.stack(ends, axis=2) - BOUND
    begins = jnp.concatenate([jnp.full_like(inner[:, :, :1], -BOUND), inner], axis=2)
    # The bin of each draw, and of the numbers of all bins its own: a sum whose other terms are 0.
    mine = jnp.sum(at[:, None] >= inner[:, 0], axis=1)[:, None]
    bins = jnp.arange(BINS)[None, :, None]
    here, before = (bins == mine)[:, None], (bins < mine)[:, None]
    corner = jnp.sum(jnp.where(here, begins, 0.0), axis=2)
    size = jnp.sum(jnp.where(here, sizes, 0.0), axis=2)
    # Slopes between bins; 1 at both ends.
    bent = raw[:, 2 * BINS :] + SHIFT
    extra = LEAST_SLOPE + jax.nn.softplus(bent) - 1
    between = jnp.arange(BINS - 1)[None, :, None]
    left, right = between == mine - 1, between == mine
    d0, d1 = (1 + jnp.sum(jnp.where(side, extra, 0.0), axis=1) for side in (left, right))
    # y = y0 + height r(t, s), and dy/dx = s^2 a / q^2: Durkan et al. (2019), equations 4 and 5.
    (x0, y0), (width, height) = (jnp.moveaxis(part, 1, 0) for part in (corner, size))
    per_width, per_height = 1 / width, 1 / height
    s, t = height * per_width, (at - x0) * per_width
    mixed, tilt, curve = t * (1 - t), 1 - 2 * t, d0 + d1 - 2 * s
    per_q = 1 / (s + curve * mixed)
    r = (s * t**2 + d0 * mixed) * per_q
    a = d1 * t**2 + 2 * s * mixed + d0 * (1 - t) ** 2
    per_a = 1 / a
    slope = jnp.where(inside, s**2 * a * per_q**2, 1.0)
    # Slopes of r and of the logarithm in t and s, times s those in s.
    r_t = (2 * s * t + tilt * (d0 - r * curve)) * per_q
    r_s = s * (t**2 - r * (1 - 2 * mixed)) * per_q
    log_t = 2 * ((d1 * t + s * tilt - d0 * (1 - t)) * per_a - curve * tilt * per_q)
    log_s = 2 + 2 * s * (mixed * per_a - (1 - 2 * mixed) * per_q)
    to_bent = jax.nn.sigmoid(bent)

    def by_raw(of_corner: Any, of_size: Any, of_d0: jax.Array, of_d1: jax.Array) -> jax.Array:
        """Return slopes in the raw numbers, by those in what the bin is made of."""
        of_corner, of_size = jnp.stack(of_corner, axis=1), jnp.stack(of_size, axis=1)
        # Shares add up to 1: the mean over them, from the shares before the bin and in it.
        passed = corner + BOUND - _LEAST_WIDTH * mine
        mean = (of_corner * passed + of_size * (size - _LEAST_WIDTH)) / _SPAN
        of_bins = jnp.where(before, of_corner[:, :, None], 0.0)
        of_bins += jnp.where(here, of_size[:, :, None], 0.0) - mean[:, :, None]
        of_slopes = jnp.where(left, of_d0[:, None], 0.0) + jnp.where(right, of_d1[:, None], 0.0)
        of_bins = (_SPAN * shares * of_bins).reshape(m, 2 * BINS, draws)
        found = jnp.concatenate([of_bins, to_bent * of_slopes], axis=1)
        return jnp.where(inside[:, None], found, 0.0)

    of_y = by_raw(
        [-s * r_t, jnp.ones_like(t)],
        [-s * (t * r_t + r_s), r + r_s],
        height * mixed * (1 - r) * per_q,
        -height * mixed * r * per_q,
    )
    of_log_slope = by_raw(
        [-log_t * per_width, jnp.zeros_like(t)],
        [-(t * log_t + log_s) * per_width, log_s * per_height],
        (1 - t) ** 2 * per_a - 2 * mixed * per_q,
        t**2 * per_a - 2 * mixed * per_q,
    )
    y = jnp.where(inside, y0 + height * r, x)
    bend = jnp.where(inside, log_t * per_width, 0.0)
    return Moved(y, jnp.log(slope), slope, bend, of_y, of_log_slope)


_TRANSFORMS: dict[str, Callable[[jax.Array, jax.Array], Moved]] = {
    "affine": affine,
    "spline": spline,
}


class JaxCouplings:
    """Couplings one after the other, as two loops: along the layers, and back.

    Layers of an odd number of variables move one more and one less in turn. A variable that is 0,
    and whose weights are, makes them alike.

    Parameters
    ----------
    couplings : sequence of Coupling
        At least one.
    """

    def __init__(self, couplings: Sequence[Coupling]):
        first = couplings[0]
        self._move = _TRANSFORMS[first.kind]
        self._d = first.kept + first.moved
        self._kept = max(c.kept for c in couplings)
        self._moved = max(c.moved for c in couplings)
        self._added = self._kept + self._moved - self._d
        order = np.stack([_padded(c, self._kept, self._moved) for c in couplings])
        self._places = np.stack([order, np.argsort(order, axis=1)], axis=1).astype(np.int32)
        # Shapes of the matrices of the network, biases in their last rows.
        self._numbers = first.numbers
        inputs, outputs = self._kept, self._moved * first.numbers
        self._shapes = [(i + 1, o) for i, o in first.shapes]
        self._shapes[0] = (inputs + 1, self._shapes[0][1])
        self._shapes[-1] = (self._shapes[-1][0], outputs)
        self._cuts = np.cumsum([0, *(i * o for i, o in self._shapes)])
        self._from = self._back = None
        if self._added:
            self._from, self._back = _weights_among_zeros(couplings, self._shapes)

    def along(self, noise: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        """Return draws, log |determinants|, gradients of the log density, and what is left behind.

        Parameters
        ----------
        noise : array of shape (d, draws)
            Standard normal numbers.
        weights : array
        """
        one = jnp.ones_like(noise[:1])

        def layer(carry: Any, own: Any) -> Any:
            both, log_det = carry
            *matrices, last, places = (*self._matrices(own[0]), own[1])
            both = both[:, places[0]]
            kept, moved = both[0, : self._kept], both[0, self._kept :]
            inputs = [jnp.concatenate([kept, one])]
            for matrix in matrices:
                inputs.append(jnp.concatenate([jnp.tanh(matrix.T @ inputs[-1]), one]))
            raw = (last.T @ inputs[-1]).reshape(self._moved, self._numbers, -1)
            found = self._move(moved, raw)
            # J' is [[1, A'], [0, D]] in (kept, moved), with D the slopes and A = d y / d kept.
            onward = (both[1, self._kept :] - found.bend) / found.slope
            of_raw = found.log_slope_by_raw + found.by_raw * onward[:, None]
            through = self._through([*matrices, last], inputs, of_raw)[0]
            rest = both[1, : self._kept] - through
            both = jnp.stack([jnp.concatenate([kept, found.y]), jnp.concatenate([rest, onward])])[
                :, places[1]
            ]
            left = *inputs, found.slope, found.by_raw, found.bend, found.log_slope_by_raw
            return (both, log_det + jnp.sum(found.log_slope, axis=0)), left

        start = jnp.pad(jnp.stack([noise, -noise]), ((0, 0), (0, self._added), (0, 0)))
        ends, left = jax.lax.scan(
            layer, (start, jnp.zeros_like(noise[0])), (self._rows(weights), self._places)
        )
        both, log_det = ends
        return both[0, : self._d], log_det, both[1, : self._d], *left

    def back(
        self,
        weights: jax.Array,
        of_draws: jax.Array,
        of_log_det: jax.Array | None,
        left: Sequence[jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """Return gradients in the noise and the weights, of a function of draws and log_dets.

        Parameters
        ----------
        weights : array
        of_draws : array of shape (d, draws)
            Its gradient in the draws.
        of_log_det : array of shape (draws,), optional
            Its gradient in the logarithms of the determinants; None where they are no part of it.
        left : sequence of array
            What :meth:`along` has left behind.
        """

        def layer(onward: jax.Array, own: Any) -> Any:
            row, places, *inputs, slope, by_raw, bend, log_slope_by_raw = own
            matrices = self._matrices(row)
            onward = onward[places[0]]
            rest, moved = onward[: self._kept], onward[self._kept :]
            of_raw = by_raw * moved[:, None]
            moved = slope * moved
            if of_log_det is not None:
                of_raw += log_slope_by_raw * of_log_det
                moved += bend * of_log_det
            through, *slopes = self._through(matrices, inputs, of_raw)
            of_row = [(i @ s.T).ravel() for i, s in zip(inputs, slopes, strict=True)]
            onward = jnp.concatenate([rest + through, moved])[places[1]]
            return onward, jnp.concatenate(of_row)

        start = jnp.pad(of_draws, ((0, self._added), (0, 0)))
        of_noise, of_rows = jax.lax.scan(
            layer, start, (self._rows(weights), self._places, *left), reverse=True
        )
        of_weights = of_rows.ravel()
        if self._back is not None:
            of_weights = of_weights[self._back]
        return of_noise[: self._d], of_weights

    def _rows(self, weights: jax.Array) -> jax.Array:
        if self._from is not None:
            weights = jnp.append(weights, 0.0)[self._from]
        return weights.reshape(len(self._places), -1)

    def _matrices(self, row: jax.Array) -> list[jax.Array]:
        pairs = zip(self._cuts, self._cuts[1:], self._shapes, strict=False)
        return [row[a:b].reshape(shape) for a, b, shape in pairs]

    def _through(
        self, matrices: Sequence[jax.Array], inputs: Sequence[jax.Array], of_raw: jax.Array
    ) -> list[jax.Array]:
        """Return gradients in what is kept, and in what each matrix gives, first to last."""
        found = [of_raw.reshape(self._moved * self._numbers, -1)]
        for i in range(len(matrices) - 1, 0, -1):
            inner = inputs[i][:-1]
            found.insert(0, (matrices[i][:-1] @ found[0]) * (1 - inner**2))
        return [matrices[0][:-1] @ found[0], *found]


def _padded(coupling: Coupling, kept: int, moved: int) -> np.ndarray:
    """Return the order of variables in which `kept` come first; one may be the added one."""
    order = coupling.places[0]
    parts = order[: coupling.kept], order[coupling.kept :]
    full = [
        np.pad(part, (0, most - len(part)), constant_values=len(order))
        for part, most in zip(parts, (kept, moved), strict=True)
    ]
    return np.concatenate(full)


def _weights_among_zeros(
    couplings: Sequence[Coupling], shapes: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the numbers of equal layers come from, and where the weights are among them.

    Past the last weight stands for 0.
    """
    nowhere = sum(coupling.size for coupling in couplings)
    used, rows = 0, []
    for coupling in couplings:
        for (i, o), (most_in, most_out) in zip(coupling.shapes, shapes, strict=True):
            own = used + np.arange((i + 1) * o).reshape(i + 1, o)
            full = np.full((most_in, most_out), nowhere)
            # Biases stay the last row.
            full[:i, :o], full[-1, :o] = own[:-1], own[-1]
            rows.append(full.ravel())
            used += own.size
    origin = np.concatenate(rows)
    return origin, np.argsort(origin, kind="stable")[:nowhere]
