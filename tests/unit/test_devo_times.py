"""`from` and `to`: every form that Devo documents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.dialects.devo_times import TimeError, range_of, zone_of

NOW = datetime(2024, 2, 14, 10, 30, 15, 250_000, tzinfo=UTC)
MADRID = zone_of("Europe/Madrid")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (1707900000, "2024-02-14 08:40:00"),
        (1707900000.25, "2024-02-14 08:40:00.250"),
        ("1707900000", "2024-02-14 08:40:00"),
        ("now", "2024-02-14 10:30:15.250"),
        ("today", "2024-02-14 00:00:00"),
        ("endday", "2024-02-14 23:59:59"),
        ("endmonth", "2024-02-29 23:59:59"),
        ("2d", "2024-02-12 10:30:15.250"),
        ("3h", "2024-02-14 07:30:15.250"),
        ("10m", "2024-02-14 10:20:15.250"),
        ("15s", "2024-02-14 10:30:00.250"),
        ("1ad", "2024-02-13 00:00:00"),
        ("2ah", "2024-02-13 22:00:00"),
        ("30am", "2024-02-13 23:30:00"),
        ("5as", "2024-02-13 23:59:55"),
        ("now()", "2024-02-14 10:30:15.250"),
        ("today()", "2024-02-14 00:00:00"),
        ("now() - 60m", "2024-02-14 09:30:15.250"),
        ("now()-1d @ 1h", "2024-02-13 10:00:00"),
        ("now() @ 1d", "2024-02-14 00:00:00"),
    ],
)
def test_from(start: object, expected: str) -> None:
    assert range_of(start, None, UTC, NOW).start == at(expected)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (1707900000, "2024-02-14 08:40:00"),
        ("now", "2024-02-14 10:30:15.250"),
        ("today", "2024-02-14 00:00:00"),
        ("endday", "2024-01-30 23:59:59"),
        ("endmonth", "2024-01-31 23:59:59"),
        ("2d", "2024-02-01 12:00:00"),
        ("3h", "2024-01-30 15:00:00"),
        ("1ad", "2024-01-31 00:00:00"),
        ("13ah", "2024-01-30 13:00:00"),
        ("now() - 1d", "2024-02-13 10:30:15.250"),
    ],
)
def test_to_counts_from_the_start(end: object, expected: str) -> None:
    start = at("2024-01-30 12:00:00").timestamp()
    assert range_of(start, end, UTC, NOW).end == at(expected)


def test_midnight_is_that_of_the_zone() -> None:
    assert range_of("today", None, MADRID, NOW).start == at("2024-02-13 23:00:00")
    assert range_of("endday", None, zone_of("GMT-3"), NOW).start == at("2024-02-15 02:59:59")
    assert range_of("now() @ 1d", None, MADRID, NOW).start == at("2024-02-13 23:00:00")


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (None, None, "from is missing"),
        (True, None, "from True"),
        ([1], None, "from"),
        (1707900000000, None, "not milliseconds"),
        (-1, None, "1970"),
        (float("nan"), None, "from"),
        ("yesterday", None, "'yesterday'"),
        ("now() ^ 1h", None, "^"),
        ("now() @ 0h", None, "rounds to nothing"),
        ("", None, "''"),
        (1707900000, 1707900000, "not after"),
        ("now", "2024", "not after"),
        ("999999999d", None, "outside"),
        ("1d", {}, "to {}"),
    ],
)
def test_what_is_no_time_says_which_field(start: object, end: object, said: str) -> None:
    with pytest.raises(TimeError) as refused:
        range_of(start, end, UTC, NOW)
    assert said in str(refused.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", 5, "GMT+99", "/etc/localtime", "a\0b"])
def test_zones_that_are_none(zone: object) -> None:
    with pytest.raises(TimeError, match="timeZone"):
        zone_of(zone)


@given(st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.none(), st.booleans()), st.text(max_size=30))
def test_anything_is_a_range_or_a_named_error(start: object, end: str) -> None:
    try:
        found = range_of(start, end, MADRID, NOW)
    except TimeError:
        return
    assert found.end is None or found.end - found.start > timedelta(0)
