"""Prepare, make visible, settle: the three steps that let the rows of one chunk be seen once, and what a new owner does
with a predecessor's chunk that stands between them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent, RowsRejected, Transient
from sinks.base import Cut, SinkError
from workers.chunks import batch, settlement, to_prepared, to_record
from workers.metrics import settled, timed
from workers.recovery import Action, decide
from workers.signals import Point

if TYPE_CHECKING:
    from service.domain.control import Control
    from service.domain.records import ChunkRecord, Directive, Key, SplitState
    from sinks.base import Mark, Prepared, Receipt, Sink, Writer
    from workers.ports import Workplace
    from workers.sources.base import Reader

ABORT_PATIENCE_SECONDS = 0.4
"""How long an abort waits for the answer to what was already sent to become visible."""

log = structlog.get_logger(__name__)


class Delivery:
    """The chunks of one split under one lease, over all passes of the lease."""

    def __init__(self, control: Control, workplace: Workplace, sink: Sink) -> None:
        """Nothing is prepared yet."""
        self._control, self._place, self._sink = control, workplace, sink
        self._lease = control.lease
        self._attempts: dict[int, int] = {}
        self.unsettled = False
        """A prepared chunk may remain whose visibility is not known here."""

    async def deliver(self, writer: Writer, cut: Cut, scanned_to: Key | None = None) -> Directive:
        """Carry a closed chunk through the three steps. Raises Transient `outcome_unknown` when the sink did not say
        whether it is visible; then only a new writer can tell."""
        store, lease = self._place.store, self._lease
        if self._sink.upserts:
            # Drawn under the lease and before the prepare is stored: who owns the split after us draws a larger one.
            cut = replace(cut, version=await store.draw_version(lease))
        with timed(self._sink.kind, "prepare"):
            prepared = await writer.prepare(cut)
        await self._reached(Point.COMPLETE)
        self._control.check()
        record = to_record(prepared, lease.run_id or "")
        if self._sink.settles_with_prepare:
            directive = await store.prepare_and_settle(lease, settlement(record, scanned_to=scanned_to))
        else:
            self.unsettled = True
            await store.prepare(lease, record)
            await self._reached(Point.PREPARED)
            self._control.check()
            directive = await self._show_and_settle(writer, prepared, record, scanned_to)
            self.unsettled = False
        settled(self._sink.kind, record.rows, record.bytes)
        log.debug(LogEvent.CHUNK_SETTLED, sequence=record.sequence, rows=record.rows, target=record.target)
        await self._reached(Point.SETTLED)
        return directive

    async def _show_and_settle(
        self, writer: Writer, prepared: Prepared, record: ChunkRecord, scanned_to: Key | None
    ) -> Directive:
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

    async def _send(self, writer: Writer, prepared: Prepared, record: ChunkRecord, scanned_to: Key | None) -> Directive:
        with timed(self._sink.kind, "make_visible"):
            receipt = await self._make_visible(writer, prepared)
        if receipt.rejected:
            raise rows_refused(receipt)
        await self._reached(Point.VISIBLE)
        with timed(self._sink.kind, "settle"):
            return await self._place.store.settle(self._lease, settlement(record, receipt, scanned_to))

    def attempt(self, sequence: int) -> int:
        """The next try of `sequence` under this lease; counts over passes, since dropped tries keep their row."""
        self._attempts = {sequence: self._attempts.get(sequence, 0) + 1}
        return self._attempts[sequence]

    # -- a predecessor's chunk ----------------------------------------------------------------------------------

    async def recover(self, writer: Writer, reader: Reader, split: SplitState) -> tuple[SplitState, Mark | None]:
        """Bring store and sink to agree about the one prepared chunk; the split as it stands then, and what the sink
        showed. Raises Permanent `position_conflict` or `position_unknown`."""
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
        await self._act(decision.action, decision.chunk, split, writer, reader, mark)
        self.unsettled = False
        return await self._place.store.split(self._lease), mark

    async def _act(
        self,
        action: Action,
        chunk: ChunkRecord | None,
        split: SplitState,
        writer: Writer,
        reader: Reader,
        mark: Mark | None,
    ) -> None:
        store, lease = self._place.store, self._lease
        match action:
            case Action.SETTLE if chunk is not None:
                receipt = self._sink.receipt(to_prepared(chunk))
                self._control.apply(await store.settle(lease, settlement(chunk, receipt)))
                settled(self._sink.kind, chunk.rows, chunk.bytes)
            case Action.DROP:
                await store.drop_prepared(lease)
            case Action.SEND_AGAIN:
                # What replaces does not double, however often it is sent.
                doubled = 0 if self._sink.upserts else max(c.rows for c in split.prepared)
                await store.drop_prepared(lease, maybe_doubled=doubled)
            case Action.REPEAT if chunk is not None:
                await self._repeat(writer, reader, chunk)
            case Action.UNKNOWN:
                raise position_unknown(split)
            case Action.ASK_STORE:
                await self._control.renew()
                raise position_conflict(split.ordinal, mark)
            case _:
                raise position_conflict(split.ordinal, mark)

    async def _repeat(self, writer: Writer, reader: Reader, chunk: ChunkRecord) -> None:
        cut = await stage_again(writer, reader, chunk, self.attempt(chunk.sequence))
        self._control.apply(await self.deliver(writer, cut))

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


async def stage_again(writer: Writer, reader: Reader, chunk: ChunkRecord, attempt: int) -> Cut:
    """Read a prepared range again and stage it, to be delivered under the name it was given. Values may have changed
    and rows may be gone since; it is the keys that count."""
    rows, first_key, after = 0, None, chunk.lower
    while True:
        page = await reader.read(after, chunk.last_key)
        if page.values:
            await writer.stage(batch(page, 0, len(page.values)))
            first_key = first_key or page.key(0)
            rows += len(page.values)
        if page.end:
            break
        after = page.scanned_to or after
    return Cut(
        sequence=chunk.sequence,
        attempt=attempt,
        rows=rows,
        first_key=first_key,
        last_key=chunk.last_key,
        lower=chunk.lower,
        repeat_of=to_prepared(chunk),
    )


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


def rows_refused(receipt: Receipt) -> RowsRejected:
    """The sink refused rows one by one: told with the first of them; the others of the chunk are visible."""
    first, count = receipt.rejected[0], len(receipt.rejected)
    others = "" if count == 1 else f" ({count - 1} more rows of the chunk were refused too)"
    return RowsRejected(
        first.code,
        f"the row with key {first.id} can not be delivered: {first.reason}{others}",
        key=tuple(json.loads(first.id)),
        hint="leave it out with source.where, or change the row or the target's mapping",
    )
