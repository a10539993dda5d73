"""What a split with a window remembers of the keys it has read, and the looks back for rows that arrive late.

A look reads the keys that are there from the window's floor up to where the split has read, without their rows: a key
that is not remembered has arrived late. The next floor is the key with `options.late_window` rows above it, and what
lies at or below it is forgotten, so that each look covers what came since the last one, however fast the split reads.
In memory and in the store are at most twice that many keys (or those and `MOST_BETWEEN_LOOKS`), and a page's.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from service.domain.errors import RowsRejected
from service.domain.window import SeenKeys
from workers.chunks import canonical, row_ids
from workers.feed import unreadable
from workers.sources.page import TRUE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from service.domain.options import Options
    from service.domain.ports import StepStore
    from service.domain.records import Key
    from service.domain.steps import Lease, SplitState
    from service.domain.window import WindowState
    from workers.feed import Unreadable
    from workers.sources.base import Page, Reader, Source

PART_KEYS: Final = 1_000
"""Keys that are kept, and forgotten, together."""
MOST_BETWEEN_LOOKS: Final = 10_000
KEY_BYTES: Final = 150
"""Of a key in memory, with what the set and the list around it take."""
ASKED_TOGETHER: Final = 500
LOOKS_SHARE: Final = 10
"""After a look nobody looks again for so many times as long as it took: it is beside the reading, not instead of it."""


@dataclass(slots=True)
class _Part:
    number: int
    ids: list[bytes] = field(default_factory=list)
    sealed: bool = False
    """It is in the store, or on its way there with a chunk."""


class NoWindow:
    """Of a split that does not look back."""

    def add(self, page: Page, begin: int, end: int) -> None:
        """Nothing is remembered."""

    def add_key(self, key: Key) -> None:
        """Nothing is remembered."""

    def seal(self) -> Sequence[SeenKeys]:
        """Nothing is stored."""
        return ()


class Window:
    """Of one pass over the split, from what the store remembers."""

    def __init__(self, rows: int, state: WindowState, reader: Reader, source: Source, *, poll_seconds: float) -> None:
        """`rows`: `options.late_window`. Reader and source stay the caller's."""
        self.reader = reader
        self._rows, self._source, self._poll = rows, source, poll_seconds
        self._floor = self._stored_floor = state.floor
        self._parts = [_Part(one.number, unpacked([one]), sealed=True) for one in state.seen]
        self._seen = {one for part in self._parts for one in part.ids}
        self._number = state.next_number
        self._read = 0
        self._next_look = 0.0

    def __len__(self) -> int:
        """Keys in memory."""
        return len(self._seen)

    def add(self, page: Page, begin: int, end: int) -> None:
        """Rows of a page were read for the open chunk."""
        self._add(row_ids(page, begin, end))

    def add_key(self, key: Key) -> None:
        """A row was, that can not be read."""
        self._add([canonical(key)])

    def _add(self, ids: Sequence[bytes]) -> None:
        self._seen.update(ids)
        self._read += len(ids)
        for begin in range(0, len(ids), PART_KEYS):
            if not self._parts or self._parts[-1].sealed or len(self._parts[-1].ids) >= PART_KEYS:
                self._parts.append(_Part(self._number))
                self._number += 1
            self._parts[-1].ids += ids[begin : begin + PART_KEYS]

    def seal(self) -> Sequence[SeenKeys]:
        """What was read for the chunk that closes now, as it is stored with it."""
        fresh = [part for part in self._parts if not part.sealed]
        for part in fresh:
            part.sealed = True
        return [_packed(part.number, part.ids) for part in fresh]

    # -- looks ---------------------------------------------------------------------------------------------------

    def is_due(self, page: Page | None) -> bool:
        """After a page: enough was read since the last look, or walked over. With nothing more to read: it is time."""
        if page is None:
            return time.monotonic() >= self._next_look
        return self._read >= max(self._rows, MOST_BETWEEN_LOOKS) or not (page.values or page.end)

    async def look(self, upto: Key) -> list[Key]:
        """The keys up to `upto`, up to which everything was read, that are there and were not read, in order. Raises
        what a reader raises."""
        began = time.monotonic()
        late: list[Key] = []
        last: deque[bytes] = deque(maxlen=self._rows + 1)
        after = self._floor
        while True:
            page = await self.reader.keys(after, upto)
            ids = row_ids(page, 0, len(page.values))
            for place, (one, passes) in enumerate(zip(ids, page.values, strict=True)):
                if passes == TRUE and one not in self._seen:
                    late.append(page.key(place))
            last.extend(ids)
            if page.end:
                break
            after = page.key(len(page.values) - 1)
        if len(last) > self._rows:
            self._floor = key_of(last[0])
        self._read = 0
        now = time.monotonic()
        self._next_look = now + max(self._poll, LOOKS_SHARE * (now - began))
        return late

    async def forget(self, store: StepStore, lease: Lease) -> None:
        """Let go of what is behind the window, as far as it is worth it; no chunk may be prepared."""
        if self._floor is None or self._floor == self._stored_floor or len(self._seen) <= self._rows + PART_KEYS:
            return
        full = [part for part in self._parts if part.sealed or len(part.ids) >= PART_KEYS]
        behind = await self._source.at_or_below([key_of(part.ids[-1]) for part in full], self._floor)
        gone = [part for part, is_behind in zip(full, behind, strict=True) if is_behind]
        if not gone:
            return
        await store.move_window(lease, self._floor, [part.number for part in gone])
        self._stored_floor = self._floor
        numbers = {part.number for part in gone}
        self._parts = [part for part in self._parts if part.number not in numbers]
        for part in gone:
            self._seen.difference_update(part.ids)


def window_bytes(options: Options) -> int:
    """About what a window takes in memory."""
    return 0 if options.late_window is None else KEY_BYTES * (2 * max(options.late_window, MOST_BETWEEN_LOOKS))


def window_of(split: SplitState, options: Options, reader: Reader, source: Source) -> Window | NoWindow:
    """What the split remembers."""
    if split.window is None or options.late_window is None:
        return NoWindow()
    return Window(options.late_window, split.window, reader, source, poll_seconds=options.poll_seconds)


async def rows_among(reader: Reader, keys: Sequence[Key]) -> AsyncIterator[Page | Unreadable]:
    """The rows that have one of these keys, which are in order."""
    for start in range(0, len(keys), ASKED_TOGETHER):
        some, after = keys[start : start + ASKED_TOGETHER], None
        while True:
            try:
                page = await reader.among(some, after)
            except RowsRejected as error:
                refused = unreadable(error)
                after = refused.key
                yield refused
                continue
            if page.values:
                yield page
            if page.end:
                break
            after = page.scanned_to or after


def packed(ids: Sequence[bytes], number: int) -> list[SeenKeys]:
    """Keys as they are stored with a chunk, in parts numbered from `number` on."""
    starts = range(0, len(ids), PART_KEYS)
    return [_packed(number + place, ids[start : start + PART_KEYS]) for place, start in enumerate(starts)]


def _packed(number: int, ids: Sequence[bytes]) -> SeenKeys:
    # No canonical key holds a line end.
    return SeenKeys(number, key_of(ids[-1]), len(ids), zlib.compress(b"\n".join(ids), 1))


def unpacked(parts: Iterable[SeenKeys]) -> list[bytes]:
    """The keys of stored parts, as `row_ids` writes them."""
    return [one for part in parts for one in zlib.decompress(part.packed).split(b"\n")]


def key_of(row_id: bytes) -> Key:
    """The key that `row_ids` wrote."""
    return tuple(json.loads(row_id))
