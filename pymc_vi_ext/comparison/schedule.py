"""When a comparison runs, as its configuration says it."""

from __future__ import annotations

import zoneinfo

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from pymc_vi_ext.comparison._strict import Strict


class Schedule(Strict):
    """When a comparison runs, where it is served.

    Examples
    --------
    >>> from pymc_vi_ext.comparison.schedule import Schedule
    >>> Schedule(cron="0 3 * * *", timezone="Europe/Berlin").timezone
    'Europe/Berlin'
    """

    cron: str = Field(description="Minute, hour, day, month and weekday, as in `0 3 * * *`.")
    timezone: str = Field(
        default="UTC", description="Whose clock that is, such as Europe/Berlin (IANA)."
    )

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        try:
            next(CronSim(cron, datetime.now(UTC)))
            # Of six fields one is seconds: the first to some, the last to Prefect.
            five = len(cron.split()) == 5
        except (CronSimError, StopIteration):
            five = False
        if not five:
            raise PydanticCustomError(
                "cron", "should be the times of a cron expression, such as '0 3 * * *'"
            )
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        try:
            zoneinfo.ZoneInfo(timezone)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            raise PydanticCustomError(
                "timezone", "should be the name of a time zone, such as 'Europe/Berlin'"
            ) from None
        return timezone
