"""What a split that looks back remembers: kept with a try, final with its settle, forgotten when the window has moved
on (`options.late_window`)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from service.domain.steps import StepKind
from service.domain.window import SeenKeys, WindowState
from service.store.held import Held, key_in, key_out, refuse_prepared, split_key
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.records import Key
    from service.domain.steps import Lease, SplitState
    from service.store.letters import Try
    from service.store.pool import Connection, Row

SQL = load("window")


class Windows(Held):
    """The part of `StepStore` that is about windows."""

    async def move_window(self, lease: Lease, floor: Key, forgotten: Sequence[int]) -> None:
        """As `WindowSteps.move_window`."""
        place = split_key(lease)
        async with self._held(lease, StepKind.SPLIT) as (connection, _):
            await refuse_prepared(connection, lease)
            await connection.execute(SQL["move"], *place, key_in(floor))
            await connection.execute(SQL["forget"], *place, list(forgotten))


async def insert(connection: Connection, mine: Try, seen: Sequence[SeenKeys], *, final: bool) -> None:
    """Keep parts with the try `mine`."""
    if not seen:
        return
    rows = ((one.number, one.keys, json.dumps(list(one.last_key)), one.packed) for one in seen)
    await connection.execute(SQL["insert"], *mine, final, *map(list, zip(*rows, strict=True)))


async def with_windows(
    connection: Connection, job_id: str, generation: int, ordinal: int | None, splits: Sequence[tuple[SplitState, Row]]
) -> list[SplitState]:
    """The splits, each with the row it was made of: those that look back with what they remember."""
    if not any(row["windowed"] for _, row in splits):
        return [split for split, _ in splits]
    parts = await connection.fetch(SQL["parts"], job_id, generation, ordinal)
    return [_with_window(split, row, parts) if row["windowed"] else split for split, row in splits]


def _with_window(split: SplitState, row: Row, parts: Sequence[Row]) -> SplitState:
    mine = [part for part in parts if part["ordinal"] == split.ordinal]
    tries: dict[tuple[int, int, int], list[SeenKeys]] = {}
    for part in mine:
        if not part["final"]:
            tries.setdefault((part["sequence"], part["epoch"], part["attempt"]), []).append(_part_of(part))
    return replace(
        split,
        window=WindowState(
            key_out(row["window_floor"]),
            tuple(_part_of(part) for part in mine if part["final"]),
            1 + max((part["number"] for part in mine), default=0),
        ),
        prepared=tuple(replace(p, seen=tries.get((p.sequence, p.epoch, p.attempt), ())) for p in split.prepared),
    )


def _part_of(row: Row) -> SeenKeys:
    last_key = key_out(row["last_key"])
    assert last_key is not None, "not null"
    return SeenKeys(row["number"], last_key, row["keys"], row["packed"])


async def open_window(connection: Connection, job_id: str, generation: int, *, of: int | None) -> None:
    """The last split of the generation looks back; where it goes on with what the generation `of` remembers, that is
    its own from here on. A generation without splits leaves everything as it is."""
    ordinal = await connection.fetchval(SQL["open"], job_id, generation, of)
    if ordinal is None:
        return
    if of is not None:
        await connection.execute(SQL["inherit"], job_id, generation, of, ordinal)
    await connection.execute(SQL["forget_others"], job_id, generation)


async def count(connection: Connection, job_id: str, run_id: str | None, rows: int) -> None:
    """Rows that arrived late, of those that were counted as read."""
    await connection.execute(SQL["count_job"], job_id, rows)
    await connection.execute(SQL["count_run"], run_id, rows)
