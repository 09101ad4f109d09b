r"""Learning rates that change along a fit.

A :class:`Schedule` is passed where an optimizer takes a learning rate, PyMC's as in
``pm.adam(learning_rate=cosine(0.05, 10_000))`` and optax's as in
``optax.adam(cosine(0.05, 10_000))``.

Examples
--------
>>> import pymc as pm
>>> import pymc_vi_ext as vix
>>> from pymc_vi_ext.schedules import cosine
>>> with pm.Model():
...     x = pm.Normal("x")
...     optimizer = pm.adam(learning_rate=cosine(0.05, 1000))
...     approx = vix.fit(1000, convergence=None, obj_optimizer=optimizer, progressbar=False)
"""

from __future__ import annotations

import math

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pytensor.graph.basic import Variable

from pymc_vi_ext.upstream import converts, set_default_update


class Schedule:
    r"""A learning rate as a function of the steps taken.

    Parameters
    ----------
    formula : callable
        ``(step, xp) -> rate`` in arithmetic and functions of the module `xp`, which is NumPy,
        ``jax.numpy`` or ``pytensor.tensor``.
    decays : bool
        Whether the rate falls in the end.

    Attributes
    ----------
    decays : bool
    step : SharedVariable
        Steps taken, a float64 scalar, which each call of a compiled function that uses
        :attr:`rate` raises by one.
    scale : SharedVariable
        Factor on :attr:`rate`, 1 at first; for
        :class:`pymc_vi_ext.callbacks.ReduceLROnPlateau`.
    rate : TensorVariable
        The rate at `step` times `scale`, a scalar of dtype floatX. A schedule stands for it in
        arithmetic with PyTensor variables.

    Notes
    -----
    Calling a schedule, ``schedule(step)``, gives the rate without `scale` at steps (from 0) that
    are numbers, NumPy or JAX arrays, tracers, or PyTensor variables.

    A schedule counts the steps of one optimizer. PyMC's methods do not know of the counter, and a
    second fit with the same schedule goes on where the first ended, unless :meth:`restart` is
    called.

    Examples
    --------
    >>> from pymc_vi_ext.schedules import Schedule
    >>> inverse = Schedule(lambda step, xp: 0.1 / xp.sqrt(1.0 + step), decays=True)
    >>> float(inverse(0)), float(inverse(99))
    (0.1, 0.01)
    """

    # NumPy's scalars leave arithmetic with a schedule to the schedule.
    __array_ufunc__ = None

    def __init__(self, formula: Callable[[Any, Any], Any], decays: bool):
        self._formula = formula
        self.decays = decays
        # float32 would stop counting at 2^24, and an integer scalar may be taken for a shape.
        self.step = pytensor.shared(np.float64(0.0), "schedule_step")
        set_default_update(self.step, self.step + np.float64(1.0))
        self.scale = pytensor.shared(np.asarray(1.0, pytensor.config.floatX), "schedule_scale")
        self.rate = (self(self.step) * self.scale).astype(pytensor.config.floatX)

    def __call__(self, step: Any) -> Any:
        """Return the rate at `step`, counted from 0."""
        return self._formula(step, _namespace(step))

    def restart(self) -> None:
        """Go back to step 0 and scale 1."""
        self.step.set_value(np.float64(0.0))
        self.scale.set_value(np.ones_like(self.scale.get_value()))

    def __mul__(self, other: Any) -> Any:
        return self.rate * other

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self.rate / other


@converts(Schedule)
def _(schedule: Schedule, name: str | None, ndim: int | None, **kwargs: Any) -> Any:
    return pt.as_tensor_variable(schedule.rate, name, ndim, **kwargs)


def constant(rate: float) -> Schedule:
    r"""Return the schedule :math:`\eta_t = \eta`, of which only the scale changes.

    Parameters
    ----------
    rate : float

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If `rate` is not positive.

    Examples
    --------
    >>> from pymc_vi_ext.schedules import constant
    >>> constant(0.1)(1000)
    0.1
    """
    _check_positive(rate=rate)
    return Schedule(lambda step, xp: rate + 0.0 * step, decays=False)


