"""One lane a partition: batches in order, a few on the way at once, sent again until the broker has them.

Order over retries rests on Kafka's sequence numbers: the broker refuses a batch whose predecessor it does not
have and recognises one that it has (https://kafka.apache.org/documentation/#semantics). When one batch of the
window fails, its successors are waited for and then all that were not acknowledged go again, one by one, with
the same bytes and numbers.

A broker that knows nothing of the producer takes any number for its first (KIP-360): of several batches on the way to
a partition that has no leader yet, the first may be refused and the second taken, and then the first can never follow
(tried: OUT_OF_ORDER_SEQUENCE_NUMBER on a topic just made). So the first batch goes alone, and so does one after a long
silence, in which the broker may have forgotten.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sinks.base import Restage, SinkError, SinkUnavailable
from sinks.kafka_client import Purpose
from sinks.kafka_errors import COORDINATOR_MOVED, RETRIABLE, from_code, from_exception, topic_missing, topic_recreated
from sinks.kafka_produce import ProduceRequest
from sinks.kafka_protocol import Code

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sinks.kafka_batches import RecordBatch
    from sinks.kafka_client import Cluster, Topic
    from sinks.kafka_connection import Connection

WINDOW = 3
"""Requests on the way for one partition; the broker remembers the last five batches of a producer."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
TOPIC_GRACE_SECONDS = 2.0
"""How long a topic may be unknown to a broker that has not heard of it yet."""
_SEQUENCES = 2**31
REMEMBERED_SECONDS = 3600.0
"""How long after an acknowledgement the broker surely knows the producer (producer.id.expiration.ms: a day)."""


