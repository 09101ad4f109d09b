"""Before the first step: does the compiled step follow the model's own gradient?

Between a model and its compiled step lie the rewrites of two compilers and ours. One that loses a
term of the gradient gives a fit that converges, to the wrong posterior, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytensor

from pymc.variational.opvi import Approximation, Group
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.engine import GrowingProgram, Loop, Program, StepProgram
from pymc_vi_ext.engine.density import refuse_lost
from pymc_vi_ext.minibatches import is_streamed, on_all_data
from pymc_vi_ext.probe import Probe, is_lost
from pymc_vi_ext.upstream import layout, reseed_rngs

# Of the random numbers at which a gradient is looked at: others where the first have no density.
_SEEDS = (0, 1, 2)


def check_gradient(approx: Approximation, program: Program, loop: Loop) -> None:
    """Hold the gradient of a compiled step against its own values, at the present parameters.

    Along a random direction of each variable the slope that the step computes has to be the
    difference of the values that it computes, with the same random numbers. Steps of the compiled
    program at a learning rate of 0 tell both: two for each variable, and nothing is compiled. All
    is left as it was.

    Parameters
    ----------
    approx : Approximation
    program : Program
        One without a probe is not looked at.
    loop : Loop
        Of the program.

    Raises
    ------
    LostGradientError
        If the gradient of the model's log density is right in plain Python and that of the step
        is not, naming the variables.

    Warns
    -----
    UserWarning
        If the model's own gradient is not that of its log density (an Op with a gradient of its
        own, or one that is cut on purpose), naming the variables: the fit follows it, as PyMC does.
    """
    if not isinstance(program, StepProgram | GrowingProgram) or program.probe is None:
        return
    probe = program.probe
    touched = [*program.state, program.rate_scale, probe.gate, *probe.directions.values()]
    loop.write_back()
    kept = {variable: variable.get_value() for variable in touched}
    try:
        for variable in (program.rate_scale, probe.gate):
            variable.set_value(kept[variable] * 0)
        lost = [
            name
            for name, directions in _directions(approx, probe)
            if _is_lost_along(approx, program, probe, loop, directions)
        ]
    finally:
        for variable, value in kept.items():
            variable.set_value(value)
    if lost:
        # On batches that differ from call to call no gradient can be told from another.
        model = approx.model
        # Of data that are read from disk the model itself holds one batch, which stays the same.
        whole = model if is_streamed(model) else on_all_data(model)
        refuse_lost(whole, loop.backend, lost)


def _directions(
    approx: Approximation, probe: Probe
) -> Iterator[tuple[str, dict[SharedVariable, np.ndarray]]]:
    """Return a random direction of the parameters of each variable, and of all that have none."""
    rng = np.random.default_rng(0)
    signs = {p: _signs(rng, p) for p in probe.directions}
    left = set(signs)
    for group in approx.groups:
        own = [p for p in signs if p in group.params and _has_columns(p, group)]
        left -= set(own)
        for name, (where, _) in layout(group).items():
            yield name, {p: _columns(signs[p], where) for p in own}
    if left:
        yield "", {p: sign for p, sign in signs.items() if p in left}


def _signs(rng: np.random.Generator, parameter: SharedVariable) -> np.ndarray:
    value = parameter.get_value(borrow=True)
    signs: np.ndarray = rng.choice([-1.0, 1.0], value.shape).astype(value.dtype)
    return signs


def _has_columns(parameter: SharedVariable, group: Group) -> bool:
    return bool(parameter.get_value(borrow=True).shape[-1:] == (group.ddim,))


def _columns(signs: np.ndarray, where: slice) -> np.ndarray:
    """Return the signs of one variable, and zeros elsewhere."""
    part = np.zeros_like(signs)
    part[..., where] = signs[..., where]
    return part


def _is_lost_along(
    approx: Approximation,
    program: StepProgram | GrowingProgram,
    probe: Probe,
    loop: Loop,
    directions: dict[SharedVariable, np.ndarray],
) -> bool:
    for parameter, shared in probe.directions.items():
        zeros = shared.get_value(borrow=True) * 0
        shared.set_value(directions.get(parameter, zeros))
    point = {p: p.get_value() for p in directions}

    def evaluate(seed: int, h: float) -> tuple[float, float, float]:
        found = []
        for side in (h, -h):
            for parameter, value in point.items():
                moved = value + side * directions[parameter]
                parameter.set_value(moved.astype(value.dtype))
            reseed_rngs(program.rngs, seed)
            program.feed.begin_at(0)
            loop.run(1)
            loop.write_back(internals=False)
            found.append([float(v.get_value()) for v in (probe.value, probe.slope)])
        (above, slope_above), (below, slope_below) = found
        return above, below, (slope_above + slope_below) / 2

    precision = float(np.finfo(pytensor.config.floatX).eps)
    largest = max(float(np.max(np.abs(value), initial=0.0)) for value in point.values())
    try:
        # At random numbers where there is no density there is no verdict either.
        for seed in _SEEDS:
            if (verdict := is_lost(partial(evaluate, seed), precision, largest)) is not None:
                return verdict
        return False
    finally:
        for parameter, value in point.items():
            parameter.set_value(value)
