"""The Kafka sink against a real broker: where rows go, how large batches get, what is refused before it happens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer as OtherProducer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from sinks.base import Batch, Guarantee, PositionConflict, Restage, RowRejected, Shows, SinkRefused
from sinks.kafka_lanes import Lane
from tests.support.kafka_rows import OWNER, cut, deliver, kafka_sink, prepared, read_settled, values
from tests.support.proxy import FaultProxy
from tests.support.topics import topic_ends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sinks.base import Prepared
    from tests.support.kafka import KafkaServer

pytestmark = pytest.mark.kafka


async def delivered(server: KafkaServer, topic: str, batch: Batch, **changes: object):
    sink = kafka_sink(server.bootstrap, topic, **changes)
    writer = sink.writer(OWNER)
    await writer.open()
    await writer.stage(batch)
    receipt = await writer.make_visible(await writer.prepare(cut(1, batch.rows)))
    await writer.close()
    return receipt


async def test_keys_land_where_other_clients_put_them(kafka_server: KafkaServer):
    ours, theirs = kafka_server.create_topic(partitions=7), kafka_server.create_topic(partitions=7)
    keys = [f"key-{number}".encode() for number in range(500)] + [b"", "Grüße-ключ".encode(), b"\x00\xff", b"[1, 2]"]
    other = OtherProducer({"bootstrap.servers": kafka_server.bootstrap, "partitioner": "murmur2_random"})
    for key in keys:
        other.produce(theirs, key, key=key)
    other.flush(20)
    await delivered(kafka_server, ours, Batch(list(keys), list(keys)), key=["id"])
    where = [{r.key: r.partition for r in await read_settled(kafka_server, topic)} for topic in (ours, theirs)]
    assert where[0] == where[1]
    assert len(set(where[0].values())) == 7


async def test_rows_with_one_key_keep_their_order(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(partitions=5)
    keys = [b"%d" % (number % 50) for number in range(20_000)]
    rows = [b"%d" % number for number in range(20_000)]
    await delivered(kafka_server, topic, Batch(rows, list(keys)), key=["id"])
    seen: dict[bytes, int] = {}
    records = await read_settled(kafka_server, topic)
    for record in records:
        assert seen.get(record.key, -1) < int(record.value)
        seen[record.key] = int(record.value)
    assert len(records) == 20_000


async def test_rows_without_a_key_go_round_the_partitions_in_whole_batches(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(partitions=4)
    sink = kafka_sink(kafka_server.bootstrap, topic)
    sink.sizes.batch_bytes = 16_384
    writer = sink.writer(OWNER)
    await writer.open()
    rows = values(1, 5000, size=100)
    receipt = await deliver(writer, 1, rows)
    await writer.close()
    assert receipt.partition is None
    records = await read_settled(kafka_server, topic)
    assert sorted(record.value for record in records) == sorted(rows)
    assert {record.partition for record in records} == {0, 1, 2, 3}
    order = {value: number for number, value in enumerate(rows)}
    for partition in range(4):
        numbers = [order[record.value] for record in records if record.partition == partition]
        assert numbers == sorted(numbers)


async def test_many_small_stages_over_many_lanes_leave_no_batch_behind(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(partitions=6)
    sink = kafka_sink(kafka_server.bootstrap, topic, key=["id"])
    sink.sizes.batch_bytes = 1024
    writer = sink.writer(OWNER)
    await writer.open()
    rows = [b"%d" % number for number in range(6000)]
    for start in range(0, 6000, 60):
        part = rows[start : start + 60]
        await writer.stage(Batch(part, list(part)))
        if start % 1200 == 0:
            await asyncio.sleep(0)
    await writer.make_visible(await writer.prepare(cut(1, len(rows))))
    await writer.close()
    assert sorted(int(record.value) for record in await read_settled(kafka_server, topic)) == list(range(6000))


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_a_partition_that_gets_its_leader_between_two_batches_gets_both_in_order(
    kafka_server: KafkaServer, topic: str, delivery: str
):
    """As on a topic just made: another partition's lane learns of the new leader while this one has just failed."""
    sink = kafka_sink(kafka_server.bootstrap, topic, delivery=delivery)
    sink.sizes.batch_bytes = 1024
    writer = sink.writer(OWNER)
    await writer.open()
    sending = writer._producer._sending
    known, asked = sending.topic, []
    before_first = sending.before_first

    async def leaderless_at_first(partition: int) -> None:
        await before_first(partition)
        asked.append(partition)
        nobody = {partition: replace(known.partitions[partition], leader=-1)}
        sending.topic = replace(known, partitions=nobody) if len(asked) == 1 else known

    sending.before_first = leaderless_at_first
    rows = values(1, 200, size=100)
    await deliver(writer, 1, rows)
    await writer.close()
    assert len(asked) > 3, "several batches"
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows


async def test_a_broker_that_may_have_forgotten_the_producer_gets_one_batch_first(
    kafka_server: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
):
    sink = kafka_sink(kafka_server.bootstrap, topic)
    writer = sink.writer(OWNER)
    await writer.open()
    await deliver(writer, 1, values(1, 10))
    lane = writer._producer._lanes[0]
    assert lane.window > 1
    monkeypatch.setattr("sinks.kafka_lanes.REMEMBERED_SECONDS", 0.0)
    assert lane.window == 1
    await writer.close()


async def test_sequence_numbers_begin_again_after_the_largest(kafka_server: KafkaServer, topic: str):
    sink = kafka_sink(kafka_server.bootstrap, topic)
    sink.sizes.batch_bytes = 1024
    writer = sink.writer(OWNER)
    await writer.open()
    producer = writer._producer
    producer._lanes[0] = Lane(producer._sending, 0, sequence=2**31 - 5)
    rows = values(1, 200, size=100)
    await deliver(writer, 1, rows)
    assert producer._lanes[0].sequence == 195
    await writer.close()
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows


async def test_null_keys_among_keys(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(partitions=3)
    keys = [None if number % 3 else b"%d" % number for number in range(300)]
    await delivered(kafka_server, topic, Batch(values(1, 300), keys), key=["id"])
    records = await read_settled(kafka_server, topic)
    assert sum(record.key is None for record in records) == 200
    assert len(records) == 300


async def test_headers_and_receipt(kafka_server: KafkaServer, topic: str):
    receipt = await delivered(kafka_server, topic, Batch(values(1, 5)), headers={"origin": "räksmörgås", "v": "1"})
    assert (receipt.target, receipt.partition, receipt.first_offset, receipt.last_offset) == (topic, 0, 0, 4)
    for record in await read_settled(kafka_server, topic):
        assert record.headers == [("origin", "räksmörgås".encode()), ("v", b"1")]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_is_read_back_and_never_holds_the_loop(
    kafka_server: KafkaServer, topic: str, compression: str
):
    rows = values(1, 30_000, size=200)
    rows.append(b"\x00\xff tiny")
    longest = 0.0
    stop = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not stop.is_set():
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    watching = asyncio.create_task(watch())
    await delivered(kafka_server, topic, Batch(rows), compression=compression)
    stop.set()
    await watching
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows
    assert longest < 0.05


async def test_a_row_over_the_topics_limit_is_rejected_by_its_index_before_it_is_sent(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(config={"max.message.bytes": "2000"})
    sink = kafka_sink(kafka_server.bootstrap, topic)
    for at in (0, 3, 9):
        writer = sink.writer(OWNER)
        await writer.open()
        rows = values(1, 10, size=300)
        rows[at] = b"x" * 2000
        with pytest.raises(RowRejected) as caught:
            await writer.stage(Batch(rows))
        assert (caught.value.index, caught.value.code) == (at, "row_too_large")
        assert "max.message.bytes" in caught.value.message
        await writer.discard()
        await writer.close()
    writer = sink.writer(OWNER)
    await writer.open()
    rows = values(1, 50, size=300)
    rows[7] = b"x" * 1900
    await deliver(writer, 1, rows)
    await writer.close()
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows


async def test_small_rows_make_no_batch_over_the_topics_limit(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(config={"max.message.bytes": "1000"})
    rows = values(1, 3000)
    await delivered(kafka_server, topic, Batch(rows))
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows


async def test_a_row_that_fits_only_compressed_is_delivered(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(config={"max.message.bytes": "20000"})
    rows = [*values(1, 3), b"z" * 200_000, *values(4, 6)]
    await delivered(kafka_server, topic, Batch(rows), compression="zstd")
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows
    sink = kafka_sink(kafka_server.bootstrap, topic)
    writer = sink.writer(replace(OWNER, split="1"))
    await writer.open()
    with pytest.raises(RowRejected) as caught:
        await writer.stage(Batch(rows))
    assert caught.value.index == 3
    await writer.close()


async def test_a_batch_that_the_broker_finds_too_large_is_halved_until_it_fits(kafka_server: KafkaServer, topic: str):
    sink = kafka_sink(kafka_server.bootstrap, topic)
    rows = values(1, 2000, size=100)
    writer = sink.writer(OWNER)
    await writer.open()
    lower_limit(kafka_server, topic, 30_000)
    restages = 0
    while True:
        try:
            await deliver(writer, 1, rows)
            break
        except Restage:
            restages += 1
            await writer.discard()
            await writer.close()
            # The limit is read at each open; the size learned from the refusal alone must do as well.
            writer = sink.writer(OWNER)
            await writer.open()
    await writer.close()
    assert restages >= 1
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows


async def test_a_topic_that_stores_uncompressed_takes_compressed_batches_of_small_rows(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(config={"max.message.bytes": "5000", "compression.type": "uncompressed"})
    rows = values(1, 1000, size=200)
    await delivered(kafka_server, topic, Batch(rows), compression="zstd")
    assert [record.value for record in await read_settled(kafka_server, topic)] == rows


async def test_a_single_row_that_only_the_broker_refuses_is_found_the_second_time(
    kafka_server: KafkaServer, topic: str
):
    sink = kafka_sink(kafka_server.bootstrap, topic)
    writer = sink.writer(OWNER)
    await writer.open()
    lower_limit(kafka_server, topic, 1000)
    rows = [b"x" * 1200]
    with pytest.raises(Restage):
        await deliver(writer, 1, rows)
    await writer.close()
    lower_limit(kafka_server, topic, 1_048_588)
    writer = sink.writer(OWNER)
    await writer.open()
    with pytest.raises(RowRejected) as caught:
        await writer.stage(Batch([b"small", *rows]))
    assert caught.value.index == 1
    await writer.close()


def lower_limit(server: KafkaServer, topic: str, size: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = server.admin()
    admin.incremental_alter_configs([resource])[resource].result(15)


async def test_a_missing_topic_is_refused_and_never_made_by_asking():
    async with auto_creating() as server:
        sink = kafka_sink(server.bootstrap, "not-there")
        findings = await sink.check()
        assert [(f.pointer, f.severity, f.code) for f in findings] == [("/sink/topic", "error", "topic_missing")]
        for refused in (sink.prepare_target(), sink.writer(OWNER).open()):
            with pytest.raises(SinkRefused) as caught:
                await refused
            assert caught.value.code == "topic_missing"
            assert "topic_settings.create" in caught.value.message
        assert "not-there" not in server.admin().list_topics(timeout=10).topics


def auto_creating():
    from tests.support.kafka import KafkaServer

    return KafkaServer(auto_create_topics=True)


async def test_a_topic_is_created_with_its_settings(kafka_server: KafkaServer):
    name = f"made-{time.monotonic_ns()}"
    settings = {"create": True, "partitions": 3, "config": {"cleanup.policy": "compact", "max.message.bytes": "50000"}}
    sink = kafka_sink(kafka_server.bootstrap, name, topic_settings=settings, key=["id"])
    assert [(f.severity, f.code) for f in await sink.check()] == [("info", "topic_will_be_created")]
    await sink.prepare_target()
    await sink.prepare_target()
    admin = kafka_server.admin()
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 3
    resource = ConfigResource(ResourceType.TOPIC, name)
    described = admin.describe_configs([resource])[resource].result(15)
    assert described["cleanup.policy"].value == "compact"
    assert described["max.message.bytes"].value == "50000"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"create": True, "replication_factor": 3}, "replication"),
        ({"create": True, "config": {"no.such.setting": "1"}}, "no.such.setting"),
    ],
)
async def test_impossible_topic_settings_are_refused_in_the_brokers_words(
    kafka_server: KafkaServer, settings: dict[str, object], said: str
):
    sink = kafka_sink(kafka_server.bootstrap, "impossible", topic_settings=settings)
    with pytest.raises(SinkRefused) as caught:
        await sink.prepare_target()
    assert caught.value.code == "topic_not_created"
    assert said in caught.value.message.lower()


async def test_a_transaction_timeout_over_the_brokers_is_refused_naming_both():
    from tests.support.kafka import KafkaServer

    async with KafkaServer(transaction_max_timeout_ms=30_000) as server:
        topic = server.create_topic()
        sink = kafka_sink(server.bootstrap, topic, transaction_timeout_seconds=60)
        findings = await sink.check()
        assert [(f.pointer, f.code) for f in findings] == [
            ("/sink/transaction_timeout_seconds", "transaction_timeout_too_long")
        ]
        for refused in (sink.prepare_target(), sink.writer(OWNER).open()):
            with pytest.raises(SinkRefused) as caught:
                await refused
            assert caught.value.code == "transaction_timeout_too_long"
            assert "transaction_timeout_seconds is 60" in caught.value.message
            assert "transaction.max.timeout.ms" in caught.value.message
        at_least_once = kafka_sink(server.bootstrap, topic, delivery="at_least_once", transaction_timeout_seconds=60)
        await at_least_once.prepare_target()
        assert await at_least_once.check() == []


async def test_findings_on_a_compacted_topic(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(config={"cleanup.policy": "compact"})
    sink = kafka_sink(kafka_server.bootstrap, topic)
    assert [(f.pointer, f.code) for f in await sink.check()] == [("/sink/key", "compacted_topic_without_key")]
    writer = sink.writer(OWNER)
    await writer.open()
    with pytest.raises(SinkRefused) as caught:
        await deliver(writer, 1, values(1, 3))
    assert caught.value.code == "record_refused"
    assert "sink.key" in caught.value.message
    await writer.close()
    keyed = await kafka_sink(kafka_server.bootstrap, topic, key=["id"]).check()
    assert [(f.severity, f.code) for f in keyed] == [("info", "compacted_topic")]


async def test_too_few_replicas_are_a_warning(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(config={"min.insync.replicas": "2"})
    sink = kafka_sink(kafka_server.bootstrap, topic)
    assert [(f.severity, f.code) for f in await sink.check()] == [("warning", "not_enough_replicas")]


async def test_after_the_finish_step_readers_see_every_row_at_once(kafka_server: KafkaServer):
    topic = kafka_server.create_topic(partitions=8)
    topic_ends(kafka_server.bootstrap, topic)  # every partition has a leader
    for number in range(5):
        sink = kafka_sink(kafka_server.bootstrap, topic)
        sink.sizes.batch_bytes = 1024
        writer = sink.writer(replace(OWNER, generation=number))
        await writer.open()
        chunk = await prepared(writer, 1, values(1, 200, size=100))
        await writer.make_visible(chunk)
        await writer.close()

        async def chunks(last: Prepared = chunk) -> AsyncIterator[Prepared]:
            yield last

        await sink.finish(replace(OWNER, generation=number), chunks())
        ends = topic_ends(kafka_server.bootstrap, topic).values()
        assert all(end.stable == end.high for end in ends)


async def test_a_foreign_offset_under_our_groups_name_is_a_conflict(kafka_server: KafkaServer, topic: str):
    from confluent_kafka import Consumer, TopicPartition

    foreign = Consumer({"bootstrap.servers": kafka_server.bootstrap, "group.id": "rowferry.job1.3.0"})
    foreign.commit(offsets=[TopicPartition(topic, 0, 12)], asynchronous=False)
    foreign.close()
    writer = kafka_sink(kafka_server.bootstrap, topic).writer(OWNER)
    await writer.open()
    with pytest.raises(PositionConflict) as caught:
        await writer.visible([])
    assert "rowferry.job1.3.0" in caught.value.message
    await writer.close()
    await kafka_sink(kafka_server.bootstrap, topic).clean_up([OWNER])


async def test_at_least_once_has_no_transaction_and_no_group(kafka_server: KafkaServer, topic: str):
    sink = kafka_sink(kafka_server.bootstrap, topic, delivery="at_least_once")
    assert (sink.shows, sink.needs_anchor) == (Shows.NOTHING, False)
    assert sink.promise().guarantee is Guarantee.AT_LEAST_ONCE
    writer = sink.writer(OWNER)
    await writer.open()
    await prepared(writer, 1, values(1, 10))
    ends = topic_ends(kafka_server.bootstrap, topic)[0]
    assert (ends.stable, ends.high) == (10, 10)
    await writer.close()


async def test_the_guard_sees_bootstrap_and_advertised_addresses_before_any_byte(kafka_server: KafkaServer, topic: str):
    async with FaultProxy(kafka_server.port) as front:
        asked: list[tuple[str, int]] = []

        async def guard(host: str, port: int) -> list[str]:
            asked.append((host, port))
            if port == kafka_server.port:
                raise SinkRefused("destination_refused", "the destination is not allowed")
            return [host]

        sink = kafka_sink(front.address, topic, guard=guard)
        with pytest.raises(SinkRefused) as caught:
            await sink.writer(OWNER).open()
        assert caught.value.code == "destination_refused"
        assert asked == [("127.0.0.1", front.port), ("127.0.0.1", kafka_server.port)]
        findings = await sink.check()
        assert [(f.pointer, f.code) for f in findings] == [("/sink/bootstrap_servers", "destination_refused")]


async def test_the_next_bootstrap_server_is_tried_when_one_is_away(kafka_server: KafkaServer, topic: str):
    from tests.support.ports import free_port

    sink = kafka_sink(f"127.0.0.1:{free_port()}, {kafka_server.bootstrap}", topic)
    assert await sink.check() == []
