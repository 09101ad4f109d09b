"""Scheduled runs whose time has passed: they are skipped, and never queue up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import get_client, runtime
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterId,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

LATE = timedelta(minutes=5)
"""How long after its time, or after the run it has waited for, a scheduled run may still start."""
SKIPPED = "Skipped"
"""Name of the state in which a run ends that does not take place."""
_NEXT = "the next is due already"
# Runs that ended since another was due; the newest are asked for.
_MOST = 200


@dataclass(frozen=True)
class Due:
    """A run of a comparison, as far as it keeps others from running.

    Attributes
    ----------
    deployment : UUID or None
        Whose schedule it is of.
    due : datetime
    started, ended : datetime or None
        None as long as it has not.
    """

    deployment: UUID | None
    due: datetime
    started: datetime | None
    ended: datetime | None


def why_skipped(run: Due, others: Sequence[Due], now: datetime) -> str:
    """Say why a scheduled run is not to start any more; empty if it is.

    A run that has waited for one of another schedule takes place, since they run one at a time. One
    that has waited for the last of its own schedule does not: such would pile up.

    Parameters
    ----------
    run : Due
    others : sequence of Due
        Scheduled runs of its own schedule with a later time, and all that ended after its time.
    now : datetime

    Returns
    -------
    str

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> three = datetime(2026, 1, 1, 3, tzinfo=UTC)
    >>> why_skipped(Due(None, three, None, None), [], three.replace(hour=5))
    'nothing was there to start it at 03:00 UTC'
    """
    own = [other for other in others if other.deployment == run.deployment]
    if any(run.due < other.due <= now for other in own):
        return _NEXT
    if any(other.started and other.started <= run.due for other in own):
        return "the run before was still going on"
    free = max([run.due, *(other.ended for other in others if other.ended)])
    if now - free > LATE:
        return f"nothing was there to start it at {run.due:%H:%M} UTC"
    return ""


def reason_to_skip() -> str:
    """Say why the flow run in which this is called is not to take place; empty if it is.

    Runs that a person has started always are. Of those of the same schedule that wait behind this
    one, all but the last are ended, so that no process is started for each.
    """
    with get_client(sync_client=True) as client:
        this = client.read_flow_run(UUID(str(runtime.flow_run.id)))
        due = this.expected_start_time
        if not this.auto_scheduled or due is None:
            return ""
        # When somebody took it up: starting its process takes a while, in which others may be due.
        pending = (s for s in client.read_flow_run_states(this.id) if s.is_pending())
        now = min((s.timestamp for s in pending), default=datetime.now(UTC))
        of_flow = FlowFilter(id=FlowFilterId(any_=[this.flow_id]))
        filters = [
            FlowRunFilter(end_time=FlowRunFilterEndTime(after_=due)),
            FlowRunFilter(
                expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
                    {"after_": due, "before_": now}
                )
            ),
        ]
        found = {
            other.id: other
            for which in filters
            for other in client.read_flow_runs(
                flow_filter=of_flow,
                flow_run_filter=which,
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=_MOST,
            )
            if other.id != this.id and (other.auto_scheduled or other.start_time)
        }
        waiting = [
            other
            for other in found.values()
            if other.deployment_id == this.deployment_id and other.state_type is StateType.SCHEDULED
        ]
        for other in sorted(waiting, key=lambda run: run.expected_start_time or now)[:-1]:
            client.set_flow_run_state(other.id, skipped(_NEXT))
    others = [_due(other) for other in found.values() if other.expected_start_time]
    return why_skipped(_due(this), others, now)


def skipped(reason: str) -> State:
    """Return the state in which a run ends that does not take place."""
    return Cancelled(name=SKIPPED, message=f"Skipped: {reason}.")


def _due(run: FlowRun) -> Due:
    assert run.expected_start_time is not None
    # What was skipped has kept no other from running.
    started = None if run.state_name == SKIPPED else run.start_time
    return Due(run.deployment_id, run.expected_start_time, started, run.end_time)
