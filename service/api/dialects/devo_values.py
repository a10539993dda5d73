"""Values of rows as Devo's types have them, and how they are written in each mode.

Postgres wrote each row as a JSON object; what is not one of JSON's own values is text in it. A table in
docs/devo-dialect.md says which of Devo's types each of Postgres's is.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import tzinfo

    from service.domain.inspection import TableColumn

_TYPES: Final = {
    **dict.fromkeys(("smallint", "integer"), "int4"),
    **dict.fromkeys(("bigint", "oid", "xid", "xid8"), "int8"),
    **dict.fromkeys(("real", "double precision", "numeric"), "float8"),
    **dict.fromkeys(("date", "timestamp without time zone", "timestamp with time zone"), "timestamp"),
    **dict.fromkeys(("json", "jsonb"), "json"),
    "boolean": "bool",
    "inet": "ip4",
}
_MODIFIER: Final = re.compile(r"\([0-9, -]+\)")
_DATE_TOKENS: Final = {
    "YYYY": "{0.year:04d}",
    "YY": "{1:02d}",
    "MM": "{0.month:02d}",
    "DD": "{0.day:02d}",
    "HH": "{0.hour:02d}",
    "mm": "{0.minute:02d}",
    "ss": "{0.second:02d}",
    "SSS": "{2:03d}",
    "Z": "{0:%z}",
}
_DATE_PART: Final = re.compile(r"YYYY|YY|MM|DD|HH|mm|ss|SSS|Z|\[[^\]]*\]|'[^']*'|[^A-Za-z]|([A-Za-z]+)")


class DateFormatError(ValueError):
    """A `dateFormat` with parts that are not supported."""


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """One column of an answer."""

    name: str
    source: str
    """What the row calls it."""
    type: str
    """Devo's word."""


def devo_type(postgres: str) -> str:
    """Devo's type of a column. Arrays are json; what has no type of its own is str."""
    plain = _MODIFIER.sub("", postgres)
    return "json" if plain.endswith("[]") else _TYPES.get(plain, "str")


def output_columns(chosen: Sequence[tuple[str, str]], columns: Sequence[TableColumn]) -> list[OutputColumn]:
    """(name, column) pairs with their types."""
    types = {one.name: devo_type(one.type) for one in columns}
    return [OutputColumn(name, column, types[column]) for name, column in chosen]


def reader(
    columns: Sequence[OutputColumn], *, ip_as_string: bool, moment: Callable[[datetime], Any]
) -> Callable[[bytes], list[Any]]:
    """Turns a row as it was read into its values, in the order of `columns`. `moment` writes a time."""
    conversions: list[tuple[str, Callable[[Any], Any] | None]] = []
    for column in columns:
        convert: Callable[[Any], Any] | None = None
        if column.type == "timestamp":
            convert = _moments(moment)
        elif column.type == "ip4" and not ip_as_string:
            convert = _address
        conversions.append((column.source, convert))

    def values(row: bytes) -> list[Any]:
        found = json.loads(row)
        return [
            found[name] if convert is None or found[name] is None else convert(found[name])
            for name, convert in conversions
        ]

    return values


def epoch_ms(moment: datetime) -> int:
    """A time as the JSON modes write it."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def date_writer(pattern: str, zone: tzinfo) -> Callable[[datetime], str]:
    """Writes times by a `dateFormat`: YYYY YY MM DD HH mm ss SSS Z, other letters in brackets or quotes. Raises
    DateFormatError."""
    parts = []
    for match in _DATE_PART.finditer(pattern):
        if match[1]:
            known = " ".join(_DATE_TOKENS)
            raise DateFormatError(f"dateFormat {pattern[:60]!r}: {match[1][:20]!r} is not supported; there are {known}")
        text = match[0]
        literal = text[1:-1] if text[0] in "['" and len(text) > 1 else text
        parts.append(_DATE_TOKENS.get(text) or literal.replace("{", "{{").replace("}", "}}"))
    template = "".join(parts)

    def write(moment: datetime) -> str:
        local = moment.astimezone(zone)
        return template.format(local, local.year % 100, local.microsecond // 1000)

    return write


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _moments(write: Callable[[datetime], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            moment = datetime.fromisoformat(text)
            return write(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
        except (ValueError, OverflowError):  # infinity, and years that Python does not have
            return None

    return convert


def _address(text: str) -> Any:
    """An IPv4 address as its number; every other as text."""
    try:
        return int(ipaddress.IPv4Address(text))
    except ValueError:
        return text
