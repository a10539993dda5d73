"""The Kafka sink on bad days, against a real broker behind a fault proxy: nothing lost, nothing twice, nobody hangs."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import OFFSET_INVALID, ConsumerGroupTopicPartitions, TopicPartition

from sinks.base import Batch, Fenced, Mark, SinkError, SinkRefused, SinkUnavailable
from tests.support.kafka import KafkaServer
from tests.support.kafka_rows import OWNER, cut, deliver, kafka_sink, prepared, read_settled, values
from tests.support.proxy import (
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    INIT_PRODUCER_ID,
    OFFSET_FETCH,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    FaultProxy,
)
from tests.support.topics import read_topic, topic_ends
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sinks.kafka import KafkaSink

pytestmark = pytest.mark.kafka
NEXT = replace(OWNER, epoch=6)


@pytest.fixture
def sink(kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str) -> KafkaSink:
    return kafka_sink(kafka_server.proxied_bootstrap, topic)


@pytest.fixture(autouse=True)
async def nothing_is_lost_in_the_loop() -> AsyncIterator[None]:
    """No task or future of the sink may leave an error that nobody asked for."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
    yield
    gc.collect()
    assert complaints == []


async def read(kafka_server: KafkaServer, topic: str) -> list[bytes | None]:
    return [record.value for record in await read_settled(kafka_server, topic)]


@pytest.mark.parametrize(("action", "executed"), [("cut_after", True), ("cut_before", False)])
async def test_a_lost_reply_to_a_commit_is_unknown_and_the_position_tells(
    sink: KafkaSink, kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str, action: str, executed: bool
):
    writer = sink.writer(OWNER)
    await writer.open()
    await writer.anchor(0)
    await deliver(writer, 1, values(1, 10))
    chunk = await prepared(writer, 2, values(11, 20))
    rule = kafka_proxy.on_request(action, api_key=END_TXN)  # type: ignore[arg-type]
    with pytest.raises(SinkUnavailable):
        await writer.make_visible(chunk)
    assert rule.hits == 1
    await writer.discard()
    await writer.close()

    writer = sink.writer(NEXT)
    await writer.open()
    mark = await writer.visible([chunk])
    assert mark == Mark(OWNER.generation, OWNER.epoch, 2 if executed else 1, 1)
    if not executed:
        await deliver(writer, 2, values(11, 20))
    await deliver(writer, 3, values(21, 30))
    await writer.close()
    assert await read(kafka_server, topic) == values(1, 30)


async def test_a_commit_whose_reply_never_comes_is_given_up_in_time_and_never_aborted(
    sink: KafkaSink, kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str
):
    writer = sink.writer(OWNER)
    await writer.open()
    chunk = await prepared(writer, 1, values(1, 10))
    rule = kafka_proxy.on_request("swallow_reply", api_key=END_TXN)
    task = asyncio.create_task(writer.make_visible(chunk))
    await happened(rule.triggered, 10, "the commit was executed")
    aborts = kafka_proxy.on_request("drop_request", api_key=END_TXN)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.discard()
    await writer.close()
    assert aborts.hits == 0
    assert await read(kafka_server, topic) == values(1, 10)


@pytest.mark.parametrize("api_key", [PRODUCE, ADD_PARTITIONS_TO_TXN, TXN_OFFSET_COMMIT, OFFSET_FETCH, INIT_PRODUCER_ID])
@pytest.mark.parametrize("action", ["cut_after", "cut_before"])
async def test_a_connection_cut_anywhere_else_is_mended_inside(
    sink: KafkaSink, kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str, api_key: int, action: str
):
    rule = kafka_proxy.on_request(action, api_key=api_key)  # type: ignore[arg-type]
    writer = sink.writer(OWNER)
    await writer.open()
    await writer.visible([])
    for sequence in range(1, 4):
        await deliver(writer, sequence, values(sequence * 100 - 99, sequence * 100))
    assert rule.hits == 1
    await writer.close()
    assert await read(kafka_server, topic) == values(1, 300)


async def test_order_survives_cuts_among_many_batches_in_flight(
    sink: KafkaSink, kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str
):
    sink.sizes.batch_bytes = 4096
    rows = values(1, 4000, size=100)
    writer = sink.writer(OWNER)
    await writer.open()
    rules = []
    for sequence, start in enumerate(range(0, 4000, 1000), start=1):
        rules.append(kafka_proxy.on_request("cut_after" if sequence % 2 else "cut_before", api_key=PRODUCE))
        await deliver(writer, sequence, rows[start : start + 1000])
    assert [rule.hits for rule in rules] == [1] * 4
    await writer.close()
    assert await read(kafka_server, topic) == rows


async def test_a_second_writer_fences_the_first_whatever_it_does_next(
    sink: KafkaSink, kafka_server: KafkaServer, topic: str
):
    old = sink.writer(OWNER)
    await old.open()
    await old.stage(Batch(values(1, 10)))
    new = sink.writer(NEXT)
    await new.open()
    with pytest.raises(Fenced) as caught:
        await old.make_visible(await old.prepare(cut(1, 10)))
    assert caught.value.code == "fenced"
    await old.discard()
    await old.close()
    await deliver(new, 1, values(1, 10))
    await new.close()
    assert await read(kafka_server, topic) == values(1, 10)


