"""Prepare, make visible, settle: the three steps that let the rows of one chunk be seen once, and what a new owner does
with a predecessor's chunk that stands between them."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent, Transient
from sinks.base import Cut, SinkError
from workers.chunks import batch, canonical, letters, row_ids, settlement, to_prepared, to_record
from workers.feed import Unreadable, bounded
from workers.metrics import ROWS_LATE, sent_again, set_aside, settled, timed
from workers.recovery import Action, decide
from workers.rejected import letter, named, refused_by_target, stage_what_can_be
from workers.signals import Point
from workers.sources.base import Page
from workers.window import key_of, packed, rows_among, unpacked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from service.domain.control import Control
    from service.domain.dead_letters import DeadLetter, Retried
    from service.domain.records import Key
    from service.domain.steps import ChunkRecord, Directive, SplitState
    from service.domain.window import SeenKeys
    from sinks.base import Mark, Prepared, Receipt, Sink, Writer
    from workers.ports import Workplace
    from workers.sources.base import Reader

ABORT_PATIENCE_SECONDS = 0.4
"""How long an abort waits for the answer to what was already sent to become visible."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """A closed chunk: what was staged, and what was not."""

    cut: Cut
    dead: Sequence[DeadLetter] = ()
    retried: Retried | None = None
    """Only of a retry: what becomes of the dead letters that the chunk is about."""
    scanned_to: Key | None = None
    late: bool = False
    """Rows that arrived late: see `ChunkRecord`."""
    seen: Sequence[SeenKeys] = ()


class Delivery:
    """The chunks of one split under one lease, over all passes of the lease."""

    def __init__(self, control: Control, workplace: Workplace, sink: Sink) -> None:
        """Nothing is prepared yet."""
        self._control, self._place, self._sink = control, workplace, sink
        self._lease = control.lease
        self._attempts: dict[int, int] = {}
        self.unsettled = False
        """A prepared chunk may remain whose visibility is not known here."""

    async def deliver(self, writer: Writer, load: Load) -> Directive:
        """Carry a closed chunk through the three steps. Raises Transient `outcome_unknown` when the sink did not say
        whether it is visible; then only a new writer can tell. Raises Permanent `dead_letters_exceeded`."""
        store, lease, cut = self._place.store, self._lease, load.cut
        if self._sink.upserts and cut.version is None:
            # Drawn under the lease and before the prepare is stored: who owns the split after us draws a larger one.
            cut = replace(cut, version=await store.draw_version(lease))
        with timed(self._sink.kind, "prepare"):
            prepared = await writer.prepare(cut)
        await self._reached(Point.COMPLETE)
        self._control.check()
        record = replace(to_record(prepared, lease.run_id or "", load.retried), late=load.late, seen=tuple(load.seen))
        refused: Sequence[DeadLetter] = ()
        if self._sink.settles_with_prepare:
            with caused_by(load.dead):
                directive = await store.prepare_and_settle(
                    lease, settlement(record, scanned_to=load.scanned_to), load.dead
                )
        else:
            with caused_by(load.dead):
                self.unsettled = True
                await store.prepare(lease, record, load.dead)
            await self._reached(Point.PREPARED)
            self._control.check()
            directive, refused = await self._show_and_settle(writer, prepared, record, load.scanned_to)
            self.unsettled = False
        self._count(record, [*load.dead, *refused], len(refused))
        await self._reached(Point.SETTLED)
        return directive

    async def bury(
        self, dead: Sequence[DeadLetter], last_key: Key, scanned_to: Key | None, *, seen: Sequence[SeenKeys], late: bool
    ) -> Directive:
        """A chunk without one visible row: nothing is sent, and no sequence is taken. Raises Permanent
        `dead_letters_exceeded`."""
        with caused_by(dead):
            directive = await self._place.store.bury(
                self._lease, dead, last_key=last_key, scanned_to=scanned_to, seen=seen, late=late
            )
        if late:
            say_late(self._sink.kind, len(dead), None)
        set_aside(self._sink.kind, len(dead))
        say_set_aside(dead, None)
        await self._reached(Point.SETTLED)
        return directive

    def _count(self, record: ChunkRecord, dead: Sequence[DeadLetter], refused: int) -> None:
        rows, kind = record.rows - refused, self._sink.kind
        log.debug(LogEvent.CHUNK_SETTLED, sequence=record.sequence, rows=rows, target=record.target)
        if record.retried is not None:
            stays = len(record.retried.stays) + refused
            sent_again(kind, rows, record.bytes, stays)
            log.info(LogEvent.DEAD_LETTERS_SENT, rows=rows, stays=stays, sequence=record.sequence)
            return
        settled(kind, rows, record.bytes, len(dead))
        if record.late:
            say_late(kind, rows + len(dead), record.sequence)
        say_set_aside(dead, record.sequence)

    async def _show_and_settle(
        self, writer: Writer, prepared: Prepared, record: ChunkRecord, scanned_to: Key | None
    ) -> tuple[Directive, Sequence[DeadLetter]]:
        sending = asyncio.create_task(self._send(writer, prepared, record, scanned_to), name="make-visible")
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            # Nothing is sent against what was sent: wait a moment for its answer, else leave the chunk prepared.
            done, _ = await asyncio.wait({sending}, timeout=ABORT_PATIENCE_SECONDS)
            if done and not sending.cancelled() and sending.exception() is None:
                self.unsettled = False
            else:
                sending.cancel()
                await asyncio.wait({sending}, timeout=0.1)
                self._control.reason = (
                    f"chunk {record.sequence} of split {self._lease.ordinal} was already sent and may still become "
                    "visible; the next start finds out"
                )
            raise

    async def _send(
        self, writer: Writer, prepared: Prepared, record: ChunkRecord, scanned_to: Key | None
    ) -> tuple[Directive, Sequence[DeadLetter]]:
        with timed(self._sink.kind, "make_visible"):
            receipt = await self._make_visible(writer, prepared)
        version = prepared.details.get("version") if self._sink.upserts else None
        refused = refused_by_target(receipt.rejected, version if isinstance(version, int) else None)
        await self._reached(Point.VISIBLE)
        with timed(self._sink.kind, "settle"), caused_by(refused):
            made = settlement(record, receipt, scanned_to, refused)
            return await self._place.store.settle(self._lease, made), refused

    def attempt(self, sequence: int) -> int:
        """The next try of `sequence` under this lease; counts over passes, since dropped tries keep their row."""
        self._attempts = {sequence: self._attempts.get(sequence, 0) + 1}
        return self._attempts[sequence]

    # -- a predecessor's chunk ----------------------------------------------------------------------------------

    async def recover(
        self, writer: Writer, split: SplitState, again: Callable[[ChunkRecord, int], Awaitable[Load]]
    ) -> tuple[SplitState, Mark | None]:
        """Bring store and sink to agree about the one prepared chunk; the split as it stands then, and what the sink
        showed. `again` stages what a chunk holds once more, for a try of this number. Raises Permanent
        `position_conflict` or `position_unknown`."""
        self.unsettled = bool(split.prepared)
        for chunk in split.prepared:
            if chunk.epoch == self._lease.epoch:
                self._attempts[chunk.sequence] = max(self._attempts.get(chunk.sequence, 0), chunk.attempt)
        mark = await writer.visible([to_prepared(c) for c in split.prepared])
        decision = decide(
            self._sink.shows,
            mark,
            generation=self._lease.generation,
            epoch=self._lease.epoch,
            settled=split.sequence,
            prepared=split.prepared,
        )
        if decision.action is Action.GO_ON:
            return split, mark
        log.info(LogEvent.CHUNK_RECOVERED, action=decision.action.name.lower(), sequence=split.sequence + 1)
        if decision.action is Action.REPEAT and decision.chunk is not None:
            load = await again(decision.chunk, self.attempt(decision.chunk.sequence))
            self._control.apply(await self.deliver(writer, load))
        else:
            await self._act(decision.action, decision.chunk, split, mark)
        self.unsettled = False
        return await self._place.store.split(self._lease), mark

    async def _act(self, action: Action, chunk: ChunkRecord | None, split: SplitState, mark: Mark | None) -> None:
        store, lease = self._place.store, self._lease
        match action:
            case Action.SETTLE if chunk is not None:
                receipt = self._sink.receipt(to_prepared(chunk))
                self._control.apply(await store.settle(lease, settlement(chunk, receipt)))
                self._count(chunk, (), 0)
            case Action.DROP:
                await store.drop_prepared(lease)
            case Action.SEND_AGAIN:
                # What replaces does not double, however often it is sent.
                doubled = 0 if self._sink.upserts else max(c.rows for c in split.prepared)
                await store.drop_prepared(lease, maybe_doubled=doubled)
            case Action.UNKNOWN:
                raise position_unknown(split)
            case Action.ASK_STORE:
                await self._control.renew()
                raise position_conflict(split.ordinal, mark)
            case _:
                raise position_conflict(split.ordinal, mark)

    async def _make_visible(self, writer: Writer, prepared: Prepared) -> Receipt:
        try:
            return await writer.make_visible(prepared)
        except Exception as error:
            if self._sink.upserts and isinstance(error, SinkError):
                # Sending again is always right there, so the error's own class decides when.
                raise
            raise Transient(
                "outcome_unknown", f"whether chunk {prepared.sequence} became visible is not known yet: {error}"
            ) from error

    async def _reached(self, point: Point) -> None:
        await self._place.signals.reached(point, self._lease)


async def stage_again(writer: Writer, reader: Reader, chunk: ChunkRecord, split: SplitState, attempt: int) -> Load:
    """Read a prepared range of `split` again and stage it, to be delivered under the name it was given; of rows that
    arrived late the same keys. Values may have changed and rows may be gone since; it is the keys that count, and each
    row is judged anew."""
    rows, first_key = 0, None
    dead: list[DeadLetter] = []
    ids: list[bytes] = []
    items = rows_among(reader, [key_of(one) for one in unpacked(chunk.seen)])
    async for item in items if chunk.late else bounded(reader, chunk.lower, chunk.last_key, None):
        if isinstance(item, Unreadable):
            dead.append(letter(item.key, item.code, item.message))
            ids.append(canonical(item.key))
        elif isinstance(item, Page) and item.values:
            refused = await stage_what_can_be(writer, batch(item, 0, len(item.values)))
            dead += letters(item, 0, refused)
            staged = [place for place in range(len(item.values)) if place not in refused]
            if staged:
                first_key = first_key or item.key(staged[0])
                rows += len(staged)
            if split.window is not None:
                ids += row_ids(item, 0, len(item.values))
    seen = () if split.window is None else packed(ids, split.window.next_number)
    return Load(again(chunk, attempt, rows, first_key), dead, late=chunk.late, seen=seen)


def again(chunk: ChunkRecord, attempt: int, rows: int, first_key: Key | None) -> Cut:
    """The cut of a repeat."""
    return Cut(
        sequence=chunk.sequence,
        attempt=attempt,
        rows=rows,
        first_key=first_key,
        last_key=chunk.last_key,
        lower=chunk.lower,
        repeat_of=to_prepared(chunk),
    )


@contextmanager
def caused_by(dead: Sequence[DeadLetter]) -> Iterator[None]:
    """What the store says of the limits came from the last of these rows."""
    try:
        yield
    except Permanent as error:
        if error.code == "dead_letters_exceeded" and dead:
            raise error from named(dead[-1])
        raise


def say_late(sink: str, rows: int, sequence: int | None) -> None:
    """Into the log and the metric: rows were found behind the position."""
    ROWS_LATE.labels(sink=sink).inc(rows)
    log.info(LogEvent.ROWS_LATE, rows=rows, sequence=sequence)


def say_set_aside(dead: Sequence[DeadLetter], sequence: int | None) -> None:
    """Into the log: how many and why, never what is in them."""
    if dead:
        # Not the message: a target may quote the row in it.
        log.warning(LogEvent.ROWS_SET_ASIDE, rows=len(dead), code=dead[-1].code, sequence=sequence)


def position_conflict(split: int, mark: Mark | None) -> Permanent:
    """The sink shows what the job can not have written."""
    return Permanent(
        "position_conflict",
        f"the sink shows for split {split} what this job can not have written ({mark}); look at the sink and set the "
        "position with PUT /v1/jobs/{job}/checkpoint",
    )


def position_unknown(split: SplitState) -> Permanent:
    """The sink has lost the position that says whether a prepared chunk is visible."""
    return Permanent(
        "position_unknown",
        f"chunk {split.sequence + 1} of split {split.ordinal} was prepared, and the sink has lost its position: "
        "whether the chunk is visible can not be known; look at the sink and set the position with "
        "PUT /v1/jobs/{job}/checkpoint",
    )
