"""Even key ranges, from a sample of the rows: right for any ordered type, skewed or not.

A sample's keys are real keys, so bounds need no arithmetic on texts, uuids or composites. Where nothing can be sampled
(queries, views) whole numbers and timestamps are divided; anything else stays one range. Fewer ranges than asked for
are never wrong.
"""

from __future__ import annotations

import secrets
from itertools import pairwise
from typing import TYPE_CHECKING

from service.domain.errors import Transient
from workers.sources.base import SplitRange

if TYPE_CHECKING:
    from workers.sources.base import Key
    from workers.sources.connection import Session
    from workers.sources.definition import Definition

_BLOCKS = 800
"""Of the table that a sample looks at: about 6 MB."""
_WHOLE = frozenset({"smallint", "integer", "bigint"})
_TIMES = frozenset({"timestamp without time zone", "timestamp with time zone", "date"})


async def split(
    session: Session, definition: Definition, lower: Key | None, bound: Key, wanted: int
) -> list[SplitRange]:
    """At most `wanted` contiguous ranges of about as many rows, from above `lower` to `bound`."""
    inner: list[Key] = []
    if wanted > 1:
        try:
            if definition.relation is not None and definition.relation.kind in {"r", "p", "m"}:
                inner = await _sampled(session, definition, lower, bound, wanted)
            elif len(definition.key.parts) == 1 and definition.key.parts[0].type in _WHOLE | _TIMES:
                inner = await _divided(session, definition, lower, bound, wanted)
        except Transient as error:
            if error.code != "source_timeout":
                raise
    edges: list[Key | None] = [lower, *inner, bound]
    return [SplitRange(start, end) for start, end in pairwise(edges)]


async def _sampled(session: Session, definition: Definition, lower: Key | None, bound: Key, wanted: int) -> list[Key]:
    assert definition.relation is not None
    blocks = await session.fetchval(
        "SELECT coalesce(sum(pg_relation_size(relid)), 0) / 8192 FROM ("
        " SELECT relid FROM pg_partition_tree($1::oid) UNION SELECT $1::oid) AS tree",
        definition.relation.oid,
    )
    percent = min(100.0, 100.0 * _BLOCKS / max(1, int(blocks)))
    conditions = " AND ".join(definition.key.between(lower, bound))
    columns = ", ".join(definition.key.columns())
    n, c = f"n_{secrets.token_hex(6)}", f"c_{secrets.token_hex(6)}"
    rows = await session.fetch(
        f"WITH sample AS (SELECT {columns}, count(*) OVER () AS {c},"
        f" row_number() OVER (ORDER BY {definition.key.order()}) AS {n}"
        f" FROM {definition.source_sql} TABLESAMPLE SYSTEM ({percent:.6f}) WHERE {conditions})"
        f" SELECT {definition.key.texts('sample')} FROM sample WHERE {n} < {c} AND {n} > 0"
        f" AND {n} IN (SELECT ({c} * i) / {wanted} FROM generate_series(1, {wanted - 1}) AS i) ORDER BY {n}"
    )
    return [tuple(row.values()) for row in rows]


async def _divided(session: Session, definition: Definition, lower: Key | None, bound: Key, wanted: int) -> list[Key]:
    key = definition.key
    first = await session.fetchrow(definition.rows_sql(key.texts(), lower, bound, order=key.order()) + " LIMIT 1")
    if first is None:
        return []
    kind = key.parts[0].type
    low, high = key.literal(0, first[0]), key.literal(0, bound[0])
    if kind in _WHOLE:
        step = f"({low}::numeric + trunc(({high}::numeric - {low}::numeric) * i / {wanted}))::{kind}"
    elif kind == "date":
        step = f"({low} + trunc(({high} - {low}) * i / {wanted}.0)::int)"
    else:
        step = f"({low} + ({high} - {low}) * (i / {wanted}.0))"
    rows = await session.fetch(
        f"SELECT DISTINCT ON (k) k::text AS text"
        f" FROM (SELECT {step} AS k FROM generate_series(1, {wanted - 1}) AS i) AS s"
        f" WHERE k < {high}" + (f" AND k > {key.literal(0, lower[0])}" if lower else "") + " ORDER BY k"
    )
    return [(row["text"],) for row in rows]
