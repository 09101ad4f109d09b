"""The rule behind ``convergence="default"`` for methods that take Newton steps."""

from __future__ import annotations

from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.callbacks.callback import Losses, Rule, Unsettled
from pymc_vi_ext.options import positive

# Of a region that has shrunk to nothing.
_NO_RADIUS = 1e-10


class NewtonStop(Rule):
    """Stop when the next Newton step has nothing left to gain.

    Parameters
    ----------
    gain : SharedVariable
        What the quadratic model of the loss promised of the last step, in nats; infinite where the
        step was cut short.
    radius : SharedVariable
        Of the region in which that model is trusted, in standard deviations.
    tolerance : float
        In nats.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.fit(method="dadvi", random_seed=1, progressbar=False)
    >>> approx.report.stop_reason.value, approx.report.stopped_by
    ('converged', 'NewtonStop')
    """

    def __init__(self, gain: SharedVariable, radius: SharedVariable, tolerance: float = 1e-7):
        self.gain, self.radius = gain, radius
        self.tolerance = positive("tolerance", tolerance)
        super().__init__(every=1)

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        gain = float(self.gain.get_value())
        below = gain < self.tolerance
        self._status = f"next step {gain:.2g} nat {'<' if below else '≥'} {self.tolerance:.2g}"
        if below:
            raise StopIteration(f"the last Newton step had {gain:.1g} nat to gain")
        radius = float(self.radius.get_value())
        if radius < _NO_RADIUS:
            raise Unsettled(
                f"no step of {radius:.1g} sd or more lowers the loss: at the fixed draws it is "
                "infinite, or has an edge, right beside where the fit ended"
            )
