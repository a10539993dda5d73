"""Reads a chunk's records back from its topic, as `read_committed` readers see them, for a verification.

A chunk's record in the store has the first and last offset of each partition and the id and epoch of its producer.
Other producers' records may lie between them: a batch of records names its producer, so the chunk's own are told by
that, and nothing outside its offsets is read. What of an aborted transaction lies between is left out as
https://cwiki.apache.org/confluence/display/KAFKA/KIP-98 says: the broker lists them with each answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords

from sinks.base import SinkError, SinkUnavailable
from sinks.contents import DECODING_SECONDS, LEAVING
from sinks.formats import Format
from sinks.formats.decoding import tokens
from sinks.kafka_admin import topic_settings
from sinks.kafka_client import Purpose
from sinks.kafka_errors import from_code, from_exception
from sinks.kafka_protocol import Code
from sinks.lanes import Lane
from sinks.reading import Flaw, Records, tombstone
from sinks.tries import format_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from sinks.base import Prepared
    from sinks.kafka_client import Cluster, Topic
    from sinks.reading import Wanted

FETCH_BYTES: Final = 1 << 20
_WAIT_MS: Final = 100
_EARLIEST: Final = -2
_READ_COMMITTED: Final = 1
_DOING: Final = "reading records"


@dataclass(slots=True)
class _Span:
    """What is left to read of one partition."""

    partition: int
    at: int
    last: int


class KafkaReader:
    """Promises of the methods: `sinks.reading.ContentReader`."""

    def __init__(self, cluster: Cluster, topic: str, wanted: Wanted) -> None:
        """The cluster is closed with the reader."""
        self._cluster, self._name, self._wanted = cluster, topic, wanted
        self._lane = Lane("kafka-decode")
        self._topic: Topic | None = None
        self._policy = ""
        self._looked = False

    async def contents(self, chunk: Prepared) -> AsyncGenerator[Records | Flaw]:
        """The chunk's records, a slice of each partition in turn."""
        await self._look()
        if (flaw := self._topic_flaw(chunk)) is not None:
            yield flaw
            return
        told = chunk.details.get("producer")
        offsets = chunk.details.get("offsets")
        if not isinstance(told, list) or not isinstance(offsets, dict):
            note = "this chunk was written by an earlier version, which did not note its producer"
            yield Flaw("not_verifiable", chunk.target, chunk.rows, None, note)
            return
        rows = 0
        spans = [_Span(int(number), first, last) for number, (first, last) in offsets.items()]
        while spans:
            for span in list(spans):
                async for item in self._slice(chunk, span, (told[0], told[1])):
                    rows += item.rows if isinstance(item, Records) else 0
                    yield item
                if span.at > span.last:
                    spans.remove(span)
        if rows < chunk.rows and (note := self._why_fewer(chunk)):
            yield Flaw("not_verifiable", chunk.target, chunk.rows, rows, note)

    async def tokens(self, chunk: Prepared, records: list[bytes]) -> list[bytes | None]:
        """A row is one JSON document."""
        form = format_of(chunk, Format())
        return await self._lane.run(partial(tokens, form, records, self._wanted.key or ()), DECODING_SECONDS)

    async def close(self) -> None:
        """Give back thread and connections."""
        await self._lane.close(LEAVING)
        await self._cluster.close()

    async def _look(self) -> None:
        """At the topic, once a reader."""
        if self._looked:
            return
        await self._cluster.bootstrap()
        self._topic = await self._cluster.describe_topic(self._name)
        if self._topic is not None:
            self._policy = (await topic_settings(self._cluster, self._name)).get("cleanup.policy", "")
        self._looked = True

    def _topic_flaw(self, chunk: Prepared) -> Flaw | None:
        sent = chunk.details.get("topic_id")
        if self._topic is None:
            return Flaw("gone", chunk.target, sent, None, "there is no such topic")
        if isinstance(sent, str) and sent != self._topic.id:
            return Flaw("gone", chunk.target, sent, self._topic.id, "the topic was deleted and made again")
        return None

    def _why_fewer(self, chunk: Prepared) -> str:
        """Why records may lack without anybody's having lost them; empty where there is no such reason."""
        if "compact" in self._policy:
            where = ", ".join(sorted(self._offsets(chunk), key=int))
            return f"topic {self._name!r} is compacted: of each key the last record is kept (partitions {where})"
        if chunk.details.get("offsets_whole") is False:
            return "the broker did not tell every offset when the chunk was written"
        return ""

    @staticmethod
    def _offsets(chunk: Prepared) -> Mapping[str, Any]:
        offsets = chunk.details.get("offsets")
        return offsets if isinstance(offsets, dict) else {}

    async def _slice(self, chunk: Prepared, span: _Span, producer: tuple[int, int]) -> AsyncGenerator[Records | Flaw]:
        """One answer of the partition's leader."""
        code, stable, aborted, data = await self._fetch(span)
        if code == Code.OFFSET_OUT_OF_RANGE:
            earliest = await self._earliest(span.partition)
            if earliest > span.at:
                note = f"records of partition {span.partition} below offset {earliest} have expired or were deleted"
                yield Flaw("not_verifiable", chunk.target, span.at, earliest, note)
            # Beyond the end: the partition has lost them, and they are missing.
            span.at = earliest if span.at < earliest else span.last + 1
            return
        if code:
            self._looked = False
            raise from_code(self._cluster.names, _DOING, code)
        call = partial(_own, data, sorted(aborted or (), key=lambda one: one[1]), span, producer)
        found = await self._lane.run(call, DECODING_SECONDS)
        if found is None:
            if stable <= span.at:
                raise SinkUnavailable(
                    "records_not_stable",
                    f"{_DOING}: partition {span.partition} of topic {self._name!r} is readable up to offset {stable}: "
                    "an open transaction holds readers back there; it ends by itself or by its owner.",
                )
            # Nothing is left below what readers may see.
            span.at = stable if not data else span.at
            return
        values, gone = found
        if values:
            form = format_of(chunk, Format())
            key = self._wanted.key
            keys = None
            if key is not None:
                keys = await self._lane.run(partial(tokens, form, values, key), DECODING_SECONDS)
                for index, message_key in gone.items():
                    keys[index] = tombstone(message_key)
            yield Records(len(values), keys, values if self._wanted.values else None)

    async def _fetch(self, span: _Span) -> tuple[int, int, Any, bytes]:
        """Error code, last stable offset, aborted transactions, batches."""
        wanted = [(self._name, [(span.partition, span.at, FETCH_BYTES)])]
        request = FetchRequest(_WAIT_MS, 1, FETCH_BYTES, _READ_COMMITTED, wanted)
        answer = await self._ask(span.partition, request)
        _, code, _, stable, *_, aborted, data = _without_replica(answer)
        return code, stable, aborted, data

    async def _earliest(self, partition: int) -> int:
        """The first offset that the partition still has."""
        request = OffsetRequest(-1, 0, [(self._name, [(partition, _EARLIEST)])])
        answer = await self._ask(partition, request)
        _, code, _, offset, *_ = answer.topics[0][1][0]
        if code:
            raise from_code(self._cluster.names, _DOING, code)
        return int(offset)

    async def _ask(self, partition: int, request: Any) -> Any:
        assert self._topic is not None, "looked at before"
        place = self._topic.partitions.get(partition)
        try:
            if place is None or place.leader < 0:
                raise from_code(self._cluster.names, _DOING, Code.LEADER_NOT_AVAILABLE)
            return await self._cluster.send(place.leader, request, Purpose.RECORDS)
        except SinkError:
            self._looked = False
            raise
        except Exception as error:
            raise from_exception(self._cluster.names, _DOING, error) from error


