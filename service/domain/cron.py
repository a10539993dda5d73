"""Cron expressions in two dialects, as the sets of local times that they name.

`unix` is crontab(5): minute, hour, day of month, month, day of week. `quartz` is Quartz's CronTrigger: a second before
them, a year that may follow them, `?` in exactly one of the two day fields, and the days `L`, `L-3`, `15W`, `LW`,
`6L`, `FRI#2`. Sunday is 0 or 7 in `unix` and 1 in `quartz`. Why this is no library: docs/decisions/0014-schedules.md.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Dialect = Literal["unix", "quartz"]
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2099
"""Quartz's last. No calendar rule of a cron expression takes longer than 40 years to come round again."""

_MONTHS: Final = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_SHORTHANDS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST: Final = 512
_YEAR: Final = "year"


class CronError(ValueError):
    """An expression that can not stand. The text names the field, what stands there, and the remedy."""


@dataclass(frozen=True, slots=True)
class Cron:
    """Local times, without any zone. Seconds, minutes and hours are in increasing order."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    years: frozenset[int] | None
    """None: every year."""
    rules: tuple[Callable[[int, int], Sequence[int]], ...]
    """A day that any of them names is meant."""
    also: tuple[Callable[[int, int], Sequence[int]], ...] = ()
    """Where there are any, one of these has to name it too."""

    @property
    def every_hour(self) -> bool:
        """Whether it means an interval rather than a time of day: then clocks that are put back or forward change
        nothing about it."""
        return len(self.hours) == 24

    def days(self, year: int, month: int) -> list[int]:
        """The days of a month, in order; none where month or year is not meant."""
        if month not in self.months or (self.years is not None and year not in self.years):
            return []
        found = {day for rule in self.rules for day in rule(year, month)}
        if self.also:
            found &= {day for rule in self.also for day in rule(year, month)}
        return sorted(found)

    def dates_from(self, year: int, month: int, day: int) -> Iterator[tuple[int, int, int]]:
        """Every date from this one on, in order, up to the end of 2099."""
        for each in range(year, LAST_YEAR + 1):
            for other in range(month if each == year else 1, 13):
                first = day if (each, other) == (year, month) else 1
                yield from ((each, other, one) for one in self.days(each, other) if one >= first)


def parse(text: str, dialect: Dialect) -> Cron:
    """The expression. Raises CronError, also for one that names no date at all (31 February)."""
    fields = text.split()
    if len(text) > _LONGEST:
        raise CronError(f"it is longer than {_LONGEST} characters")
    if dialect == "unix" and len(fields) == 1 and fields[0].startswith("@"):
        if fields[0].lower() not in _SHORTHANDS:
            raise CronError(f"{fields[0]!r} is none of {', '.join(_SHORTHANDS)}")
        fields = _SHORTHANDS[fields[0].lower()].split()
    cron = _unix(fields) if dialect == "unix" else _quartz(fields)
    if next(cron.dates_from(FIRST_YEAR, 1, 1), None) is None:
        raise CronError("there is no such day in any year, so it never fires; correct day, month or year")
    return cron


def _unix(fields: Sequence[str]) -> Cron:
    if len(fields) != 5:
        hint = "; with seconds or a year it is dialect quartz" if len(fields) in {6, 7} else ""
        raise CronError(f"it has {len(fields)} fields; give five: minute, hour, day of month, month, day of week{hint}")
    minute, hour, of_month, month, of_week = fields
    days = _Field("day of month", 1, 31).values(of_month)
    weekdays = {day % 7 for day in _Field("day of week", 0, 7, _numbered(0)).values(of_week)}
    in_month, in_week = _fixed(days), _weekdays(weekdays)
    # crontab(5): where both are restricted either of them will do; `*/2` begins with a star and counts as one.
    either = not of_month.startswith("*") and not of_week.startswith("*")
    return Cron(
        seconds=(0,),
        minutes=_Field("minute", 0, 59).values(minute),
        hours=_Field("hour", 0, 23).values(hour),
        months=frozenset(_Field("month", 1, 12, _MONTHS).values(month)),
        years=None,
        rules=(in_month, in_week) if either else (in_month,),
        also=() if either else (in_week,),
    )


def _quartz(fields: Sequence[str]) -> Cron:
    if len(fields) not in {6, 7}:
        hint = "; five fields are dialect unix" if len(fields) == 5 else ""
        raise CronError(
            f"it has {len(fields)} fields; give second, minute, hour, day of month, month, day of week, and a year or "
            f"none{hint}"
        )
    second, minute, hour, of_month, month, of_week, *year = fields
    if (of_month == "?") == (of_week == "?"):
        raise CronError(
            f"day of month {of_month!r} and day of week {of_week!r}: exactly one of them is '?', the other one counts"
        )
    rules = _quartz_days(of_month) if of_week == "?" else _quartz_weekdays(of_week)
    return Cron(
        seconds=_Field("second", 0, 59, quartz=True).values(second),
        minutes=_Field("minute", 0, 59, quartz=True).values(minute),
        hours=_Field("hour", 0, 23, quartz=True).values(hour),
        months=frozenset(_Field("month", 1, 12, _MONTHS, quartz=True).values(month)),
        years=frozenset(_Field(_YEAR, FIRST_YEAR, LAST_YEAR, quartz=True).values(year[0])) if year else None,
        rules=tuple(rules),
    )


class _Field:
    """One field of numbers: `*`, values, names, ranges, steps and lists of these."""

    def __init__(
        self, name: str, least: int, most: int, names: dict[str, int] | None = None, *, quartz: bool = False
    ) -> None:
        """In Quartz's fields `5/10` goes on to the end, and 22-2 goes over the end where there is one to go over."""
        self.name, self._least, self._most, self._names = name, least, most, names or {}
        self._quartz = quartz

    def values(self, text: str) -> tuple[int, ...]:
        """In increasing order. Raises CronError."""
        found = {value for item in text.split(",") for value in self.item(item)}
        return tuple(sorted(found))

    def item(self, text: str) -> Sequence[int]:
        """One item of the list, in the order in which it goes round. Raises CronError."""
        span, slash, step = text.partition("/")
        width = self._step(step, text) if slash else 1
        if span == "*":
            return range(self._least, self._most + 1, width)
        first, dash, last = span.partition("-")
        start = self.value(first, text)
        if not dash:
            if slash and not self._quartz:
                raise self.wrong(text, f"a step needs a range; write {first}-{self._most}/{step}")
            return range(start, self._most + 1, width) if slash else [start]
        end = self.value(last, text)
        if end >= start:
            return range(start, end + 1, width)
        if not self._quartz or self.name == _YEAR:
            raise self.wrong(text, f"the range runs backwards; write {first}-{self._most},{self._least}-{last}")
        size = self._most - self._least + 1
        return [self._least + (value - self._least) % size for value in range(start, end + size + 1, width)]

    def value(self, text: str, whole: str) -> int:
        """A number or a name. Raises CronError."""
        if text.upper() in self._names:
            return self._names[text.upper()]
        if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not self._least <= int(text) <= self._most:
            named = f", or {next(iter(self._names))} to {list(self._names)[-1]}" if self._names else ""
            raise self.wrong(whole, f"give {self._least} to {self._most}{named}, with * , - and / as in a crontab")
        return int(text)

    def wrong(self, text: str, why: str) -> CronError:
        """The refusal of an item."""
        return CronError(f"{self.name} {text[:40]!r}: {why}")

    def _step(self, text: str, whole: str) -> int:
        most = self._most - self._least + 1
        if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= most:
            raise self.wrong(whole, f"a step is 1 to {most}")
        return int(text)


