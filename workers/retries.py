"""Dead letters sent again, under one lease: the three steps of a split, with a sequence of its own in the sink.

`source` reads the rows by their keys, many at a time, `payload` sends the record that was kept. What is refused again
stays, and so does what can not be sent; what was sent leaves the list with the settle of its chunk. A new owner goes by
the same table as that of a split (`workers.recovery`), so a kill at any moment sends nothing twice.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.names import LogEvent
from service.domain.control import Ending
from service.domain.dead_letters import Retried, Staying
from service.domain.errors import Aborted, RowsRejected, Stopped
from service.domain.spec import JobSpec
from sinks.base import Batch, Cut, Numbered
from workers.chunks import SLICE_BYTES, canonical, row_ids
from workers.closing import put_down
from workers.cuts import say_rows_are_of_now
from workers.delivery import Delivery, Load, again, log
from workers.easing import Easing
from workers.feed import Unreadable
from workers.limits import pay
from workers.metrics import sent_again
from workers.owners import drop_writer, owner, retry_split
from workers.rejected import PAYLOAD_BYTES, stage_what_can_be
from workers.retrying import Retry
from workers.signals import Point
from workers.splits import PUT_DOWN_SECONDS
from workers.window import rows_among

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from service.domain.control import Control
    from service.domain.dead_letters import KeptLetter
    from service.domain.steps import ChunkRecord, Step
    from sinks.base import Sink, Writer
    from workers.ports import Workplace
    from workers.sources.base import Page, Reader, Source

MOST_LETTERS = 500
"""Dead letters of one chunk, which ends sooner where they are many bytes."""
PATIENCE_SECONDS = 60.0
"""Without progress: a retry holds up the job's next start."""
GONE = "the source has no row with this key any more, or none that the job's conditions let through"
NO_PAYLOAD = "its record was never read: send it from source"
CUT_PAYLOAD = f"its record was kept only to {PAYLOAD_BYTES} bytes: send it from source"


@dataclass(frozen=True, slots=True)
class _Row:
    letter: KeptLetter
    value: bytes
    message_key: bytes | None