async def _exchange(connection: Connection, answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except Exception:
        # The request may still be under way: on a closed connection it can not arrive after its repeat.
        connection.close()
        raise


def _note_failure(reply: asyncio.Future[Any]) -> None:
    # A lane that was cancelled asks no more; asyncio would log the failure as lost.
    if not reply.cancelled():
        reply.exception()


class TooLarge(Restage):
    """The broker refused the size of `batch`."""

    def __init__(self, batch: RecordBatch, topic: str) -> None:
        size = sum(map(len, batch.buffers or ()))
        super().__init__(
            "batch_too_large",
            f"topic {topic!r} takes no batch of {size} bytes ({batch.rows} rows): sent again in "
            "smaller ones. To keep them large, raise the topic's max.message.bytes.",
        )
        self.batch = batch


@dataclass(slots=True)
class Sending:
    """What all lanes of one producer share."""

    cluster: Cluster
    topic: Topic
    patience: float
    """Seconds without an acknowledgement until the loss is reported."""
    before_first: Callable[[int], Awaitable[None]]
    """Called with the partition before its first record of a transaction."""
    acknowledged: Callable[[RecordBatch, int, int], None]
    """Called with the batch, its partition and its first offset (-1 when the broker forgot it)."""
    transactional_id: str | None = None
    producer_id: int = -1
    producer_epoch: int = -1

    async def refresh(self, since: float) -> None:
        """Look for new leaders; SinkRefused when the topic is gone or another one."""
        cluster = self.cluster
        found = await cluster.describe_topic(self.topic.name)
        if found is None:
            if asyncio.get_running_loop().time() - since > TOPIC_GRACE_SECONDS:
                raise topic_missing(cluster.names)
            return
        if found.id != self.topic.id:
            raise topic_recreated(cluster.names, self.topic.id, found.id)
        self.topic = found


@dataclass(slots=True)
class Lane:
    """The batches of one partition."""

    sending: Sending
    partition: int
    queue: deque[RecordBatch] = field(default_factory=deque)
    sequence: int = 0
    acknowledged_at: float | None = None
    """By the loop's clock."""

    @property
    def window(self) -> int:
        """How many requests may be on the way now."""
        known = self.acknowledged_at
        remembered = known is not None and asyncio.get_running_loop().time() - known < REMEMBERED_SECONDS
        return WINDOW if remembered else 1

    async def run(self) -> None:
        """Send until the queue is empty and everything is acknowledged. SinkError when that can not be."""
        window: deque[tuple[RecordBatch, asyncio.Future[Any]]] = deque()
        try:
            while self.queue or window:
                if self.queue and len(window) < self.window:
                    batch = await self._next()
                    window.append((batch, await self._post(batch)))
                    if self.queue and len(window) < self.window:
                        continue
                code, offset = await self._answer(window[0][1])
                if code in {Code.NONE, Code.DUPLICATE_SEQUENCE_NUMBER}:
                    self._acknowledged(window.popleft()[0], offset)
                else:
                    await self._again(window, code)
        finally:
            for batch, reply in window:
                batch.drop()
                reply.cancel()

    def _acknowledged(self, batch: RecordBatch, offset: int) -> None:
        self.acknowledged_at = asyncio.get_running_loop().time()
        self.sending.acknowledged(batch, self.partition, offset)

    async def _next(self) -> RecordBatch:
        await self.sending.before_first(self.partition)
        batch = self.queue.popleft()
        await batch.seal(self.sending.producer_id, self.sending.producer_epoch, self.sequence)
        self.sequence = (self.sequence + batch.rows) % _SEQUENCES
        return batch

    async def _post(self, batch: RecordBatch) -> asyncio.Future[Any]:
        """Write the request; what goes wrong, also before, is in the future."""
        sending = self.sending
        assert batch.buffers is not None
        request = ProduceRequest(sending.transactional_id, sending.topic.name, self.partition, batch.buffers)
        try:
            leader = sending.topic.partitions[self.partition].leader
            if leader < 0:
                raise from_code(sending.cluster.names, "sending records", Code.LEADER_NOT_AVAILABLE)
            connection = await sending.cluster.connection(leader, Purpose.RECORDS)
            # `send` writes before it returns: batches reach the broker in the order of these calls.
            reply: asyncio.Future[Any] = asyncio.ensure_future(_exchange(connection, connection.send(request)))
        except Exception as error:  # noqa: BLE001 - translated
            reply = asyncio.get_running_loop().create_future()
            reply.set_exception(from_exception(sending.cluster.names, "sending records", error))
        reply.add_done_callback(_note_failure)
        return reply

    async def _answer(self, reply: asyncio.Future[Any]) -> tuple[int, int]:
        """The error code and the first offset; a lost connection is REQUEST_TIMED_OUT, which may be tried again."""
        try:
            answer = await reply
        except Exception as error:
            translated = from_exception(self.sending.cluster.names, "sending records", error)
            if not translated.retryable:
                raise translated from error
            return Code.REQUEST_TIMED_OUT, -1
        _, code, offset, *_ = answer.topics[0][1][0]
        return code, offset

    async def _again(self, window: deque[tuple[RecordBatch, asyncio.Future[Any]]], code: int) -> None:
        self._refuse_if_final(window[0][0], code)
        loop = asyncio.get_running_loop()
        since = loop.time()
        left: list[RecordBatch] = []
        while window:
            batch, reply = window[0]
            answer, offset = (code, -1) if not left else await self._answer(reply)
            window.popleft()
            if answer in {Code.NONE, Code.DUPLICATE_SEQUENCE_NUMBER}:
                self._acknowledged(batch, offset)
            else:
                left.append(batch)
        for batch in left:
            await self._insist(batch, code, since)
            since = loop.time()

    async def _insist(self, batch: RecordBatch, code: int, since: float) -> None:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        while True:
            if loop.time() - since > self.sending.patience:
                raise self._lost(code)
            try:
                await self.sending.refresh(since)
            except SinkUnavailable:
                answer = int(Code.REQUEST_TIMED_OUT)
            else:
                answer, offset = await self._answer(await self._post(batch))
                if answer in {Code.NONE, Code.DUPLICATE_SEQUENCE_NUMBER}:
                    self._acknowledged(batch, offset)
                    return
                self._refuse_if_final(batch, answer)
            code = answer
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _refuse_if_final(self, batch: RecordBatch, code: int) -> None:
        if code in {Code.MESSAGE_TOO_LARGE, Code.RECORD_LIST_TOO_LARGE}:
            raise TooLarge(batch, self.sending.topic.name)
        if code not in RETRIABLE - COORDINATOR_MOVED:
            raise from_code(self.sending.cluster.names, "sending records", code)

    def _lost(self, code: int) -> SinkError:
        names = self.sending.cluster.names
        if code == Code.REQUEST_TIMED_OUT:
            return SinkUnavailable(
                "sink_unreachable",
                f"sending records: the leader of partition {self.partition} of topic {names.topic!r} did not "
                f"acknowledge for {self.sending.patience:.0f} seconds.",
            )
        return from_code(names, "sending records", code)
