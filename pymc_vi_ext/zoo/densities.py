"""Toy targets in one and two dimensions, each as a density and as a model without data."""

from __future__ import annotations

import math

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm

from scipy.special import betaln, gammaln, log_expit, logit, logsumexp, ndtr, xlog1py, xlogy

from pymc_vi_ext.zoo.mixture import MEANS, SD, WEIGHTS, mixture

# In NumPy's type: of numbers of Python's that fit in it, PyTensor takes log gamma in float32.
_NU = np.float64(3)
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Density:
    r"""A density that is normalised, as a function and as a model.

    Attributes
    ----------
    name : str
        Key in :data:`DENSITIES`.
    dim : int
        1 or 2.
    support : tuple of float
        Lower and upper end of each coordinate.
    window : tuple of tuple of float
        For each coordinate, the lower and the upper end of what is worth a picture.
    logp : callable
        Log density in nats. In one dimension of an array of any shape, which is the shape of the
        result; in two of one of shape (..., 2), with a result of shape (...).
    unconstrained_logp : callable
        The same on the scale where variational methods work: that of :math:`\operatorname{logit} x`
        where `support` is (0, 1), with the Jacobian, and `logp` itself elsewhere.
    model : callable
        Without arguments, returns a new :class:`pymc.Model` without data, whose free variable
        ``x``, a scalar or a vector of 2, has this density. Its log evidence is 0, so the KL
        divergence from an approximation is the negative ELBO.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.zoo import DENSITIES
    >>> banana = DENSITIES["banana"]
    >>> banana.logp(np.zeros((5, 2))).shape
    (5,)
    >>> model = banana.model()
    """

    name: str
    dim: int
    support: tuple[float, float]
    window: tuple[tuple[float, float], ...]
    logp: Callable[[np.ndarray], np.ndarray]
    unconstrained_logp: Callable[[np.ndarray], np.ndarray]
    model: Callable[[], pm.Model]

    @property
    def unconstrained_window(self) -> tuple[tuple[float, float], ...]:
        """The window on the scale of `unconstrained_logp`."""
        if self.support != (0.0, 1.0):
            return self.window
        return tuple((float(logit(low)), float(logit(high))) for low, high in self.window)


# student_t: 3 degrees of freedom.
def _student_t(x: np.ndarray) -> np.ndarray:
    constant = gammaln((_NU + 1) / 2) - gammaln(_NU / 2) - math.log(_NU * math.pi) / 2
    return np.asarray(constant - (_NU + 1) / 2 * np.log1p(np.square(x) / _NU))


def _student_t_model() -> pm.Model:
    with pm.Model() as model:
        pm.StudentT("x", nu=_NU)
    return model


# bimodal: that of the zoo's `mixture`.
def _bimodal(x: np.ndarray) -> np.ndarray:
    constant = _LOG_2PI / 2 + math.log(SD)
    parts = [
        math.log(weight) - constant - (np.subtract(x, mean) / SD) ** 2 / 2
        for weight, mean in zip(WEIGHTS, MEANS, strict=True)
    ]
    return np.asarray(logsumexp(parts, axis=0))


# skewed: the standard Gumbel, whose best Gaussian is known, N(1/2, 1).
def _skewed(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # -inf, far to the left
        return np.asarray(np.negative(x) - np.exp(np.negative(x)))


def _skewed_model() -> pm.Model:
    with pm.Model() as model:
        pm.Gumbel("x", mu=0, beta=1)
    return model


# hard: in proportion to x^1000 (1 - x) on (0, 1).
_HARD = (np.float64(1001), np.float64(2))


def _hard(x: np.ndarray) -> np.ndarray:
    a, b = _HARD
    x = np.asarray(x)
    with np.errstate(invalid="ignore"):  # outside
        inside = xlogy(a - 1, x) + xlog1py(b - 1, -x) - betaln(a, b)
    return np.where((x >= 0) & (x <= 1), inside, -np.inf)


def _hard_logit(y: np.ndarray) -> np.ndarray:
    a, b = _HARD
    return np.asarray(a * log_expit(y) + b * log_expit(np.negative(y)) - betaln(a, b))


def _hard_model() -> pm.Model:
    with pm.Model() as model:
        pm.Beta("x", *_HARD)
    return model


# Of two coordinates, as arrays or as variables of PyTensor.
# banana: x is N(0, 1), y given x N(x^2 - 1, 0.4^2).
def _banana(x: Any, y: Any) -> Any:
    return -_LOG_2PI - math.log(0.4) - x**2 / 2 - ((y - x**2 + 1) / 0.4) ** 2 / 2


# ring: of radius 2. The square of the radius is normal, cut at 0.
_RING_AREA = math.pi * math.sqrt(2 * math.pi) * ndtr(4)


def _ring(x: Any, y: Any) -> Any:
    return -math.log(_RING_AREA) - (x**2 + y**2 - 4) ** 2 / 2


# funnel: x is N(0, 1.5^2), y given x N(0, exp(x)).
def _funnel(x: Any, y: Any, exp: Callable[[Any], Any] = np.exp) -> Any:
    return -_LOG_2PI - math.log(1.5) - (x / 1.5) ** 2 / 2 - x / 2 - y**2 * exp(-x) / 2


def _funnel_of_variables(x: Any, y: Any) -> Any:
    return _funnel(x, y, pm.math.exp)


def _plane(
    name: str,
    window: tuple[tuple[float, float], tuple[float, float]],
    of_arrays: Callable[[Any, Any], Any],
    of_variables: Callable[[Any, Any], Any] | None = None,
) -> Density:
    """Return a density of two coordinates: a Potential where nothing else is."""

    def logp(points: np.ndarray) -> np.ndarray:
        x, y = np.moveaxis(np.asarray(points, dtype=float), -1, 0)
        return np.asarray(of_arrays(x, y))

    def model() -> pm.Model:
        with pm.Model() as plane:
            x = pm.Flat("x", shape=2)
            pm.Potential("log_density", (of_variables or of_arrays)(x[0], x[1]))
        return plane

    return Density(name, 2, (-math.inf, math.inf), window, logp, logp, model)


def _line(
    name: str,
    window: tuple[float, float],
    logp: Callable[[np.ndarray], np.ndarray],
    model: Callable[[], pm.Model],
) -> Density:
    return Density(name, 1, (-math.inf, math.inf), (window,), logp, logp, model)


DENSITIES: dict[str, Density] = {
    density.name: density
    for density in (
        _line("student_t", (-6.0, 6.0), _student_t, _student_t_model),
        _line("bimodal", (-0.9, 1.1), _bimodal, mixture),
        _line("skewed", (-3.0, 7.0), _skewed, _skewed_model),
        Density("hard", 1, (0.0, 1.0), ((0.98, 0.999995),), _hard, _hard_logit, _hard_model),
        _plane("banana", ((-3.0, 3.0), (-3.0, 5.0)), _banana),
        _plane("ring", ((-3.2, 3.2), (-3.2, 3.2)), _ring),
        _plane("funnel", ((-5.0, 5.0), (-8.0, 8.0)), _funnel, _funnel_of_variables),
    )
}
"""Name -> :class:`Density`, all normalised."""
