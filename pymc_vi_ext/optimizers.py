"""The optimizers that a fit takes when the user names none."""

import functools

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.approximations import families_of
from pymc_vi_ext.schedules import Schedule, half_cosine
from pymc_vi_ext.upstream import get_or_compute_grads

_BETA1, _EPSILON = 0.9, 1e-8
# Gradients at the start of a fit can be thousands of times those near its end. Adam's usual .999
# remembers them for thousands of steps and creeps; .99 forgets in time and costs a little noise.
_BETA2 = 0.99
# Part of the learning rate that is left at the last step: enough to go on exploring while the
# average is taken.
_FLOOR = 0.1

type Updates = OrderedDict[SharedVariable, Any]


def _positive(learning_rate: float) -> float:
    if not learning_rate > 0:
        raise ValueError(f"The learning rate must be positive, not {learning_rate!r}.")
    return learning_rate


class Optimizer:
    """An optimizer that a fit tells when it begins and ends; this one, of no updates, rests.

    Attributes
    ----------
    decays : bool
        Whether its rate falls by itself.
    linear : bool
        Whether moves are linear in gradients once it has settled. Where they are not, averages of
        iterates are off by what no smaller rate takes away.

    Examples
    --------
    >>> from pymc_vi_ext.optimizers import Optimizer
    >>> Optimizer()(None, [])
    OrderedDict()
    """

    decays: bool = False
    linear: bool = False

    def __call__(self, loss_or_grads: Any, params: Any) -> Updates:
        """Return the updates of a step, as PyMC's optimizers do; none, here."""
        return OrderedDict()

    def begin(self, n: int) -> None:
        """Begin anew; `n` steps follow, unless something stops them."""

    def settle(self) -> None:
        """Leave the lengths of steps as they are: what follows is averaged."""

    def arrive(self) -> None:
        """Do what is to be done where parameters have been set, and no step has led there."""

    def linearise(self, scale: float) -> float:
        """Make moves linear in each gradient, where it can.

        Parameters
        ----------
        scale : float
            What moves as they are now would be multiplied by.

        Returns
        -------
        float
            How many times smaller they are than before, and have to be multiplied by; 1 where they
            stay as they are.
        """
        return 1.0

    def finish(self) -> None:
        """Set the parameters to the result, where that is not the last iterate."""


class Together(Optimizer):
    """Optimizers of programs that take turns: they begin and end together.

    Parameters
    ----------
    *optimizers : Optimizer

    Examples
    --------
    >>> from pymc_vi_ext.optimizers import AnnealedAdam, Optimizer, Together
    >>> Together(Optimizer(), AnnealedAdam()).decays
    True
    """

    def __init__(self, *optimizers: Optimizer):
        self.optimizers = optimizers
        self.decays = any(optimizer.decays for optimizer in optimizers)
        self.linear = all(optimizer.linear for optimizer in optimizers)

    def begin(self, n: int) -> None:
        """Begin anew."""
        for optimizer in self.optimizers:
            optimizer.begin(n)

    def settle(self) -> None:
        """Leave the lengths of steps as they are."""
        for optimizer in self.optimizers:
            optimizer.settle()

    def arrive(self) -> None:
        """Let all know that parameters have been set."""
        for optimizer in self.optimizers:
            optimizer.arrive()

    def linearise(self, scale: float) -> float:
        """Make moves linear, of all that can."""
        return max(optimizer.linearise(scale) for optimizer in self.optimizers)

    def finish(self) -> None:
        """Set the parameters to the result."""
        for optimizer in self.optimizers:
            optimizer.finish()


