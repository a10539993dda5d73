"""Rows into record batches: which partition, how large, and which row is too large for the topic."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sinks.base import RowRejected
from sinks.kafka_batches import HEADER_BYTES, RecordBatch
from sinks.murmur2 import partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.base import Batch
    from sinks.kafka_client import Topic
    from sinks.kafka_producer import Producer
    from sinks.specs import KafkaSinkSpec

TARGET_BYTES = 1024 * 1024
"""Batches grow up to this, or to the topic's limit where that is lower."""
OPEN_BYTES = 4 * 1024 * 1024
"""What the growing batches of all partitions may hold together."""
DEFAULT_MESSAGE_BYTES = 1_048_588
"""Kafka's default of `max.message.bytes`, for topics whose settings we may not read."""
_SMALLEST_BATCH = 1024
_RECORD_BYTES, _HEADER = 50, 10
"""More than a record, and each of its headers, takes beside texts and values: all of it is variable integers."""
_SLICE = 2048


@dataclass(slots=True)
class Sizes:
    """What the topic takes, and what was learned from its refusals; shared by all writers of a sink."""

    message_bytes: int = DEFAULT_MESSAGE_BYTES
    """The topic's `max.message.bytes`: it counts the batch as the broker stores it."""
    stored_as_sent: bool = True
    """False where the topic's own compression.type differs: then only the uncompressed size is a safe bound."""
    batch_bytes: int = TARGET_BYTES
    refused_row_bytes: int | None = None
    """The smallest row, uncompressed, that the broker refused though the topic's limit seemed to allow it."""

    @property
    def target(self) -> int:
        """Uncompressed bytes that a batch of several rows may reach: a row that is too large is alone in its own."""
        refused = self.refused_row_bytes or self.batch_bytes + 1
        return min(self.batch_bytes, self.message_bytes, refused - 1)

    def learn(self, batch: RecordBatch) -> None:
        """The broker refused the size of this batch: halve, or remember the row, which is found before sending."""
        if batch.rows > 1:
            self.batch_bytes = max(_SMALLEST_BATCH, min(self.target, batch.raw_bytes) // 2)
        else:
            self.refused_row_bytes = min(batch.raw_bytes, self.refused_row_bytes or batch.raw_bytes)


class Stage:
    """
    The batches that are growing, one a partition.

    With keys, the partition is the one where Kafka's Java client puts the key. Rows without a key fill one batch
    after another, and the batches go round the partitions that have a leader. Rows of one partition keep their
    order.
    """

    def __init__(self, spec: KafkaSinkSpec, topic: Topic, sizes: Sizes, producer: Producer) -> None:
        self._compression = spec.compression
        self._transactional = spec.delivery == "exactly_once"
        self._headers: list[tuple[str, bytes | None]] = [(name, text.encode()) for name, text in spec.headers.items()]
        self._topic, self._sizes, self._producer = topic, sizes, producer
        self._growing: dict[int | None, RecordBatch] = {}
        self._growing_bytes = 0
        self._turn = 0
        self.bytes = 0
        """Key and value bytes since the last `flush`."""

    async def add(self, batch: Batch) -> None:
        """Pack the rows, handing full batches to the producer; RowRejected names the rows that are too large, before
        any of the batch was packed."""
        await self._refuse_too_large(batch)
        self.bytes += batch.size
        if batch.keys is not None:
            self.bytes += sum(len(key) for key in batch.keys if key is not None)
        timestamp = int(time.time() * 1000)
        for start in range(0, batch.rows, _SLICE):
            groups = self._spread(batch.keys, range(start, min(start + _SLICE, batch.rows)))
            for partition, indexes in groups.items():
                await self._fill(partition, batch, indexes, timestamp)
            # Packing is quick but not free: heartbeats and other splits get their turn.
            await asyncio.sleep(0)

    async def flush(self) -> int:
        """Send what is growing and wait for every acknowledgement; the bytes since the last time."""
        await self._hand_over()
        await self._producer.flush()
        staged, self.bytes = self.bytes, 0
        return staged

    def _spread(self, keys: list[bytes | None] | None, rows: range) -> dict[int | None, Sequence[int]]:
        count = len(self._topic.partitions)
        if count == 1:
            return {0: rows}
        if keys is None:
            return {None: rows}
        groups: dict[int | None, list[int]] = {}
        for index in rows:
            key = keys[index]
            partition = None if key is None else partition_of(key, count)
            groups.setdefault(partition, []).append(index)
        return dict(groups)

    async def _fill(self, partition: int | None, batch: Batch, indexes: Sequence[int], timestamp: int) -> None:
        at = 0
        while at < len(indexes):
            growing = self._growing.get(partition)
            if growing is None:
                growing = RecordBatch(self._sizes.target, self._compression, transactional=self._transactional)
                self._growing[partition] = growing
                self._growing_bytes += growing.raw_bytes
            before = growing.raw_bytes
            at = growing.fill(batch.keys, batch.values, indexes, at, self._headers, timestamp)
            self._growing_bytes += growing.raw_bytes - before
            if at < len(indexes):
                await self._send(partition)
        if self._growing_bytes > OPEN_BYTES:
            await self._hand_over()

    async def _refuse_too_large(self, batch: Batch) -> None:
        sizes, keys = self._sizes, batch.keys
        limit = min(sizes.message_bytes, (sizes.refused_row_bytes or sizes.message_bytes + 1) - 1)
        room = (
            limit
            - HEADER_BYTES
            - _RECORD_BYTES
            - sum(len(n.encode()) + len(v or b"") + _HEADER for n, v in self._headers)
        )
        if keys is None and max(map(len, batch.values), default=0) <= room:
            large = []
        elif keys is None:
            large = [index for index, value in enumerate(batch.values) if len(value) > room]
        else:
            large = [
                i for i, (k, v) in enumerate(zip(keys, batch.values, strict=True)) if len(v) + len(k or b"") > room
            ]
        refused = [error for index in large if (error := await self._judged(batch, index)) is not None]
        if refused:
            first = refused[0]
            raise RowRejected(first.code, first.message, first.index, others=refused[1:])

    async def _judged(self, batch: Batch, index: int) -> RowRejected | None:
        """What is wrong with the size of one row, packed as it would be if it were alone."""
        sizes, limit = self._sizes, self._sizes.message_bytes
        alone = RecordBatch(sizes.target, self._compression, transactional=self._transactional)
        alone.fill(batch.keys, batch.values, [index], 0, self._headers, 0)
        size = alone.raw_bytes
        if sizes.refused_row_bytes is not None and size >= sizes.refused_row_bytes:
            limit = sizes.refused_row_bytes - 1
        elif size > limit and self._compression != "none" and sizes.stored_as_sent:
            size = await alone.packed_bytes()
        if size <= limit:
            return None
        return RowRejected(
            "row_too_large",
            f"the row makes a message of {size} bytes, topic {self._topic.name!r} takes {limit}: raise the "
            "topic's max.message.bytes, or leave the large columns out.",
            index,
        )

    async def _send(self, partition: int | None) -> None:
        batch = self._growing.pop(partition)
        self._growing_bytes -= batch.raw_bytes
        if batch.rows:
            await self._producer.put(batch, self._next_in_turn() if partition is None else partition)

    async def _hand_over(self) -> None:
        for partition in list(self._growing):
            await self._send(partition)

    def _next_in_turn(self) -> int:
        numbers = sorted(self._topic.partitions)
        led = [number for number in numbers if self._topic.partitions[number].leader >= 0] or numbers
        self._turn += 1
        return led[(self._turn - 1) % len(led)]
