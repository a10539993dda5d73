"""Even key ranges, from a sample of the rows and from what ANALYZE knows: right for any ordered type, skewed or not.

A sample's keys are real keys, so bounds need no arithmetic on texts, uuids or composites, and a value that most rows
share is divided by the columns behind it. Each sampled row weighs what the sample says, pooled with what the
histogram and the most common values say of rows like it, if they are not stale. A small range is walked instead.
Where nothing can be sampled (queries, views) whole numbers and timestamps are divided; anything else stays one range.
Fewer ranges than asked for are never wrong.
"""

from __future__ import annotations

import secrets
from itertools import pairwise
from typing import TYPE_CHECKING

from service.domain.errors import Permanent, Transient
from workers.sources.base import SplitRange
from workers.sources.queries import load
from workers.sources.sql import quote_literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from workers.sources.base import Key
    from workers.sources.definition import Definition
    from workers.sources.session import Session

_BLOCKS = (2000, 250, 30)
"""Of the table that a sample looks at at most: 16 MB. Where that takes too long, fewer."""
_BLOCKS_A_RANGE = 250
"""What a range is worth, and with it the time before the first row: 2,000 of them keep the server busy for 0.2 s. Where
like keys lie together, a block is worth one row: then this many put a range wrong by 6 %."""
_ROWS = 15
"""Of each block, about."""
_ROWS_A_BLOCK = 100
"""Of a table that nobody has counted yet."""
_MOST_ROWS_A_BLOCK = 291
_FEW = 500
"""Sampled rows a range below which a range is rather walked than guessed."""
_WALKED = 50_000
_ANALYZED = 300
"""Rows that ANALYZE looks at for each bound of its histogram."""
_WHOLE = frozenset({"smallint", "integer", "bigint"})
_TIMES = frozenset({"timestamp without time zone", "timestamp with time zone", "date"})


async def split(
    session: Session, definition: Definition, lower: Key | None, bound: Key, wanted: int
) -> list[SplitRange]:
    """At most `wanted` contiguous ranges of about as many rows, from above `lower` to `bound`."""
    inner: Sequence[Key] = []
    if wanted > 1:
        try:
            if definition.relation is not None and definition.relation.kind in {"r", "p", "m"}:
                inner = await _Sample(session, definition, lower, bound, wanted).bounds()
            elif len(definition.key.parts) == 1 and definition.key.parts[0].type in _WHOLE | _TIMES:
                inner = await _divided(session, definition, lower, bound, wanted)
        except Transient as error:
            if error.code != "source_timeout":
                raise
    edges: list[Key | None] = [lower, *inner, bound]
    return [SplitRange(start, end) for start, end in pairwise(edges)]


