"""Which Arrow and Parquet type keeps a Postgres type exactly: docs/formats.md, docs/decisions/0012-parquet.md.

What has no type of its own there is a string that holds Postgres's own text. Each field's metadata has the Postgres
type as `postgres_type`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sinks.formats.arrow import pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sinks.formats.columns import Column

WIDEST_DECIMAL: Final = 76
"""Digits of a decimal256. Postgres declares up to 1000."""

_BY_NAME: Final[Mapping[str, Callable[[], pa.DataType]]] = {
    "smallint": pa.int16,
    "integer": pa.int32,
    "bigint": pa.int64,
    "oid": pa.uint32,
    "xid": pa.uint32,
    "cid": pa.uint32,
    "xid8": pa.uint64,
    "boolean": pa.bool_,
    "real": pa.float32,
    "double precision": pa.float64,
    "date": pa.date32,
    "time without time zone": lambda: pa.time64("us"),
    "timestamp without time zone": lambda: pa.timestamp("us"),
    "timestamp with time zone": lambda: pa.timestamp("us", "UTC"),
    "bytea": pa.binary,
    "uuid": pa.uuid,
    "json": pa.json_,
    "jsonb": pa.json_,
}
_TEXTS: Final = frozenset({"text", "character varying", "character", "bpchar", "name", "citext"})
_DELIMITERS: Final[Mapping[str, str]] = {"box": ";", "geometry": ":", "geography": ":"}
"""pg_type.typdelim, where it is no comma: between the elements of an array. The last two are PostGIS's."""

_MODIFIER = re.compile(r"\((-?\d+(?:,-?\d+)*)\)")


def schema(columns: Iterable[Column]) -> pa.Schema:
    """The fields of the columns, in order; one is required where its column is never null."""
    return pa.schema([_field(column) for column in columns])


def told_as_text(columns: Iterable[Column]) -> list[Column]:
    """Columns that are no text in Postgres, and become one here."""
    return [
        column
        for column in columns
        if _parsed(column.type)[0] not in _TEXTS and pa.types.is_string(_scalar(*_parsed(column.type)))
    ]


def delimiter(column: Column) -> str:
    """What Postgres writes between the elements of this array."""
    return _DELIMITERS.get(_parsed(column.type)[0], ",")


def depth(kept: pa.DataType) -> int:
    """How many lists are around a scalar; 0 for a scalar."""
    return 1 + depth(kept.value_type) if pa.types.is_list(kept) else 0


def innermost(kept: pa.DataType) -> pa.DataType:
    """The scalar inside all lists."""
    return innermost(kept.value_type) if pa.types.is_list(kept) else kept


def _field(column: Column) -> pa.Field:
    kept = _scalar(*_parsed(column.type))
    for _ in range(column.dimensions):
        kept = pa.list_(pa.field("element", kept))
    return pa.field(column.name, kept, nullable=not column.not_null, metadata={"postgres_type": column.type})


def _parsed(written: str) -> tuple[str, tuple[int, ...]]:
    """Name and modifier of a type, or of an array's element type, as `format_type` writes it."""
    name = written.removesuffix("[]")
    if name.startswith('"'):  # a user's own name, or "char"
        return name, ()
    modifier = _MODIFIER.search(name)
    if modifier is None:
        return name, ()
    numbers = tuple(int(number) for number in modifier.group(1).split(","))
    return name[: modifier.start()] + name[modifier.end() :], numbers


def _scalar(name: str, modifier: tuple[int, ...]) -> pa.DataType:
    if name == "numeric":
        return _decimal(*modifier) if len(modifier) == 2 else pa.string()
    make = _BY_NAME.get(name)
    return pa.string() if make is None else make()


def _decimal(precision: int, scale: int) -> pa.DataType:
    """Since PostgreSQL 15 a scale may be negative (thousands) or above the precision (thousandths); Parquet has
    neither, and more digits on the one or the other side hold the same numbers."""
    digits, places = (precision - scale, 0) if scale < 0 else (max(precision, scale), scale)
    if digits > WIDEST_DECIMAL:
        return pa.string()
    return pa.decimal128(digits, places) if digits <= 38 else pa.decimal256(digits, places)
