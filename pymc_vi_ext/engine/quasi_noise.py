"""Noise that fills its space evenly: points of a scrambled Sobol sequence for a step's draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytensor
import pytensor.tensor as pt

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from scipy.special import ndtri

from pymc_vi_ext.engine.sobol import SobolSequence

# Steps whose noise lies ready, at most and at least, and the numbers that these may be.
_MOST_ROWS, _FEWEST_ROWS, _MOST_NUMBERS = 1_024, 256, 2**18
# Tables that are kept, 2 MB each at most.
_MOST_KEPT = 16
# Half the distance of neighbouring points: none is at the edge, whose normal number is infinite.
_HALF = 2.0**-31


def mirrored(seed: int) -> int:
    """Return the seed of the sequence whose numbers have the other sign; seeds count from 0."""
    return -1 - seed


class QuasiNoise:
    r"""Standard normal numbers of a program, from Sobol points while it is asked for them.

    Points :math:`u_t \in (0, 1)^d` of one scrambled sequence, one a step, make the noise
    :math:`\epsilon_t = \Phi^{-1}(u_t)`. Each has the distribution of a random draw; together they
    fill the space, so that averages over :math:`T` steps have errors of nearly order
    :math:`1 / T` in place of :math:`1 / \sqrt T` where few directions matter.

    At rest, as at the start, a program draws at random.

    Attributes
    ----------
    place : SharedVariable
        Number of the next point, -1 at rest, and the seed of the sequence, (2,).

    References
    ----------
    Owen, A. (1997). Scrambled net variance for integrals of smooth functions. Annals of
    Statistics 25(4).

    Buchholz, A., Wenzel, F. and Mandt, S. (2018). Quasi-Monte Carlo variational inference.
    https://arxiv.org/abs/1807.01604

    Examples
    --------
    >>> from pymc_vi_ext.engine import QuasiNoise
    >>> noise = QuasiNoise()  # at rest
    >>> noise.place.get_value(), noise.updates
    (array([-1,  0]), {})
    """

    def __init__(self) -> None:
        self.place = pytensor.shared(np.array([-1, 0]), "place_in_sequence")
        self._tables: list[SharedVariable] = []
        self._sequence: tuple[int, SobolSequence] | None = None
        # Seed, first point and number of what the tables hold, and what they held before.
        self._ready: tuple[int, int, int] | None = None
        self._kept: dict[tuple[int, int, int], list[np.ndarray]] = {}

    @property
    def tables(self) -> Sequence[SharedVariable]:
        """Points that lie ready, (rows, draws, width) of each group; of a program data."""
        return self._tables

    @property
    def updates(self) -> dict[SharedVariable, Variable]:
        """What a step adds to its program; nothing where no noise was replaced."""
        next_point = self.place + np.array([1, 0]) * pt.ge(self.place[0], 0)
        return {self.place: next_point} if self._tables else {}

    def in_place_of(
        self, random: Mapping[Variable, Variable], widths: Mapping[Variable, int], draws: int
    ) -> dict[Variable, Variable]:
        """Return what stands for the noise of groups: random numbers at rest, else points.

        Parameters
        ----------
        random : mapping
            The noise of each group, (draws, width), and its random numbers.
        widths : mapping
        draws : int
            Of a step.

        Returns
        -------
        mapping
            `random` as it is where a point would have too many coordinates.
        """
        coordinates = draws * sum(widths.values())
        rows = min(_MOST_ROWS, 2 ** int(np.log2(_MOST_NUMBERS / coordinates)))
        if self._tables or rows < _FEWEST_ROWS:
            return dict(random)
        found: dict[Variable, Variable] = {}
        for noise, numbers in random.items():
            table = pytensor.shared(
                np.zeros((rows, draws, widths[noise]), noise.type.dtype), "noise"
            )
            self._tables.append(table)
            row = self.place[0]
            point = pt.switch(pt.ge(row, 0), table[row % rows], numbers)
            found[noise] = pt.specify_shape(point, noise.type.shape)
        return found

    def twin(self) -> QuasiNoise:
        """Return one for the same program, for a run of its own: it has written nothing yet."""
        twin = QuasiNoise()
        twin.place, twin._tables = self.place, self._tables
        return twin

    def begin(self, seed: int, steps: int | None = None) -> None:
        """Take the points of a new sequence, from the next step on; of so many steps, if known."""
        if self._tables:
            self.place.set_value(np.array([0, seed]))
            self._write(0, steps)

    def rest(self) -> None:
        """Draw at random."""
        self.place.set_value(np.array([-1, 0]))

    def go_on(self, row: int, steps: int | None = None) -> None:
        """Have more points ready, if those before number `row`, the next, were the last."""
        if self._tables and row % self.rows == 0:
            self._write(row, steps)

    def restore(self) -> None:
        """Have the points ready again that the state asks for, where it was set from outside."""
        row = int(self.place.get_value()[0])
        if self._tables and row >= 0:
            self._write(row - row % self.rows)

    @property
    def rows(self) -> int:
        """For how many steps points are ready at a time, 0 where no noise was replaced."""
        return len(self._tables[0].get_value(borrow=True)) if self._tables else 0

    def _write(self, first: int, steps: int | None = None) -> None:
        n = self.rows if steps is None else min(steps, self.rows)
        asked = int(self.place.get_value()[1]), first, n
        if self._ready == asked:
            return
        numbers = self._kept.pop(asked, None)
        if numbers is None:
            numbers = self._numbers(*asked)
        for table, part in zip(self._tables, numbers, strict=True):
            table.set_value(part)
        # The same sequences are gone through again and again, in the same order.
        self._kept[asked] = numbers
        if len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._ready = asked

    def _numbers(self, seed: int, first: int, n: int) -> list[np.ndarray]:
        """Return what the tables hold of a sequence: normal numbers in place of `n` points."""
        if seed < 0:
            return [-part for part in self._numbers(mirrored(seed), first, n)]
        shapes = [table.get_value(borrow=True).shape for table in self._tables]
        sizes = [draws * width for _, draws, width in shapes]
        # No step takes what is not there.
        numbers = np.full((self.rows, sum(sizes)), np.nan)
        numbers[:n] = ndtri(self._points(seed, first, n, sum(sizes)) + _HALF)
        parts = np.split(numbers, np.cumsum(sizes)[:-1], axis=1)
        return [
            part.reshape(shape).astype(table.type.dtype)
            for table, part, shape in zip(self._tables, parts, shapes, strict=True)
        ]

    def _points(self, seed: int, first: int, n: int, dimension: int) -> np.ndarray:
        """Return `n` points of a sequence, (n, dimension)."""
        if self._sequence is None or self._sequence[0] != seed:
            self._sequence = seed, SobolSequence(dimension, seed)
        return self._sequence[1].points(first, n)
