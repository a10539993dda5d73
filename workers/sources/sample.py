"""The first rows of a query, for people who write one: user SQL like any other, so it can change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from service.domain.inspection import Sample, TableColumn
from workers.sources import catalog
from workers.sources.session import Session
from workers.sources.sql import SqlError, parse_query

if TYPE_CHECKING:
    from service.domain.datasource import Datasource
    from sinks.guarded import Guard
    from workers.sources.budget import ConnectionBudget

_MOST_CHARACTERS = 4 * 1024 * 1024
"""In one sample: many columns share it."""


async def first_rows(
    datasource: Datasource,
    query: str,
    *,
    connections: ConnectionBudget,
    guard: Guard | None = None,
    rows: int,
    characters: int,
) -> Sample:
    """At most `rows` rows, each value as text as Postgres writes it, cut off at `characters`; fewer where there are so
    many columns that the sample would be large. Raises Permanent for what is no such query, with the offset, and for
    one that takes longer than a statement may; and what connecting raises."""
    try:
        parsed = parse_query(query)
    except SqlError as error:
        where = "" if error.offset is None else f" (at character {error.offset})"
        hint = "one SELECT that changes nothing is taken"
        raise Permanent(error.code, f"query: {error.message}{where}", hint=hint) from error
    session = Session(
        datasource, application_name="rowferry sample", connections=connections, guard=guard, long_is_permanent=True
    )
    try:
        if volatile := await catalog.volatile_parts(session, parsed):
            hint = "use functions that are stable or immutable"
            raise Permanent("function_volatile", f"Postgres calls this volatile: {', '.join(volatile)}", hint=hint)
        columns = await catalog.query_columns(session, parsed.text)
        # Names of our own: those of the query may stand twice.
        names = [f"c{place}" for place in range(len(columns))]
        most = max(1, min(characters, _MOST_CHARACTERS // max(1, rows * len(columns))))
        shown = ", ".join(f"pg_catalog.left({name}::text, {most})" for name in names)
        given = f"({', '.join(names)})" if names else ""
        found = await session.fetch(f"SELECT {shown} FROM ({parsed.text}) AS q{given} LIMIT {rows}")
    finally:
        await session.close()
    types = [TableColumn(column.name, column.type, not column.not_null) for column in columns]
    return Sample(types, [tuple(row.values()) for row in found])
