"""When schedules fire where clocks are put forward and back: by hand, and against every minute walked through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.cron import Cron, CronError, parse
from service.domain.schedules import Schedule, after, is_zone
from tests.unit.test_cron import field


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def fires(cron: str, zone: str, begin: str, count: int, dialect: Any = "unix") -> list[str]:
    """The next moments as local times with their offsets."""
    name = ZoneInfo(zone)
    spec = {"cron": cron, "dialect": dialect, "time_zone": zone, "enabled": True, "missed": "skip"}
    schedule = Schedule.of({"schedule": spec})
    assert schedule is not None
    found = islice(schedule.upcoming(moment(begin)), count)
    return [each.astimezone(name).strftime("%d %H:%M:%S%z").replace(":00+", "+").replace(":00-", "-") for each in found]


MADRID = "Europe/Madrid"
# On 29 March 2026 02:00 is followed by 03:00, on 25 October 03:00 by 02:00.


@pytest.mark.parametrize(
    ("cron", "begin", "expected"),
    [
        # A time of day is made up for when the skip is over, once, and comes once where it is there twice.
        ("30 2 * * *", "2026-03-28T12:00+01:00", ["29 03:00+0200", "30 02:30+0200"]),
        ("*/20 2 * * *", "2026-03-28T12:00+01:00", ["29 03:00+0200", "30 02:00+0200", "30 02:20+0200"]),
        ("0 3 * * *", "2026-03-28T12:00+01:00", ["29 03:00+0200", "30 03:00+0200"]),
        ("0,30 2,3 * * *", "2026-03-28T12:00+01:00", ["29 03:00+0200", "29 03:30+0200", "30 02:00+0200"]),
        ("30 2 * * *", "2026-10-24T12:00+02:00", ["25 02:30+0200", "26 02:30+0100"]),
        ("30 2 * * *", "2026-10-25T02:40+02:00", ["26 02:30+0100"]),
        ("30 2 * * *", "2026-10-25T02:10+01:00", ["26 02:30+0100"]),
        ("0 3 * * *", "2026-10-24T12:00+02:00", ["25 03:00+0100", "26 03:00+0100"]),
        ("30 2 29 3 *", "2026-01-01T00:00+01:00", ["29 03:00+0200", "29 02:30+0200"]),
        # An interval goes by elapsed time.
        ("30 * * * *", "2026-03-29T01:00+01:00", ["29 01:30+0100", "29 03:30+0200"]),
        ("30 * * * *", "2026-10-25T01:50+02:00", ["25 02:30+0200", "25 02:30+0100", "25 03:30+0100"]),
        ("*/15 * * * *", "2026-10-25T02:40+02:00", ["25 02:45+0200", "25 02:00+0100", "25 02:15+0100"]),
    ],
)
def test_clocks_in_madrid(cron: str, begin: str, expected: list[str]) -> None:
    assert fires(cron, MADRID, begin, len(expected)) == expected


def test_a_clock_that_is_put_back_over_midnight() -> None:
    # In Havana on 1 November 2026 01:00 is followed by 00:00; on 8 March 00:00 by 01:00.
    assert fires("0 0 * * *", "America/Havana", "2026-03-07T12:00-05:00", 2) == ["08 01:00-0400", "09 00:00-0400"]
    assert fires("0 0 * * *", "America/Havana", "2026-10-31T12:00-04:00", 2) == ["01 00:00-0400", "02 00:00-0500"]
    assert fires("30 * 1 11 *", "America/Havana", "2026-10-31T23:50-04:00", 3) == [
        "01 00:30-0400",
        "01 00:30-0500",
        "01 01:30-0500",
    ]


def test_a_clock_that_is_put_back_to_the_day_before() -> None:
    # In the Azores on 25 October 2026 01:00 is followed by 00:00; in Santiago on 4 April 24:00 by 23:00.
    zone = "America/Santiago"
    assert fires("45 * 4 4 *", zone, "2026-04-04T23:40-03:00", 3) == ["04 23:45-0300", "04 23:45-0400", "04 00:45-0400"]


def test_half_an_hour_and_a_day_that_was_left_out() -> None:
    # On Lord Howe Island 02:00 is followed by 02:30 on 4 October 2026; Samoa had no 30 December 2011.
    assert fires("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30", 2) == ["04 02:30+1100", "05 02:15+1100"]
    assert fires("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00-10:00", 2) == ["31 00:00+1400", "31 12:00+1400"]
    assert fires("0 * * * *", "Pacific/Apia", "2011-12-29T22:30-10:00", 2) == ["29 23:00-1000", "31 00:00+1400"]


def test_seconds_and_moments_between_them() -> None:
    assert fires("*/20 59 23 * * ?", "UTC", "2026-01-01T23:59:20.000001+00:00", 3, "quartz") == [
        "01 23:59:40+0000",
        "02 23:59+0000",
        "02 23:59:20+0000",
    ]
    assert fires("0 0 * * * ?", "Asia/Kolkata", "2026-01-01T00:00+05:30", 1, "quartz") == ["01 01:00+0530"]


def test_a_schedule_that_is_over_fires_no_more() -> None:
    cron, zone = parse("0 0 0 1 1 ? 2026", "quartz"), ZoneInfo("UTC")
    assert after(cron, zone, moment("2025-12-31T23:59:59.999+00:00")) == moment("2026-01-01T00:00+00:00")
    assert after(cron, zone, moment("2026-01-01T00:00+00:00")) is None


def test_a_paused_schedule_has_no_next_run_and_still_says_when_it_would_fire() -> None:
    spec = {"cron": "0 3 * * *", "dialect": "unix", "time_zone": "UTC", "enabled": False, "missed": "run_once"}
    schedule = Schedule.of({"schedule": spec})
    assert schedule is not None
    assert schedule.next_run(moment("2026-01-01T00:00+00:00")) is None
    assert next(schedule.upcoming(moment("2026-01-01T00:00+00:00"))) == moment("2026-01-01T03:00+00:00")
    assert Schedule.of({}) is None


def test_ticks_are_counted_with_both_ends() -> None:
    spec = {"cron": "* * * * * ?", "dialect": "quartz", "time_zone": "UTC", "enabled": True, "missed": "skip"}
    schedule = Schedule.of({"schedule": spec})
    assert schedule is not None
    due = moment("2026-01-01T00:00+00:00")
    assert schedule.between(due, due) == 1
    assert schedule.between(due, due + timedelta(seconds=59.5)) == 60
    assert schedule.between(due, due + timedelta(days=30)) == 10_000


@pytest.mark.parametrize("name", ["Europe/Madrid", "UTC", "America/Argentina/Buenos_Aires"])
def test_zones_of_the_database(name: str) -> None:
    assert is_zone(name)


@pytest.mark.parametrize("name", ["", "Madrid", "europe/madrid", "CEST", "../etc/passwd", "/etc/localtime", "+02:00"])
def test_what_is_no_zone(name: str) -> None:
    assert not is_zone(name)


# Places where clocks change: by an hour, by half of one, at midnight, against the seasons, and not at all.
CHANGES = [
    (MADRID, "2026-03-29T01:00+00:00"),
    (MADRID, "2026-10-25T01:00+00:00"),
    ("America/New_York", "2026-03-08T07:00+00:00"),
    ("America/New_York", "2026-11-01T06:00+00:00"),
    ("America/Havana", "2026-03-08T05:00+00:00"),
    ("America/Havana", "2026-11-01T05:00+00:00"),
    ("America/Santiago", "2026-04-05T03:00+00:00"),
    ("America/Santiago", "2026-09-06T04:00+00:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00+00:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30+00:00"),
    ("Africa/Casablanca", "2026-02-15T02:00+00:00"),
    ("Pacific/Apia", "2011-12-30T10:00+00:00"),
    ("Asia/Kolkata", "2026-05-05T05:05+00:00"),
]


def oracle(cron: Cron, zone: ZoneInfo, begin: datetime, minutes: int) -> datetime | None:
    """Every minute after `begin` asked whether it is one: what the documentation says, and nothing clever."""
    at = begin.replace(second=0, microsecond=0)
    before = at.astimezone(zone).replace(tzinfo=None)
    for _ in range(minutes):
        at += timedelta(minutes=1)
        here = at.astimezone(zone)
        local = here.replace(tzinfo=None, fold=0)
        passed = [local]
        if not cron.every_hour:
            # Those that the clock went over between the last minute and this one.
            skipped = int((local - before) / timedelta(minutes=1))
            passed += [before + timedelta(minutes=n) for n in range(1, skipped)]
        again = here.fold == 1 and not cron.every_hour
        if any(meant(cron, one) for one in passed) and not again:
            return at
        before = local
    return None


def meant(cron: Cron, local: datetime) -> bool:
    return local.minute in cron.minutes and local.hour in cron.hours and local.day in cron.days(local.year, local.month)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CHANGES),
    st.integers(-1600, 300),
    field(0, 59),
    st.one_of(st.just(("*", set())), field(0, 23)),
    st.sampled_from(["* * *", "* * 0", "*/2 * *", "30-8 * *", "1,4,5,25,29,30,31 * *", "8 3 *", "L"]),
)
def test_every_minute_walked_through_says_the_same(
    change: tuple[str, str], minutes: int, minute: Any, hour: Any, days: str
) -> None:
    zone, begin = ZoneInfo(change[0]), moment(change[1]) + timedelta(minutes=minutes)
    try:
        cron = parse(f"{minute[0]} {hour[0]} {days}", "unix")
    except CronError:
        cron = parse(f"0 {minute[0]} {hour[0]} L * ?", "quartz")
    found, expected = after(cron, zone, begin), oracle(cron, zone, begin, 3000)
    if expected is None:
        assert found is None or found > begin.replace(second=0) + timedelta(minutes=3000)
    else:
        assert found == expected