class Given(Optimizer):
    """One of PyMC's optimizers, or a user's function, ``(loss_or_grads, params) -> updates``.

    Parameters
    ----------
    function : callable

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.optimizers import Given
    >>> from pymc_vi_ext.schedules import cosine
    >>> Given(pm.adam(learning_rate=0.01)).decays
    False
    >>> Given(pm.adam(learning_rate=cosine(0.05, 1_000))).decays
    True
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        # PyMC's optimizers are partial functions before they see a loss.
        made_of, keywords = function, {}
        if isinstance(function, functools.partial):
            made_of, keywords = function.func, function.keywords
        rate = keywords.get("learning_rate")
        self.decays = made_of is pm.adagrad or (isinstance(rate, Schedule) and rate.decays)

    def __call__(self, loss_or_grads: Any, params: Any) -> Updates:
        """Return what the function does."""
        updates: Updates = self.function(loss_or_grads, params)
        return updates


class AnnealedAdam(Optimizer):
    r"""Adam with a falling learning rate, whose result is the average of its last iterates.

    Over the :math:`n` steps of a call the rate falls along half a cosine to a tenth,

    .. math::

        \eta_t = \eta \left(f + (1 - f)\,\tfrac12 (1 + \cos \pi t / n)\right),
        \qquad f = 0.1

    and the iterates of the second half are averaged. The last iterate scatters around the optimum
    however small the rate; the average (Polyak and Juditsky, 1992) has the smallest variance that
    :math:`n / 2` noisy gradients allow.

    Parameters
    ----------
    learning_rate : float
        Rate at the first step.
    average : bool
        Whether to average. Particles move without noise, and are not.

    References
    ----------
    Polyak, B. and Juditsky, A. (1992). Acceleration of stochastic approximation by averaging.
    SIAM J. Control Optim. 30(4).

    Loshchilov, I. and Hutter, F. (2017). SGDR: Stochastic gradient descent with warm restarts.
    https://arxiv.org/abs/1608.03983

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.optimizers import AnnealedAdam
    >>> options = dict(convergence=None, obj_optimizer=AnnealedAdam(0.1), progressbar=False)
    >>> with pm.Model():
    ...     pm.Normal("x")
    ...     approx = vix.fit(1000, **options)
    x
    """

    # For rules that need a constant rate.
    decays = True

    def __init__(self, learning_rate: float = 0.05, average: bool = True):
        self.learning_rate = _positive(learning_rate)
        self.average = average

    def __call__(self, loss_or_grads: Any, params: Any) -> Updates:
        """Return the updates of a step, as PyMC's optimizers do."""
        self._step = pytensor.shared(floatX(0.0), "annealing_step")
        self._horizon = pytensor.shared(floatX(1.0), "annealing_horizon")
        cosine = half_cosine(self._step / self._horizon, pt)
        rate = floatX(self.learning_rate) * (floatX(_FLOOR) + floatX(1 - _FLOOR) * cosine)
        updates: Updates = pm.adam(loss_or_grads, params, learning_rate=rate, beta2=_BETA2)
        # 1 until half of the steps are done, when the average is the iterate itself.
        weight = floatX(1.0) / pt.maximum(self._step - self._horizon / 2 + 1, floatX(1.0))
        self._averages = {}
        for parameter in params if self.average else ():
            mean = pytensor.shared(parameter.get_value(), f"{parameter.name}_average")
            updates[mean] = mean + (updates[parameter] - mean) * weight
            self._averages[parameter] = mean
        updates[self._step] = self._step + floatX(1.0)
        return updates

    def begin(self, n: int) -> None:
        """Start a new descent of the rate, over the `n` steps that follow."""
        self._step.set_value(floatX(0.0))
        self._horizon.set_value(floatX(max(n, 1)))

    def finish(self) -> None:
        """Make the average so far the value of the parameters."""
        for parameter, mean in self._averages.items():
            parameter.set_value(mean.get_value())


# Steps over which a mean's travel is measured.
_TRAVEL_MEMORY = 100
# Largest gradient, in root mean squares of those before: at first, and once these are kept.
_CLIP, _SETTLED_CLIP = 10.0, 30.0
# How many times smaller moves are once they are linear, and the longest, in natural units, as it is
# multiplied.
_SMALLER, _LONGEST = 1_000.0, 1 / 3


