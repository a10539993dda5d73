"""Record batches: rows packed as Kafka's message format v2, compressed outside the event loop, sealed when sent.

Packing and checksums are aiokafka's C code, a quarter of a microsecond a row. The format is
https://kafka.apache.org/documentation/#recordbatch: 61 bytes of header, then the records; compression covers the
records alone, the checksum everything from the attributes on.
"""

from __future__ import annotations

import asyncio
import gzip
import struct
from typing import TYPE_CHECKING, Any

from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sinks.specs import Compression

HEADER_BYTES = 61
_LENGTH_AT, _CRC_AT, _ATTRIBUTES_AT, _PRODUCER_AT = 8, 17, 21, 43
_AFTER_LENGTH = 12
_GZIP_LEVEL = 6


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, _GZIP_LEVEL, mtime=0)


_CODECS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, _gzip),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    "zstd": (4, zstd_encode),
}
"""Bits of the attributes, and the encoder."""


class RecordBatch:
    """Rows for one partition, growing until `finish`, then fixed: what is sent again is the same bytes."""

    __slots__ = ("_builder", "_codec", "_finished", "_packing", "buffer", "raw_bytes", "rows")

    def __init__(self, limit: int, compression: Compression, *, transactional: bool) -> None:
        self._builder = DefaultRecordBatchBuilder(2, 0, int(transactional), -1, -1, 0, limit)
        self._codec = _CODECS.get(compression)
        self._finished = False
        self._packing: asyncio.Future[bytearray] | None = None
        self.buffer: bytearray | None = None
        self.rows = 0
        self.raw_bytes = HEADER_BYTES

    def fill(
        self,
        keys: Sequence[bytes | None] | None,
        values: Sequence[bytes],
        indexes: Sequence[int],
        start: int,
        headers: list[tuple[str, bytes | None]],
        timestamp: int,
    ) -> int:
        """
        Append rows `indexes[start:]` of the columns until one does not fit; returns where to go on.

        An empty value is a tombstone.

        The first row of a batch always fits: whoever calls looks at `raw_bytes` when it returns with one row.
        """
        if self._finished:
            return start
        append = self._builder.append
        offset, at = self.rows, start
        for at in range(start, len(indexes)):
            index = indexes[at]
            if (
                append(offset, timestamp, keys[index] if keys is not None else None, values[index] or None, headers)
                is None
            ):
                break
            offset += 1
        else:
            at = len(indexes)
        self.rows = offset
        self.raw_bytes = self._builder.size()
        return at

    def finish(self) -> None:
        """No more rows; compression begins in a thread. May be called twice."""
        if self._codec is not None and not self._finished:
            self._packing = asyncio.ensure_future(asyncio.to_thread(self._compress))
        self._finished = True

    async def packed_bytes(self) -> int:
        """The size as it will be sent; no more rows after this."""
        self.finish()
        return self.raw_bytes if self._packing is None else len(await self._packed())

    async def seal(self, producer_id: int, producer_epoch: int, sequence: int) -> None:
        """Fix producer and sequence; `buffer` then holds the bytes to send, the same for every try."""
        if self.buffer is not None:
            return
        if self._packing is None:
            self._builder.set_producer_state(producer_id, producer_epoch, sequence)
            self.buffer = self._builder.build()
            return
        packed = await self._packed()
        struct.pack_into(">qhi", packed, _PRODUCER_AT, producer_id, producer_epoch, sequence)
        struct.pack_into(">I", packed, _CRC_AT, calc_crc32c(packed[_ATTRIBUTES_AT:]))
        self.buffer = packed

    def drop(self) -> None:
        """Forget the compression that is under way."""
        if self._packing is not None:
            self._packing.cancel()

    async def _packed(self) -> bytearray:
        assert self._packing is not None
        return await asyncio.shield(self._packing)

    def _compress(self) -> bytearray:
        assert self._codec is not None
        attributes, encode = self._codec
        raw: Any = self._builder.build()
        body = encode(bytes(memoryview(raw)[HEADER_BYTES:]))
        if len(body) + HEADER_BYTES >= len(raw):
            return bytearray(raw)
        packed = bytearray(memoryview(raw)[:HEADER_BYTES])
        packed += body
        struct.pack_into(">i", packed, _LENGTH_AT, len(packed) - _AFTER_LENGTH)
        (flags,) = struct.unpack_from(">h", packed, _ATTRIBUTES_AT)
        struct.pack_into(">h", packed, _ATTRIBUTES_AT, flags | attributes)
        return packed