def _without_replica(answer: Any) -> list[Any]:
    """The one partition of a fetch's answer, without the field that version 11 puts before the batches."""
    fields = list(answer.topics[0][1][0])
    if answer.API_VERSION >= 11:
        del fields[-2]
    return fields


def _own(
    data: bytes, aborted: list[tuple[int, int]], span: _Span, producer: tuple[int, int]
) -> tuple[list[bytes], dict[int, bytes | None]] | None:
    """The values of the producer's visible records up to the span's end, which is moved on, and of those that have
    none, by their place, the keys; None when there was no whole batch. In a thread: batches may be compressed."""
    batches: Any = MemoryRecords(data)
    values: list[bytes] = []
    gone: dict[int, bytes | None] = {}
    undone: set[int] = set()
    moved = False
    while span.at <= span.last and (batch := batches.next_batch()) is not None:
        moved = True
        while aborted and aborted[0][1] <= batch.base_offset:
            undone.add(aborted.pop(0)[0])
        if batch.is_control_batch:
            # Commit or abort: either ends the producer's transaction.
            undone.discard(batch.producer_id)
        elif (batch.producer_id, batch.producer_epoch) == producer and not (
            batch.is_transactional and batch.producer_id in undone
        ):
            for record in batch:
                if span.at <= record.offset <= span.last:
                    if not record.value:
                        gone[len(values)] = record.key
                    values.append(record.value or b"")
        span.at = batch.next_offset
    return (values, gone) if moved else None
