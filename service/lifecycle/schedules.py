"""What the use cases say of schedules; starting what is due is `Verbs.tick`."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from service.domain.errors import Conflict
from service.domain.inspection import Finding
from service.domain.schedules import Schedule
from service.lifecycle.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.records import Actor, Job
    from service.lifecycle.jobs import Jobs

_SHOWN: Final = 3


def findings(spec: Mapping[str, Any], now: datetime | None = None) -> Sequence[Finding]:
    """When it fires next, or that it never will."""
    schedule = Schedule.of(spec)
    if schedule is None:
        return []
    moments = list(islice(schedule.upcoming(now or datetime.now(UTC)), _SHOWN))
    if not moments:
        return [_spent(spec)]
    times = ", ".join(one.astimezone(schedule.zone).isoformat() for one in moments)
    paused = "" if schedule.enabled else "; it is paused"
    message = f"schedule.cron {spec['schedule']['cron']!r} fires next at {times}{paused}"
    return [Finding("/schedule/cron", "info", "schedule_fires", message)]


def refuse_spent(spec: Mapping[str, Any], before: Mapping[str, Any] | None = None, now: datetime | None = None) -> None:
    """Raises Refused `schedule_never_fires` for a new schedule all of whose times are over."""
    schedule = Schedule.of(spec)
    if schedule is None or (before is not None and before.get("schedule") == spec["schedule"]):
        return
    if next(schedule.upcoming(now or datetime.now(UTC)), None) is None:
        raise Refused([_spent(spec)])


async def switch(jobs: Jobs, account: str, actor: Actor, ref: str, *, enabled: bool) -> Job:
    """Pause or resume. What was not started while it was paused is not made up for. Raises NotFound, Conflict
    `schedule_missing`."""
    job = await jobs.find(account, ref)
    given: Any = job.spec.get("schedule")
    if given is None:
        raise Conflict(
            "schedule_missing", f"job {job.name!r} has no schedule", hint="give it one: PATCH the job's schedule"
        )
    if given["enabled"] == enabled:
        return job
    event = "schedule_resumed" if enabled else "schedule_paused"
    patch = {"schedule": {"enabled": enabled}}
    return await jobs.patch(account, actor, job.id, patch, condition=lambda _: None, event=event)


def _spent(spec: Mapping[str, Any]) -> Finding:
    message = f"schedule.cron {spec['schedule']['cron']!r} never fires: every time that it names is over"
    return Finding("/schedule/cron", "error", "schedule_never_fires", message, "correct it, or leave schedule out")
