"""What the losses of a fit say of its importance weights, once it has ended."""

from __future__ import annotations

import math

from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations import families_of
from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.callbacks.callback import OutOfTime
from pymc_vi_ext.diagnostics.pareto import khat_of, worth
from pymc_vi_ext.engine import StepProgram, numbers_computed
from pymc_vi_ext.method import Method
from pymc_vi_ext.minibatches import has_minibatches
from pymc_vi_ext.objectives.elbo import PathELBO, ProbedKL
from pymc_vi_ext.session import Session
from pymc_vi_ext.state import FitState

# Draws at most, and the fewest that say something.
_DRAWS, _FEWEST = 1_000, 200
# About how many numbers they may compute, what a step costs however few its numbers are, and the
# part of the fit's own steps that they may be in any case.
_WORK, _FIXED_WORK, _PART = 2e8, 2_000, 1 / 10
# Operators whose loss of one draw is log q - log p of it; closed entropies and bounds are not.
_OF_A_DRAW = (KL, PathELBO, ProbedKL)


def khat_at_end(method: Method, session: Session, state: FitState) -> tuple[float, float]:
    r"""Return :math:`\hat k` of a fit's importance weights, by losses of steps that do not move.

    And the share of the draws that the weights are worth.

    A step on one draw has the loss :math:`\log q(z) - \log p(y, z)`: the program compiled for the
    steps gives the weights, at the price of some hundred steps. NaN where there are no losses,
    where they are of something else (batches, several draws, bounds, closed entropies), or where
    two hundred draws would compute more than some :math:`10^8` numbers and be more than a tenth of
    the steps: so much follows from shapes and steps, and the same seed gives the same
    :math:`\hat k` on any machine. NaN too where time runs out meanwhile.

    Parameters
    ----------
    method : Method
    session : Session
        Of the fit that has just ended, with its result set.
    state : FitState

    References
    ----------
    Yao, Y., Vehtari, A., Simpson, D. and Gelman, A. (2018). Yes, but did it work?: Evaluating
    variational inference. https://arxiv.org/abs/1802.02538
    """
    approx: Approximation = method.approx
    program = state.program
    if not isinstance(program, StepProgram):
        return math.nan, math.nan
    single = session.request.obj_n_mc or method.default_draws or 1
    of_a_draw = (
        session.request.scored
        and state.minimises_elbo
        and type(method.objective.op) in _OF_A_DRAW
        and single == 1
        and not any(family.stratified for family in families_of(approx))
        and not has_minibatches(approx.model)
    )
    if not of_a_draw:
        return math.nan, math.nan
    work = numbers_computed(program, in_loops=True) + _FIXED_WORK
    draws = int(min(_DRAWS, max(_WORK / work, _PART * state.step)))
    if draws < _FEWEST:
        return math.nan, math.nan
    try:
        [losses] = state.losses_at([flat_parameters(approx)], draws, 1)
    except OutOfTime:
        return math.nan, math.nan
    return khat_of(-losses), worth(-losses)
