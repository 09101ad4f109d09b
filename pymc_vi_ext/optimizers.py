"""The optimizer that a fit takes when the user names none."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX

# Gradients at the start of a fit can be thousands of times those near its end. Adam's usual .999
# remembers them for thousands of steps and creeps; .99 forgets in time and costs a little noise.
_BETA2 = 0.99
# Part of the learning rate that is left at the last step: enough to go on exploring while the
# average is taken.
_FLOOR = 0.1


class AnnealedAdam:
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
    >>> with pm.Model():
    ...     pm.Normal("x")
    ...     approx = vix.fit(1000, obj_optimizer=AnnealedAdam(0.1), progressbar=False)
    x
    """

    def __init__(self, learning_rate: float = 0.05, average: bool = True):
        if not learning_rate > 0:
            raise ValueError(f"The learning rate must be positive, not {learning_rate!r}.")
        self.learning_rate = learning_rate
        self.average = average

    def __call__(self, loss_or_grads: Any, params: Any) -> OrderedDict:
        """Return the updates of a step, as PyMC's optimizers do."""
        self._step = pytensor.shared(floatX(0.0), "annealing_step")
        self._horizon = pytensor.shared(floatX(1.0), "annealing_horizon")
        done = pt.minimum(self._step / self._horizon, floatX(1.0))
        cosine = floatX(0.5) * (floatX(1.0) + pt.cos(floatX(np.pi) * done))
        rate = floatX(self.learning_rate) * (floatX(_FLOOR) + floatX(1 - _FLOOR) * cosine)
        updates = pm.adam(loss_or_grads, params, learning_rate=rate, beta2=_BETA2)
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
