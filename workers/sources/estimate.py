"""How much there is to read, without reading it: what the planner thinks, and what lies on the disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from workers.sources.base import Size
from workers.sources.queries import load

if TYPE_CHECKING:
    from workers.sources.base import Key
    from workers.sources.definition import Definition
    from workers.sources.session import Session

_BLOCKING_NODES = ("Sort", "Aggregate", "HashAggregate", "Hash", "SetOp", "Materialize", "CTE Scan", "Function Scan")
"""A hash over a small table is harmless, but only the owner of the query can know that it is small."""


async def walks(session: Session, query: str) -> bool:
    """The plan reads no more than it gives: nothing in it has to see all rows before the first."""
    plan = await session.fetchval(f"EXPLAIN (FORMAT JSON) {query}")
    return not any(f'"Node Type": "{node}"' in plan for node in _BLOCKING_NODES)


async def estimate(
    session: Session, definition: Definition, after: Key | None, upper: Key | None, *, filtered: bool = True
) -> Size:
    """Rows and bytes above `after` and up to `upper`; `filtered` False: also of rows that `where` leaves out.

    The planner's width of a row knows a long value only by the pointer to where it is kept, so the table's share of
    the disk counts where that is more.
    """
    columns = ", ".join(one.sql for one in definition.outputs) or "1"
    query = definition.rows_sql(columns, after, upper, filtered=filtered)
    plan = json.loads(await session.fetchval(f"EXPLAIN (FORMAT JSON) {query}"))[0]["Plan"]
    rows, width = int(plan["Plan Rows"]), int(plan["Plan Width"])
    size = rows * width
    if definition.relation is not None and definition.relation.kind in {"r", "p", "m"}:
        stored = await session.fetchrow(load("stored"), definition.relation.oid)
        if stored is not None and stored["rows"]:
            size = max(size, int(stored["bytes"] * min(1.0, rows / stored["rows"])))
    return Size(rows, size)
