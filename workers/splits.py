"""One split under one lease: open the sink, find out what is visible, then read, stage and deliver chunk after chunk.

The order of the steps and what each failure means stand in docs/decisions/0003-chunk-protocol.md. Everything from
opening the sink on is one *pass*; whatever goes wrong that may pass ends it, and the next pass begins with what the
store and the sink know, never with what this process remembers.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from service.domain.control import Ending
from service.domain.errors import Aborted, Stopped
from service.domain.spec import JobSpec
from service.domain.steps import Condition
from sinks.base import CountsOverJob, Cut, Numbered
from workers.beforehand import getting_ready
from workers.changes import known_tables, look
from workers.chunks import OpenChunk, batch
from workers.closing import put_down
from workers.delivery import Delivery, Load, caused_by, stage_again
from workers.easing import Easing
from workers.facts import promise_again
from workers.feed import End, Feed, Idle, Unreadable, bounded, following, is_over
from workers.limits import most_rows
from workers.owners import drop_writer, owner
from workers.ranges import rows_left, start_of
from workers.rejected import letter, stage_what_can_be
from workers.retrying import Retry
from workers.shown import described
from workers.signals import Point
from workers.window import NoWindow, rows_among, window_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.control import Control
    from service.domain.records import Key
    from service.domain.steps import ChunkRecord, SplitState, Step
    from sinks.base import Sink, Writer
    from workers.feed import Item
    from workers.ports import Workplace
    from workers.sources.base import Page, Reader, Source
    from workers.window import Window

ANCHOR_AGAIN_SECONDS = 24 * 3600.0
"""A target forgets idle positions (Kafka: offsets.retention.minutes, 7 days by default): write it again long before."""
SCAN_EVERY_SECONDS = 1.0
PUT_DOWN_SECONDS = 0.4
"""An abort takes a second in all: what takes longer to close goes on closing beside."""
LAG_EVERY_SECONDS = 5.0


class SplitWork:
    """The work of one leased split step."""

    def __init__(self, step: Step, control: Control, workplace: Workplace, sink: Sink, source: Source) -> None:
        """Sink and source stay the caller's to close."""
        self._control, self._place, self._sink, self._source = control, workplace, sink, source
        self._spec, self._lease = JobSpec.model_validate(step.spec), step.lease
        self._retry, self._easing = Retry(control), Easing(source, control)
        self._look, self._tables = partial(look, step, workplace, source), known_tables(step, workplace)
        self._promise = partial(promise_again, step, workplace, sink, source)
        self.delivery = Delivery(control, workplace, sink)
        self._chunk = OpenChunk(self._spec.options.chunk, None)
        self._sequence = 0
        self._anchored_at: datetime | None = None
        self._next_scan = self._next_look = 0.0
        self._window: Window | NoWindow = NoWindow()
        self._owner = owner(step)

    async def run(self) -> None:
        """Returns when the split is done. Raises Stopped when it was parked in the middle, LeaseLost, Permanent."""
        async with getting_ready(self._source):
            await self._retry.run(self._pass)

    async def _pass(self) -> None:
        writer = self._sink.writer(self._owner)
        reader = self._source.reader()
        frontier = None
        try:
            await writer.open()
            await self._reached(Point.OPENED)
            # Opening may have fenced the valid owner: make sure that we are it before anything is written.
            await self._control.renew()
            found = await self._place.store.split(self._lease)
            split, mark = await self.delivery.recover(writer, found, partial(self._repeat, writer, reader, found))
            await self._look()
            await self._promise(looks_back=split.window is not None)
            self._sequence, self._anchored_at = split.sequence, split.anchored_at
            if isinstance(writer, Numbered):
                writer.begin_after(split.sequence)
            if isinstance(writer, CountsOverJob):
                writer.number_by(partial(self._place.store.draw_number, self._lease))
            self._chunk = OpenChunk(self._spec.options.chunk, split.position or split.lower)
            start = await start_of(split, self._source)
            self._window = window_of(split, self._spec.options, reader, self._source)
            if split.tail:
                frontier = self._source.frontier(start, self._tables)
                over, poll = partial(is_over, self._source, self._spec), self._spec.options.poll_seconds
                pages = following(reader, frontier, start, poll_seconds=poll, over=over)
            else:
                pages = bounded(reader, start, split.upper, rows_left(split, self._spec))
            await self._consume(writer, pages, replace(split, scanned_to=start), anchored=mark is not None)
        finally:
            await put_down("writer", drop_writer(writer), PUT_DOWN_SECONDS)
            if frontier is not None:
                await put_down("frontier", frontier.close(), PUT_DOWN_SECONDS)
            await put_down("reader", reader.close(), PUT_DOWN_SECONDS)

    async def _repeat(
        self, writer: Writer, reader: Reader, split: SplitState, chunk: ChunkRecord, attempt: int
    ) -> Load:
        await self._look()
        return await stage_again(writer, reader, chunk, split, attempt)

    async def _consume(self, writer: Writer, pages: AsyncIterator[Item], split: SplitState, *, anchored: bool) -> None:
        feed = Feed(pages)
        scanned: Key | None = None
        try:
            if self._sink.needs_anchor and (not anchored or _old(self._anchored_at)):
                await self._anchor(writer)
            while True:
                item = await feed.next(self._control, self._chunk.due_in)
                if item is not None:
                    await self._retry.recovered()
                match item:
                    case None:
                        await self._close(writer, scanned)
                        if self._control.stopping:
                            await self._keep(scanned, now=True)
                            raise Stopped
                    case End():
                        await self._look_back(writer, split.upper or scanned or split.scanned_to, now=True)
                        await self._close(writer, scanned)
                        with self._control.last_write():
                            await self._place.store.finish_split(self._lease, split.upper or scanned)
                        await self._reached(Point.SPLIT_DONE)
                        return
                    case Idle():
                        if self._chunk.due:
                            await self._close(writer, scanned)
                        await self._look_back(writer, scanned or split.scanned_to)
                        await self._idle(writer, item, split)
                    case Unreadable():
                        await self._pass_over(writer, item)
                        scanned = item.key
                    case _:
                        await self._reached(Point.READ)
                        await self._write(writer, item)
                        scanned = item.scanned_to or scanned
                        await self._look_back(writer, scanned, item)
                        await self._keep(scanned)
        finally:
            await feed.close()

    async def _write(self, writer: Writer, page: Page) -> None:
        """Stage a page in slices, delivering chunks as they fill or grow old. Raises Stopped after delivering what was
        staged; the rest of the page is read again by the next start."""
        done, rows = 0, len(page.values)
        while done < rows:
            await self._wait_for_rate(writer)
            if self._control.stopping:
                await self._close(writer, None)
                raise Stopped
            end = self._chunk.cut(page, done, most_rows(self._control.rows_per_second))
            await self._stage(writer, page, done, end)
            done = end
            await self._reached(Point.STAGED)
            if self._chunk.full or self._chunk.due:
                await self._close(writer, page.scanned_to if done == rows else None)

    async def _stage(self, writer: Writer, page: Page, begin: int, end: int) -> None:
        rows = batch(page, begin, end, with_ids=self._sink.upserts)
        self._place.rate(self._lease.job_id).take(
            rows.rows, rows.size, self._control.rows_per_second, self._control.bytes_per_second
        )
        refused = await stage_what_can_be(writer, rows)
        self._chunk.add(page, begin, rows, time.monotonic(), refused)
        self._window.add(page, begin, end)
        await self._check_limits()

    async def _pass_over(self, writer: Writer, item: Unreadable) -> None:
        self._chunk.pass_over(letter(item.key, item.code, item.message), time.monotonic())
        self._window.add_key(item.key)
        await self._check_limits()
        if self._chunk.full or self._chunk.due:
            await self._close(writer, item.key)

    async def _check_limits(self) -> None:
        """At once, not only with the chunk: the row that is one too many ends the run while it is news."""
        chunk, dead = self._chunk, len(self._chunk.dead)
        if dead > chunk.let_through:
            with caused_by(chunk.dead):
                chunk.let_through = await self._place.store.check_dead_letters(self._lease, dead=dead, read=chunk.read)

    async def _close(self, writer: Writer, scanned: Key | None) -> None:
        """Deliver the open chunk, if it holds a row. `scanned`: how far rows were looked at, all of them in it."""
        chunk = self._chunk
        if chunk.read == 0 or chunk.last_key is None:
            return
        if chunk.rows == 0:
            seen = self._window.seal()
            directive = await self.delivery.bury(chunk.dead, chunk.last_key, scanned, seen=seen, late=chunk.late)
        else:
            sequence = self._sequence + 1
            cut = Cut(
                sequence=sequence,
                attempt=self.delivery.attempt(sequence),
                rows=chunk.rows,
                first_key=chunk.first_key,
                last_key=chunk.last_key,
                lower=chunk.lower,
            )
            load = Load(cut, chunk.dead, scanned_to=scanned, late=chunk.late, seen=self._window.seal())
            directive = await self.delivery.deliver(writer, load)
            self._sequence = sequence
        self._chunk = OpenChunk(self._spec.options.chunk, chunk.last_key, late=chunk.late)
        self._retry.progressed()
        self._control.apply(directive)
        if self._control.ending is Ending.ABORT:
            raise Aborted

    # -- rows that arrive late -----------------------------------------------------------------------------------

    async def _look_back(
        self, writer: Writer, upto: Key | None, page: Page | None = None, *, now: bool = False
    ) -> None:
        """Deliver what has arrived behind `upto`, up to which everything was read, since the last look; where a look is
        due, after `page` or with nothing to read, or at the end `now`."""
        window = self._window
        if isinstance(window, NoWindow) or upto is None or not (now or window.is_due(page)):
            return
        if late := await window.look(upto):
            await self._close(writer, upto)
            # Before any of them is sent: who reads on from an older place would find them once more.
            await self._keep(upto, now=True)
            self._chunk = OpenChunk(self._spec.options.chunk, None, late=True)
            async for item in rows_among(window.reader, late):
                if isinstance(item, Unreadable):
                    await self._pass_over(writer, item)
                else:
                    await self._write(writer, item)
            await self._close(writer, None)
            self._chunk = OpenChunk(self._spec.options.chunk, upto)
        await window.forget(self._place.store, self._lease)

    # -- beside the rows ----------------------------------------------------------------------------------------

    async def _idle(self, writer: Writer, idle: Idle, split: SplitState) -> None:
        """Nothing to read: show how far it is safe to read and what holds it back, now and then."""
        self._retry.progressed()
        now = time.monotonic()
        if now < self._next_look:
            return
        held = idle.horizon.held_by
        self._next_look = now + (SCAN_EVERY_SECONDS if held else LAG_EVERY_SECONDS)
        rows, seconds = await self._source.lag(self._chunk.last_key or self._chunk.lower or split.lower)
        await self._control.report(
            Condition(
                waiting_for="horizon" if held else None,
                horizon=described(idle.horizon),
                lag={"rows": rows, "seconds": seconds},
                progressed=True,
            )
        )
        if self._sink.needs_anchor and self._chunk.read == 0 and _old(self._anchored_at):
            await self._anchor(writer)

    async def _anchor(self, writer: Writer) -> None:
        await writer.anchor(self._sequence)
        await self._place.store.anchored(self._lease)
        self._anchored_at = datetime.now(UTC)

    async def _keep(self, scanned: Key | None, *, now: bool = False) -> None:
        """Keep the way over rows that do not match, while no chunk is open; not with every page."""
        if scanned is None or self._chunk.read:
            return
        self._retry.progressed()
        if now or time.monotonic() >= self._next_scan:
            self._next_scan = time.monotonic() + SCAN_EVERY_SECONDS
            await self._place.store.scan(self._lease, scanned)

    async def _wait_for_rate(self, writer: Writer) -> None:
        limit = self._place.rate(self._lease.job_id)
        if (delay := limit.delay()) > 1:
            await self._control.report(Condition(waiting_for="rate", progressed=True))
        delay = max(delay, await self._easing.delay())
        while delay > 0 and not self._control.stopping:
            if self._chunk.due:
                await self._close(writer, None)
            try:
                await self._control.pause(min(delay, 0.5))
            except Stopped:
                return
            delay = max(limit.delay(), await self._easing.delay())

    async def _reached(self, point: Point) -> None:
        await self._place.signals.reached(point, self._lease)


def _old(at: datetime | None) -> bool:
    return at is None or (datetime.now(UTC) - at).total_seconds() > ANCHOR_AGAIN_SECONDS