class RetryWork:
    """The work of one leased retry step."""

    def __init__(self, step: Step, control: Control, workplace: Workplace, sink: Sink, source: Source) -> None:
        """Sink and source stay the caller's to close."""
        self._control, self._place, self._sink, self._source = control, workplace, sink, source
        self._chunk_bytes = JobSpec.model_validate(step.spec).options.chunk.bytes
        self._lease = step.lease
        self._retry = Retry(control, most_seconds=PATIENCE_SECONDS)
        self._owner = owner(step, split=retry_split(step.lease.ordinal))
        self._easing = Easing(source, control)
        self._from_source = True
        self._untold: Step | None = step
        self.delivery = Delivery(control, workplace, sink)

    async def run(self) -> None:
        """Returns when every dead letter of the retry was sent or stays. Raises Stopped, LeaseLost, Permanent."""
        await self._retry.run(self._pass)

    async def _pass(self) -> None:
        store, lease = self._place.store, self._lease
        writer, reader = self._sink.writer(self._owner), self._source.reader()
        try:
            await writer.open()
            await self._reached(Point.OPENED)
            # Opening may have fenced the valid owner: make sure that we are it before anything is written.
            await self._control.renew()
            self._from_source = await store.retry_origin(lease) == "source"
            self._say_whose_rows()

            async def repeat(chunk: ChunkRecord, attempt: int) -> Load:
                return await self._again(writer, reader, chunk, attempt)

            state, mark = await self.delivery.recover(writer, await store.split(lease), repeat)
            if isinstance(writer, Numbered):
                writer.begin_after(state.sequence)
            if self._sink.needs_anchor and mark is None and state.sequence == 0:
                await writer.anchor(0)
                await store.anchored(lease)
            await self._send_all(writer, reader, state.sequence)
            with self._control.last_write():
                await store.finish_retry(lease)
            await self._reached(Point.FINISHED)
        finally:
            await put_down("writer", drop_writer(writer), PUT_DOWN_SECONDS)
            await put_down("reader", reader.close(), PUT_DOWN_SECONDS)

    def _say_whose_rows(self) -> None:
        """Once, however often it has to begin anew."""
        step, self._untold = self._untold, None
        if step is not None and self._from_source:
            say_rows_are_of_now(step)

    async def _send_all(self, writer: Writer, reader: Reader, sequence: int) -> None:
        store, lease, most = self._place.store, self._lease, self._chunk_bytes
        while found := await store.letters(lease, limit=MOST_LETTERS, most_bytes=most):
            if self._control.stopping:
                raise Stopped
            version, together = None, found
            if self._sink.upserts and not self._from_source:
                version = found[0].version
                together = [one for one in found if one.version == version]
            sent, stays = await self._stage(writer, reader, together, most)
            await self._reached(Point.STAGED)
            if not sent:
                await store.keep(lease, stays)
                sent_again(self._sink.kind, 0, 0, len(stays))
                log.info(LogEvent.DEAD_LETTERS_SENT, rows=0, stays=len(stays))
                continue
            sequence += 1
            cut = Cut(
                sequence=sequence,
                attempt=self.delivery.attempt(sequence),
                rows=len(sent),
                first_key=sent[0].key,
                last_key=sent[-1].key,
                lower=None,
                version=version,
            )
            directive = await self.delivery.deliver(writer, Load(cut, retried=_retried(sent, stays)))
            self._retry.progressed()
            self._control.apply(directive)
            if self._control.ending is Ending.ABORT:
                raise Aborted

    async def _again(self, writer: Writer, reader: Reader, chunk: ChunkRecord, attempt: int) -> Load:
        """The dead letters of a prepared chunk once more, each judged anew, for a try under the chunk's own name."""
        ids = chunk.retried.ids if chunk.retried is not None else []
        letters = await self._place.store.letters(
            self._lease, ids=ids, limit=len(ids), most_bytes=2 * self._chunk_bytes
        )
        sent, stays = await self._stage(writer, reader, letters)
        return Load(again(chunk, attempt, len(sent), sent[0].key if sent else None), retried=_retried(sent, stays))

    async def _stage(
        self, writer: Writer, reader: Reader, letters: Sequence[KeptLetter], most_bytes: int | None = None
    ) -> tuple[list[KeptLetter], list[Staying]]:
        """Stage what can be sent, until it reaches `most_bytes`; the dead letters of what was staged, in its order, and
        those that stay."""
        sent: list[KeptLetter] = []
        stays: list[Staying] = []
        waiting: list[_Row] = []
        size = staged = 0
        at_rate = most_bytes is not None  # a chunk that was prepared is not kept waiting
        async with aclosing(self._rows(reader, letters, eased=at_rate)) as rows:
            async for row in rows:
                if isinstance(row, Staying):
                    stays.append(row)
                    continue
                if at_rate:
                    await pay(self._place.rate(self._lease.job_id), self._control, 1, len(row.value))
                waiting.append(row)
                size += len(row.value)
                if size - staged >= SLICE_BYTES:
                    await self._hand_over(writer, waiting, sent, stays)
                    staged = size
                if most_bytes is not None and size >= most_bytes:
                    break
        await self._hand_over(writer, waiting, sent, stays)
        return sent, stays

    async def _hand_over(
        self, writer: Writer, waiting: list[_Row], sent: list[KeptLetter], stays: list[Staying]
    ) -> None:
        if not waiting:
            return
        rows, waiting[:] = list(waiting), []
        keys = [row.message_key for row in rows]
        ids = [canonical(row.letter.key) for row in rows] if self._sink.upserts else None
        batch = Batch([row.value for row in rows], keys if any(key is not None for key in keys) else None, ids)
        refused = await stage_what_can_be(writer, batch)
        stays += [Staying(rows[place].letter.id, error.code, error.message) for place, error in refused.items()]
        sent += [row.letter for place, row in enumerate(rows) if place not in refused]

    async def _rows(
        self, reader: Reader, letters: Sequence[KeptLetter], *, eased: bool
    ) -> AsyncGenerator[_Row | Staying, None]:
        """Records and message keys as they are to be sent, and why others are not; from the source in the order of
        their keys. What is not asked for any more stays as it is, and is found by the next look."""
        if not self._from_source:
            for one in letters:
                yield _kept(one)
            return
        left = {canonical(one.key): one for one in letters}
        one_by_one = False
        try:
            async for item in self._read(reader, letters, eased=eased):
                if isinstance(item, Unreadable):
                    found = left.pop(canonical(item.key), None)
                    one_by_one |= found is None
                    if found is not None:
                        yield Staying(found.id, item.code, item.message)
                    continue
                keys = item.message_keys
                for place, row_id in enumerate(row_ids(item, 0, len(item.values))):
                    found = left.pop(row_id, None)
                    one_by_one |= found is None
                    if found is not None:
                        yield _Row(found, item.values[place], None if keys is None else keys[place])
        except RowsRejected:  # one of them, and not which
            one_by_one = True
        for one in left.values():
            # A row whose key is written otherwise by now (1.0, then 1.00) is known only to who asks for it.
            yield await self._one(reader, one) if one_by_one else Staying(one.id, note=GONE)

    async def _read(
        self, reader: Reader, letters: Sequence[KeptLetter], *, eased: bool
    ) -> AsyncIterator[Page | Unreadable]:
        """Many rows a statement; before each it is seen whether the source is to be eased."""
        if eased:
            await self._easing.wait()
        async for item in rows_among(reader, [one.key for one in letters]):
            yield item
            if eased:
                await self._easing.wait()

    async def _one(self, reader: Reader, one: KeptLetter) -> _Row | Staying:
        try:
            page = await reader.one(one.key)
        except RowsRejected as error:
            return Staying(one.id, error.code, error.whole)
        if not page.values:
            return Staying(one.id, note=GONE)
        return _Row(one, page.values[0], None if page.message_keys is None else page.message_keys[0])

    async def _reached(self, point: Point) -> None:
        await self._place.signals.reached(point, self._lease)


def _kept(one: KeptLetter) -> _Row | Staying:
    """As it was kept, or why it can not be sent so."""
    if one.payload is None:
        return Staying(one.id, note=NO_PAYLOAD)
    if len(one.payload) != one.payload_bytes:
        return Staying(one.id, note=CUT_PAYLOAD)
    return _Row(one, one.payload, one.message_key)


def _retried(sent: Sequence[KeptLetter], stays: Sequence[Staying]) -> Retried:
    return Retried(tuple(one.id for one in sent), tuple(stays))
