"""The chunk that is open: what was staged since the last one became visible, and when it must close."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from service.domain.records import ChunkRecord, Settlement
from sinks.base import Batch, Prepared

if TYPE_CHECKING:
    from service.domain.records import Key
    from service.domain.spec import ChunkOptions
    from sinks.base import Receipt
    from workers.sources.base import Page

_PLAIN = re.compile(rb'[^\x00-\x08\x0a-\x1f"\\]*')
"""Key columns as COPY writes them, a tab between two, that stand in JSON as they are."""
SLICE_ROWS = 4096
SLICE_BYTES = 1024 * 1024
"""A page is handed over in slices, so that a stop is heard and the event loop is free in between."""


@dataclass(slots=True)
class OpenChunk:
    """Counts what is staged. Closes on rows, bytes or seconds, whichever comes first."""

    limits: ChunkOptions
    lower: Key | None
    """The position it begins after."""
    rows: int = 0
    size: int = 0
    first_key: Key | None = None
    last_key: Key | None = None
    closes_at: float | None = None
    """Monotonic; set by the first row."""

    @property
    def full(self) -> bool:
        """Rows or bytes are reached."""
        return self.rows >= self.limits.rows or self.size >= self.limits.bytes

    def cut(self, page: Page, begin: int, most_rows: int | None) -> int:
        """Where the slice of `page` that begins at `begin` ends: within this chunk's limits, at least one row."""
        end = begin + min(SLICE_ROWS, most_rows or SLICE_ROWS, max(1, self.limits.rows - self.rows))
        room = min(SLICE_BYTES, self.limits.bytes - self.size)
        totals = list(accumulate(map(len, page.values[begin:end])))
        return begin + min(bisect_left(totals, room) + 1, len(totals))

    def add(self, page: Page, begin: int, end: int, now: float) -> None:
        """Account for rows `begin` to `end` of `page`, staged now."""
        if self.first_key is None:
            self.first_key = page.key(begin)
            self.closes_at = now + self.limits.seconds
        self.rows += end - begin
        self.size += sum(map(len, page.values[begin:end]))
        self.last_key = page.key(end - 1)


def batch(page: Page, begin: int, end: int, *, with_ids: bool = False) -> Batch:
    """Rows `begin` to `end` of a page as the sink takes them; `with_ids` where it puts rows by their key."""
    ids = row_ids(page, begin, end) if with_ids else None
    if begin == 0 and end == len(page.values):
        return Batch(page.values, page.message_keys, ids)
    return Batch(page.values[begin:end], None if page.message_keys is None else page.message_keys[begin:end], ids)


def row_ids(page: Page, begin: int, end: int) -> list[bytes]:
    """The keys of rows `begin` to `end` as `Batch.ids`: one text for one key, whatever way it was read."""
    plain = _PLAIN.fullmatch
    return [
        b'["%s"]' % raw.replace(b"\t", b'","')
        if plain(raw)
        else json.dumps(page.key(index), ensure_ascii=False, separators=(",", ":")).encode()
        for index, raw in enumerate(page.raw_keys[begin:end], begin)
    ]


def to_prepared(record: ChunkRecord) -> Prepared:
    """The stored try as the sink knows it."""
    return Prepared(
        sequence=record.sequence,
        epoch=record.epoch,
        attempt=record.attempt,
        rows=record.rows,
        bytes=record.bytes,
        first_key=record.first_key,
        last_key=record.last_key,
        lower=record.lower,
        target=record.target,
        checksum=record.checksum,
        details=dict(record.details),
    )


def to_record(prepared: Prepared, run_id: str) -> ChunkRecord:
    """What the sink prepared, as the store keeps it."""
    return ChunkRecord(
        sequence=prepared.sequence,
        epoch=prepared.epoch,
        attempt=prepared.attempt,
        rows=prepared.rows,
        bytes=prepared.bytes,
        first_key=prepared.first_key,
        last_key=prepared.last_key,
        lower=prepared.lower,
        target=prepared.target,
        checksum=prepared.checksum,
        details=prepared.details,
        run_id=run_id,
    )


def settlement(record: ChunkRecord, receipt: Receipt | None = None, scanned_to: Key | None = None) -> Settlement:
    """What becomes final with a try of a chunk."""
    return Settlement(
        chunk=record,
        rows_read=record.rows,
        scanned_to=scanned_to,
        partition=receipt.partition if receipt else None,
        first_offset=receipt.first_offset if receipt else None,
        last_offset=receipt.last_offset if receipt else None,
        etag=receipt.etag if receipt else None,
    )
