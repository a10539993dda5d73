"""Reads the HDFS sink's files back, for a verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sinks.contents import Decoding, gone
from sinks.reading import Flaw

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from sinks.base import Prepared
    from sinks.formats import Format
    from sinks.hdfs_client import WebHdfs
    from sinks.reading import Records, Wanted

_BLOCK: Final = 4 << 20
"""Each is a request of its own: nothing is left open while the other side is read."""
_WHAT: Final = "verifying"


class HdfsReader:
    """Promises of the methods: `sinks.reading.ContentReader`."""

    def __init__(self, client: WebHdfs, form: Format, wanted: Wanted) -> None:
        """The client is closed with the reader."""
        self._client = client
        self._decoding = Decoding(form, wanted, "hdfs-decode")

    async def contents(self, chunk: Prepared) -> AsyncGenerator[Records | Flaw]:
        """The records of the chunk's file."""
        found = await self._client.status(chunk.target, _WHAT)
        if found is None:
            yield gone(chunk)
            return
        if found.folder:
            yield Flaw("gone", chunk.target, chunk.bytes, None, "there is a folder with this name")
            return
        async for item in self._decoding.read(chunk, self._blocks(chunk.target, found.length)):
            yield item

    async def tokens(self, chunk: Prepared, records: list[bytes]) -> list[bytes | None]:
        """By the chunk's format."""
        return await self._decoding.tokens(chunk, records)

    async def close(self) -> None:
        """Give back thread and connections."""
        await self._decoding.close()
        await self._client.close()

    async def _blocks(self, path: str, length: int) -> AsyncIterator[bytes]:
        for offset in range(0, length, _BLOCK):
            yield await self._client.read(path, offset, min(_BLOCK, length - offset), _WHAT)