def cosine(rate: float, steps: int, floor: float = 0.0) -> Schedule:
    r"""Return half a cosine from `rate` down to a part of it,

    .. math::

        \eta_t = \eta \left(f + (1 - f) \tfrac12 (1 + \cos \pi \min(t / n, 1))\right).

    Parameters
    ----------
    rate : float
        Rate at the first step, :math:`\eta`.
    steps : int
        Steps until it is at its lowest, :math:`n`.
    floor : float
        Part of the rate that is left then, :math:`f`, from 0 to 1.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If `rate` or `steps` is not positive, or `floor` not in [0, 1).

    References
    ----------
    Loshchilov, I. and Hutter, F. (2017). SGDR: Stochastic gradient descent with warm restarts.
    https://arxiv.org/abs/1608.03983

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.schedules import cosine
    >>> cosine(0.1, 100, floor=0.1)(np.array([0, 50, 100, 200]))
    array([0.1  , 0.055, 0.01 , 0.01 ])
    """
    _check_positive(rate=rate, steps=steps)
    _check_part(floor=floor)

    def formula(step: Any, xp: Any) -> Any:
        return rate * (floor + (1 - floor) * half_cosine(step / steps, xp))

    return Schedule(formula, decays=True)


def exponential(rate: float, half_life: float) -> Schedule:
    r"""Return :math:`\eta_t = \eta\, 2^{-t / h}`.

    Parameters
    ----------
    rate : float
        Rate at the first step, :math:`\eta`.
    half_life : float
        Steps in which it halves, :math:`h`.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If either is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.schedules import exponential
    >>> exponential(0.1, half_life=100)(np.array([0, 100, 200]))
    array([0.1  , 0.05 , 0.025])
    """
    _check_positive(rate=rate, half_life=half_life)
    return Schedule(lambda step, xp: rate * 0.5 ** (step / half_life), decays=True)


def one_cycle(
    peak: float, steps: int, warmup: float = 0.3, start: float = 0.04, floor: float = 4e-6
) -> Schedule:
    r"""Return half a cosine up to `peak`, and another one down.

    Starting low lets Adam's averages of the first gradients settle before the steps are large.

    Parameters
    ----------
    peak : float
        Highest rate.
    steps : int
        Steps in all; afterwards the rate stays where it is.
    warmup : float
        Part of the steps that goes up, between 0 and 1.
    start, floor : float
        First and last rate as parts of `peak`.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If `peak` or `steps` is not positive, `warmup` not between 0 and 1, or `start` or `floor`
        not in [0, 1).

    References
    ----------
    Smith, L. and Topin, N. (2018). Super-convergence: Very fast training of neural networks using
    large learning rates. https://arxiv.org/abs/1708.07120

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.schedules import one_cycle
    >>> one_cycle(1.0, 100)(np.array([0, 30, 100])).round(6)
    array([4.e-02, 1.e+00, 4.e-06])
    """
    _check_positive(peak=peak, steps=steps, warmup=warmup)
    _check_part(warmup=warmup, start=start, floor=floor)

    def formula(step: Any, xp: Any) -> Any:
        up = 1 - (1 - start) * half_cosine(step / (warmup * steps), xp)
        down = floor + (1 - floor) * half_cosine((step / steps - warmup) / (1 - warmup), xp)
        return peak * xp.where(step < warmup * steps, up, down)

    return Schedule(formula, decays=True)


def half_cosine(done: Any, xp: Any) -> Any:
    """Fall from 1 at 0 to 0 at 1, and stay there."""
    return 0.5 * (1.0 + xp.cos(math.pi * xp.minimum(done, 1.0)))


def _namespace(step: Any) -> Any:
    """Return the module whose functions take `step`."""
    if isinstance(step, Variable):
        return pt
    if isinstance(step, int | float | np.ndarray | np.generic):
        return np
    import jax.numpy

    return jax.numpy


def _check_positive(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a positive number, not {value!r}.")


def _check_part(**values: Any) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` is a part, from 0 up to below 1, not {value!r}.")
