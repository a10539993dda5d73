"""One chunk compared: the source's rows of its key range beside what the sink holds of it, read in turns."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from service.domain.errors import Stopped
from sinks.base import Batch
from sinks.reading import ContentReader, Flaw, tombstone
from workers.chunks import row_ids, to_prepared
from workers.matching import FIRST, Matching, TooMany
from workers.sources.page import decode_key
from workers.verdicts import Seen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from service.domain.control import Control
    from service.domain.records import Key
    from service.domain.steps import ChunkRecord
    from sinks.base import Prepared
    from sinks.reading import KeyReader, Records, Wanted
    from workers.sources.base import Page, Source

PAGE_ROWS: Final = 10_000
"""Rows of one side that may be waiting for the other before it is that one's turn."""
LOOK_UP_ROWS: Final = 1_000
MORE_PARTS: Final = 8


class Comparison:
    """Of one pass over a generation; used by one task."""

    def __init__(
        self,
        reader: ContentReader | KeyReader,
        source: Source,
        wanted: Wanted,
        control: Control,
        rate: Callable[[int, int], Awaitable[None]],
        *,
        newest: bool,
    ) -> None:
        """`source` gives the key's columns alone, or with `wanted.values` the whole rows. `newest`: no later generation
        of the job may have put rows over what is compared."""
        self._reader, self._source, self._wanted = reader, source.reader(), wanted
        self._control, self._rate, self._newest = control, rate, newest

    read_key = staticmethod(decode_key)

    @staticmethod
    def read_token(token: bytes) -> Key:
        """A token as the texts of its columns, or the message key of a row that is gone."""
        if token.startswith(tombstone(None)):
            return (token.removeprefix(tombstone(None)).decode("utf-8", "replace"),)
        return tuple(one if isinstance(one, str) else json.dumps(one) for one in json.loads(token))

    async def counted(self, chunk: ChunkRecord) -> Seen:
        """What the sink shows of a chunk that a retry of dead letters sent: its rows have no range in the source, so
        they are counted."""
        seen = Seen(keyed=False, source=chunk.rows, sink=chunk.rows)
        if isinstance(self._reader, ContentReader):
            seen.sink = 0
            async with aclosing(self._reader.contents(to_prepared(chunk))) as contents:
                async for item in contents:
                    if isinstance(item, Flaw):
                        seen.flaws.append(item)
                    else:
                        seen.sink += item.rows
        return seen

    async def chunk(self, chunk: ChunkRecord, dead: frozenset[Key], *, forgotten: int = 0) -> Seen:
        """What both sides show of it; `dead` are its dead letters, which nobody misses, and `forgotten` those that were
        sent or deleted since, whose keys nobody knows."""
        seen = await self._seen(chunk, dead, forgotten)
        seen.forgotten = forgotten
        return seen

    async def _seen(self, chunk: ChunkRecord, dead: frozenset[Key], forgotten: int) -> Seen:
        prepared = to_prepared(chunk)
        if isinstance(self._reader, ContentReader):
            parts = 1
            while True:
                try:
                    return await self._listed(self._reader, prepared, dead, parts)
                except TooMany:
                    parts *= MORE_PARTS
        return await self._looked_up(self._reader, prepared, dead, forgotten)

    async def count(self, lower: Key | None, upper: Key) -> tuple[list[Key], int]:
        """The first keys of a range of the source, and how many there are."""
        keys: list[Key] = []
        count = 0
        async for page in self._pages(lower, upper):
            keys += [page.key(index) for index in range(min(len(page.values), FIRST - len(keys)))]
            count += len(page.values)
        return keys, count

    # -- a target that lists its records --------------------------------------------------------------------------

    async def _listed(self, reader: ContentReader, chunk: Prepared, dead: frozenset[Key], parts: int) -> Seen:
        seen = Seen(keyed=self._wanted.key is not None)
        for part in range(parts):
            matching = Matching(parts, part)
            now = Seen(seen.keyed)
            await _InTurns(self, matching, now, dead, chunk).run(reader)
            if seen.keyed:
                doubled = await self._known(reader, matching, chunk) if matching.lonely else set()
                matching.end(seen.left, doubled)
            seen.source, seen.sink, seen.flaws = now.source, now.sink, now.flaws
        return seen

    async def _known(self, reader: ContentReader, matching: Matching, chunk: Prepared) -> set[bytes]:
        known: set[bytes] = set()
        async for page in self._pages(chunk.lower, chunk.last_key):
            known |= matching.known(await tokens(reader, chunk, page))
        return known

    async def pages(self, chunk: Prepared, dead: frozenset[Key]) -> AsyncGenerator[Page]:
        """The source's rows of a chunk, without its dead letters."""
        async for page in self._pages(chunk.lower, chunk.last_key):
            if dead:
                kept = [index for index in range(len(page.values)) if page.key(index) not in dead]
                page.values = [page.values[index] for index in kept]
                page.raw_keys = [page.raw_keys[index] for index in kept]
                if page.message_keys is not None:
                    page.message_keys = [page.message_keys[index] for index in kept]
            yield page

    @property
    def compares_values(self) -> bool:
        """Whether whole records are compared."""
        return self._wanted.values

    # -- a target that is asked by key ----------------------------------------------------------------------------

    async def _looked_up(self, reader: KeyReader, chunk: Prepared, dead: frozenset[Key], forgotten: int) -> Seen:
        seen = Seen(keyed=True, by_key=True)
        sent_again = 0
        async for page in self.pages(chunk, dead):
            seen.source += len(page.values)
            for begin in range(0, len(page.values), LOOK_UP_ROWS):
                end = min(begin + LOOK_UP_ROWS, len(page.values))
                routing = None if page.message_keys is None else page.message_keys[begin:end]
                rows = Batch(page.values[begin:end], routing, row_ids(page, begin, end))
                standings = await reader.look_up(chunk, rows)
                if isinstance(standings, Flaw):
                    if not seen.flaws:
                        seen.flaws.append(standings)
                    standings = ()
                for offset in range(end - begin):
                    standing = standings[offset] if standings else None
                    if standing is None or not standing.there:
                        seen.left.source.add(page.raw_keys[begin + offset])
                        continue
                    if standing.flaw is not None and standing.flaw.kind == "foreign" and sent_again < forgotten:
                        # A dead letter that a retry has sent, under that one's version.
                        sent_again += 1
                        seen.source -= 1
                        continue
                    seen.sink += 1
                    if standing.flaw is not None and (self._newest or standing.flaw.kind != "foreign"):
                        seen.add_odd(page.raw_keys[begin + offset], standing.flaw)
        return seen

    async def _pages(self, lower: Key | None, upper: Key) -> AsyncGenerator[Page]:
        after = lower
        while True:
            if self._control.stopping:
                raise Stopped
            page = await self._source.read(after, upper, max_rows=PAGE_ROWS)
            if page.values:
                await self._rate(len(page.values), page.size)
                yield page
            if page.end:
                return
            after = page.scanned_to or after


