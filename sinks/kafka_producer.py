"""Kafka's idempotent and transactional producer protocol, with every wait bounded and every outcome known.

Why not aiokafka's own producer: it retries without end, its tasks can not be stopped within a second while a
broker is away, it sends one request a broker at a time, and waits 20 to 100 ms in each transaction. The requests
and their order are those of KIP-98 (https://cwiki.apache.org/confluence/display/KAFKA/KIP-98)::

    InitProducerId                                      fences, aborts what an older owner left open
    AddPartitionsToTxn, Produce ...                     nothing is visible
    AddOffsetsToTxn, TxnOffsetCommit, EndTxn(commit)    the position and the rows, at once
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)

from sinks.base import SinkError, SinkRefused, SinkUnavailable
from sinks.kafka_client import CoordinatorKind
from sinks.kafka_errors import COORDINATOR_MOVED, RETRIABLE, from_code, from_exception
from sinks.kafka_lanes import TOPIC_GRACE_SECONDS, Lane, Sending
from sinks.kafka_protocol import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sinks.kafka_batches import RecordBatch
    from sinks.kafka_client import Cluster, Topic

IN_FLIGHT_BYTES = 4 * 1024 * 1024
"""Packed rows that wait for their acknowledgement, over all partitions of one writer."""
COORDINATION_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.25
_LONGEST_TIMEOUT_MS = 2**31 - 1


class Producer:
    """
    One producer id, on one cluster, for one topic.

    Raises SinkError only: Fenced when the broker holds another epoch or transaction, SinkRefused and
    SinkUnavailable else. After an error it is used up, except for `end` and `stop`.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: Topic,
        *,
        patience: float,
        transactional_id: str | None = None,
        transaction_timeout_ms: int = _LONGEST_TIMEOUT_MS,
    ) -> None:
        self._cluster = cluster
        self._sending = Sending(cluster, topic, patience, self._add_partition, self._acknowledged, transactional_id)
        self._transactional_id = transactional_id
        self._timeout_ms = transaction_timeout_ms
        self._lanes: dict[int, Lane] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._adding = asyncio.Lock()
        self._added: set[int] = set()
        self._failure: SinkError | None = None
        self._pending_bytes = 0
        self.offsets: dict[int, tuple[int, int]] = {}
        """First and last offset of each partition written since the last transaction."""
        self.offsets_whole = True
        """No acknowledgement came without its offset."""
        self.in_transaction = False

    @property
    def identity(self) -> tuple[int, int]:
        """The producer's id and epoch, which every batch of records carries."""
        return self._sending.producer_id, self._sending.producer_epoch

    async def init(self) -> None:
        """Get a producer id. With a transactional id: fence its older holders and abort what they left open."""
        request = InitProducerIdRequest(self._transactional_id, self._timeout_ms)  # type: ignore[arg-type]
        doing = "fencing older owners of this split" if self._transactional_id else "asking for a producer id"
        answer = await self._ask_coordinator(
            request, doing, lambda answer: [answer.error_code], patience=COORDINATION_SECONDS
        )
        self._sending.producer_id, self._sending.producer_epoch = answer.producer_id, answer.producer_epoch

    async def put(self, batch: RecordBatch, partition: int) -> None:
        """Take a batch that is not finished yet; returns when it fits into IN_FLIGHT_BYTES."""
        await self._until(lambda: self._pending_bytes == 0 or self._pending_bytes + batch.raw_bytes <= IN_FLIGHT_BYTES)
        self._pending_bytes += batch.raw_bytes
        self.in_transaction = self._transactional_id is not None
        batch.finish()
        lane = self._lanes.setdefault(partition, Lane(self._sending, partition))
        lane.queue.append(batch)
        running = self._tasks.get(partition)
        # Done callbacks come a turn of the loop later: a lane that has ended takes nothing any more.
        if running is None or running.done():
            task = asyncio.create_task(lane.run())
            self._tasks[partition] = task
            task.add_done_callback(lambda done: self._lane_ended(partition, done))

    async def flush(self) -> None:
        """Wait until everything put is acknowledged."""
        await self._until(lambda: self._pending_bytes == 0)

    async def commit_offset(self, group: str, topic: str, sequence: int, metadata: str) -> None:
        """Put the position into the transaction, on partition 0 of the topic. Nothing is visible yet."""
        sending, doing = self._sending, "writing the position into the transaction"
        identity = (sending.producer_id, sending.producer_epoch)
        self.in_transaction = True
        await self._ask_coordinator(
            AddOffsetsToTxnRequest(self._transactional_id, *identity, group),  # type: ignore[arg-type]
            doing,
            lambda answer: [answer.error_code],
        )
        topics = [(topic, [(0, sequence, metadata)])]
        await self._ask_coordinator(
            TxnOffsetCommitRequest(self._transactional_id, group, *identity, topics),  # type: ignore[arg-type]
            doing,
            _partition_codes,
            group=group,
        )

    async def end(self, *, commit: bool) -> None:
        """Commit or abort. Never sent twice by itself: without an answer the outcome is unknown."""
        sending = self._sending
        identity = (sending.producer_id, sending.producer_epoch)
        await self._ask_coordinator(
            EndTxnRequest(self._transactional_id, *identity, commit),  # type: ignore[arg-type]
            "committing the transaction" if commit else "aborting the transaction",
            lambda answer: [answer.error_code],
            repeat=False,
        )
        self.in_transaction = False
        self._added.clear()
        self.forget_offsets()

    def forget_offsets(self) -> None:
        """A chunk has ended: what is sent from here on is the next."""
        self.offsets, self.offsets_whole = {}, True

    async def stop(self, seconds: float) -> bool:
        """Send no more; wait up to `seconds` for what is on its way. Whether all of it was answered."""
        for lane in self._lanes.values():
            lane.queue.clear()
        tasks = list(self._tasks.values())
        if not tasks:
            return True
        _, left = await asyncio.wait(tasks, timeout=seconds)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=0.1)
        return not left

    def _lane_ended(self, partition: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(partition) is task:
            del self._tasks[partition]
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            cause = error if isinstance(error, Exception) else RuntimeError(repr(error))
            self._failure = from_exception(self._cluster.names, "sending records", cause)
            for other in self._tasks.values():
                other.cancel()
        self._changed.set()

    async def _until(self, ready: Callable[[], bool]) -> None:
        # Bounded by the lanes: each makes progress within its patience or fails.
        while self._failure is None and not ready():
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    def _acknowledged(self, batch: RecordBatch, partition: int, offset: int) -> None:
        self._pending_bytes -= batch.raw_bytes
        if offset < 0:
            self.offsets_whole = False
        else:
            first, last = self.offsets.get(partition, (offset, offset))
            self.offsets[partition] = (min(first, offset), max(last, offset + batch.rows - 1))
        self._changed.set()

    async def _add_partition(self, partition: int) -> None:
        if self._transactional_id is None or partition in self._added:
            return
        async with self._adding:
            if partition in self._added:
                return
            waiting = {number for number, lane in self._lanes.items() if lane.queue} | {partition}
            wanted = sorted(waiting - self._added)
            sending = self._sending
            self.in_transaction = True
            await self._ask_coordinator(
                AddPartitionsToTxnRequest(
                    self._transactional_id,
                    sending.producer_id,
                    sending.producer_epoch,
                    [(sending.topic.name, wanted)],
                ),
                "adding partitions to the transaction",
                _partition_codes,
            )
            self._added.update(wanted)

    async def _ask_coordinator(
        self,
        request: Any,
        doing: str,
        codes: Callable[[Any], Iterable[int]],
        *,
        group: str | None = None,
        repeat: bool = True,
        patience: float | None = None,
    ) -> Any:
        """Ask until the answer has no error that time mends; `repeat`: also when there was no answer at all."""
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        since = loop.time()
        while True:
            failure: SinkError
            try:
                answer = await self._send(request, group)
            except SinkUnavailable as error:
                self._forget(group)
                if not repeat:
                    raise
                failure = error
            else:
                wrong = [code for code in codes(answer) if code not in {Code.NONE, Code.OPERATION_NOT_ATTEMPTED}]
                if not wrong:
                    return answer
                failure = self._failed(doing, wrong)
                if COORDINATOR_MOVED.intersection(wrong):
                    self._forget(group)
                if not RETRIABLE.issuperset(wrong):
                    raise failure
            limit = TOPIC_GRACE_SECONDS if isinstance(failure, SinkRefused) else patience or self._sending.patience
            if loop.time() - since > limit:
                raise failure
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _send(self, request: Any, group: str | None) -> Any:
        if group is None and self._transactional_id is None:
            return await self._cluster.send_to_any(request)
        return await self._cluster.send(await self._cluster.coordinator(*self._coordinated(group)), request)

    def _forget(self, group: str | None) -> None:
        self._cluster.forget_coordinator(*self._coordinated(group))

    def _coordinated(self, group: str | None) -> tuple[CoordinatorKind, str]:
        if group is None:
            return CoordinatorKind.TRANSACTION, self._transactional_id or ""
        return CoordinatorKind.GROUP, group

    def _failed(self, doing: str, wrong: list[int]) -> SinkError:
        final = [code for code in wrong if code not in RETRIABLE]
        if Code.INVALID_TRANSACTION_TIMEOUT in final:
            return SinkRefused(
                "transaction_timeout_too_long",
                f"transaction_timeout_seconds is {self._timeout_ms / 1000:g}, more than the broker's "
                "transaction.max.timeout.ms. Lower the one or raise the other.",
            )
        return from_code(self._cluster.names, doing, (final or wrong)[0])


def _partition_codes(answer: Any) -> list[int]:
    return [code for _, partitions in answer.errors for _, code in partitions]