class _Sample:
    """A look at a few rows of a table."""

    def __init__(self, session: Session, definition: Definition, lower: Key | None, bound: Key, wanted: int) -> None:
        self._session, self._definition = session, definition
        self._lower, self._bound, self._wanted = lower, bound, wanted
        self._tree: list[asyncpg.Record] = []
        """The tables of a tree, where each of them may be read by itself."""

    async def bounds(self) -> Sequence[Key]:
        """The keys between the ranges. Raises Transient `source_timeout` when even a small sample takes too long."""
        assert self._definition.relation is not None
        known = await self._session.fetchrow(
            load("statistics"), self._definition.relation.oid, self._definition.key.names[0]
        )
        assert known is not None
        if known["tables"] > 1:
            tree = await self._session.fetch(load("tree"), self._definition.relation.oid)
            self._tree = tree if all(table["readable"] for table in tree) else []
        enough = min(_BLOCKS[0], _BLOCKS_A_RANGE * self._wanted)
        rows = await self._taken(known, enough)
        if not rows or rows[0]["here"] < _FEW * self._wanted:
            walked = await self._walked()
            if walked is not None:
                return walked
            if enough < _BLOCKS[0]:
                rows = await self._taken(known, _BLOCKS[0])
        width = len(self._definition.key.parts)
        return [tuple(row.values())[:width] for row in rows]

    async def _taken(self, known: asyncpg.Record, most: int) -> list[asyncpg.Record]:
        """A sample of at most so many blocks, as large as can be taken in the time of one statement."""
        statistics = known["fresh"] and not self._definition.key.parts[0].foreign
        for blocks in (most, *(fewer for fewer in _BLOCKS if fewer < most)):
            try:
                return await self._session.fetch(self._sql(known, blocks, statistics=statistics))
            except Transient as error:
                if error.code != "source_timeout" or blocks == _BLOCKS[-1]:
                    raise
            except Permanent:
                if not statistics and not self._tree:
                    raise
                # A type whose values can not be read back from an array: the sample alone will do. A table of the tree
                # that has policies of its own, or is none any more: the root's will do.
                self._tree = []
                return await self._session.fetch(self._sql(known, blocks, statistics=False))
        raise AssertionError("the last size is tried or raises")

    def _sql(self, known: asyncpg.Record, blocks: int, *, statistics: bool) -> str:
        """Rows in key order, each with its weight; those at which the weights' sum passes a range's share."""
        key, name = self._definition.key, self._definition.qualifier
        columns = ", ".join(key.columns())
        c = secrets.token_hex(6)
        weight, fellows, more, taken = "1.0::float8", "1", "", self._rows_sql(known, blocks)
        if self._tree:
            taken, weighed = self._tree_sql(blocks, c)
            more, weight = f", {weighed} AS each_{c}", f"each_{c}"
        elif statistics:
            weight, fellows = _weight(key.columns()[0], key.parts[0].type, known, c)
        within = " AND ".join(key.between(self._lower, self._bound))
        return (
            f"WITH taken AS MATERIALIZED ({taken}),"
            f" likened AS (SELECT {columns}{more}, count(*) OVER () AS total_{c}, {fellows} AS fellow_{c}"
            f" FROM taken AS {name}),"
            f" weighed AS (SELECT {columns}, ({weight}) AS weight_{c}"
            f" FROM (SELECT *, count(*) OVER (PARTITION BY fellow_{c}) AS fellows_{c} FROM likened) AS {name}"
            f" WHERE {within}),"
            f" summed AS (SELECT {columns}, sum(weight_{c}) OVER (ORDER BY {key.order()} ROWS UNBOUNDED PRECEDING)"
            f" * {self._wanted} / nullif(sum(weight_{c}) OVER (), 0) AS share_{c}, count(*) OVER () AS here_{c}"
            f" FROM weighed AS {name})"
            f" SELECT DISTINCT ON (cut) {key.texts()}, here_{c} AS here, floor(share_{c}) AS cut"
            f" FROM summed AS {name} CROSS JOIN LATERAL (SELECT floor(share_{c}) AS cut) AS f"
            f" WHERE cut BETWEEN 1 AND {self._wanted - 1} ORDER BY cut, {key.order()}"
        )

    def _rows_sql(self, known: asyncpg.Record, blocks: int) -> str:
        """Of a single table a few rows out of blocks at equal distances: right wherever like keys lie together, which
        a random choice of blocks is not. Of a tree that can only be read as one, random blocks."""
        columns = ", ".join(self._definition.key.columns())
        table, name = self._definition.source_sql, self._definition.qualifier
        there = max(1, known["blocks"] or 0)
        if known["tables"] > 1:
            percent = min(100.0, 100.0 * blocks / there)
            return f"SELECT {columns} FROM {table} AS {name} TABLESAMPLE SYSTEM ({percent:.6f})"
        most, step = min(blocks, there), _step(known["rows"] / there if known["rows"] > 0 else None)
        return f"SELECT {columns} FROM {table} AS {name} WHERE {self._at(f'{there}::bigint * i / {most}', most, step)}"

    def _tree_sql(self, blocks: int, c: str) -> tuple[str, str]:
        """Of each table of a tree a share of the blocks, one at least, at equal distances; and what a row of the sample
        stands for: its table's rows in equal shares, or, where nobody has counted them, what its block and the distance
        say."""
        columns, name = ", ".join(self._definition.key.columns()), self._definition.qualifier
        distance = -(-sum(table["blocks"] for table in self._tree) // blocks)
        parts = []
        for number, table in enumerate(self._tree):
            there, rows = table["blocks"], table["rows"]
            most, step = -(-there // distance), _step(rows / there if rows else None)
            known = f"{rows!r}::float8" if rows else "NULL::float8"
            parts.append(
                f"SELECT {columns}, {number} AS part_{c}, {known} AS rows_{c},"
                f" {step * there / most!r}::float8 AS some_{c}"
                f" FROM ONLY {table['name']} AS {name} WHERE {self._at(f'{there}::bigint * i / {most}', most, step)}"
            )
        return " UNION ALL ".join(parts), f"coalesce(rows_{c} / count(*) OVER (PARTITION BY part_{c}), some_{c})"

    def _at(self, block: str, blocks: int, step: int) -> str:
        """The condition of a look at so many blocks, the number of each from its place `i`, and from block to block at
        other rows: always the first would make much of blocks that hold few."""
        return (
            f"{self._definition.qualifier}.ctid = ANY (ARRAY("
            f"SELECT format('(%s,%s)', {block}, o)::tid FROM generate_series(0, {blocks - 1}) AS i,"
            f" generate_series(1 + i % {step}, {_MOST_ROWS_A_BLOCK}, {step}) AS o))"
        )

    async def _walked(self) -> Sequence[Key] | None:
        """Exactly even ranges of a small one; None when it is not small, or can not be walked in time."""
        definition, key, wanted = self._definition, self._definition.key, self._wanted
        name, c = definition.qualifier, secrets.token_hex(6)
        rows = definition.rows_sql(
            ", ".join(key.columns()), self._lower, self._bound, order=key.order(), filtered=False
        )
        try:
            found = await self._session.fetch(
                f"WITH walked AS MATERIALIZED ({rows} LIMIT {_WALKED + 1}),"
                f" placed AS (SELECT *, count(*) OVER () AS n_{c},"
                f" row_number() OVER (ORDER BY {key.order()}) AS i_{c} FROM walked AS {name})"
                f" SELECT {key.texts()}, n_{c} AS here FROM placed AS {name} WHERE i_{c} < n_{c} AND i_{c} IN"
                f" (SELECT (n_{c} * i) / {wanted} FROM generate_series(1, {wanted - 1}) AS i) ORDER BY i_{c}"
            )
        except Transient as error:
            if error.code != "source_timeout":
                raise
            return None
        if found and found[0]["here"] > _WALKED:
            return None
        return [tuple(row.values())[: len(key.parts)] for row in found]


def _step(rows_a_block: float | None) -> int:
    """Between two rows of a block that are looked at."""
    return max(1, int((rows_a_block or _ROWS_A_BLOCK) / _ROWS))


def _weight(column: str, kind: str, known: asyncpg.Record, c: str) -> tuple[str, str]:
    """What a sampled row weighs, and what makes it like others: the same most common value, or the same part of the
    histogram. Both samples, ours and that of ANALYZE, count by their size."""
    often, parts = [float(share) for share in known["often"] or ()], max(0, (known["bound_count"] or 0) - 1)
    each = max(0.0, 1.0 - (known["nulls"] or 0.0) - sum(often)) / parts if parts else 0.0
    common = f"{quote_literal(known['common'] or '{}')}::{kind}[]"
    freqs = f"'{{{','.join(map(str, often))}}}'::float8[]"
    part = f"width_bucket({column}, {quote_literal(known['bounds'])}::{kind}[])" if parts else "0"
    # Most common values are no part of the histogram: they are told apart by their sign.
    alike = f"coalesce(-array_position({common}, {column}), {part})"
    looked_at = _ANALYZED * max(parts, len(often), 1)
    share = (
        f"CASE WHEN fellow_{c} < 0 THEN ({freqs})[-fellow_{c}]"
        f" WHEN fellow_{c} BETWEEN 1 AND {parts} THEN {each!r} ELSE 0 END"
    )
    return f"(1 + {looked_at} * ({share}) / fellows_{c}) / (total_{c} + {looked_at})::float8", alike


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
