"""What a fit returns: the report, and draws as a DataTree."""

import enum

from collections.abc import Mapping
from dataclasses import dataclass


class StopReason(enum.Enum):
    """Why a fit ended."""

    COMPLETED = "completed"
    """It took all the steps it was given."""
    STOPPED = "stopped"
    """A callback raised StopIteration."""
    INTERRUPTED = "interrupted"
    """The user pressed Ctrl-C."""
    NOT_FINITE = "not finite"
    """The loss or a parameter became NaN."""
    FAILED = "failed"
    """A callback raised another exception."""


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of a fit.

    Attributes
    ----------
    graph_s : float
        Writing the symbolic step. 0 for a call that reuses an earlier one's.
    compile_s : float
        Lowering and compiling it. 0 likewise.
    run_s : float
        Taking the steps, callbacks and progress bar included.
    """

    graph_s: float
    compile_s: float
    run_s: float


@dataclass(frozen=True)
class FitReport:
    """How a fit went.

    Attributes
    ----------
    stop_reason : StopReason
    stopped_by : str or None
        Name of the callback that stopped it.
    steps : int
        Steps taken since :meth:`fit` was called, those of ``refine`` included.
    evidence : str
        What the callback said, or the error.
    timings : Timings
        Of the last call.
    backend : str
        Backend that ran the steps.
    seed : int or None
        The `random_seed` the fit was given.
    versions : mapping of str to str
        Of the packages that computed the result.
    """

    stop_reason: StopReason
    stopped_by: str | None
    steps: int
    evidence: str
    timings: Timings
    backend: str
    seed: int | None
    versions: Mapping[str, str]
