"""What a split writes: its chunks, its position, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.dead_letters import MOST_UNASKED, Retried
from service.domain.errors import Conflict
from service.domain.states import State
from service.domain.steps import ChunkRecord, SplitState, StepKind
from service.store import letters, retries, window
from service.store.held import SQL as LEASES
from service.store.held import (
    Held,
    by_holder,
    directive,
    end_step,
    key_in,
    key_out,
    refuse_prepared,
    show_condition,
    split_key,
    step_key,
)
from service.store.sql import load
from service.store.transitions import end_if_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from service.domain.dead_letters import DeadLetter
    from service.domain.records import Key
    from service.domain.steps import Directive, Lease, Settlement
    from service.domain.window import SeenKeys
    from service.store.letters import Place
    from service.store.pool import Connection, Row

SQL = load("chunks")

_PAGE = 500
_MOVES = (StepKind.SPLIT, StepKind.RETRY)
"""What has chunks."""


class Chunks(Held):
    """The part of `StepStore` that moves a split on."""

    async def split(self, lease: Lease) -> SplitState:
        """As `StepStore.split`."""
        state = retries.SQL["state"] if lease.kind is StepKind.RETRY else SQL["split"]
        async with self._held(lease, *_MOVES) as (connection, _):
            row = await connection.fetchrow(state, *split_key(lease))
            assert row is not None, "a step of a split has its split"
            prepared = await connection.fetch(SQL["prepared"], *split_key(lease))
            split = split_state(row, prepared)
            if lease.kind is StepKind.RETRY:
                return split
            return (await window.with_windows(connection, *split_key(lease), [(split, row)]))[0]

    async def anchored(self, lease: Lease) -> None:
        """As `StepStore.anchored`."""
        anchored = retries.SQL["anchored"] if lease.kind is StepKind.RETRY else SQL["anchored"]
        async with self._held(lease, *_MOVES) as (connection, _):
            await connection.execute(anchored, *split_key(lease))

    async def prepare(self, lease: Lease, chunk: ChunkRecord, dead: Sequence[DeadLetter] = ()) -> None:
        """As `StepStore.prepare`. The same record again is stored once, for a caller whose answer was lost. Raises
        Conflict `out_of_sequence` when it is not the next chunk, or not of this lease's epoch; `try_exists` when
        another record has its place."""
        async with self._held(lease, *_MOVES) as (connection, _):
            await letters.refuse_beyond(connection, lease, dead=len(dead), read=chunk.rows + len(dead))
            await store_try(connection, split_key(lease), chunk, dead, epoch=lease.epoch)

    async def draw_version(self, lease: Lease) -> int:
        """As `StepStore.draw_version`."""
        async with self._held(lease, *_MOVES) as (connection, _):
            version: int = await connection.fetchval(SQL["draw_version"])
            return version

    async def draw_number(self, lease: Lease, sequence: int) -> int:
        """As `StepStore.draw_number`."""
        async with self._held(lease, StepKind.SPLIT) as (connection, _):
            number: int = await connection.fetchval(SQL["draw_number"], *split_key(lease), sequence)
            return number

    async def settle(self, lease: Lease, settlement: Settlement) -> Directive:
        """As `StepStore.settle`. What the chunk holds is read from the record of the adopted try, which may be of an
        older epoch; other tries of it are dropped. Raises Conflict `chunk_not_prepared` when there is no such
        prepared try: it was settled already, or dropped."""
        async with self._held(lease, *_MOVES) as (connection, _):
            return await _settle_held(connection, lease, settlement)

    async def prepare_and_settle(
        self, lease: Lease, settlement: Settlement, dead: Sequence[DeadLetter] = ()
    ) -> Directive:
        """As `StepStore.prepare_and_settle`; raises as both."""
        chunk = settlement.chunk
        async with self._held(lease, *_MOVES) as (connection, _):
            await letters.refuse_beyond(connection, lease, dead=len(dead), read=chunk.rows + len(dead))
            await store_try(connection, split_key(lease), chunk, dead, epoch=lease.epoch)
            return await _settle_held(connection, lease, settlement)

    async def check_dead_letters(self, lease: Lease, *, dead: int, read: int) -> int:
        """As `StepStore.check_dead_letters`."""
        async with self._held(lease, StepKind.SPLIT) as (connection, _):
            return dead + min(MOST_UNASKED, await letters.refuse_beyond(connection, lease, dead=dead, read=read))

    async def bury(
        self,
        lease: Lease,
        dead: Sequence[DeadLetter],
        *,
        last_key: Key,
        scanned_to: Key | None = None,
        seen: Sequence[SeenKeys] = (),
        late: bool = False,
    ) -> Directive:
        """As `StepStore.bury`."""
        count, place = len(dead), split_key(lease)
        async with self._held(lease, StepKind.SPLIT) as (connection, _):
            await refuse_prepared(connection, lease)
            await letters.refuse_beyond(connection, lease, dead=count, read=count)
            await letters.insert(connection, (*place, None, lease.epoch, 1), str(lease.run_id), dead, final=True)
            await window.insert(connection, (*place, None, lease.epoch, 1), seen, final=True)
            await connection.execute(SQL["bury"], *place, key_in(last_key), key_in(scanned_to or last_key), count, late)
            if late:
                await window.count(connection, lease.job_id, lease.run_id, count)
            await connection.execute(SQL["count_job"], lease.job_id, count, 0, count, 0)
            await connection.execute(SQL["count_run"], lease.run_id, count, 0, count, 0, 0)
            return await _moved(connection, lease)

    async def drop_prepared(self, lease: Lease, *, maybe_doubled: int = 0) -> None:
        """As `StepStore.drop_prepared`; nothing is counted when nothing was prepared."""
        async with self._held(lease, *_MOVES) as (connection, _):
            dropped = await drop_tries(connection, split_key(lease), maybe_doubled)
            if dropped and maybe_doubled:
                await connection.execute(SQL["count_run"], lease.run_id, 0, 0, 0, 0, maybe_doubled)

    async def scan(self, lease: Lease, scanned_to: Key, *, rows_read: int = 0) -> None:
        """As `StepStore.scan`. Raises Conflict `chunk_unsettled` while a chunk is prepared."""
        async with self._held(lease, StepKind.SPLIT) as (connection, _):
            await refuse_prepared(connection, lease)
            await connection.execute(SQL["scan"], *split_key(lease), key_in(scanned_to), rows_read)
            if rows_read:
                await connection.execute(SQL["count_job"], lease.job_id, rows_read, 0, 0, 0)
                await connection.execute(SQL["count_run"], lease.run_id, rows_read, 0, 0, 0, 0)
            else:
                await connection.execute(LEASES["note_progress"], lease.job_id)

    async def finish_split(self, lease: Lease, scanned_to: Key | None) -> None:
        """As `StepStore.finish_split`. Raises Conflict `chunk_unsettled` while a chunk is prepared."""
        async with self._held(lease, StepKind.SPLIT) as (connection, job):
            await refuse_prepared(connection, lease)
            await connection.execute(SQL["end_split"], *split_key(lease), key_in(scanned_to))
            await connection.execute(SQL["count_split"], lease.run_id)
            await show_last_id(connection, lease.job_id, lease.generation, lease.run_id)
            await connection.execute(LEASES["note_progress"], lease.job_id)
            await end_step(connection, lease)
            await connection.execute(SQL["ready_next"], lease.job_id, lease.generation)
            await connection.execute(SQL["end_plan_that_held"], lease.job_id, lease.generation)
            await end_if_idle(connection, lease.job_id, State(job["state"]), by_holder(lease))

    async def settled_chunks(self, lease: Lease) -> AsyncIterator[tuple[int, ChunkRecord]]:
        """As `StepStore.settled_chunks`; the lease is checked with each page, and no lock is held between them."""
        after = (-1, 0)
        while True:
            async with self._held(lease) as (connection, _):
                rows = await connection.fetch(SQL["settled_page"], lease.job_id, lease.generation, *after, _PAGE)
            for row in rows:
                yield row["ordinal"], chunk_record(row)
            if len(rows) < _PAGE:
                return
            after = (rows[-1]["ordinal"], rows[-1]["sequence"])


def split_state(row: Row, prepared: Iterable[Row]) -> SplitState:
    """A row of `split` with those of `prepared`."""
    return SplitState(
        ordinal=row["ordinal"],
        lower=key_out(row["lower"]),
        upper=key_out(row["upper"]),
        tail=row["tail"],
        position=key_out(row["position"]),
        scanned_to=key_out(row["scanned_to"]),
        sequence=row["sequence"],
        rows_read=row["rows_read"],
        anchored_at=row["anchored_at"],
        prepared=tuple(chunk_record(p) for p in prepared if p["ordinal"] == row["ordinal"]),
        done=row["done_at"] is not None,
    )


def chunk_record(row: Row) -> ChunkRecord:
    """A row of `chunks`."""
    last_key = key_out(row["last_key"])
    assert last_key is not None, "not null"
    return ChunkRecord(
        sequence=row["sequence"],
        epoch=row["epoch"],
        attempt=row["attempt"],
        rows=row["rows"],
        bytes=row["bytes"],
        first_key=key_out(row["first_key"]),
        last_key=last_key,
        lower=key_out(row["lower"]),
        target=row["target"],
        checksum=row["checksum"],
        details=row["details"],
        run_id=row["run_id"],
        retried=None if row["letters"] is None else Retried.of(row["letters"]),
        late=row["late"],
    )


async def store_try(
    connection: Connection, place: Place, chunk: ChunkRecord, dead: Sequence[DeadLetter], *, epoch: int
) -> None:
    """One try of the next chunk of the split at `place`, made under `epoch`. Raises as `Chunks.prepare`."""
    settled = await connection.fetchval(SQL["sequence"], *place)
    if settled is None or chunk.sequence != settled + 1 or chunk.epoch != epoch:
        raise Conflict(
            "out_of_sequence",
            f"chunk {chunk.sequence} of epoch {chunk.epoch} can not be prepared: {settled} is settled in epoch {epoch}",
        )
    mine = (*place, chunk.sequence, chunk.epoch, chunk.attempt)
    # Counts and keys as given; the run is no part of what makes two tries the same.
    content = (
        chunk.rows,
        chunk.bytes,
        key_in(chunk.first_key),
        key_in(chunk.last_key),
        key_in(chunk.lower),
        chunk.target,
        chunk.checksum,
        dict(chunk.details),
        None if chunk.retried is None else chunk.retried.to_json(),
        chunk.late,
    )
    stored = await connection.execute(SQL["prepare"], *mine, chunk.run_id, *content)
    if stored != "INSERT 0 0":
        await letters.insert(connection, mine, chunk.run_id, dead, final=False)
        await window.insert(connection, mine, chunk.seen, final=False)
    elif not await connection.fetchval(SQL["same_try"], *mine, *content):
        raise Conflict(
            "try_exists", f"try {chunk.attempt} of chunk {chunk.sequence} in epoch {chunk.epoch} is another one"
        )


async def drop_tries(connection: Connection, place: Place, maybe_doubled: int = 0) -> bool:
    """Every prepared try of the split at `place` is dropped, its dead letters with it; whether there was one."""
    await connection.execute(letters.SQL["drop_prepared"], *place)
    return bool(await connection.fetch(SQL["drop_tries"], *place, maybe_doubled))


async def settle_try(connection: Connection, place: Place, settlement: Settlement, run_id: str | None) -> str:
    """Settle a prepared try of the split at `place`, with its dead letters, and count it for `run_id`, or for the run
    that prepared it where that is None; the run that counted it. Raises Conflict `chunk_not_prepared`."""
    given = settlement.chunk
    mine = (*place, given.sequence, given.epoch, given.attempt)
    dead = await letters.finish_try(connection, mine, run_id)
    row = await connection.fetchrow(
        SQL["settle_chunk"],
        *mine,
        run_id,
        dead,
        len(settlement.refused),
        settlement.rows_maybe_doubled,
        settlement.partition,
        settlement.first_offset,
        settlement.last_offset,
        settlement.etag,
    )
    if row is None:
        raise Conflict(
            "chunk_not_prepared",
            f"try {given.attempt} of chunk {given.sequence} in epoch {given.epoch} is not prepared (any more)",
        )
    await drop_tries(connection, place)
    if place[2] < 0:
        await retries.settle(connection, place, row, given.sequence, settlement.refused)
    else:
        await letters.insert(connection, mine, row["run_id"], settlement.refused, final=True)
        scanned_to = row["last_key"] if settlement.scanned_to is None else key_in(settlement.scanned_to)
        moved = (row["last_key"], scanned_to, given.sequence, row["rows_read"], row["late"])
        await connection.execute(SQL["advance"], *place, *moved)
        if row["late"]:
            await window.count(connection, place[0], row["run_id"], row["rows_read"])
        counts = (row["rows_read"], row["rows"], row["rows_dead"], row["bytes"])
        await connection.execute(SQL["count_job"], place[0], *counts)
        await connection.execute(SQL["count_run"], row["run_id"], *counts, settlement.rows_maybe_doubled)
    counted_by: str = row["run_id"]
    return counted_by


async def show_last_id(connection: Connection, job_id: str, generation: int, run_id: str | None) -> None:
    """Job and run show the position that this generation has reached; unchanged while it has no split."""
    row = await connection.fetchrow(SQL["last_id"], job_id, generation)
    if row is not None:
        await connection.execute(SQL["show_last_id"], job_id, row["key"])
        await connection.execute(SQL["show_run_last_id"], run_id, row["key"])


async def _settle_held(connection: Connection, lease: Lease, settlement: Settlement) -> Directive:
    if refused := len(settlement.refused):
        await letters.refuse_beyond(connection, lease, dead=refused, read=settlement.chunk.rows)
    await settle_try(connection, split_key(lease), settlement, lease.run_id)
    return await _moved(connection, lease)


async def _moved(connection: Connection, lease: Lease) -> Directive:
    """The job shows that it goes on; what its holder hears."""
    if lease.kind is StepKind.SPLIT:
        await show_last_id(connection, lease.job_id, lease.generation, lease.run_id)
    if await connection.execute(SQL["settled_condition"], *step_key(lease)) != "UPDATE 0":
        await show_condition(connection, lease.job_id)
    row = await connection.fetchrow(LEASES["directive"], lease.job_id, lease.owner)
    assert row is not None, "its row is locked"
    return directive(lease, row)
