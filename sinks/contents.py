"""Reading files and objects back: bytes in, records and flaws out. What sinks of files and objects share."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Final

from sinks import tries
from sinks.formats.decoding import Damaged, decoder, source_tokens
from sinks.lanes import Lane
from sinks.reading import Flaw, Records

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from sinks.base import Prepared
    from sinks.formats import Format
    from sinks.formats.decoding import Decoder, ParquetDecoder, ZipDecoder
    from sinks.reading import Wanted

LEAVING: Final = 0.2
DECODING_SECONDS: Final = 120.0
"""For a block of a megabyte: far more than it takes, so that a lost thread is noticed."""


class Decoding:
    """Turns the bytes of chunks into what a verification wants; one thread for all of a reader's chunks."""

    def __init__(self, form: Format, wanted: Wanted, name: str) -> None:
        """`form` is what the definition says: a chunk's own record knows better."""
        self._form, self._wanted = form, wanted
        self._lane = Lane(name)

    async def read(self, chunk: Prepared, blocks: AsyncIterator[bytes]) -> AsyncGenerator[Records | Flaw]:
        """The records of `blocks`, then whatever is wrong with their size and checksum."""
        file = _File(decoder(tries.format_of(chunk, self._form), self._wanted))
        async for block in blocks:
            for records in await self._lane.run(partial(file.feed, block), DECODING_SECONDS):
                yield records
        more = await self._lane.run(file.begin_end, DECODING_SECONDS)
        while more:
            for records in more:
                yield records
            more = await self._lane.run(file.more, DECODING_SECONDS)
        if file.size != chunk.bytes:
            yield Flaw("checksum", chunk.target, chunk.bytes, file.size, file.damage or "another size")
        elif file.checksum != chunk.checksum or file.damage:
            yield Flaw("checksum", chunk.target, chunk.checksum, file.checksum, file.damage or "another checksum")

    async def tokens(self, chunk: Prepared, records: list[bytes]) -> list[bytes | None]:
        """See `sinks.reading.ContentReader`."""
        form = tries.format_of(chunk, self._form)
        return await self._lane.run(partial(source_tokens, form, records, self._wanted), DECODING_SECONDS)

    async def close(self) -> None:
        """Give the thread back."""
        await self._lane.close(LEAVING)


class _File:
    """The thread's side of one chunk."""

    def __init__(self, reading: Decoder | ZipDecoder | ParquetDecoder) -> None:
        self._decoder = reading
        self._digest = hashlib.sha256()
        self._end: Iterator[Records] = iter(())
        self.size = 0
        self.damage = ""

    @property
    def checksum(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def feed(self, block: bytes) -> list[Records]:
        self._digest.update(block)
        self.size += len(block)
        return [] if self.damage else self._taken(self._decoder.feed(block))

    def begin_end(self) -> list[Records]:
        self._end = iter(()) if self.damage else self._decoder.end()
        return self.more()

    def more(self) -> list[Records]:
        """The next slice of what the end gives: a format may tell everything there."""
        return self._taken(self._end, most=1)

    def _taken(self, records: Iterator[Records], most: int | None = None) -> list[Records]:
        taken: list[Records] = []
        try:
            for one in records:
                taken.append(one)
                if most is not None and len(taken) >= most:
                    break
        except Damaged as error:
            self.damage = str(error)
        return taken


def gone(chunk: Prepared) -> Flaw:
    """There is nothing with the chunk's name."""
    return Flaw("gone", chunk.target, chunk.bytes, None, "there is nothing with this name")
