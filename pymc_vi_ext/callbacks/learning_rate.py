"""Lower the learning rate where the losses do not fall any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.callbacks._statistics import standard_error
from pymc_vi_ext.callbacks.callback import Callback, Losses
from pymc_vi_ext.options import positive, whole_number
from pymc_vi_ext.schedules import Schedule
from pymc_vi_ext.state import running

_BATCHES = 10
# Two standard errors of the difference between two looks.
_ERRORS = 2.0 * 2.0**0.5


class ReduceLROnPlateau(Callback):
    r"""Multiply the learning rate when the loss stops improving by more than its noise.

    At every look the mean of the losses since the last one is compared with the best so far. An
    improvement by more than :math:`2 \sqrt 2` standard errors of that mean (by batch means) is the
    new best; after `patience` looks in a row without one the rate is multiplied. Many small
    improvements add up, because the best stays where it was until then.

    :func:`pymc_vi_ext.fit` begins every fit at the full rate. The scale of a schedule stays what
    it is until :meth:`pymc_vi_ext.schedules.Schedule.restart`.

    Parameters
    ----------
    factor : float
        Between 0 and 1.
    patience : int
        Looks in a row without improvement.
    min_scale : float
        The rate is not multiplied below this part of what it was at the first look.
    every : int
        Steps between two looks, at least 20.
    learning_rate : Schedule or shared scalar, optional
        What to multiply: the schedule, or PyTensor shared variable, that the optimizer was built
        with. :func:`pymc_vi_ext.fit` knows its own.

    Raises
    ------
    ValueError
        If `factor` or `min_scale` is not between 0 and 1, `patience` not a whole number from 1,
        or `every` not one from 20.
    TypeError
        If there is no rate to multiply; at the first look, if the fit records no losses.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.callbacks import ReduceLROnPlateau
    >>> from pymc_vi_ext.schedules import constant
    >>> rate = constant(0.1)
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     approx = vix.fit(
    ...         3000,
    ...         convergence=None,
    ...         obj_optimizer=pm.adam(learning_rate=rate),
    ...         callbacks=[ReduceLROnPlateau(learning_rate=rate)],
    ...         random_seed=1,
    ...         progressbar=False,
    ...     )
    >>> float(rate.scale.get_value()) < 1
    True
    """

    changes_rate = True
    _saved = ("best", "waited", "start", "scale")

    def __init__(
        self,
        factor: float = 0.5,
        patience: int = 10,
        min_scale: float = 1e-3,
        every: int = 100,
        learning_rate: Schedule | SharedVariable | None = None,
    ):
        for name, value in (("factor", factor), ("min_scale", min_scale)):
            if positive(name, value) >= 1:
                raise ValueError(f"`{name}` must be between 0 and 1, not {value!r}.")
        if not isinstance(learning_rate, Schedule | SharedVariable | None):
            raise TypeError(
                "`learning_rate` must be a schedule or a PyTensor shared scalar, the one the "
                f"optimizer was built with, not {learning_rate!r}: a number cannot be changed."
            )
        self.factor = factor
        self.min_scale = min_scale
        self.patience = whole_number("patience", patience)
        self.learning_rate = learning_rate
        super().__init__(whole_number("every", every, least=2 * _BATCHES))

    def _begin(self) -> None:
        self._best: float | None = None
        self._waited = 0
        self._start: float | None = None  # the scale at the first look
        self._scale: float | None = None  # and now
        self._loaded = False

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, and put the rate where it was."""
        super().load_state_dict(state)
        self._loaded = self._scale is not None
        if self._loaded and self.learning_rate is not None:
            _set(self._shared(None), self._scale)

    def _shared(self, approx: Any) -> SharedVariable:
        if isinstance(self.learning_rate, Schedule):
            return self.learning_rate.scale
        if self.learning_rate is not None:
            return self.learning_rate
        state = None if approx is None else running(approx)
        if state is None:
            raise TypeError(
                "ReduceLROnPlateau has no rate to multiply: build the optimizer with a schedule or "
                "a shared scalar, as in `pm.adam(learning_rate=rate)` with "
                "`rate = schedules.constant(0.01)`, and pass that as `learning_rate=` here too."
            )
        return state.rate_scale

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        shared = self._shared(approx)
        if self._loaded:
            _set(shared, self._scale)
            self._loaded = False
        scale = float(shared.get_value())
        self._start = scale if self._start is None else self._start
        self._scale = scale
        recent = self._recent(losses, steps)
        if recent.size < _BATCHES:
            return
        mean, noise = float(recent.mean()), _ERRORS * float(standard_error(recent, _BATCHES))
        if self._best is None or self._best - mean > noise:
            self._best, self._waited = mean, 0
        else:
            self._waited += 1
        lower = scale * self.factor
        if self._waited >= self.patience and lower >= self.min_scale * self._start:
            _set(shared, lower)
            self._scale, self._waited = lower, 0
        self._status = f"rate x {self._scale / self._start:.3g}, waited {self._waited} looks"


def _set(shared: SharedVariable, value: float | None) -> None:
    shared.set_value(np.asarray(value, dtype=shared.get_value(borrow=True).dtype))
