"""What Postgres means to do for a query of the store, as its tests look at it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from service.store.store import Store


async def planned(store: Store, query: str, arguments: Sequence[Any]) -> Mapping[str, Any]:
    """The plan of a query that was run, with what each node did."""
    async with store._pool.connection() as connection:
        # As EXPLAIN it is planned for these very values; as the driver sends it, after five times, for any.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *arguments)
        await connection.execute("RESET plan_cache_mode")
    found: Mapping[str, Any] = json.loads(text)[0]["Plan"]
    return found


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A plan and all below it."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def looked_at(node: Mapping[str, Any]) -> float:
    """How many rows a node has looked at, those that its filter left out too."""
    rows: float = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return rows
