"""Stan's rule: stop where the ELBO hardly changes."""

from __future__ import annotations

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.callbacks.callback import Losses, Rule
from pymc_vi_ext.options import positive, whole_number


class RelativeELBO(Rule):
    r"""Stop where the relative change of the ELBO is small, as Stan's ADVI does.

    At every look the ELBO is estimated, and the rule fires where the mean or the median of the
    last `window` relative changes

    .. math:: \left|\frac{L_j - L_{j-1}}{L_{j-1}}\right|

    is below `tol_rel_obj`. :math:`L_j` here is the mean of the losses since the last look, which
    costs nothing; Stan draws afresh (100 draws) and so sees the present parameters without those
    of the steps before. Stan also fires on fewer than `window` changes; this rule waits for all.

    The rule is relative to the ELBO itself: multiplying the losses by a constant changes nothing,
    adding one does (a normalising constant in the likelihood, say), and where the ELBO is large it
    fires while many nats are missing. :class:`LossPlateau` does not have this fault.

    Parameters
    ----------
    every : int
        Steps between two looks; Stan's ``eval_elbo``.
    tol_rel_obj : float
        Threshold of the mean and of the median.
    window : int
        How many changes are looked at. Stan takes a tenth of the looks that its largest number of
        steps has room for: 10 with 10,000 steps.

    Raises
    ------
    ValueError
        If `tol_rel_obj` is not positive, or `every` or `window` not a whole number from 1.
    TypeError
        At the first look, if the fit records no losses.

    References
    ----------
    Kucukelbir, A. et al. (2017). Automatic differentiation variational inference. JMLR 18(14).

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.callbacks import RelativeELBO
    >>> rule, losses = RelativeELBO(every=10, window=3), np.full(100, 5.0)
    >>> try:
    ...     for i in range(1, 101):
    ...         rule(None, losses[:i], i)
    ... except StopIteration as stop:
    ...     print(i, rule.status)
    40 change 0 < 0.01
    """

    _saved = ("mean", "changes")

    def __init__(self, every: int = 100, tol_rel_obj: float = 0.01, window: int = 10):
        self.tol_rel_obj = positive("tol_rel_obj", tol_rel_obj)
        self.window = whole_number("window", window)
        super().__init__(every)

    def _begin(self) -> None:
        self._mean: float | None = None
        self._changes: list[float] = []

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        recent = self._recent(losses, steps)
        if not recent.size:
            return
        previous, self._mean = self._mean, float(recent.mean())
        if previous is None:
            return
        self._changes = [*self._changes, _change(self._mean, previous)][-self.window :]
        change = min(float(np.mean(self._changes)), float(np.median(self._changes)))
        below = change < self.tol_rel_obj
        self._status = f"change {change:.2g} {'<' if below else '≥'} {self.tol_rel_obj:g}"
        if below and len(self._changes) == self.window:
            raise StopIteration(
                f"The ELBO changed by {change:.3g} of itself over the last {self.window} looks "
                f"before step {i}, less than {self.tol_rel_obj:g}."
            )


def _change(current: float, previous: float) -> float:
    if current == previous:
        return 0.0
    return abs((current - previous) / previous) if previous else np.inf
