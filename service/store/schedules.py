"""Starts what is due. Whoever moves `next_run_at` on, under the job's lock, has the tick: every other service finds it
moved. Run and move are one transaction, so a tick is neither lost nor taken twice whenever a process dies."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from service.domain.schedules import DueJob, Schedule, Tick
from service.domain.states import State, may_start
from service.store.folders import path_in_use
from service.store.part import Part, locked
from service.store.sql import load
from service.store.transitions import record_event
from service.store.verbs import retry_running, start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from service.domain.errors import Conflict
    from service.domain.records import Actor
    from service.store.pool import Connection, Row

SQL = load("schedules")

PUNCTUAL: Final = timedelta(seconds=60)
"""A tick that comes this late was not missed: somebody was there, and slow."""
TELL_AGAIN: Final = timedelta(seconds=60)
"""Skipped ticks of one run are told at most this often; a schedule of every second would fill the events."""
TRIGGER: Final = "schedule"


class Schedules(Part):
    """`ScheduleStore`."""

    async def due(self, limit: int) -> Sequence[DueJob]:
        """As `ScheduleStore.due`."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(SQL["due"], limit)
        return [DueJob(row["account"], row["id"], row["next_run_at"]) for row in rows]

    async def until_due(self) -> float | None:
        """As `ScheduleStore.until_due`."""
        async with self._pool.connection() as connection:
            found: float | None = await connection.fetchval(SQL["until_due"])
        return found

    async def tick(self, due: DueJob, by: Actor) -> Tick | None:
        """As `ScheduleStore.tick`. Raises NotFound when the job was removed meanwhile."""
        async with self._pool.transaction() as connection:
            job = await locked(connection, due.account, due.job_id)
            schedule = Schedule.of(job["spec"])
            if job["next_run_at"] != due.at:
                return None
            if schedule is None:
                # An older version took the schedule away and knew nothing of its next run.
                await connection.execute(SQL["set_next_run"], due.job_id, None)
                return None
            now = await connection.fetchval(SQL["now"])
            following = schedule.next_run(now)
            await connection.execute(SQL["set_next_run"], due.job_id, following)
            ticks = schedule.between(due.at, now)
            facts = {"due_at": due.at.isoformat(), "ticks": ticks}
            if not schedule.run_missed and not _somebody_was_there(schedule, due.at, now):
                details = {**facts, "next_run_at": None if following is None else following.isoformat()}
                await record_event(connection, job, "schedule_missed", by, details=details)
                return Tick("missed", ticks, following)
            blocked = await retry_running(connection, job, "a start") or await path_in_use(connection, job)
            if blocked is not None or not _startable(job):
                await _skip(connection, job, now, ticks, facts, by, blocked)
                return Tick("skipped", ticks, following)
            await start(connection, job, by, TRIGGER, details={**facts, "ticks_skipped": job["ticks_skipped"]})
            await connection.execute(SQL["forget_skipped"], due.job_id)
            return Tick("started", ticks, following)


async def next_run(connection: Connection, spec: Mapping[str, Any], before: Row | None = None) -> datetime | None:
    """What `next_run_at` is with a new definition; `before` is the job's row as it was. An unchanged schedule goes on
    as it was: a tick that is due stays due."""
    if before is not None and before["spec"].get("schedule") == spec.get("schedule"):
        unchanged: datetime | None = before["next_run_at"]
        return unchanged
    schedule = Schedule.of(spec)
    return None if schedule is None else schedule.next_run(await connection.fetchval(SQL["now"]))


def _somebody_was_there(schedule: Schedule, due_at: datetime, now: datetime) -> bool:
    """Whether the last tick up to now is not one that nobody was there for."""
    if now - due_at <= PUNCTUAL:
        return True
    last = next(schedule.upcoming(now - PUNCTUAL), None)
    return last is not None and last <= now


def _startable(job: Row) -> bool:
    return may_start(State(job["state"]), job["mode"], generation_unrun=job["generation_unrun"])


async def _skip(
    connection: Connection,
    job: Row,
    now: datetime,
    ticks: int,
    facts: Mapping[str, object],
    by: Actor,
    blocked: Conflict | None,
) -> None:
    told = job["tick_told_at"] is None or now - job["tick_told_at"] >= TELL_AGAIN
    await connection.execute(SQL["count_skipped"], job["id"], ticks, told)
    if told:
        why = blocked.message if blocked is not None else f"the job is {job['state']}"
        details = {**facts, "ticks": ticks + job["ticks_skipped"], "reason": why}
        await record_event(connection, job, "schedule_skipped", by, details=details)
