"""What a run came to, in a word that a reader of a dashboard can act on."""

from __future__ import annotations

import enum

from pymc_vi_ext.comparison.references import first_sentence, unsound
from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.diagnostics import is_sampled


class Outcome(enum.Enum):
    """What a run came to; :class:`Status` says only how its process ended."""

    CONVERGED = "converged"
    """A rule, or a verdict of PASS, says so."""
    NOT_CONVERGED = "did not converge"
    """It was asked to, and did not; chains that disagree did not either."""
    FIXED = "fixed steps"
    """It took the steps it was given, and nothing judged whether they suffice."""
    COMPUTED = "computed"
    """There was nothing to iterate, as for Laplace's approximation."""
    SAMPLED = "sampled"
    """Markov chains with nothing against them."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_RUN = "not run"


_ENDED = {
    Status.FAILED: Outcome.FAILED,
    Status.INTERRUPTED: Outcome.INTERRUPTED,
    Status.NOT_RUN: Outcome.NOT_RUN,
}
_JUDGED = "convergence"


def outcome_of(result: MethodResult) -> tuple[Outcome, str]:
    """Return what a run came to, and why, where it is not what one would wish.

    Parameters
    ----------
    result : MethodResult

    Returns
    -------
    outcome : Outcome
    reason : str
        A message, or what was measured; may be empty.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import MethodResult, Status
    >>> from pymc_vi_ext.comparison.outcomes import outcome_of
    >>> outcome_of(MethodResult("advi", "advi", 1, Status.FAILED, reason="ValueError: no"))
    (<Outcome.FAILED: 'failed'>, 'ValueError: no')
    """
    if result.status in _ENDED:
        return _ENDED[result.status], result.reason
    assert result.datatree is not None
    verdict = result.datatree.attrs.get("verdict")
    problem = unsound(result.datatree, result.warnings)
    if verdict or is_sampled(result.datatree):
        good = Outcome.CONVERGED if verdict else Outcome.SAMPLED
        return (Outcome.NOT_CONVERGED, problem) if problem else (good, "")
    warned = first_sentence(result.warnings[0]) if result.warnings else ""
    if result.stop_reason == "converged":
        return Outcome.CONVERGED, warned
    if not result.steps:
        return Outcome.COMPUTED, warned
    if result.stop_reason in ("", "completed") and result.options.get(_JUDGED) is None:
        return Outcome.FIXED, warned
    return Outcome.NOT_CONVERGED, warned
