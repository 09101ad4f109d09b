"""Whether a compiled gradient is that of what was compiled with it: slopes against differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.updates import total_norm_constraint
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable

# Lengths of the central differences, from the one whose rounding is least.
_LENGTHS = (1e-3, 1e-4, 1e-5, 1e-6)
# Slope and difference are the same within this part of the larger; two differences agree, and
# so know the slope, within the second; and a slope further off than the third is wrong.
_SAME, _KNOWN, _WRONG = 0.01, 0.02, 0.1
# Part of a move that may be lost in rounding.
_EXACT = 1e-3
# Rounding errors of a value, in units of its last place.
_ROUNDING = 100


class Probe:
    """The slope of a step's value along a direction, which the step itself says.

    It costs a step a product with the gradient, which is computed anyway, and no second program.

    Parameters
    ----------
    parameters : sequence of SharedVariable

    Attributes
    ----------
    directions : dict of SharedVariable to SharedVariable
        For each parameter a direction; zeros in a fit.
    value, slope : SharedVariable
        After a step: a value at the parameters before it, and its derivative along the direction as
        the step's own gradient has it.
    gate : SharedVariable
        1 in a fit. Gradients that are not those of their loss (path gradients leave the score out)
        are so where what sets them apart is multiplied by 0.

    Examples
    --------
    >>> import pytensor
    >>> from pymc_vi_ext.probe import Probe
    >>> mu = pytensor.shared(1.5, "mu")
    >>> probe = Probe([mu])
    >>> probe.directions[mu].get_value(), probe.gate.get_value()
    (array(0.), array(1.))
    """

    def __init__(self, parameters: Sequence[SharedVariable]):
        self.directions = {
            p: pytensor.shared(p.get_value() * 0, f"{p.name}_direction") for p in parameters
        }
        self.value = pytensor.shared(floatX(0.0), "probed_value")
        self.slope = pytensor.shared(floatX(0.0), "probed_slope")
        self.gate = pytensor.shared(floatX(1.0), "probe_gate")

    def along(self, gradients: Iterable[Any], parameters: Iterable[Any]) -> Any:
        """Return the slope of what has these gradients with respect to the parameters."""
        pairs = dict(zip(parameters, gradients, strict=True))
        terms = [
            pt.sum(direction * pairs[parameter])
            for parameter, direction in self.directions.items()
            if parameter in pairs
        ]
        return pt.cast(sum(terms), pytensor.config.floatX)

    def watching(
        self, optimizer: Callable[..., Any], norm: float | None = None
    ) -> Callable[..., dict[Any, Variable]]:
        """Return `optimizer` with the slope among its updates.

        The slope is of the gradients as they are: the optimizer is given them cut down to `norm`,
        where that is no None.
        """

        def updates(gradients: Any, parameters: Any) -> dict[Any, Variable]:
            cut = gradients if norm is None else total_norm_constraint(gradients, norm)
            return {**optimizer(cut, parameters), self.slope: self.along(gradients, parameters)}

        return updates


@runtime_checkable
class Probed(Protocol):
    """An operator whose steps set the value and the slope of a probe."""

    probe: Probe


def is_lost(
    evaluate: Callable[[float], tuple[float, float, float]], precision: float, largest: float
) -> bool | None:
    r"""Tell whether a slope is not that of its values.

    Central differences over several lengths `h` are held against the mean of the slopes at both
    ends, which agree to :math:`O(h^2)`. A slope is lost where it agrees with none of them, and two
    of them agree with each other: values that are infinite, not smooth or swamped by rounding give
    no verdict.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(h) -> (value at h, value at -h, mean slope)``.
    precision : float
        Spacing of numbers near 1.
    largest : float
        Magnitude of the numbers that are moved by `h`: where they round, the move is another.

    Returns
    -------
    bool or None
        None where there is no verdict.
    """
    last: tuple[float, float] | None = None
    verdict = None
    for h in (h for h in _LENGTHS if precision * largest < _EXACT * h):
        above, below, slope = evaluate(h)
        if not np.isfinite([above, below, slope]).all():
            last = None
            continue
        difference = (above - below) / (2 * h)
        noise = _ROUNDING * precision * max(abs(above), abs(below), 1.0) / h
        size = max(abs(difference), abs(slope))
        off = abs(difference - slope)
        if off <= _SAME * size + noise:
            return False
        if last is not None:
            agree = abs(difference - last[0]) <= _KNOWN * abs(difference) + noise + last[1]
            if agree and off > _WRONG * size + 3 * noise:
                verdict = True
        last = difference, noise
    return verdict
