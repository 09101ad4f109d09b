"""Sums over all pairs of particles, of functions of their distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt

from pytensor.ifelse import ifelse

# Entries of a matrix of pairs made at once: what is about as large as a cache.
_MOST_ENTRIES = 2**21
# From this many particles on pairs are made in float32, whose rounding is then far below what the
# particles differ by from others of the same posterior.
_SINGLE_FROM = 500
# Of a particle's distance to the mean of all, squared, in units of the kernel: float32 rounds the
# squared distance between two such particles by a thousandth.
_SINGLE_WITHIN = 2.0**12

type Profile = Callable[[pt.TensorVariable], Sequence[pt.TensorVariable]]


class PairSums(NamedTuple):
    r"""Sums over all :math:`u_j` of functions of :math:`s = \|u_i - u_j\|^2`.

    Attributes
    ----------
    driving : TensorVariable of shape (n, d)
        :math:`\sum_j \phi(s)\, g_j`.
    repulsion : TensorVariable of shape (n, d)
        :math:`\sum_j w(s)\, (u_i - u_j)` with :math:`w = -2 \phi'`.
    trace : TensorVariable of shape (n,)
        :math:`\sum_j d\, w(s) + 2 s\, w'(s)`.
    """

    driving: pt.TensorVariable
    repulsion: pt.TensorVariable
    trace: pt.TensorVariable


def pair_sums(profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable) -> PairSums:
    r"""Return the sums for all points, in float32 where that does no harm.

    Parameters
    ----------
    profile : callable
        Returns :math:`\phi`, :math:`w = -2 \phi'` and :math:`-2 w'` at a matrix of :math:`-s/2`;
        one matrix where the three are the same.
    points : TensorVariable of shape (n, d)
        Centred, in units in which the kernel's width is about 1. Its type knows the shape.
    scores : TensorVariable of shape (n, d)
        The `g`.
    """
    if points.dtype == "float32" or points.type.shape[0] < _SINGLE_FROM:
        return _sums(profile, points, scores)
    # Scores may be of any size, and float32 has an end.
    tiny = np.finfo("float64").tiny
    unit = pt.maximum(pt.max(pt.abs(scores), axis=0), tiny)
    single = _sums(profile, points.astype("float32"), (scores / unit).astype("float32"))
    driving, repulsion, trace = (part.astype("float64") for part in single)
    # Written so that NaN goes to float64, and looks there as it always does.
    near = pt.max(pt.sum(points**2, axis=1)) <= _SINGLE_WITHIN
    double = _sums(profile, points, scores)
    return PairSums(*ifelse(near, [driving * unit, repulsion, trace], list(double)))


def _sums(profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable) -> PairSums:
    """Return the sums, by products with matrices of pairs, in blocks where these are large."""
    d = points.type.shape[1]
    squares = _row_sums(points**2)
    ones = pt.ones_like(squares)
    # -s/2 is one product of these with those of the block: no pass over the matrix but exp's.
    halves = pt.concatenate([points, -squares / 2, ones], axis=1)
    values = pt.concatenate([scores, points, ones, squares], axis=1)

    def block(
        rows: pt.TensorVariable, halves: pt.TensorVariable, values: pt.TensorVariable
    ) -> pt.TensorVariable:
        norms = _row_sums(rows**2)
        own = pt.concatenate([rows, pt.ones_like(norms), -norms / 2], axis=1)
        matrices = profile(pt.minimum(halves.dot(own.T), 0))
        if len(matrices) == 1:
            return values.T.dot(matrices[0])
        columns = values[:, :d], values[:, d : 2 * d + 1], values[:, d:]
        parts = [c.T.dot(m) for c, m in zip(columns, matrices, strict=True)]
        return pt.concatenate(parts)

    found = _by_block(block, points, [halves, values])
    driving, rest = found[:, :d], found[:, d:]
    of_w = rest[:, : d + 1]
    of_slope = rest[:, -(d + 2) :]
    total = of_w[:, d:]
    repulsion = points * total - of_w[:, :d]
    # The sum of s, by the parts of the square.
    spread = squares * of_slope[:, d : d + 1] + of_slope[:, d + 1 :]
    spread -= 2 * _row_sums(points * of_slope[:, :d])
    return PairSums(driving, repulsion, (np.asarray(d, points.dtype) * total - spread)[:, 0])


def _row_sums(matrix: pt.TensorVariable) -> pt.TensorVariable:
    """Return the sums of rows, (n, 1), in the dtype of the matrix, which PyTensor would widen."""
    return pt.sum(matrix, axis=1, keepdims=True, acc_dtype=matrix.dtype)


def _by_block(
    block: Callable[..., pt.TensorVariable],
    points: pt.TensorVariable,
    others: Sequence[pt.TensorVariable],
) -> pt.TensorVariable:
    """Return what `block` finds, (columns, rows), for all points, as (n, columns)."""
    n, d = points.type.shape
    blocks = -(-n * n // _MOST_ENTRIES)
    if blocks == 1:
        return block(points, *others).T
    size = -(-n // blocks)
    blocks = -(-n // size)
    # The last block is filled up with the first particles, whose sums are then left out.
    rows = pt.concatenate([points, points[: blocks * size - n]])
    found = pytensor.scan(
        block,
        sequences=[rows.reshape((blocks, size, d))],
        non_sequences=others,
        return_updates=False,
    )
    return found.transpose(0, 2, 1).reshape((blocks * size, found.shape[1]))[:n]
