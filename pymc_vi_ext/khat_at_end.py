"""What the losses of a fit say of its importance weights, once it has ended."""

from __future__ import annotations

import math

from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations import families_of
from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.diagnostics.pareto import khat_of, worth
from pymc_vi_ext.engine import StepProgram
from pymc_vi_ext.method import Method
from pymc_vi_ext.minibatches import has_minibatches
from pymc_vi_ext.objectives.elbo import PathELBO, ProbedKL
from pymc_vi_ext.session import Session
from pymc_vi_ext.state import FitState

# Draws, and the first of them, which tell how long the others take.
_DRAWS, _FIRST = 1_000, 50
# Seconds that all of them may take; fewer than this say nothing.
_SECONDS, _FEWEST = 0.2, 200
# Operators whose loss of one draw is log q - log p of it; closed entropies and bounds are not.
_OF_A_DRAW = (KL, PathELBO, ProbedKL)


def khat_at_end(method: Method, session: Session, state: FitState) -> tuple[float, float]:
    r"""Return :math:`\hat k` of a fit's importance weights, by losses of steps that do not move.

    And the share of the draws that the weights are worth.

    A step on one draw has the loss :math:`\log q(z) - \log p(y, z)`: the program compiled for the
    steps gives the weights, at the price of some hundred steps. NaN where there are no losses,
    where they are of something else (batches, several draws, bounds, closed entropies), or where
    that would take longer than .2 seconds.

    Parameters
    ----------
    method : Method
    session : Session
        Of the fit that has just ended, with its result set.
    state : FitState
    """
    approx: Approximation = method.approx
    single = session.request.obj_n_mc or method.default_draws or 1
    of_a_draw = (
        isinstance(state.program, StepProgram)
        and session.request.scored
        and state.minimises_elbo
        and type(method.objective.op) in _OF_A_DRAW
        and single == 1
        and not any(family.stratified for family in families_of(approx))
        and not has_minibatches(approx.model)
    )
    if not of_a_draw:
        return math.nan, math.nan
    point = [flat_parameters(approx)]
    before = state.loop.run_s
    state.losses_at(point, _FIRST, 0)
    affordable = int(_SECONDS / max(state.loop.run_s - before, 1e-9) * _FIRST)
    if affordable < _FEWEST:
        return math.nan, math.nan
    [losses] = state.losses_at(point, min(_DRAWS, affordable), 1)
    return khat_of(-losses), worth(-losses)
