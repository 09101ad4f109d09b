"""Scrambled Sobol points as SciPy makes them, without the seconds that importing SciPy's take."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pymc_vi_ext.upstream import sobol_direction_numbers

_BITS = 30
_PLACES = np.arange(_BITS)
_SCALE = 2.0**-_BITS


class SobolSequence:
    r"""Points of a Sobol sequence, with a random linear scramble and a random digital shift.

    The same points as those of :class:`scipy.stats.qmc.Sobol` with a generator of the same seed.

    Parameters
    ----------
    dimension : int
    seed : int

    References
    ----------
    Joe, S. and Kuo, F. Y. (2008). Constructing Sobol sequences with better two-dimensional
    projections. SIAM Journal on Scientific Computing 30(5).

    Matoušek, J. (1998). On the L2-discrepancy for anchored boxes. Journal of Complexity 14(4).

    Examples
    --------
    >>> from pymc_vi_ext.engine.sobol import SobolSequence
    >>> SobolSequence(2, seed=0).points(0, 4).shape
    (4, 2)
    """

    def __init__(self, dimension: int, seed: int):
        [rng] = np.random.default_rng(seed).spawn(1)
        shift = rng.integers(2, size=(dimension, _BITS), dtype=np.uint32)
        self._shift = shift @ (1 << _PLACES).astype(np.uint32)
        scramble = np.tril(
            rng.integers(2, size=(dimension, _BITS, _BITS), dtype=np.uint32)
        ) | np.eye(_BITS, dtype=np.uint32)
        self._directions = _scrambled(_directions(dimension), scramble)

    def points(self, first: int, n: int) -> np.ndarray:
        """Return `n` points in [0, 1), (n, dimension), from number `first` on."""
        index = np.arange(first, first + n)
        gray = index ^ (index >> 1)
        found = np.broadcast_to(self._shift, (n, self._shift.size)).copy()
        for place in range(int(index[-1]).bit_length()):
            taken = ((gray >> place) & 1).astype(bool)
            found[taken] ^= self._directions[place]
        return found * _SCALE


@lru_cache(maxsize=4)
def _directions(dimension: int) -> np.ndarray:
    """Return the direction numbers of each bit of an index, (bits, dimension)."""
    polynomials, starts = sobol_direction_numbers(dimension)
    numbers = np.ones((_BITS, dimension), np.uint32)  # the first axis has no polynomial
    for axis in range(1, dimension):
        polynomial = int(polynomials[axis])
        degree = polynomial.bit_length() - 1
        own = [int(start) for start in starts[axis, :degree]]
        taps = [k for k in range(1, degree + 1) if polynomial >> (degree - k) & 1]
        for place in range(degree, _BITS):
            new = own[place - degree]
            for k in taps:
                new ^= own[place - k] << k
            own.append(new)
        numbers[:, axis] = own[:_BITS]
    return numbers << (_BITS - 1 - _PLACES).astype(np.uint32)[:, None]


def _scrambled(directions: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Return direction numbers whose bits, highest first, a matrix of each axis multiplies."""
    highest_first = _PLACES[::-1].astype(np.uint32)
    bits = (directions[..., None] >> highest_first) & 1  # (bits, dimension, bits)
    # Sums of at most 30 ones are exact in any order.
    mixed = np.einsum("dpk,jdk->jdp", matrices, bits) & 1
    scrambled: np.ndarray = (mixed << highest_first).sum(axis=-1, dtype=np.uint32)
    return scrambled
