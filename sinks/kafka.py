"""Rows as records of one Kafka topic: exactly once by transactions, or at least once without.

Exactly once, for readers with `isolation.level=read_committed`: every split has a transactional id and a consumer
group of its own, `<prefix>.<job id>.<generation>.<split>`. A chunk is one transaction; it also commits the chunk's
sequence as the group's offset on partition 0 of the topic, with generation and epoch as metadata. Opening a split
fences its older owners (InitProducerId), then the group's offset says which chunks readers can see.

Brokers: Kafka 2.8 and later (topic ids); 3.6 and later also refuse records that arrive after an abort.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sinks.base import Guarantee, Promise, Shows
from sinks.kafka_admin import (
    Check,
    check_transaction_timeout,
    create_topic,
    delete_group,
    topic_settings,
    wait_until_written,
)
from sinks.kafka_client import Cluster, Topic
from sinks.kafka_errors import Names, topic_missing, topic_recreated
from sinks.kafka_producer import Producer
from sinks.kafka_reader import KafkaReader
from sinks.kafka_staging import DEFAULT_MESSAGE_BYTES, Sizes
from sinks.kafka_writer import PlainWriter, TransactionalWriter, receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sinks.base import Finding, Owner, Prepared, Receipt, Writer
    from sinks.guarded import Guard
    from sinks.reading import Wanted
    from sinks.specs import KafkaSinkSpec

_FENCE_PATIENCE = 5.0


class KafkaSink:
    """
    A topic as one job's definition describes it, secrets resolved. Promises of the methods: `sinks.base.Sink`.

    `guard` is awaited with host and port before any connection, bootstrap and advertised addresses alike, and
    raises SinkRefused for an address that is not allowed. `topic_id` is the id that the topic had when the
    generation began, where the caller kept it; without it the first one seen counts. A topic with another id
    raises SinkRefused `topic_recreated`.
    """

    kind = "kafka"
    settles_with_prepare = False
    upserts = False

    def __init__(self, spec: KafkaSinkSpec, *, guard: Guard | None = None, topic_id: str | None = None) -> None:
        self.spec = spec
        self.guard = guard
        self.topic_id = topic_id
        self.sizes = Sizes()
        exactly_once = spec.delivery == "exactly_once"
        self.shows = Shows.POSITION if exactly_once else Shows.NOTHING
        self.needs_anchor = exactly_once

    def promise(self) -> Promise:
        """Exactly once or at least once, as `delivery` says."""
        if self.spec.delivery == "exactly_once":
            return Promise(Guarantee.EXACTLY_ONCE, "Kafka transactions; readers must use read_committed")
        return Promise(
            Guarantee.AT_LEAST_ONCE,
            "idempotent producer without transactions; a chunk interrupted by an error or a crash is sent again "
            "and may double its rows",
        )

    async def check(self) -> list[Finding]:
        """Reachability, the topic, the rights on topic, transactional id and group, replicas and limits."""
        cluster = Cluster(self.spec, self._names("check.0.0"), self.guard)
        try:
            return await Check(cluster, self.spec).run()
        finally:
            await cluster.close()

    async def prepare_target(self) -> Mapping[str, object]:
        """Create the topic where the definition says so; refuse a missing topic and a time-out over the broker's."""
        cluster = Cluster(self.spec, self._names("prepare.0.0"), self.guard)
        try:
            await cluster.bootstrap()
            if self.spec.delivery == "exactly_once":
                await check_transaction_timeout(cluster, self.spec)
            missing = await cluster.describe_topic(self.spec.topic) is None
            # A topic that this generation has written to is never made anew: its rows would be gone unsaid.
            if missing and self.spec.topic_settings.create and self.topic_id is None:
                await create_topic(cluster, self.spec)
            topic = await self.look_at_topic(cluster)
            return {"topic_id": topic.id}
        finally:
            await cluster.close()

    def writer(self, owner: Owner) -> Writer:
        """A writer with connections of its own."""
        names = self._names(f"{owner.job_id}.{owner.generation}.{owner.split}")
        if self.spec.delivery == "exactly_once":
            return TransactionalWriter(self, owner, names)
        return PlainWriter(self, owner, names)

    def receipt(self, prepared: Prepared) -> Receipt:
        """With the offsets, where the chunk went into one partition."""
        return receipt(prepared)

    def reader(self, owner: Owner, wanted: Wanted) -> KafkaReader:
        """A reader with connections of its own."""
        del owner
        return KafkaReader(Cluster(self.spec, self._names("verify.0.0"), self.guard), self.spec.topic, wanted)

    async def finish(self, owner: Owner, chunks: AsyncIterator[Prepared]) -> None:
        """Every chunk went into the topic that is there now, and the last one of each split has reached it.

        A commit is answered when it is decided; that readers see it takes until its markers are written.
        """
        del owner
        cluster = Cluster(self.spec, self._names("finish.0.0"), self.guard)
        writers: set[str] = set()
        try:
            await cluster.bootstrap()
            topic = await self.look_at_topic(cluster, sizes=False)
            async for chunk in chunks:
                written_to = chunk.details.get("topic_id")
                if chunk.target == topic.name and isinstance(written_to, str) and written_to != topic.id:
                    raise topic_recreated(cluster.names, written_to, topic.id)
                if isinstance(transactional_id := chunk.details.get("transactional_id"), str):
                    writers.add(transactional_id)
            for transactional_id in sorted(writers):
                await wait_until_written(cluster, transactional_id)
        finally:
            await cluster.close()

    async def clean_up(self, owners: Sequence[Owner]) -> None:
        """Fence each split, so that no orphan transaction holds up readers, and delete its group if we may."""
        if self.spec.delivery != "exactly_once":
            return
        for owner in owners:
            names = self._names(f"{owner.job_id}.{owner.generation}.{owner.split}")
            cluster = Cluster(self.spec, names, self.guard)
            try:
                await cluster.bootstrap()
                await self._fence(cluster, names)
                await delete_group(cluster, names.group or "")
            finally:
                await cluster.close()

    async def close(self) -> None:
        """Nothing is held between calls."""

    async def look_at_topic(self, cluster: Cluster, *, sizes: bool = True) -> Topic:
        """The topic, its limits noted in `sizes`; SinkRefused when it is missing or not the one it was."""
        topic = await cluster.describe_topic(self.spec.topic)
        if topic is None:
            raise topic_missing(cluster.names)
        if self.topic_id is None:
            self.topic_id = topic.id
        if self.topic_id != topic.id:
            raise topic_recreated(cluster.names, self.topic_id, topic.id)
        if sizes:
            settings = await topic_settings(cluster, self.spec.topic)
            limits = [int(settings[name]) for name in ("max.message.bytes", "segment.bytes") if name in settings]
            self.sizes.message_bytes = min(limits, default=DEFAULT_MESSAGE_BYTES)
            stored = settings.get("compression.type", "producer")
            self.sizes.stored_as_sent = stored in {"producer", self.spec.compression}
        return topic

    async def _fence(self, cluster: Cluster, names: Names) -> None:
        producer = Producer(
            cluster,
            Topic(self.spec.topic, "", {}, 0),
            patience=_FENCE_PATIENCE,
            transactional_id=names.transactional_id,
            transaction_timeout_ms=int(self.spec.transaction_timeout_seconds * 1000),
        )
        await producer.init()

    def _names(self, split: str) -> Names:
        spec = self.spec
        names = Names(spec.bootstrap_servers, spec.topic, username=spec.security.username)
        if spec.delivery != "exactly_once":
            return names
        return replace(
            names,
            group=f"{spec.group_prefix}.{split}",
            transactional_id=f"{spec.transactional_id_prefix}.{split}",
        )