async def tokens(reader: ContentReader, chunk: Prepared, page: Page) -> list[bytes | None]:
    """The tokens of a page of the source; a row that is gone has that of its message key."""
    found = await reader.tokens(chunk, page.values)
    if page.message_keys is None or all(page.values):
        return found
    rows = zip(found, page.values, page.message_keys, strict=True)
    return [token if value else tombstone(key) for token, value, key in rows]


class _InTurns:
    """Reads whichever side is behind."""

    def __init__(
        self, comparison: Comparison, matching: Matching, seen: Seen, dead: frozenset[Key], chunk: Prepared
    ) -> None:
        self._comparison, self._matching, self._seen = comparison, matching, seen
        self._dead, self._chunk = dead, chunk

    async def run(self, reader: ContentReader) -> None:
        """Until both are at their end."""
        async with (
            aclosing(reader.contents(self._chunk)) as contents,
            aclosing(self._comparison.pages(self._chunk, self._dead)) as pages,
        ):
            more_pages = more_records = True
            while more_pages or more_records:
                if more_pages and (not more_records or self._seen.source <= self._seen.sink):
                    page = await anext(pages, None)
                    more_pages = page is not None
                    if page is not None:
                        await self._take_page(page, reader)
                else:
                    item = await anext(contents, None)
                    more_records = item is not None
                    if item is not None:
                        self._take(item)

    async def _take_page(self, page: Page, reader: ContentReader) -> None:
        self._seen.source += len(page.values)
        if self._seen.keyed:
            found = await tokens(reader, self._chunk, page)
            self._matching.source(found, page.raw_keys, page.values if self._comparison.compares_values else None)

    def _take(self, item: Records | Flaw) -> None:
        if isinstance(item, Flaw):
            self._seen.flaws.append(item)
            return
        self._seen.sink += item.rows
        if self._seen.keyed and item.keys is not None:
            self._matching.sink(item.keys, item.values)
