"""The columns of a generation: what a format with types knows of the values it writes.

Fixed by the plan step and kept with the generation, so that every file of it has the same columns of the same types,
whatever is done to the table meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Column:
    """One column, as Postgres declares it. Domains are resolved to what they are made of."""

    name: str
    type: str
    """As `format_type` writes type and modifier: `numeric(12,2)`, `timestamp(3) with time zone`, `integer[]`."""
    dimensions: int = 0
    """Of an array, as declared, at least 1; 0 for what is none. Postgres does not hold values to it."""
    enum: bool = False
    """The type, or an array's element type, is an enum."""
    not_null: bool = False
    """No value is null."""


def to_json(columns: Iterable[Column]) -> list[dict[str, object]]:
    """What is stored; `from_json` reads it."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "dimensions": column.dimensions,
            "enum": column.enum,
            "not_null": column.not_null,
        }
        for column in columns
    ]


def from_json(stored: object) -> tuple[Column, ...]:
    """The columns as `to_json` wrote them; none where nothing was stored. Fields that a later version added are left
    out. Raises ValueError for what is no list of columns."""
    if stored is None:
        return ()
    if not isinstance(stored, list) or not all(isinstance(entry, dict) for entry in stored):
        raise ValueError("columns are a list of objects")
    try:
        return tuple(
            Column(
                name=str(entry["name"]),
                type=str(entry["type"]),
                dimensions=int(entry.get("dimensions", 0)),
                enum=bool(entry.get("enum", False)),
                not_null=bool(entry.get("not_null", False)),
            )
            for entry in stored
        )
    except KeyError as error:
        raise ValueError(f"a column has no {error.args[0]}") from error
