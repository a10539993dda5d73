"""Cron expressions as sets of dates and times: cases by hand, and a generator that knows what it wrote."""

from __future__ import annotations

import calendar
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.cron import Cron, CronError, Dialect, parse


def dates(
    text: str, dialect: Dialect = "quartz", begin: tuple[int, int, int] = (2026, 1, 1), count: int = 4
) -> list[str]:
    found = islice(parse(text, dialect).dates_from(*begin), count)
    return [f"{year}-{month:02}-{day:02}" for year, month, day in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 * * ?", ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]),
        ("0 0 L * ?", ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]),
        ("0 0 L-3 * ?", ["2026-01-28", "2026-02-25", "2026-03-28", "2026-04-27"]),
        # 31 January 2026 is a Saturday, 28 February too, 31 May a Sunday.
        ("0 0 LW * ?", ["2026-01-30", "2026-02-27", "2026-03-31", "2026-04-30"]),
        ("0 0 LW 5 ?", ["2026-05-29", "2027-05-31", "2028-05-31", "2029-05-31"]),
        ("0 0 L-1W 2 ?", ["2026-02-27", "2027-02-26", "2028-02-28", "2029-02-27"]),
        # 1 February 2026 is a Sunday, 1 August 2026 a Saturday: never into the month before.
        ("0 0 1W 2,8 ?", ["2026-02-02", "2026-08-03", "2027-02-01", "2027-08-02"]),
        ("0 0 15W * ?", ["2026-01-15", "2026-02-16", "2026-03-16", "2026-04-15"]),
        ("0 0 31W * ?", ["2026-01-30", "2026-03-31", "2026-05-29", "2026-07-31"]),
        ("0 0 ? * 1", ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25"]),
        ("0 0 ? * SUN", ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25"]),
        ("0 0 ? * L", ["2026-01-03", "2026-01-10", "2026-01-17", "2026-01-24"]),
        ("0 0 ? * 6L", ["2026-01-30", "2026-02-27", "2026-03-27", "2026-04-24"]),
        ("0 0 ? * friL", ["2026-01-30", "2026-02-27", "2026-03-27", "2026-04-24"]),
        ("0 0 ? * FRI#2", ["2026-01-09", "2026-02-13", "2026-03-13", "2026-04-10"]),
        ("0 0 ? * 2#5", ["2026-03-30", "2026-06-29", "2026-08-31", "2026-11-30"]),
        ("0 0 ? 2 MON#5", ["2044-02-29", "2072-02-29"]),
        ("0 0 ? * SAT-MON", ["2026-01-03", "2026-01-04", "2026-01-05", "2026-01-10"]),
        ("0 0 1 NOV-FEB ?", ["2026-01-01", "2026-02-01", "2026-11-01", "2026-12-01"]),
        ("0 0 29 2 ?", ["2028-02-29", "2032-02-29", "2036-02-29", "2040-02-29"]),
        ("0 0 1 1 ? 2027", ["2027-01-01"]),
        ("0 0 1 1 ? 2027-2031/2", ["2027-01-01", "2029-01-01", "2031-01-01"]),
        ("0 0 1 1 ? 2098/1", ["2098-01-01", "2099-01-01"]),
        ("0 0 L,15W 2 ?", ["2026-02-16", "2026-02-28", "2027-02-15", "2027-02-28"]),
    ],
)
def test_days_of_quartz(text: str, expected: list[str]) -> None:
    assert dates(f"0 {text}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 3 * * *", ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]),
        ("0 3 * * 0", ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25"]),
        ("0 3 * * 7", ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25"]),
        ("0 3 * * fri-7", ["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-09"]),
        # Both restricted: either will do. A day of month that begins with a star is not restricted.
        ("0 3 13 * fri", ["2026-01-02", "2026-01-09", "2026-01-13", "2026-01-16"]),
        ("0 3 */2 * fri", ["2026-01-09", "2026-01-23", "2026-02-13", "2026-02-27"]),
        ("0 3 13 * */5", ["2026-02-13", "2026-03-13", "2026-09-13", "2026-11-13"]),
        ("0 3 31 * *", ["2026-01-31", "2026-03-31", "2026-05-31", "2026-07-31"]),
        ("@weekly", ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25"]),
        ("@YEARLY", ["2026-01-01", "2027-01-01", "2028-01-01", "2029-01-01"]),
        ("0 3 1 jan,Jul *", ["2026-01-01", "2026-07-01", "2027-01-01", "2027-07-01"]),
    ],
)
def test_days_of_unix(text: str, expected: list[str]) -> None:
    assert dates(text, "unix") == expected


def test_times_of_both() -> None:
    unix = parse("*/20 8-10,22 * * *", "unix")
    assert (unix.seconds, unix.minutes, unix.hours) == ((0,), (0, 20, 40), (8, 9, 10, 22))
    quartz = parse("5/25 50-10/5 22-2 * * ?", "quartz")
    assert (quartz.seconds, quartz.minutes) == ((5, 30, 55), (0, 5, 10, 50, 55))
    assert quartz.hours == (0, 1, 2, 22, 23)
    assert not quartz.every_hour
    for text in ("0 * * * *", "0 */1 * * *", "0 0-23 * * *", "@hourly"):
        assert parse(text, "unix").every_hour


@pytest.mark.parametrize(
    ("text", "dialect", "named"),
    [
        ("", "unix", "0 fields; give five"),
        ("* * * *", "unix", "4 fields"),
        ("0 0 3 * * ?", "unix", "dialect quartz"),
        ("0 3 * * *", "quartz", "dialect unix"),
        ("60 * * * *", "unix", "minute '60': give 0 to 59"),
        ("* 24 * * *", "unix", "hour '24'"),
        ("* * 0 * *", "unix", "day of month '0'"),
        ("* * * 13 *", "unix", "or JAN to DEC"),
        ("* * * * 8", "unix", "day of week '8'"),
        ("* * * * mond", "unix", "or SUN to SAT"),
        ("5/10 * * * *", "unix", "write 5-59/10"),
        ("*/0 * * * *", "unix", "a step is 1 to 60"),
        ("*/61 * * * *", "unix", "a step is 1 to 60"),
        ("30-10 * * * *", "unix", "write 30-59,0-10"),
        ("1,,2 * * * *", "unix", "minute ''"),
        ("1- * * * *", "unix", "minute '1-'"),
        ("-1 * * * *", "unix", "minute '-1'"),
        ("1/2/3 * * * *", "unix", "minute '1/2/3'"),
        ("٣ * * * *", "unix", "minute"),
        ("0 0 30 2 *", "unix", "never fires"),
        ("@reboot", "unix", "@daily"),
        ("* " * 300, "unix", "longer than 512"),
        ("0 0 0 * * *", "quartz", "exactly one of them is '?'"),
        ("0 0 0 ? * ?", "quartz", "exactly one of them is '?'"),
        ("0 0 0 31 4,6,9,11 ?", "quartz", "never fires"),
        ("0 0 0 31W 2 ?", "quartz", "never fires"),
        ("0 0 0 L-31 * ?", "quartz", "L-0 to L-30"),
        ("0 0 0 L-29 2 ?", "quartz", "never fires"),
        ("0 0 0 ? * FRI#6", "quartz", "#1 to #5"),
        ("0 0 0 ? * 8L", "quartz", "day of week '8L'"),
        ("0 0 0 ? * 0", "quartz", "day of week '0': give 1 to 7"),
        ("0 0 0 32W * ?", "quartz", "day of month '32W'"),
        ("0 0 0 1 1 ? 2100", "quartz", "year '2100': give 1970 to 2099"),
        ("0 0 0 1 1 ? 2030-2020", "quartz", "runs backwards"),
        ("0 0 0 29 2 ? 2027", "quartz", "never fires"),
        ("? 0 0 1 1 ?", "quartz", "second '?'"),
    ],
)
def test_what_can_not_stand_is_named_with_its_remedy(text: str, dialect: Any, named: str) -> None:
    with pytest.raises(CronError) as refused:
        parse(text, dialect)
    assert named in str(refused.value)
    assert len(str(refused.value)) < 250


@given(st.text(alphabet="0123456789*/-,?LW# JANMOFRI\x00é", max_size=40), st.sampled_from(["unix", "quartz"]))
def test_any_text_is_an_expression_or_refused(text: str, dialect: Any) -> None:
    try:
        cron = parse(text, dialect)
    except CronError:
        return
    assert cron.seconds
    assert next(cron.dates_from(1970, 1, 1))


@st.composite
def field(draw: Any, least: int, most: int, quartz: bool = False) -> tuple[str, set[int]]:
    """A field's text, and what it means, put together from the same choices."""
    texts, values = [], set()
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["star", "one", "range", "step", *(["open"] if quartz else [])]))
        first = draw(st.integers(least, most))
        last = draw(st.integers(first, most))
        step = draw(st.integers(1, most - least + 1))
        match kind:
            case "star":
                texts.append(f"*/{step}")
                values |= {n for n in range(least, most + 1) if (n - least) % step == 0}
            case "one":
                texts.append(str(first))
                values.add(first)
            case "range":
                texts.append(f"{first}-{last}")
                values |= {n for n in range(least, most + 1) if first <= n <= last}
            case "step":
                texts.append(f"{first}-{last}/{step}")
                values |= {n for n in range(least, most + 1) if first <= n <= last and (n - first) % step == 0}
            case _:
                texts.append(f"{first}/{step}")
                values |= {n for n in range(first, most + 1) if (n - first) % step == 0}
    return ",".join(texts), values


