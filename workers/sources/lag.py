"""How far a position is behind its source: rows above it, and seconds by the source's own times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from service.domain.errors import Transient
from workers.sources.estimate import estimate
from workers.sources.sql import quote_ident

if TYPE_CHECKING:
    from service.domain.spec import TimeRange
    from workers.sources.base import Key
    from workers.sources.definition import Definition
    from workers.sources.session import Session

_COUNTED: Final = 10_000
"""Rows above a position are counted up to here, and estimated beyond."""


async def lag(
    session: Session, definition: Definition, time: TimeRange | None, after: Key | None
) -> tuple[int | None, float | None]:
    """As `Source.lag`. Counted exactly up to 10,000 rows, else estimated by the planner; rows that `where` leaves out
    are counted with the others."""
    rows: int | None = None
    if definition.relation is not None:
        counted = definition.rows_sql("1", after, None, filtered=False)
        try:
            rows = await session.fetchval(
                f"SELECT count(*) FROM ({counted} ORDER BY {definition.key.order()} LIMIT {_COUNTED + 1}) AS l"
            )
        except Transient as error:
            if error.code != "source_timeout":
                raise
    if rows is None or rows > _COUNTED:
        rows = max(rows or 0, (await estimate(session, definition, after, None, filtered=False)).rows or 0)
    return rows, None if time is None else await _seconds(session, definition, time.column, after)


async def _seconds(session: Session, definition: Definition, time: str, after: Key | None) -> float | None:
    if definition.relation is None:
        return None
    key, column = definition.key, f"{definition.qualifier}.{quote_ident(time)}"
    newest = definition.rows_sql(column, after, None, order=key.order("DESC"), filtered=False)
    reached = definition.rows_sql(column, None, after, order=key.order("DESC"), filtered=False)
    if after is None:
        reached = definition.rows_sql(column, None, None, order=key.order(), filtered=False)
    seconds = await session.fetchval(
        "SELECT extract(epoch FROM newest - reached)::float8"
        f" FROM (SELECT ({newest} LIMIT 1)::timestamp AS newest, ({reached} LIMIT 1)::timestamp AS reached) AS t"
        " WHERE isfinite(newest) AND isfinite(reached)"
    )
    return 0.0 if seconds is None else max(0.0, float(seconds))
