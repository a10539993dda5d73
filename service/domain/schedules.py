"""When a schedule fires: a cron expression's local times as moments, in a zone with daylight saving.

Two kinds, told apart by the hour field. A **time of day** (some hours) means "once that day": a time that the clock
skips fires when the skip is over, together with all others that were skipped; one that comes twice fires the first
time.
An **interval** (every hour) goes by elapsed time: nothing is made up for a skipped hour, and an hour that comes twice
counts twice.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from zoneinfo import ZoneInfo, available_timezones

from service.domain.cron import Cron, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from service.domain.records import Actor

_SECOND: Final = timedelta(seconds=1)
_NEAR: Final = timedelta(hours=3)
"""More than any clock is put back at once, but for days that a country left out: those go forward."""
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """A job's schedule as it stands in its definition."""

    cron: Cron
    zone: ZoneInfo
    enabled: bool
    run_missed: bool

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Schedule | None:
        """Out of a definition that was validated; None where it has none."""
        given = spec.get("schedule")
        if given is None:
            return None
        cron = parse(given["cron"], given["dialect"])
        return cls(cron, ZoneInfo(given["time_zone"]), given["enabled"], given["missed"] == "run_once")

    def next_run(self, moment: datetime) -> datetime | None:
        """The first moment after this one; None while it is paused, and when it never fires again."""
        return after(self.cron, self.zone, moment) if self.enabled else None

    def upcoming(self, moment: datetime) -> Iterator[datetime]:
        """Every moment after this one, paused or not."""
        found = after(self.cron, self.zone, moment)
        while found is not None:
            yield found
            found = after(self.cron, self.zone, found)

    def between(self, due: datetime, now: datetime) -> int:
        """How many ticks there were from `due`, one itself, up to now; 10,000 stands for any more."""
        count = 1
        for moment in self.upcoming(due):
            if moment > now or count == _MOST:
                break
            count += 1
        return count


@dataclass(frozen=True, slots=True)
class DueJob:
    """A job whose schedule says that it starts now."""

    account: str
    job_id: str
    at: datetime
    """What its schedule said; the tick is that of this moment and no other."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What became of a tick."""

    outcome: Literal["started", "skipped", "missed"]
    ticks: int
    """How many moments of the schedule it stands for: more than one after a downtime."""
    next_run_at: datetime | None


class ScheduleStore(Protocol):
    """What is due. Times are the database's, so services whose own clocks differ agree on them."""

    async def due(self, limit: int) -> Sequence[DueJob]:
        """The jobs whose next run is due, the longest due first."""

    async def until_due(self) -> float | None:
        """Seconds until the next one is, below zero when one is already; None when no job has a next run."""

    async def tick(self, due: DueJob, by: Actor) -> Tick | None:
        """Take the tick: start the job, or say in an event why not (`schedule_skipped`: it can not start, or another
        job writes into its folder; `schedule_missed`: nobody was there, and its policy is `skip`), and move on to the
        next. None when somebody else took it or the schedule was changed. However many ticks have passed, at most one
        run."""


def is_zone(name: str) -> bool:
    """Whether it is a name of the IANA database."""
    return name in _zones()


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def after(cron: Cron, zone: ZoneInfo, moment: datetime) -> datetime | None:
    """The first moment after `moment` (aware) at which `cron` fires in `zone`, in UTC; None when there is none before
    2100."""
    at = moment.astimezone(UTC)
    return _interval(cron, zone, at) if cron.every_hour else _time_of_day(cron, zone, at)


def _time_of_day(cron: Cron, zone: ZoneInfo, moment: datetime) -> datetime | None:
    begin = moment.astimezone(zone).date()
    per_day = len(cron.hours) * len(cron.minutes) * len(cron.seconds)
    for date in cron.dates_from(begin.year, begin.month, begin.day):

        def fires(place: int, date: tuple[int, int, int] = date) -> datetime:
            return _moment(_local(cron, date, place), zone)

        # Moments of one day are in order, so the first one after `moment` is found by halving.
        place = bisect_right(range(per_day), moment, key=fires)
        if place < per_day:
            return fires(place)
    return None


def _local(cron: Cron, date: tuple[int, int, int], place: int) -> datetime:
    """The place-th time of a day, without a zone."""
    rest, second = divmod(place, len(cron.seconds))
    hour, minute = divmod(rest, len(cron.minutes))
    return datetime(*date, cron.hours[hour], cron.minutes[minute], cron.seconds[second])  # noqa: DTZ001 -- local


def _moment(local: datetime, zone: ZoneInfo) -> datetime:
    """When a local time is: the first of two, and the end of the skip for one that is skipped."""
    first = local.replace(tzinfo=zone).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == local:
        return first
    # Read with the offset before the skip it lies behind it, read with the one after it before it.
    return _change(zone, local.replace(tzinfo=zone, fold=1).astimezone(UTC), first)


def _interval(cron: Cron, zone: ZoneInfo, moment: datetime) -> datetime | None:
    at = moment.replace(microsecond=0) + _SECOND
    while True:
        offset = _offset(zone, at)
        local = _next_local(cron, (at + offset).replace(tzinfo=None))
        if local is None:
            return None
        found = (local - offset).replace(tzinfo=UTC)
        near = at + _NEAR
        if found > near and _offset(zone, near) != offset:
            # A clock that is put back soon comes again to times before `local`.
            at = _change(zone, at, near)
        elif _offset(zone, found) == offset:
            return found
        else:
            at = _change(zone, at, found)


def _next_local(cron: Cron, local: datetime) -> datetime | None:
    """The first local time of the expression that is not before this one."""
    per_day = len(cron.hours) * len(cron.minutes) * len(cron.seconds)
    for date in cron.dates_from(local.year, local.month, local.day):
        low, high = 0, per_day
        while low < high:
            middle = (low + high) // 2
            if _local(cron, date, middle) < local:
                low = middle + 1
            else:
                high = middle
        if low < per_day:
            return _local(cron, date, low)
    return None


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None, "a zone has an offset at every moment"
    return offset


def _change(zone: ZoneInfo, before: datetime, behind: datetime) -> datetime:
    """The first second of another offset than that of `before`; `behind` has another one."""
    offset = _offset(zone, before)
    while behind - before > _SECOND:
        middle = (before + (behind - before) // 2).replace(microsecond=0)
        if _offset(zone, middle) == offset:
            before = middle
        else:
            behind = middle
    return behind
