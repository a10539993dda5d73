"""Record batches: rows packed as Kafka's message format v2, compressed outside the event loop, sealed when sent.

The format is https://kafka.apache.org/documentation/#recordbatch: 61 bytes of header, then the records; compression
covers the records alone, the checksum everything from the attributes on.
"""

from __future__ import annotations

import asyncio
import gzip
import struct
from typing import TYPE_CHECKING

import google_crc32c
from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode

from sinks.kafka_records import pack, packed_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sinks.specs import Compression

HEADER_BYTES = 61
_FRONT = struct.Struct(">qiibI")
"""First offset and leader's epoch (both the broker's to say) around the bytes that follow, format, checksum."""
_REST = struct.Struct(">hiqqqhii")
"""Attributes, last place, first and largest timestamp, producer's id and epoch, sequence of the first, rows."""
_BEFORE_LENGTH = 12
_FORMAT = 2
_NO_EPOCH = -1
_TRANSACTIONAL = 0x10
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

    __slots__ = (
        *("_attributes", "_codec", "_finished", "_first_time", "_last_time", "_limit", "_packing", "_records"),
        *("buffers", "raw_bytes", "rows"),
    )

    def __init__(self, limit: int, compression: Compression, *, transactional: bool) -> None:
        self._limit = limit
        self._attributes = _TRANSACTIONAL if transactional else 0
        self._codec = _CODECS.get(compression)
        self._finished = False
        self._packing: asyncio.Future[tuple[int, bytes]] | None = None
        self._records: list[bytes] = []
        self._first_time = self._last_time = -1
        self.buffers: tuple[bytes, ...] | None = None
        """What is sent, one after the other; None until it is sealed."""
        self.rows = 0
        self.raw_bytes = HEADER_BYTES

    def fill(
        self,
        keys: Sequence[bytes | None] | None,
        values: Sequence[bytes],
        indexes: Sequence[int],
        start: int,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp: int,
    ) -> int:
        """
        Append rows `indexes[start:]` of the columns until one may not fit; returns where to go on.

        The first row of a batch always fits: whoever calls looks at `raw_bytes` when it returns with one row.
        """
        if self._finished or start == len(indexes):
            return start
        if self._first_time < 0:
            self._first_time = timestamp
        self._last_time = max(self._last_time, timestamp)
        tail = packed_headers(tuple(headers))
        keys, values = _picked(keys, values, indexes, start)
        done = 0
        while done < len(values):
            count, records = pack(
                values[done:] if done else values,
                keys if keys is None or not done else keys[done:],
                tail,
                place=self.rows,
                delay=timestamp - self._first_time,
                room=self._limit - self.raw_bytes,
            )
            if count == 0:
                break
            self._records.append(records)
            self.rows += count
            self.raw_bytes += len(records)
            done += count
        return start + done

    def finish(self) -> None:
        """No more rows; compression begins in a thread. May be called twice."""
        if self._codec is not None and not self._finished:
            self._packing = asyncio.ensure_future(asyncio.to_thread(self._compress))
        self._finished = True

    async def packed_bytes(self) -> int:
        """The size as it will be sent; no more rows after this."""
        self.finish()
        return self.raw_bytes if self._packing is None else HEADER_BYTES + len((await self._packed())[1])

    async def seal(self, producer_id: int, producer_epoch: int, sequence: int) -> None:
        """Fix producer and sequence; `buffers` then hold the bytes to send, the same for every try."""
        if self.buffers is not None:
            return
        attributes, bodies = self._attributes, self._records
        if self._packing is not None:
            attributes, packed = await self._packed()
            bodies = [packed]
        rest = _REST.pack(
            *(attributes, self.rows - 1, self._first_time, self._last_time),
            *(producer_id, producer_epoch, sequence, self.rows),
        )
        checksum = google_crc32c.value(rest)
        for body in bodies:
            checksum = google_crc32c.extend(checksum, body)
        follows = HEADER_BYTES - _BEFORE_LENGTH + sum(map(len, bodies))
        self.buffers = (_FRONT.pack(0, follows, _NO_EPOCH, _FORMAT, checksum) + rest, *bodies)

    def drop(self) -> None:
        """Forget the compression that is under way."""
        if self._packing is not None:
            self._packing.cancel()

    async def _packed(self) -> tuple[int, bytes]:
        assert self._packing is not None
        return await asyncio.shield(self._packing)

    def _compress(self) -> tuple[int, bytes]:
        """Attributes and records; as they are where compression does not make them smaller."""
        assert self._codec is not None
        bits, encode = self._codec
        raw = b"".join(self._records)
        packed = encode(raw)
        return (self._attributes | bits, packed) if len(packed) < len(raw) else (self._attributes, raw)


def _picked(
    keys: Sequence[bytes | None] | None, values: Sequence[bytes], indexes: Sequence[int], start: int
) -> tuple[Sequence[bytes | None] | None, Sequence[bytes]]:
    """The rows `indexes[start:]` alone."""
    wanted = indexes[start:]
    if isinstance(wanted, range) and wanted.step == 1:
        rows = slice(wanted.start, wanted.stop)
        return None if keys is None else keys[rows], values[rows]
    return None if keys is None else [keys[index] for index in wanted], [values[index] for index in wanted]
