"""A row as JSON, as Postgres writes it: the bytes of row_to_json, put together by column.

row_to_json asks the catalog anew how each value of each row is written, numbers and names too. Here that is settled
once, where the column's type alone says it; every other value is to_json's. On the bench's rows that saves a tenth of
what a page costs the server. A type that is altered later is found by the page's guard, before the first row.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from workers.sources.sql import quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.sources.shaping import Output

_BARE: Final = frozenset({"smallint", "integer", "bigint", "json", "jsonb"})
"""What they write is JSON."""
_QUOTED: Final = frozenset({"uuid", "date"})
"""What they write wants quotes and no escapes."""
_NUMBERS: Final = frozenset({"numeric", "real", "double precision"})
"""What they write is JSON but for NaN and the infinities."""
_MOST_ARGUMENTS: Final = 100
"""That Postgres takes for one function."""


def json_row_sql(outputs: Sequence[Output], page: str, *, nulls_known: bool) -> str:
    """An expression of type text over the columns of `page`: what row_to_json writes of the outputs. `nulls_known`:
    where a column says that it holds no NULL, it holds none."""
    row = _Row()
    row.constant("{")
    for number, one in enumerate(outputs):
        row.constant(("," if number else "") + json.dumps(one.name, ensure_ascii=False) + ":")
        never_null = nulls_known and one.source is not None and one.column.not_null
        _add(row, one, f"{page}.{quote_ident(one.alias)}", never_null=never_null)
    row.constant("}")
    return row.sql()


class _Row:
    """Texts one behind the other, NULL being nothing. Constants that meet are one: each argument costs every row."""

    def __init__(self) -> None:
        self._arguments: list[str] = []
        self._constant = ""

    def constant(self, text: str) -> None:
        """The text itself."""
        self._constant += text

    def add(self, expression: str) -> None:
        """What the expression is in each row."""
        self._flush()
        self._arguments.append(expression)

    def add_null(self, value: str, *, never_null: bool) -> None:
        """The word, where `value` is NULL and so gave nothing."""
        if not never_null:
            self.add(f"CASE WHEN {value} IS NULL THEN 'null' END")

    def sql(self) -> str:
        """The whole, once. Qualified: a function of that name in `public` may fit the arguments better."""
        self._flush()
        parts = self._arguments
        while len(parts) > _MOST_ARGUMENTS:
            starts = range(0, len(parts), _MOST_ARGUMENTS)
            parts = [f"pg_catalog.concat({', '.join(parts[at : at + _MOST_ARGUMENTS])})" for at in starts]
        return f"pg_catalog.concat({', '.join(parts)})"

    def _flush(self) -> None:
        if self._constant:
            self._arguments.append(quote_literal(self._constant))
            self._constant = ""


def _add(row: _Row, one: Output, value: str, *, never_null: bool) -> None:
    """The value as JSON, behind what stands in the row."""
    exact = one.column.exact
    kind = "" if exact.dimensions else exact.type.partition("(")[0]
    # The cast costs nothing. Should the type be another by now, the statement fails, or writes what this type would.
    typed = f"{value}::{kind}"
    if kind == "boolean":
        row.add(f"CASE WHEN {typed} THEN 'true' WHEN {value} IS NULL THEN 'null' ELSE 'false' END")
    elif kind in _QUOTED and never_null:
        row.constant('"')
        row.add(typed)
        row.constant('"')
    elif kind in _QUOTED:
        row.add(f"CASE WHEN {value} IS NULL THEN 'null' ELSE '\"' END")
        row.add(typed)
        row.add(f"CASE WHEN {value} IS NOT NULL THEN '\"' END")
    elif kind in _BARE:
        row.add(typed)
        row.add_null(value, never_null=never_null)
    elif kind in _NUMBERS:
        mark = f"CASE WHEN {_not_finite(kind, typed, has_precision='(' in exact.type)} THEN '\"' END"
        row.add(mark)
        row.add(typed)
        row.add(mark)
        row.add_null(value, never_null=never_null)
    else:
        row.add(f"coalesce(pg_catalog.to_json({value}), 'null')")


def _not_finite(kind: str, number: str, *, has_precision: bool) -> str:
    if kind != "numeric":
        return f"{number} >= 'Infinity' OR {number} <= '-Infinity'"  # NaN is above everything
    if has_precision:
        return f"{number} = 'NaN'"
    # Before PostgreSQL 14 there is no infinite numeric, and no constant for it.
    return f"{number} IS NOT NULL AND pg_catalog.scale({number}) IS NULL"
