"""The chunk that is open: what was staged since the last one became visible, and when it must close."""

from __future__ import annotations

import json
import re
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING

from service.domain.steps import ChunkRecord, Settlement
from sinks.base import Batch, Prepared
from workers.rejected import letter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.dead_letters import DeadLetter, Retried
    from service.domain.options import ChunkOptions
    from service.domain.records import Key
    from sinks.base import Receipt, RowRejected
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
    late: bool = False
    """Its rows are from behind the position, and do not move it."""
    rows: int = 0
    size: int = 0
    first_key: Key | None = None
    last_key: Key | None = None
    closes_at: float | None = None
    """Monotonic; set by the first row."""
    dead: list[DeadLetter] = field(default_factory=list)
    """Rows of the range that are not staged."""
    let_through: int = 0
    """Up to so many of them the store need not be asked whether they are too many."""

    @property
    def read(self) -> int:
        """Rows of the range, staged or not."""
        return self.rows + len(self.dead)

    @property
    def full(self) -> bool:
        """Rows or bytes are reached."""
        return self.read >= self.limits.rows or self.size >= self.limits.bytes

    @property
    def due(self) -> bool:
        """It is old enough."""
        return self.closes_at is not None and time.monotonic() >= self.closes_at

    @property
    def due_in(self) -> float | None:
        """Seconds until it is; None: nothing is in it."""
        return None if self.closes_at is None else max(0.0, self.closes_at - time.monotonic())

    def cut(self, page: Page, begin: int, most_rows: int | None) -> int:
        """Where the slice of `page` that begins at `begin` ends: within this chunk's limits, at least one row."""
        end = begin + min(SLICE_ROWS, most_rows or SLICE_ROWS, max(1, self.limits.rows - self.read))
        room = min(SLICE_BYTES, self.limits.bytes - self.size)
        totals = list(accumulate(map(len, page.values[begin:end])))
        return begin + min(bisect_left(totals, room) + 1, len(totals))

    def add(
        self, page: Page, begin: int, rows: Batch, now: float, refused: Mapping[int, RowRejected] | None = None
    ) -> None:
        """Account for `rows` of `page` from `begin` on, staged now but for those that were `refused`."""
        refused, end = refused or {}, begin + rows.rows
        self._begin(now)
        if self.first_key is None and len(refused) < end - begin:
            self.first_key = page.key(next(place for place in range(begin, end) if place - begin not in refused))
        self.rows += end - begin - len(refused)
        self.size += rows.size
        self.last_key = page.key(end - 1)
        self.dead += letters(page, begin, refused)

    def pass_over(self, dead: DeadLetter, now: float) -> None:
        """Account for a row that could not be read."""
        self._begin(now)
        self.dead.append(dead)
        self.last_key = dead.key

    def _begin(self, now: float) -> None:
        if self.closes_at is None:
            self.closes_at = now + self.limits.seconds


def letters(page: Page, begin: int, refused: Mapping[int, RowRejected]) -> list[DeadLetter]:
    """What is kept of the rows of a page that were refused, by their places behind `begin`, in the order of their
    keys."""
    keys = page.message_keys
    return [
        letter(page.key(at), error.code, error.message, page.values[at], None if keys is None else keys[at])
        for at, error in sorted(((begin + place, error) for place, error in refused.items()), key=itemgetter(0))
    ]


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
        b'["%s"]' % raw.replace(b"\t", b'","') if plain(raw) else canonical(page.key(index))
        for index, raw in enumerate(page.raw_keys[begin:end], begin)
    ]


def canonical(key: Key) -> bytes:
    """A key as `Batch.ids` has it."""
    return json.dumps(key, ensure_ascii=False, separators=(",", ":")).encode()


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


def to_record(prepared: Prepared, run_id: str, retried: Retried | None = None) -> ChunkRecord:
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
        retried=retried,
    )


def settlement(
    record: ChunkRecord,
    receipt: Receipt | None = None,
    scanned_to: Key | None = None,
    refused: Sequence[DeadLetter] = (),
) -> Settlement:
    """What becomes final with a try of a chunk."""
    return Settlement(
        chunk=record,
        refused=refused,
        scanned_to=scanned_to,
        partition=receipt.partition if receipt else None,
        first_offset=receipt.first_offset if receipt else None,
        last_offset=receipt.last_offset if receipt else None,
        etag=receipt.etag if receipt else None,
    )
