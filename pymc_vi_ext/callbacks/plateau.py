"""Stop where the losses do not fall any more, as far as their noise lets one see."""

from __future__ import annotations

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.callbacks.callback import Losses, Rule
from pymc_vi_ext.options import whole_number

# Batches that each of the two windows is cut into: enough for the normal law of the rank sum, few
# enough that the means of batches from 50 losses on are nearly independent.
_BATCHES = 20
# An improvement counts from half a standard error on, not from the usual two: a false stop costs
# more than some steps, and on a flat trace two looks of three are below this.
_ERRORS = 0.5
# Two looks lie so far apart that the second sees something new, however long the trace.
_GROWTH = 1.1
# Losses that depend on each other tell as much as fewer independent ones; windows have to tell as
# much as this many.
_INDEPENDENT = 100
# Part of the losses pulled in on either side, so that no single one decides.
_WINSORISED = 0.05


class LossPlateau(Rule):
    r"""Stop where the last third of the losses is no better than the third before it.

    The two windows grow with the trace, so that a slow improvement is seen as late as a fast one
    early. Each is cut into 20 batches, whose means, after the extreme 5 % on either side of all
    losses in the windows were pulled in, are compared by rank (Mann and Whitney, 1947): with
    :math:`U` pairs in which the later batch has the smaller mean,

    .. math:: z = \frac{U - k^2 / 2}{\sqrt{k^2 (2 k + 1) / 12}}, \qquad k = 20.

    Batches make the comparison robust against autocorrelation, winsorising and ranks against heavy
    tails and against noise that changes on the way. The rule fires after `patience` looks in a
    row with :math:`z \le 1/2`, each at a trace longer by a tenth. It does not depend on the unit
    of the losses or on a constant in them. On a trace that falls without noise it never fires,
    because then every pair is in favour.

    A trace that was flat from step :math:`T` on has windows without any earlier loss at
    :math:`3 T`, which is about when the rule fires.

    Parameters
    ----------
    window : int
        Fewest losses in a window, from 200: the first look is at three times as many steps.
        Autocorrelated losses need longer windows, which come to be as the trace grows.
    patience : int
        Looks in a row that see no improvement.
    every : int
        The looks are at multiples of this.

    Raises
    ------
    ValueError
        If `window` is not a whole number from 200, or `patience` or `every` not one from 1.
    TypeError
        At the first look, if the fit records no losses.

    References
    ----------
    Mann, H. and Whitney, D. (1947). On a test of whether one of two random variables is
    stochastically larger than the other. Ann. Math. Statist. 18(1).

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.callbacks import LossPlateau
    >>> noise = np.random.default_rng(1).normal(size=10_000)
    >>> losses = 50 * np.exp(-np.arange(10_000) / 200) + noise
    >>> rule = LossPlateau()
    >>> try:
    ...     for i in range(100, 10_001, 100):
    ...         rule(None, losses[:i], i)
    ... except StopIteration as stop:
    ...     print(i)
    7100
    """

    _saved = ("looked", "flat")

    def __init__(self, window: int = 1000, patience: int = 3, every: int = 100):
        self.window = whole_number("window", window, least=2 * _INDEPENDENT)
        self.patience = whole_number("patience", patience)
        super().__init__(every)

    def _begin(self) -> None:
        self._looked = 0  # step of the last look
        self._flat = 0  # looks in a row without improvement

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        if losses is None:
            self._recent(losses, steps)  # says so
            return
        if len(losses) < 3 * self.window or i < _GROWTH * self._looked:
            return
        self._looked = i
        z = _improvement(losses, len(losses) // 3)
        if z is None:
            return
        improves = z > _ERRORS
        self._flat = 0 if improves else self._flat + 1
        self._status = (
            f"improvement {z:.1f} se {'>' if improves else '≤'} {_ERRORS:g}"
            + f" ({self._flat} of {self.patience})" * (not improves)
        )
        if self._flat >= self.patience:
            raise StopIteration(
                f"The last {len(losses) // 3} losses before step {i} are no better than as many "
                f"before them ({z:.1f} standard errors, {self.patience} times in a row)."
            )


def _improvement(losses: np.ndarray, window: int) -> float | None:
    """Return by how many standard errors the last window beats the one before it.

    None where too few losses are finite, or too few are independent of each other.
    """
    length = window // _BATCHES
    both = np.asarray(losses[-2 * _BATCHES * length :], dtype=float)
    finite = np.isfinite(both)
    if not finite.any():
        return None
    low, high = np.quantile(both[finite], [_WINSORISED, 1 - _WINSORISED])
    pulled_in = np.where(finite, np.clip(both, low, high), 0.0).reshape(2 * _BATCHES, length)
    counts = finite.reshape(pulled_in.shape).sum(axis=1)
    means = pulled_in.sum(axis=1)[counts > 0] / counts[counts > 0]
    # Of independent losses a mean has the variance divided by their number. Differences of
    # neighbours leave a trend out.
    of_means = np.mean(np.diff(means) ** 2) / 2 if means.size > 1 else 0.0
    if _BATCHES * np.var(np.clip(both[finite], low, high)) < _INDEPENDENT * of_means:
        return None
    split = int((counts[:_BATCHES] > 0).sum())
    before, after = means[:split], means[split:]
    pairs = before.size * after.size
    if not pairs:
        return None
    ahead = np.sign(before[:, None] - after).sum() / 2  # U less its expectation
    return float(ahead / np.sqrt(pairs * (means.size + 1) / 12))
