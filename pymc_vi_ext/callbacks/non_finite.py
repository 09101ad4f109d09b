"""What to do when a loss or a parameter is not a number."""

from __future__ import annotations

import logging

from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.callbacks.callback import Callback, Losses
from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.options import whole_number
from pymc_vi_ext.state import running

logger = logging.getLogger(__name__)

_POLICIES = ("rollback", "stop")


class NonFinite(Callback):
    """Go back to the last good state when the loss or a parameter becomes NaN.

    Every `every` steps it keeps a copy of the state. Where :func:`pymc_vi_ext.fit` would raise
    FloatingPointError, the fit returns to that copy (parameters and optimizer; the random numbers
    go on) and continues at half the learning rate. After `retries` returns it stops there, with a
    reason that names each variable and index that was NaN.

    :func:`pymc.fit` itself raises at a loss that is NaN before it calls anybody. With ``every=1``
    this callback comes before it where parameters become NaN first; it sets them back and leaves
    the learning rate, which is part of PyMC's compiled step.

    Parameters
    ----------
    policy : {"rollback", "stop"}
        "stop" keeps the last good state and ends the fit at once.
    retries : int
        Returns before the fit is stopped.
    every : int
        Steps between two copies.

    Raises
    ------
    UnknownNameError
        A ValueError: if `policy` is unknown.
    ValueError
        If `retries` or `every` is not a whole number from 1.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     guard = vix.callbacks.NonFinite(retries=3)
    ...     approx = vix.fit(1_000, callbacks=[guard], random_seed=1, progressbar=False)
    >>> guard.status
    ''
    """

    _saved = ("returns",)

    def __init__(self, policy: str = "rollback", retries: int = 5, every: int = 100):
        if policy not in _POLICIES:
            raise UnknownNameError("policy", policy, _POLICIES)
        self.policy = policy
        self.retries = whole_number("retries", retries)
        super().__init__(every)

    def recover(self, approx: Approximation, losses: Losses, i: int, problem: str) -> bool:
        """Set the last good state back; the fit calls this at a NaN.

        Parameters
        ----------
        approx : Approximation
        losses : array or None
        i : int
            The step of the NaN.
        problem : str
            Names the variables and indices.

        Returns
        -------
        bool
            False if the NaN came before the first copy.

        Raises
        ------
        StopIteration
            If the policy, or the number of returns so far, says so.
        """
        if self._good is None:
            return False
        for variable, value in self._good.items():
            variable.set_value(value)
        if self.policy == "stop" or self._returns == self.retries:
            raise StopIteration(
                f"back at the state of step {self._last:,} after {self._returns} returns. {problem}"
            )
        self._returns += 1
        self._status = f"{self._returns} of {self.retries} returns from NaN"
        logger.warning("Back from step %d to the state of step %d: %s", i, self._last, problem)
        if state := running(approx):
            state.scale_rate(0.5)
        return True

    def _begin(self) -> None:
        self._returns = 0
        self._good: dict[Any, np.ndarray] | None = None

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        if not np.isfinite(flat_parameters(approx)).all():
            problem = f"Parameters are not finite at step {i}."
            if not self.recover(approx, losses, i, problem):
                raise FloatingPointError(problem)
            return
        variables = list(approx.params)
        if state := running(approx):
            state.sync()
            variables = [v for v in state.program.state if v not in state.program.rngs]
        self._good = {v: v.get_value() for v in variables}
