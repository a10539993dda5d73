"""Keys: tuples of texts that only Postgres compares.

A key's text is read back as `'text'::type`, so the column's own order, collation and equality hold, and the
comparison of rows walks the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.sources.base import KeyColumn
from workers.sources.sql import quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.sources.base import Key


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One column of the key as the catalog knows it."""

    name: str
    type: str
    collation: str | None
    """By which the key's index sorts it, quoted and qualified; None where the type has none."""
    foreign: bool = False
    """It is not the column's own, and has to be written wherever rows are compared."""

    @property
    def public(self) -> KeyColumn:
        """As inspection shows it."""
        return KeyColumn(self.name, self.type)


@dataclass(frozen=True, slots=True)
class KeyColumns:
    """The key of one source."""

    parts: tuple[KeyPart, ...]
    proven: bool
    """An index of the source keeps these columns unique and not null."""
    qualifier: str = ""
    """Quoted name of what stands behind FROM. Always written: a bare name behind ORDER BY would mean the output
    column of that name, the key's text, and sort 10 before 9."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(part.name for part in self.parts)

    def columns(self, alias: str | None = None) -> list[str]:
        """Quoted names behind `alias`, or behind what stands behind FROM."""
        return [f"{alias or self.qualifier}.{quote_ident(part.name)}" for part in self.parts]

    def ordered(self, alias: str | None = None) -> list[str]:
        """As `columns`, each to be compared as the key's index compares it."""
        return [
            f"{column} COLLATE {part.collation}" if part.foreign else column
            for column, part in zip(self.columns(alias), self.parts, strict=True)
        ]

    def texts(self, alias: str | None = None) -> str:
        """The select list that writes a key as texts."""
        return ", ".join(f"{column}::text" for column in self.columns(alias))

    def order(self, direction: str = "", alias: str | None = None) -> str:
        """What stands behind ORDER BY."""
        return ", ".join(f"{column} {direction}".rstrip() for column in self.ordered(alias))

    def compared(self, operator: str, key: Key) -> str:
        """The condition that compares the key's columns with `key`, such that the key's index is walked."""
        columns = self.ordered()
        if len(columns) == 1:
            return f"{columns[0]} {operator} {self.literal(0, key[0])}"
        values = ", ".join(self.literal(index, text) for index, text in enumerate(key))
        return f"({', '.join(columns)}) {operator} ({values})"

    def among(self, keys: Sequence[Key]) -> str:
        """The condition that the key's columns are one of `keys`, of which there is one at least."""
        columns = self.ordered()
        if len(columns) == 1:
            return f"{columns[0]} IN ({', '.join(self.literal(0, key[0]) for key in keys)})"
        rows = (f"({', '.join(self.literal(index, text) for index, text in enumerate(key))})" for key in keys)
        return f"({', '.join(columns)}) IN ({', '.join(rows)})"

    def between(self, after: Key | None, upper: Key | None) -> list[str]:
        """Conditions for `after < key <= upper`."""
        conditions = []
        if after is not None:
            conditions.append(self.compared(">", after))
        if upper is not None:
            conditions.append(self.compared("<=", upper))
        return conditions

    def literal(self, index: int, text: str) -> str:
        """`text` as a constant of the column's type."""
        return f"{quote_literal(text)}::{self.parts[index].type}"

    def value(self, index: int, text: str) -> str:
        """As `literal`, with the column's collation, where no column stands beside it."""
        collation = self.parts[index].collation
        return self.literal(index, text) + (f" COLLATE {collation}" if collation else "")

    def row(self, key: Key) -> str:
        """`key` as a row constructor."""
        return f"ROW({', '.join(self.value(index, text) for index, text in enumerate(key))})"
