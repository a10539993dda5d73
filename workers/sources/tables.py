"""What a datasource's role could read: for people who write a job's definition."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from service.domain.inspection import TableColumn, TableInfo
from workers.sources.queries import load
from workers.sources.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.datasource import Datasource
    from sinks.guarded import Guard
    from workers.sources.budget import ConnectionBudget


async def list_tables(
    datasource: Datasource,
    *,
    connections: ConnectionBudget,
    guard: Guard | None,
    limit: int,
    after: str | None,
) -> Sequence[TableInfo]:
    """Tables and views by name, those after the name `after`, at most `limit`. Raises what connecting raises."""
    session = Session(datasource, application_name="rowferry tables", connections=connections, guard=guard)
    try:
        rows = await session.fetch(load("tables"), after, limit)
    finally:
        await session.close()
    return [
        TableInfo(
            name=row["name"],
            kind=row["kind"],
            columns=[TableColumn(**column) for column in json.loads(row["columns"] or "[]")],
            keys=json.loads(row["keys"] or "[]"),
            estimated_rows=row["rows"],
        )
        for row in rows
    ]
