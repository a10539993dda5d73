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
    from collections.abc import Iterator, Sequence

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
    parts: list[str] = []
    text = "{"
    for number, one in enumerate(outputs):
        text += ("," if number else "") + json.dumps(one.name, ensure_ascii=False) + ":"
        never_null = nulls_known and one.source is not None and one.column.not_null
        for part in _value(one, f"{page}.{quote_ident(one.alias)}", never_null=never_null):
            parts += [quote_literal(text), part] if text else [part]
            text = ""
    return _concat([*parts, quote_literal(text + "}")])


def _value(one: Output, value: str, *, never_null: bool) -> Iterator[str]:
    """SQL whose texts, one behind the other and NULL left out, are the value."""
    exact = one.column.exact
    kind = "" if exact.dimensions else exact.type.partition("(")[0]
    null = [] if never_null else [f"CASE WHEN {value} IS NULL THEN 'null' END"]
    # The cast costs nothing. Should the type be another by now, the statement fails, or writes what this type would.
    typed = f"{value}::{kind}"
    if kind in _BARE:
        yield from (typed, *null)
    elif kind == "boolean":
        yield f"coalesce({typed}::text, 'null')"
    elif kind in _QUOTED and never_null:
        yield from ("'\"'", typed, "'\"'")
    elif kind in _QUOTED:
        yield f"CASE WHEN {value} IS NULL THEN 'null' ELSE '\"' END"
        yield from (typed, f"CASE WHEN {value} IS NOT NULL THEN '\"' END")
    elif kind in _NUMBERS:
        mark = f"CASE WHEN {_not_finite(kind, typed, has_precision='(' in exact.type)} THEN '\"' END"
        yield from (mark, typed, mark, *null)
    else:
        yield f"coalesce(pg_catalog.to_json({value}), 'null')"


def _not_finite(kind: str, number: str, *, has_precision: bool) -> str:
    if kind != "numeric":
        return f"{number} >= 'Infinity' OR {number} <= '-Infinity'"  # NaN is above everything
    if has_precision:
        return f"{number} = 'NaN'"
    # Before PostgreSQL 14 there is no infinite numeric, and no constant for it.
    return f"{number} IS NOT NULL AND pg_catalog.scale({number}) IS NULL"


def _concat(parts: Sequence[str]) -> str:
    """The texts of all parts, one behind the other, NULL being nothing. Qualified: a function of that name in `public`
    may fit the arguments better."""
    while len(parts) > _MOST_ARGUMENTS:
        starts = range(0, len(parts), _MOST_ARGUMENTS)
        parts = [f"pg_catalog.concat({', '.join(parts[at : at + _MOST_ARGUMENTS])})" for at in starts]
    return f"pg_catalog.concat({', '.join(parts)})"
