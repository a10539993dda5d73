"""Reads the S3 sink's objects back, for a verification."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from sinks.contents import Decoding, gone
from sinks.s3_errors import from_exception

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from sinks.base import Prepared
    from sinks.formats import Format
    from sinks.reading import Flaw, Records, Wanted
    from sinks.s3_client import S3Client

_BLOCK: Final = 1 << 20
_OPERATION: Final = "GetObject"
_MISSING: Final = frozenset({"NoSuchKey", "404"})


class S3Reader:
    """Promises of the methods: `sinks.reading.ContentReader`. The connections are the sink's."""

    def __init__(self, client: S3Client, form: Format, wanted: Wanted) -> None:
        self._client = client
        self._decoding = Decoding(form, wanted, "s3-decode")

    async def contents(self, chunk: Prepared) -> AsyncGenerator[Records | Flaw]:
        """The records of the chunk's object."""
        try:
            found = await self._client.try_call(_OPERATION, Key=chunk.target)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in _MISSING:
                raise from_exception(self._client.place, _OPERATION, error) from error
            yield gone(chunk)
            return
        body = found["Body"]
        try:
            async for item in self._decoding.read(chunk, self._blocks(body)):
                yield item
        finally:
            # Not read to its end, the connection is of no use to the next call.
            body.close()

    async def tokens(self, chunk: Prepared, records: list[bytes]) -> list[bytes | None]:
        """By the chunk's format."""
        return await self._decoding.tokens(chunk, records)

    async def close(self) -> None:
        """Give the thread back."""
        await self._decoding.close()

    async def _blocks(self, body: Any) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._client.patience):
                    block = await body.read(_BLOCK)
            except Exception as error:
                raise from_exception(self._client.place, _OPERATION, error) from error
            if not block:
                return
            yield block
