"""`from` and `to` of a query: seconds, or times that are meant relative to now, to midnight, or to each other.

In `from` an amount counts back from now, in `to` on from `from`; the forms with `a` (`1ad`) count from midnight.
https://docs.devo.com/space/latest/95128275/Running+queries (relative dates); the newer forms are `now() - 60m` and
`now() @ 1h`, which rounds down.
"""

from __future__ import annotations

import calendar
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import tzinfo

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AMOUNT: Final = re.compile(r"(\d{1,9})(a?)([dhms])")
_NEWER: Final = re.compile(r"(now|today)\s*\(\s*\)((?:\s*[-+@]\s*\d{1,9}[smhdw])*)")
_STEP: Final = re.compile(r"([-+@])\s*(\d+)([smhdw])")
_SECONDS: Final = re.compile(r"-?\d{1,15}(?:\.\d{1,9})?")
_OFFSET: Final = re.compile(r"(?:UTC|GMT)([+-])(\d{1,2})(?::?(\d{2}))?")
FORMS: Final = "now, today, endday, endmonth, 2d, 2h, 2m, 2s, 1ad, 2ah, 2am, 2as, now() - 60m, now() @ 1h"


class TimeError(ValueError):
    """A time that can not be read. The message names field and value."""


@dataclass(frozen=True, slots=True)
class Range:
    """Rows at or after `start` and before `end`; without an end for ever."""

    start: datetime
    end: datetime | None


def zone_of(value: object) -> tzinfo:
    """The zone of a `timeZone`: a name such as Europe/Madrid, or GMT+2. Raises TimeError."""
    if value is None or value == "":
        return UTC
    if isinstance(value, str):
        if match := _OFFSET.fullmatch(value):
            minutes = int(match[2]) * 60 + int(match[3] or 0)
            if minutes < 24 * 60:
                return timezone((1 if match[1] == "+" else -1) * timedelta(minutes=minutes))
        try:
            return ZoneInfo(value)
        except (OSError, ValueError, LookupError):
            pass
    raise TimeError(f"timeZone {value!r:.80} is not known; write a name such as Europe/Madrid, or GMT+2")


def range_of(start: object, end: object, zone: tzinfo, now: datetime) -> Range:
    """What `from` and `to` mean at `now`. Raises TimeError, also for an end that is not after the start."""
    if start is None:
        raise TimeError("from is missing; give seconds since 1970, or one of " + FORMS)
    try:
        begins = _start(start, zone, now)
        ends = None if end is None else _end(end, zone, now, begins)
    except OverflowError:
        raise TimeError(f"from {start!r:.60} or to {end!r:.60} lies outside the years 1 to 9999") from None
    if ends is not None and ends <= begins:
        raise TimeError(f"to {end!r:.60} ({ends.isoformat()}) is not after from {start!r:.60} ({begins.isoformat()})")
    return Range(begins, ends)


def _start(value: object, zone: tzinfo, now: datetime) -> datetime:
    if (absolute := _absolute("from", value)) is not None:
        return absolute
    text = str(value).strip()
    if text in {"endday", "endmonth"}:
        return _end_of(text, now, zone)
    if match := _AMOUNT.fullmatch(text):
        amount = timedelta(seconds=int(match[1]) * _UNITS[match[3]])
        return (_midnight(now, zone) if match[2] else now) - amount
    return _now_or_newer("from", text, zone, now)


def _end(value: object, zone: tzinfo, now: datetime, start: datetime) -> datetime:
    if (absolute := _absolute("to", value)) is not None:
        return absolute
    text = str(value).strip()
    if text in {"endday", "endmonth"}:
        return _end_of(text, start, zone)
    if match := _AMOUNT.fullmatch(text):
        amount = timedelta(seconds=int(match[1]) * _UNITS[match[3]])
        return (_midnight(start, zone) if match[2] else start) + amount
    return _now_or_newer("to", text, zone, now)


def _absolute(field: str, value: object) -> datetime | None:
    """Seconds as a number, or as its text; None for a text that is something else."""
    if isinstance(value, str):
        if not _SECONDS.fullmatch(value.strip()):
            return None
        seconds = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        seconds = float(value)
    else:
        raise TimeError(f"{field} {value!r:.80} is neither a number of seconds nor a text; the texts are {FORMS}")
    if not 0 <= seconds < 253_402_300_800:
        raise TimeError(f"{field} {value!r:.80} lies outside the years 1970 to 9999; give seconds, not milliseconds")
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=round(seconds * 1_000_000))


def _now_or_newer(field: str, text: str, zone: tzinfo, now: datetime) -> datetime:
    if text in {"now", "today"}:
        return now if text == "now" else _midnight(now, zone)
    if "^" in text:
        raise TimeError(f"{field} {text[:80]!r}: rounding up with ^ is not supported; @ rounds down")
    match = _NEWER.fullmatch(text)
    if match is None:
        raise TimeError(f"{field} {text[:80]!r} is no time; give seconds since 1970, or one of {FORMS}")
    moment = now if match[1] == "now" else _midnight(now, zone)
    for sign, amount, unit in _STEP.findall(match[2]):
        seconds = int(amount) * _UNITS[unit]
        if sign != "@":
            moment += timedelta(seconds=seconds if sign == "+" else -seconds)
        elif seconds == 0:
            raise TimeError(f"{field} {text[:80]!r} rounds to nothing; write an amount above 0 after @")
        else:
            moment = _rounded_down(moment, seconds, zone)
    return moment


def _rounded_down(moment: datetime, seconds: int, zone: tzinfo) -> datetime:
    """To a whole multiple, counted in local time, so that a day begins at midnight."""
    local = moment.astimezone(zone).replace(tzinfo=None)
    over = (local - datetime.min) % timedelta(seconds=seconds)  # noqa: DTZ901 - wall clock against wall clock
    return (local - over).replace(tzinfo=zone).astimezone(UTC)


def _midnight(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


def _end_of(text: str, moment: datetime, zone: tzinfo) -> datetime:
    local = moment.astimezone(zone)
    day = local.day if text == "endday" else calendar.monthrange(local.year, local.month)[1]
    return local.replace(day=day, hour=23, minute=59, second=59, microsecond=0).astimezone(UTC)