class WhitenedAdam(Optimizer):
    r"""Adam in the natural coordinates of the family, at a constant rate.

    Adam makes every step as long as the learning rate, in each coordinate. Here the coordinates
    are those of :mod:`pymc_vi_ext.approximations.coordinates`: means in standard deviations of
    the approximation, scales as logarithms. The same rate then serves models on every scale, and
    a full-rank fit of a badly conditioned posterior takes no longer than one of a round posterior.

    Far from the optimum the standard deviation says little about the distance left. The unit of a
    mean is therefore :math:`\sqrt{\sigma^2 + \delta^2}`, where :math:`\delta` is the distance
    to the average of its last hundred or so values. A step with a gradient that is not finite
    moves nothing.

    Parameters
    ----------
    approx : Approximation
        Whose parameters are optimised.
    learning_rate : float

    References
    ----------
    Kingma, D. and Ba, J. (2015). Adam: a method for stochastic optimization.
    https://arxiv.org/abs/1412.6980

    Amari, S. (1998). Natural gradient works efficiently in learning. Neural Computation 10(2).

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.optimizers import WhitenedAdam
    >>> with pm.Model():
    ...     x = pm.Normal("x", 0.0, 1_000.0)
    ...     advi = vix.ADVI(random_seed=1)
    >>> approx = advi.fit(2_000, obj_optimizer=WhitenedAdam(advi.approx), progressbar=False)
    >>> 800 < float(approx.std.eval()[0]) < 1_200
    True
    """

    linear = True

    def __init__(self, approx: Approximation, learning_rate: float = 0.1):
        self.learning_rate = _positive(learning_rate)
        self._approx = approx
        self._slow: dict[SharedVariable, SharedVariable] = {}

    def begin(self, n: int) -> None:
        """Measure travel from where the means are now."""
        self._adapting.set_value(floatX(1.0))
        self._clip.set_value(floatX(_CLIP))
        self._rate.set_value(floatX(self.learning_rate))
        self._momentum.set_value(floatX(_BETA1))
        self.arrive()

    def arrive(self) -> None:
        """Measure travel from where the means are now: no step has led here."""
        for location, slow in self._slow.items():
            slow.set_value(location.get_value())

    def settle(self) -> None:
        """Keep the second moments: steps are linear in gradients then, but for outliers."""
        self._adapting.set_value(floatX(0.0))
        self._clip.set_value(floatX(_SETTLED_CLIP))

    def linearise(self, scale: float) -> float:
        r"""Make moves of the parameters linear in each gradient.

        Without momentum, and so small that :math:`e^x - 1` is :math:`x`: the mean move is then that
        of the mean gradient, whatever the distribution of gradients. One is clipped only where, by
        itself, it would move a mean by a third of a standard deviation.
        """
        self.settle()
        self._momentum.set_value(floatX(0.0))
        self._rate.set_value(floatX(self.learning_rate / _SMALLER))
        longest = _LONGEST / (self.learning_rate * scale)
        self._clip.set_value(floatX(max(_SETTLED_CLIP, longest)))
        return _SMALLER

    def __call__(self, loss_or_grads: Any, params: Any) -> Updates:
        """Return the updates of a step, as PyMC's optimizers do."""
        params = list(params)
        gradients = dict(zip(params, get_or_compute_grads(loss_or_grads, params), strict=True))
        finite = pt.all(pt.stack([pt.all(pt.isfinite(g)) for g in gradients.values()]))
        step = pytensor.shared(floatX(0.0), "adam_step")
        self._adapting = pytensor.shared(floatX(1.0), "adapting")
        self._clip = pytensor.shared(floatX(_CLIP), "clip")
        self._rate = pytensor.shared(floatX(self.learning_rate), "rate")
        self._momentum = pytensor.shared(floatX(_BETA1), "momentum")
        now = step + floatX(1.0)
        updates: Updates = OrderedDict({step: now})
        length = self._rate / (floatX(1.0) - self._momentum**now)
        variance_bias = floatX(1.0) - floatX(_BETA2) ** now
        before_bias = floatX(1.0) - floatX(_BETA2) ** pt.maximum(step, floatX(1.0))

        def direction(gradient: Any, shape: tuple[int, ...]) -> Any:
            """Return Adam's step for `gradient`; its moments join the updates."""
            first = pytensor.shared(floatX(np.zeros(shape)), "first_moment")
            second = pytensor.shared(floatX(np.zeros(shape)), "second_moment")
            gradient = pt.switch(finite, gradient, floatX(0.0))
            # Adam would remember an outlier for thousands of steps, and hardly move.
            limit = pt.switch(step > 0, self._clip * pt.sqrt(second / before_bias), np.inf)
            gradient = pt.clip(gradient, -limit, limit)
            updates[first] = self._momentum * first + (floatX(1.0) - self._momentum) * gradient
            change = floatX(1 - _BETA2) * (gradient**2 - second)
            updates[second] = second + self._adapting * change
            return -length * updates[first] / (pt.sqrt(updates[second] / variance_bias) + _EPSILON)

        natural_coordinates = [
            c for family in families_of(self._approx) for c in family.coordinates()
        ]
        for coordinates in natural_coordinates:
            own = coordinates.parameters
            if not all(parameter in gradients for parameter in own):
                continue
            natural = coordinates.gradients([gradients.pop(parameter) for parameter in own])
            steps = [direction(g, s) for g, s in zip(natural, coordinates.shapes, strict=True)]
            travels = []
            for location in coordinates.locations:
                slow = pytensor.shared(location.get_value(), f"{location.name}_slow")
                updates[slow] = slow + (location - slow) * floatX(1 / _TRAVEL_MEMORY)
                self._slow[location] = slow
                travels.append(location - slow)
            updates |= dict(zip(own, coordinates.moved(steps, travels), strict=True))
        for parameter, gradient in gradients.items():
            step_there = direction(gradient, parameter.get_value(borrow=True).shape)
            updates[parameter] = parameter + step_there
        return updates
