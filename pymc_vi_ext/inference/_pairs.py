"""Sums over all pairs of particles, of functions of their distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc_vi_ext.upstream import one_of

# Of a matrix of pairs made at once: about as large as a cache. Blocks in bytes have other numbers
# of rows in float64 than in float32; loops of one length PyTensor would run as one, both always.
_MOST_BYTES = 2**23
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
    d = points.type.shape[1]
    # Scores may be of any size, and float32 has an end.
    unit = pt.maximum(pt.max(pt.abs(scores), axis=0), np.finfo(points.dtype).tiny)
    found = _products(profile, points, scores / unit)
    squares = _row_sums(points**2)
    driving, of_w, of_slope = found[:, :d], found[:, d : 2 * d + 1], found[:, -(d + 2) :]
    total = of_w[:, d:]
    # The sum of s, by the parts of the square.
    spread = squares * of_slope[:, d : d + 1] + of_slope[:, d + 1 :]
    spread -= 2 * _row_sums(points * of_slope[:, :d])
    trace = np.asarray(d, points.dtype) * total - spread
    return PairSums(driving * unit, points * total - of_w[:, :d], trace[:, 0])


def _products(
    profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable
) -> pt.TensorVariable:
    """Return the products of :func:`_in_one_dtype` in that of the points."""
    double = _in_one_dtype(profile, points, scores)
    if points.dtype == "float32" or points.type.shape[0] < _SINGLE_FROM:
        return double
    single = _in_one_dtype(profile, points.astype("float32"), scores.astype("float32"))
    # Written so that NaN goes to float64, and looks there as it always does.
    near = pt.max(pt.sum(points**2, axis=1)) <= _SINGLE_WITHIN
    return one_of(near, single.astype("float64"), double)


def _in_one_dtype(
    profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable
) -> pt.TensorVariable:
    r"""Return products of the matrices of pairs with columns, (n, columns), in blocks of rows.

    With one matrix these are scores, points, ones and squares; with three, scores by
    :math:`\phi`, points and ones by `w`, and points, ones and squares by :math:`-2 w'`.
    """
    n, d = points.type.shape
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
        # Particles by rows: XLA is slow at the product with the matrix the other way around.
        matrices = profile(pt.minimum(halves.dot(own.T), 0))
        if len(matrices) == 1:
            return values.T.dot(matrices[0])
        columns = values[:, :d], values[:, d : 2 * d + 1], values[:, d:]
        return pt.concatenate([c.T.dot(m) for c, m in zip(columns, matrices, strict=True)])

    blocks = -(-n * n * np.dtype(points.dtype).itemsize // _MOST_BYTES)
    if blocks == 1:
        return block(points, halves, values).T
    size = -(-n // blocks)
    blocks = -(-n // size)
    # The last block is filled up with the first particles, whose sums are then left out.
    rows = pt.concatenate([points, points[: blocks * size - n]])
    found = pytensor.scan(
        block,
        sequences=[rows.reshape((blocks, size, d))],
        non_sequences=[halves, values],
        return_updates=False,
    )
    return found.transpose(0, 2, 1).reshape((blocks * size, found.shape[1]))[:n]


def _row_sums(matrix: pt.TensorVariable) -> pt.TensorVariable:
    """Return the sums of rows, (n, 1), in the dtype of the matrix, which PyTensor would widen."""
    return pt.sum(matrix, axis=1, keepdims=True, acc_dtype=matrix.dtype)
