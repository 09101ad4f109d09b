"""Scrambled Sobol points as SciPy makes them, without the seconds that importing SciPy's take."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pymc_vi_ext.upstream import sobol_direction_numbers

_BITS = 30
_PLACES = np.arange(_BITS)
_HIGHEST_FIRST = _PLACES[::-1].astype(np.uint32)
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
        columns = (scramble << _HIGHEST_FIRST[:, None]).sum(axis=1, dtype=np.uint32)
        self._directions = _scrambled(_directions(dimension), columns)

    def points(self, first: int, n: int) -> np.ndarray:
        """Return `n` points in [0, 1), (n, dimension), from number `first` on."""
        size = 1 << (n - 1).bit_length()
        begin = first - first % size
        blocks = [self._block(start, size) for start in range(begin, first + n, size)]
        return np.concatenate(blocks)[first - begin :][:n] * _SCALE

    def _block(self, first: int, size: int) -> np.ndarray:
        """Return the digits of `size` points, a power of two that divides `first`."""
        # Point i is the sum of the directions of the bits of its Gray code, i ^ (i >> 1). That of
        # the next 2^k numbers is that of the 2^k before in reverse order, and bit k.
        found = np.empty((size, self._shift.size), np.uint32)
        gray = first ^ (first >> 1)
        bits = [place for place in range(gray.bit_length()) if gray >> place & 1]
        found[0] = self._shift ^ np.bitwise_xor.reduce(self._directions[bits], axis=0)
        for place in range(size.bit_length() - 1):
            half = 1 << place
            found[half : 2 * half] = found[half - 1 :: -1] ^ self._directions[place]
        return found


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


def _scrambled(directions: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return direction numbers that a matrix of bits has multiplied, one of each axis.

    Parameters
    ----------
    directions : array of shape (bits, dimension)
    columns : array of shape (dimension, bits)
        Of the matrices, the bits of each as a number; that of the highest bit first.
    """
    bits = (directions[..., None] >> _HIGHEST_FIRST) & 1
    scrambled: np.ndarray = np.bitwise_xor.reduce(bits * columns, axis=-1)
    return scrambled