def _quartz_days(text: str) -> Iterator[Callable[[int, int], Sequence[int]]]:
    field = _Field("day of month", 1, 31, quartz=True)
    for item in text.upper().split(","):
        last = re.fullmatch(r"L(?:-(\d{1,2}))?(W?)", item, re.ASCII)
        near = re.fullmatch(r"(\d{1,2})W", item, re.ASCII)
        if last is not None:
            before = int(last[1] or 0)
            if before > 30:
                raise field.wrong(item, "L-0 to L-30 are days before the last of the month")
            yield _from_last(before, nearest=bool(last[2]))
        elif near is not None:
            yield _nearest(field.value(near[1], item))
        else:
            yield _fixed(field.item(item))


def _quartz_weekdays(text: str) -> Iterator[Callable[[int, int], Sequence[int]]]:
    field = _Field("day of week", 1, 7, _numbered(1), quartz=True)
    for item in text.upper().split(","):
        last = re.fullmatch(r"(\d|[A-Z]{3})L", item, re.ASCII)
        nth = re.fullmatch(r"(\d|[A-Z]{3})#(\d)", item, re.ASCII)
        if item == "L":
            yield _weekdays({6})
        elif last is not None:
            yield _nth_weekday(field.value(last[1], item) - 1, None)
        elif nth is not None:
            if not 1 <= int(nth[2]) <= 5:
                raise field.wrong(item, "#1 to #5 are the first to the fifth of the month")
            yield _nth_weekday(field.value(nth[1], item) - 1, int(nth[2]))
        else:
            yield _weekdays({day - 1 for day in field.item(item)})


def _numbered(first: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(_DAYS, start=first)}


def _length(year: int, month: int) -> int:
    return calendar.monthrange(year, month)[1]


def _weekday(year: int, month: int, day: int) -> int:
    """Sunday is 0."""
    return (calendar.weekday(year, month, day) + 1) % 7


def _fixed(days: Sequence[int]) -> Callable[[int, int], Sequence[int]]:
    return lambda year, month: [day for day in days if day <= _length(year, month)]


def _weekdays(wanted: set[int]) -> Callable[[int, int], Sequence[int]]:
    def days(year: int, month: int) -> Sequence[int]:
        first = _weekday(year, month, 1)
        return [day for day in range(1, _length(year, month) + 1) if (first + day - 1) % 7 in wanted]

    return days


def _nth_weekday(weekday: int, number: int | None) -> Callable[[int, int], Sequence[int]]:
    """The number-th of the month; None: the last."""

    def days(year: int, month: int) -> Sequence[int]:
        found = _weekdays({weekday})(year, month)
        return found[-1:] if number is None else found[number - 1 : number]

    return days


def _nearest(day: int) -> Callable[[int, int], Sequence[int]]:
    def days(year: int, month: int) -> Sequence[int]:
        return [_working_day(year, month, day)] if day <= _length(year, month) else []

    return days


def _from_last(before: int, *, nearest: bool) -> Callable[[int, int], Sequence[int]]:
    def days(year: int, month: int) -> Sequence[int]:
        day = _length(year, month) - before
        if day < 1:
            return []
        return [_working_day(year, month, day) if nearest else day]

    return days


def _working_day(year: int, month: int, day: int) -> int:
    """The nearest Monday to Friday, never in another month."""
    weekday, last = _weekday(year, month, day), _length(year, month)
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < last else day - 2
    return day
