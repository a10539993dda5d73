"""How far times and numbers of a definition may go before a clock, or who writes them down again, can not follow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pydantic import AfterValidator

LONGEST_SECONDS: Final = 3_153_600_000
"""A hundred years: what is longer, no clock of a database may be able to add."""
FASTEST: Final = 10**15
"""A second, of rows or bytes: beyond, a number is not written back as it was given."""
_FIRST: Final = datetime(1, 1, 3, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 30, tzinfo=UTC)


def in_every_zone(moment: datetime | None) -> datetime | None:
    """A time that can be told in any time zone: the first and the last day of the calendar are days before and after
    it somewhere. Raises ValueError."""
    aware = moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
    if aware is not None and not _FIRST <= aware <= _LAST:
        raise ValueError("is a time that not every time zone has; give one from 0001-01-03 to 9999-12-29, or null")
    return moment


EveryZones = AfterValidator(in_every_zone)
"""For a field that holds a time."""