@given(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7))
def test_unix_means_what_crontab_says(minute: Any, hour: Any, day: Any, month: Any, week: Any) -> None:
    try:
        cron = parse(f"{minute[0]} {hour[0]} {day[0]} {month[0]} {week[0]}", "unix")
    except CronError as refused:
        assert "never fires" in str(refused)  # noqa: PT017 -- a date such as 31 February was drawn
        return
    assert (set(cron.minutes), set(cron.hours)) == (minute[1], hour[1])
    weekdays = {number % 7 for number in week[1]}
    star = day[0].startswith("*") or week[0].startswith("*")
    for place in range(800):
        one = date(2027, 11, 1) + timedelta(days=place)
        here = (one.day in day[1], one.isoweekday() % 7 in weekdays)
        meant = one.month in month[1] and (all(here) if star else any(here))
        assert (one.day in cron.days(one.year, one.month)) == meant, one


@given(field(0, 59, quartz=True), field(1, 31, quartz=True), field(1, 12, quartz=True), field(1970, 2099, quartz=True))
def test_quartz_means_what_its_fields_say(second: Any, day: Any, month: Any, year: Any) -> None:
    try:
        cron = parse(f"{second[0]} 0 0 {day[0]} {month[0]} ? {year[0]}", "quartz")
    except CronError as refused:
        assert "never fires" in str(refused)  # noqa: PT017 -- as above
        return
    assert set(cron.seconds) == second[1]
    found = list(cron.dates_from(1970, 1, 1))
    assert found == [
        (y, m, d)
        for y in sorted(year[1])
        for m in sorted(month[1])
        for d in sorted(day[1])
        if d <= calendar.monthrange(y, m)[1]
    ]


@given(st.integers(1, 31), st.integers(1970, 2099), st.integers(1, 12))
def test_the_nearest_working_day_is_one_of_this_month(day: int, year: int, month: int) -> None:
    cron: Cron = parse(f"0 0 0 {day}W * ?", "quartz")
    length = calendar.monthrange(year, month)[1]
    found = cron.days(year, month)
    if day > length:
        assert found == []
        return
    working = [d for d in range(1, length + 1) if datetime(year, month, d).weekday() < 5]  # noqa: DTZ001
    # Of two that are as near Quartz takes Friday for a Saturday and Monday for a Sunday: never as far as the other.
    assert found == [min(working, key=lambda d: abs(d - day))]
