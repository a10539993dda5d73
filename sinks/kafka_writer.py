"""The writers of the Kafka sink: exactly once by transactions, at least once without."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from sinks.base import Mark, PositionConflict, Prepared, Receipt, RowRejected, SinkError, SinkUnavailable
from sinks.kafka_client import Cluster, CoordinatorKind, Purpose
from sinks.kafka_errors import COORDINATOR_MOVED, RETRIABLE, from_code, from_exception
from sinks.kafka_lanes import TooLarge
from sinks.kafka_producer import COORDINATION_SECONDS, Producer
from sinks.kafka_protocol import Code, StableOffsetFetchRequest
from sinks.kafka_staging import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sinks.base import Batch, Cut, Owner
    from sinks.kafka import KafkaSink
    from sinks.kafka_client import Topic
    from sinks.kafka_errors import Names

OPEN_SECONDS = 25.0
COMMIT_SECONDS = 25.0
_ANSWERS_SECONDS = 0.2
_ABORT_SECONDS = 0.35
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25
TRANSACTIONAL_PATIENCE = 5.0
"""A transaction that the broker does not take is dropped and staged again: no reason to wait long."""
PLAIN_PATIENCE = 15.0
"""Without a transaction staging again means doubled rows: long enough for a broker to restart."""


class PlainWriter:
    """
    At least once: rows are visible as they are acknowledged, in order within each partition, without gaps or
    doubles as long as this writer lives. Promises of the methods: `sinks.base.Writer`.
    """

    patience = PLAIN_PATIENCE

    def __init__(self, sink: KafkaSink, owner: Owner, names: Names) -> None:
        self._sink, self._owner, self._names = sink, owner, names
        self._cluster = Cluster(sink.spec, names, sink.guard)
        self._producer: Producer | None = None
        self._stage: Stage | None = None
        self._topic: Topic | None = None
        self._used_up: str | None = None

    async def open(self) -> None:
        """Connect, look at the topic, get a producer id."""
        try:
            async with self._step("opening the split", OPEN_SECONDS):
                await self._cluster.bootstrap()
                topic = await self._sink.look_at_topic(self._cluster)
                producer = self._make_producer(topic)
                await producer.init()
                self._topic, self._producer = topic, producer
                self._stage = Stage(self._sink.spec, topic, self._sink.sizes, producer)
        finally:
            if self._stage is None:
                await self._cluster.close()

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:
        """None: the topic can not tell."""
        _ = prepared
        return None

    async def anchor(self, sequence: int) -> None:
        """Nothing to anchor."""

    async def stage(self, batch: Batch) -> None:
        """Send the rows; returns when there is memory for more."""
        async with self._step("sending records", None):
            await self._opened()[1].add(batch)

    async def prepare(self, cut: Cut) -> Prepared:
        """Every row acknowledged by all in-sync replicas, all of them into the topic that was opened."""
        async with self._step("completing the chunk", None):
            producer, stage, topic = self._opened()
            staged = await stage.flush()
            await self._same_topic()
            offsets = {str(number): list(span) for number, span in sorted(producer.offsets.items())}
            details: dict[str, object] = {
                "topic_id": topic.id,
                "offsets": offsets,
                "offsets_whole": producer.offsets_whole,
                "producer": list(producer.identity),
            }
            if self._names.transactional_id is not None:
                details["transactional_id"] = self._names.transactional_id
            return Prepared(
                sequence=cut.sequence,
                epoch=self._owner.epoch,
                attempt=cut.attempt,
                rows=cut.rows,
                bytes=staged,
                first_key=cut.first_key,
                last_key=cut.last_key,
                lower=cut.lower,
                target=topic.name,
                details=details,
            )

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """The rows are visible already."""
        self._opened()[0].forget_offsets()
        return receipt(prepared)

    async def discard(self) -> None:
        """Send no more. What was acknowledged can not be taken back."""
        with contextlib.suppress(Exception):
            if self._producer is not None:
                await self._producer.stop(_ANSWERS_SECONDS)
        self._used_up = "its rows were discarded"

    async def close(self) -> None:
        """Give back the connections."""
        self._used_up = "it was closed"
        with contextlib.suppress(Exception):
            if self._producer is not None:
                await self._producer.stop(0)
            await self._cluster.close()

    def _make_producer(self, topic: Topic) -> Producer:
        return Producer(self._cluster, topic, patience=self.patience)

    async def _same_topic(self) -> None:
        """A topic deleted and made again takes the rest of a chunk without a word: the start of it is lost."""
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        deadline = loop.time() + self.patience
        while True:
            try:
                await self._sink.look_at_topic(self._cluster, sizes=False)
            except SinkUnavailable:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                return

    def _opened(self) -> tuple[Producer, Stage, Topic]:
        if self._producer is None or self._stage is None or self._topic is None:
            raise SinkUnavailable("writer_not_open", "the writer was not opened: call open() first.")
        return self._producer, self._stage, self._topic

    @contextlib.asynccontextmanager
    async def _step(self, doing: str, seconds: float | None) -> AsyncIterator[None]:
        if self._used_up is not None:
            raise SinkUnavailable("writer_used_up", f"{doing}: this writer is used up: {self._used_up}.")
        finished = False
        try:
            async with asyncio.timeout(seconds):
                yield
            finished = True
        except RowRejected:
            finished = True  # nothing of its batch was packed
            raise
        except TooLarge as error:
            self._sink.sizes.learn(error.batch)
            raise
        except Exception as error:
            translated = from_exception(self._names, doing, error)
            if translated is error:
                raise
            raise translated from error
        finally:
            if not finished:
                self._used_up = f"it failed while {doing}"


class TransactionalWriter(PlainWriter):
    """
    Exactly once: a chunk is one transaction, which also commits the chunk's sequence as the offset of a group of
    its own, so that rows and position become visible together or not at all.
    """

    patience = TRANSACTIONAL_PATIENCE

    def __init__(self, sink: KafkaSink, owner: Owner, names: Names) -> None:
        super().__init__(sink, owner, names)
        self._commit_sent = False
        self._discarded = False

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:
        """The group's committed offset, waited for while a transaction may still change it."""
        del prepared
        async with self._step("reading the split's position", OPEN_SECONDS):
            offset, metadata = await self._committed()
            return None if offset < 0 else _mark(offset, metadata, self._names)

    async def anchor(self, sequence: int) -> None:
        """A transaction of the position alone."""
        async with self._step("writing the split's position", COMMIT_SECONDS):
            producer, _, _ = self._opened()
            if producer.in_transaction:
                raise SinkUnavailable("transaction_open", "a position alone can not be written amid staged rows.")
            await self._commit(sequence, attempt=None)

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """Position and rows in one commit. Whatever is raised: unknown whether it happened."""
        async with self._step("committing the chunk", COMMIT_SECONDS):
            await self._commit(prepared.sequence, prepared.attempt)
        return receipt(prepared)

    async def discard(self) -> None:
        """Abort the transaction, unless its commit was sent: nothing is sent against that."""
        self._used_up = self._used_up or "its rows were discarded"
        producer = self._producer
        if producer is None or self._commit_sent or self._discarded or not producer.in_transaction:
            return
        self._discarded = True
        with contextlib.suppress(Exception):
            if not await producer.stop(_ANSWERS_SECONDS):
                # Brokers since 3.6 refuse records that come after the abort; older ones must not get them.
                self._cluster.drop(Purpose.RECORDS)
            async with asyncio.timeout(_ABORT_SECONDS):
                await producer.end(commit=False)

    async def close(self) -> None:
        """Abort what was staged and not discarded: an open transaction holds up every reader of the topic."""
        await self.discard()
        await super().close()

    def _make_producer(self, topic: Topic) -> Producer:
        return Producer(
            self._cluster,
            topic,
            patience=self.patience,
            transactional_id=self._names.transactional_id,
            transaction_timeout_ms=int(self._sink.spec.transaction_timeout_seconds * 1000),
        )

    async def _commit(self, sequence: int, attempt: int | None) -> None:
        producer, _, topic = self._opened()
        metadata: dict[str, Any] = {"generation": self._owner.generation, "epoch": self._owner.epoch}
        if attempt is not None:
            metadata["attempt"] = attempt
        assert self._names.group is not None
        await producer.commit_offset(self._names.group, topic.name, sequence, json.dumps(metadata))
        self._commit_sent = True
        await producer.end(commit=True)
        self._commit_sent = False

    async def _committed(self) -> tuple[int, str]:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        deadline = loop.time() + COORDINATION_SECONDS
        group = self._names.group or ""
        _, _, topic = self._opened()
        while True:
            failure: SinkError
            try:
                node = await self._cluster.coordinator(CoordinatorKind.GROUP, group)
                answer = await self._cluster.send(node, StableOffsetFetchRequest(group, topic.name, 0))
            except SinkUnavailable as error:
                failure, code = error, int(Code.COORDINATOR_NOT_AVAILABLE)
            else:
                code, offset, metadata = _offset_of(answer)
                if code == Code.NONE:
                    return offset, metadata
                failure = from_code(self._names, "reading the split's position", code)
            if code not in RETRIABLE or loop.time() > deadline:
                raise failure
            if code in COORDINATOR_MOVED:
                self._cluster.forget_coordinator(CoordinatorKind.GROUP, group)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _offset_of(answer: Any) -> tuple[int, int, str]:
    if answer.error_code:
        return answer.error_code, -1, ""
    _, offset, _, metadata, code, _ = answer.topics[0][1][0]
    return code, offset, metadata or ""


def _mark(offset: int, metadata: str, names: Names) -> Mark:
    try:
        found = json.loads(metadata)
        return Mark(int(found["generation"]), int(found["epoch"]), offset, found.get("attempt"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PositionConflict(
            "position_conflict",
            f"group {names.group!r} has offset {offset} on topic {names.topic!r}, and not from this sink. "
            "Choose another group_prefix, or delete the group and PUT a checkpoint.",
        ) from None


def receipt(prepared: Prepared) -> Receipt:
    """What a visible chunk looks like from outside: its offsets, where it went into one partition."""
    offsets = prepared.details.get("offsets")
    if isinstance(offsets, dict) and len(offsets) == 1 and prepared.details.get("offsets_whole") is not False:
        ((partition, (first, last)),) = offsets.items()
        return Receipt(prepared.target, int(partition), first, last)
    return Receipt(prepared.target)
