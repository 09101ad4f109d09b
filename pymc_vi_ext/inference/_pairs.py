"""Sums over all pairs of particles, of functions of their distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pymc as pm
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
type Products = Callable[[Profile, pt.TensorVariable, pt.TensorVariable], pt.TensorVariable]


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


def pair_sums(
    profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable, batch: int | None = None
) -> PairSums:
    r"""Return the sums for all points, in float32 where that does no harm.

    With `batch`, estimates of them: points are shuffled and cut into batches, and each meets those
    of its own batch of :math:`p` in place of all :math:`n`. Terms of others weigh
    :math:`(n - 1) / (p - 1)`, that of a point with itself 1, so that means over the shuffles are
    the sums (Li et al., 2020).

    Parameters
    ----------
    profile : callable
        Returns :math:`\phi`, :math:`w = -2 \phi'` and :math:`-2 w'` at a matrix of :math:`-s/2`;
        one matrix where the three are the same.
    points : TensorVariable of shape (n, d)
        Centred, in units in which the kernel's width is about 1. Its type knows the shape.
    scores : TensorVariable of shape (n, d)
        The `g`.
    batch : int, optional
        Divides n.

    References
    ----------
    Li, L., Li, Y., Liu, J.-G., Liu, Z. and Lu, J. (2020). A stochastic version of Stein variational
    gradient descent for efficient sampling. https://arxiv.org/abs/1902.03394
    """
    n, d = points.type.shape
    if batch is None:
        of_pairs: Products = _in_blocks
    else:
        of_pairs = partial(_in_batches, batch)
        order = pt.argsort(pm.Uniform.dist(size=n))
        points, scores = points[order], scores[order]
    # Scores may be of any size, and float32 has an end.
    unit = pt.maximum(pt.max(pt.abs(scores), axis=0), np.finfo(points.dtype).tiny)
    found = _products(of_pairs, profile, points, scores / unit)
    squares = _row_sums(points**2)
    driving, of_w, of_slope = found[:, :d], found[:, d : 2 * d + 1], found[:, -(d + 2) :]
    total = of_w[:, d:]
    # The sum of s, by the parts of the square.
    spread = squares * of_slope[:, d : d + 1] + of_slope[:, d + 1 :]
    spread -= 2 * _row_sums(points * of_slope[:, :d])
    trace = np.asarray(d, points.dtype) * total - spread
    sums = driving * unit, points * total - of_w[:, :d], trace[:, 0]
    if batch is not None:
        sums = tuple(pt.set_subtensor(pt.zeros_like(part)[order], part) for part in sums)
    return PairSums(*sums)


def _products(
    of_pairs: Products, profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable
) -> pt.TensorVariable:
    """Return the products `of_pairs`, in the dtype of the points."""
    double = of_pairs(profile, points, scores)
    if points.dtype == "float32" or points.type.shape[0] < _SINGLE_FROM:
        return double
    single = of_pairs(profile, points.astype("float32"), scores.astype("float32"))
    # Written so that NaN goes to float64, and looks there as it always does.
    near = pt.max(pt.sum(points**2, axis=1)) <= _SINGLE_WITHIN
    return one_of(near, single.astype("float64"), double)


def _in_blocks(
    profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable
) -> pt.TensorVariable:
    """Return the products of all pairs, (n, columns), in blocks of rows."""
    n, d = points.type.shape
    columns = _columns(points, scores)
    blocks = -(-n * n * np.dtype(points.dtype).itemsize // _MOST_BYTES)
    if blocks == 1:
        return _of_block(profile, points, points, columns).T
    size = -(-n // blocks)
    blocks = -(-n // size)
    # The last block is filled up with the first particles, whose sums are then left out.
    rows = pt.concatenate([points, points[: blocks * size - n]])
    found = pytensor.scan(
        lambda rows, points, columns: _of_block(profile, rows, points, columns),
        sequences=[rows.reshape((blocks, size, d))],
        non_sequences=[points, columns],
        return_updates=False,
    )
    return _by_rows(found, blocks * size)[:n]


def _in_batches(
    batch: int, profile: Profile, points: pt.TensorVariable, scores: pt.TensorVariable
) -> pt.TensorVariable:
    """Return estimates of the products, (n, columns), from pairs of neighbours in the order."""
    n, d = points.type.shape
    columns = _columns(points, scores)
    found = pytensor.scan(
        lambda points, columns: _of_block(profile, points, points, columns),
        sequences=[
            points.reshape((n // batch, batch, d)),
            columns.reshape((n // batch, batch, 2 * d + 2)),
        ],
        return_updates=False,
    )
    found = _by_rows(found, n)
    nothing = pt.zeros((1, 1), points.dtype)
    own = [c * m for c, m in _by_matrix(columns, profile(nothing), d)]
    weight = np.asarray((n - 1) / (batch - 1), points.dtype)
    return weight * found + (1 - weight) * pt.concatenate(own, axis=1)


def _columns(points: pt.TensorVariable, scores: pt.TensorVariable) -> pt.TensorVariable:
    """Return what matrices of pairs are multiplied by: scores, points, ones and squares."""
    squares = _row_sums(points**2)
    return pt.concatenate([scores, points, pt.ones_like(squares), squares], axis=1)


def _by_matrix(
    columns: pt.TensorVariable, matrices: Sequence[pt.TensorVariable], d: int
) -> list[tuple[pt.TensorVariable, pt.TensorVariable]]:
    r"""Return which columns go with which matrix of a profile.

    All with one; with three the scores with :math:`\phi`, points and ones with `w`, and points,
    ones and squares with :math:`-2 w'`.
    """
    if len(matrices) == 1:
        return [(columns, matrices[0])]
    parts = columns[:, :d], columns[:, d : 2 * d + 1], columns[:, d:]
    return list(zip(parts, matrices, strict=True))


def _of_block(
    profile: Profile, rows: pt.TensorVariable, points: pt.TensorVariable, columns: pt.TensorVariable
) -> pt.TensorVariable:
    """Return the products, (columns, rows), of the pairs of `rows` with all `points`."""
    norms, squares = _row_sums(rows**2), _row_sums(points**2)
    # -s/2 is one product of these: no pass over the matrix but exp's.
    halves = pt.concatenate([points, -squares / 2, pt.ones_like(squares)], axis=1)
    own = pt.concatenate([rows, pt.ones_like(norms), -norms / 2], axis=1)
    # Particles by rows: XLA is slow at the product with the matrix the other way around.
    matrices = profile(pt.minimum(halves.dot(own.T), 0))
    d = points.type.shape[1]
    return pt.concatenate([c.T.dot(m) for c, m in _by_matrix(columns, matrices, d)])


def _by_rows(found: pt.TensorVariable, rows: int) -> pt.TensorVariable:
    """Return products of blocks, (blocks, columns, rows of each), as one matrix by rows."""
    return found.transpose(0, 2, 1).reshape((rows, found.shape[1]))


def _row_sums(matrix: pt.TensorVariable) -> pt.TensorVariable:
    """Return the sums of rows, (n, 1), in the dtype of the matrix, which PyTensor would widen."""
    return pt.sum(matrix, axis=1, keepdims=True, acc_dtype=matrix.dtype)