async def test_a_zombie_that_wakes_before_its_open_fences_the_valid_owner_who_opens_again(
    sink: KafkaSink, kafka_server: KafkaServer, topic: str
):
    valid = sink.writer(NEXT)
    await valid.open()
    await valid.anchor(0)
    chunk = await prepared(valid, 1, values(1, 10))
    zombie = sink.writer(OWNER)
    await zombie.open()
    with pytest.raises(Fenced):
        await valid.make_visible(chunk)
    await valid.close()
    again = sink.writer(NEXT)
    await again.open()
    assert await again.visible([chunk]) == Mark(3, 6, 0)
    with pytest.raises(Fenced):
        await deliver(zombie, 1, values(100, 110))
    await zombie.close()
    await deliver(again, 1, values(1, 10))
    await again.close()
    assert await read(kafka_server, topic) == values(1, 10)


async def test_a_transaction_that_times_out_is_fenced_and_the_sole_owner_goes_on(topic: str):
    async with KafkaServer(settings={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"}) as server:
        topic = server.create_topic()
        sink = kafka_sink(server.bootstrap, topic, transaction_timeout_seconds=10)
        writer = sink.writer(OWNER)
        await writer.open()
        await writer.anchor(0)
        chunk = await prepared(writer, 1, values(1, 10))
        assert topic_ends(server.bootstrap, topic)[0].stable == 0
        await until(lambda: topic_ends(server.bootstrap, topic)[0].stable > 0, 30, "the broker aborts the transaction")
        with pytest.raises(Fenced):
            await writer.make_visible(chunk)
        await writer.close()
        writer = sink.writer(OWNER)
        await writer.open()
        assert await writer.visible([chunk]) == Mark(3, 5, 0)
        await deliver(writer, 1, values(1, 10))
        await writer.close()
        assert await read(server, topic) == values(1, 10)


@pytest.mark.parametrize("how", ["open", "clean_up"])
async def test_an_orphan_transaction_holds_readers_up_until_it_is_fenced(
    sink: KafkaSink, kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str, how: str
):
    orphan = sink.writer(OWNER)
    await orphan.open()
    await prepared(orphan, 1, values(1, 10))
    kafka_proxy.on_request("drop_request", api_key=END_TXN)
    await orphan.close()
    kafka_proxy.heal()
    other = sink.writer(replace(OWNER, generation=4))
    await other.open()
    await deliver(other, 1, values(50, 60))
    await other.close()
    assert read_topic(kafka_server.bootstrap, topic) == []
    if how == "open":
        closing = sink.writer(NEXT)
        await closing.open()
        await closing.close()
    else:
        await sink.clean_up([OWNER])
    assert await read(kafka_server, topic) == values(50, 60)


async def test_cleaning_up_deletes_the_group(sink: KafkaSink, kafka_server: KafkaServer, topic: str):
    writer = sink.writer(OWNER)
    await writer.open()
    await deliver(writer, 1, values(1, 10))
    await writer.close()

    admin = kafka_server.admin()

    def position() -> int:
        asked = ConsumerGroupTopicPartitions("rowferry.job1.3.0", [TopicPartition(topic, 0)])
        (answer,) = admin.list_consumer_group_offsets([asked], request_timeout=10).values()
        return answer.result(15).topic_partitions[0].offset

    assert position() == 1
    await sink.clean_up([OWNER, replace(OWNER, split="never-opened")])
    assert position() == OFFSET_INVALID


async def test_a_broker_killed_in_the_middle_loses_and_doubles_nothing(topic: str):
    async with KafkaServer() as server:
        topic = server.create_topic()
        sink = kafka_sink(server.bootstrap, topic)
        writer = sink.writer(OWNER)
        await writer.open()
        await writer.anchor(0)
        await deliver(writer, 1, values(1, 1000))
        await writer.stage(Batch(values(1001, 1500)))
        server.kill()
        with pytest.raises(SinkUnavailable):
            await deliver(writer, 2, values(1501, 2000))
        await writer.discard()
        await writer.close()
        await server.start_async()
        writer = sink.writer(NEXT)
        await writer.open()
        assert await writer.visible([]) == Mark(3, 5, 1, 1)
        await deliver(writer, 2, values(1001, 2000))
        await writer.close()
        assert await read(server, topic) == values(1, 2000)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("away", ["refused", "silent"])
async def test_with_the_broker_away_discard_and_close_take_a_second_in_all(
    kafka_server: KafkaServer, kafka_proxy: FaultProxy, topic: str, delivery: str, away: str
):
    sink = kafka_sink(kafka_server.proxied_bootstrap, topic, delivery=delivery)
    writer = sink.writer(OWNER)
    await writer.open()
    await writer.stage(Batch(values(1, 10)))
    if away == "refused":
        await kafka_proxy.refuse()
        kafka_proxy.cut()
    else:
        kafka_proxy.stall = True
    working = asyncio.create_task(writer.prepare(cut(1, 10)))
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    began = time.monotonic()
    await writer.discard()
    await writer.close()
    assert time.monotonic() - began < 1.2


async def test_a_broker_that_is_away_is_reported_within_the_patience(sink: KafkaSink, kafka_proxy: FaultProxy):
    writer = sink.writer(OWNER)
    await writer.open()
    await kafka_proxy.refuse()
    kafka_proxy.cut()
    began = time.monotonic()
    with pytest.raises(SinkUnavailable) as caught:
        await prepared(writer, 1, values(1, 10))
    assert time.monotonic() - began < 8
    assert caught.value.code == "sink_unreachable"
    await writer.close()
    fresh = sink.writer(NEXT)
    began = time.monotonic()
    with pytest.raises(SinkUnavailable) as caught:
        await fresh.open()
    assert time.monotonic() - began < 2
    assert caught.value.code == "sink_unreachable"
    await fresh.close()


async def test_backpressure_holds_staging_while_the_broker_is_slow(sink: KafkaSink, kafka_proxy: FaultProxy):
    writer = sink.writer(OWNER)
    await writer.open()
    kafka_proxy.stall = True
    rows = values(1, 20_000, size=1000)
    task = asyncio.create_task(writer.stage(Batch(rows)))
    done, _ = await asyncio.wait([task], timeout=1.0)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.discard()
    await writer.close()


async def test_a_topic_deleted_in_the_middle_is_missing(sink: KafkaSink, kafka_server: KafkaServer, topic: str):
    writer = sink.writer(OWNER)
    await writer.open()
    await deliver(writer, 1, values(1, 10))
    kafka_server.delete_topic(topic)
    with pytest.raises(SinkRefused) as caught:
        await deliver(writer, 2, values(11, 20))
    assert caught.value.code == "topic_missing"
    assert "topic_settings.create" in caught.value.message
    await writer.discard()
    await writer.close()


@pytest.mark.parametrize("staged", [True, False])
async def test_a_topic_deleted_and_made_again_is_never_taken_for_the_old_one(
    sink: KafkaSink, kafka_server: KafkaServer, topic: str, staged: bool
):
    writer = sink.writer(OWNER)
    await writer.open()
    await deliver(writer, 1, values(1, 10))
    if staged:
        await prepared(writer, 2, values(11, 20))
        await writer.discard()
        await writer.close()
        writer = sink.writer(OWNER)
        await writer.open()
        await writer.stage(Batch(values(11, 20)))
    kafka_server.delete_topic(topic)
    kafka_server.create_topic(topic)
    with pytest.raises(SinkRefused) as caught:
        await deliver(writer, 2, values(21, 30))
    assert caught.value.code == "topic_recreated"
    await writer.discard()
    await writer.close()
    with pytest.raises(SinkRefused) as caught:
        await sink.writer(NEXT).open()
    assert caught.value.code == "topic_recreated"
    assert await read(kafka_server, topic) == []


async def test_a_topic_made_again_while_nobody_looked_is_found_by_its_id(kafka_server: KafkaServer, topic: str):
    first = kafka_sink(kafka_server.bootstrap, topic)
    writer = first.writer(OWNER)
    await writer.open()
    chunk = await prepared(writer, 1, values(1, 10))
    await writer.make_visible(chunk)
    await writer.close()
    kafka_server.delete_topic(topic)
    knowing = kafka_sink(
        kafka_server.bootstrap, topic, topic_id=chunk.details["topic_id"], topic_settings={"create": True}
    )
    with pytest.raises(SinkRefused) as caught:
        await knowing.prepare_target()
    assert caught.value.code == "topic_missing"
    kafka_server.create_topic(topic)
    with pytest.raises(SinkRefused) as caught:
        await knowing.prepare_target()
    assert caught.value.code == "topic_recreated"

    async def chunks() -> AsyncIterator[object]:
        yield chunk

    with pytest.raises(SinkRefused) as caught:
        await kafka_sink(kafka_server.bootstrap, topic).finish(OWNER, chunks())  # type: ignore[arg-type]
    assert caught.value.code == "topic_recreated"


async def test_at_least_once_rides_over_a_restart_without_a_gap_or_a_double():
    async with KafkaServer() as server:
        topic = server.create_topic()
        sink = kafka_sink(server.bootstrap, topic, delivery="at_least_once")
        sink.sizes.batch_bytes = 8192
        writer = sink.writer(OWNER)
        await writer.open()
        rows = values(1, 3000, size=100)
        await deliver(writer, 1, rows[:1000])
        task = asyncio.create_task(deliver(writer, 2, rows[1000:]))
        await server.restart_async()
        try:
            await task
        except SinkError as error:
            pytest.fail(f"the restart took longer than the patience: {error}")
        await writer.close()
        assert await read(server, topic) == rows
