"""Whole jobs with rows that can not be delivered: set aside, kept within their limit, sent again."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from service.domain.errors import Conflict
from service.domain.states import Event, State
from tests.support.reconcile import file_rows, kafka_rows
from tests.support.waiting import until
from tests.support.workshop import ACCOUNT, ACTOR, Workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from service.domain.dead_letters import KeptLetter
    from service.domain.records import Job
    from tests.support.elasticsearch import SearchServer
    from tests.support.kafka import KafkaServer

SMALL = 2000
"""`max.message.bytes` of the topics."""
LIMIT = {"dead_letters": {"max_rows": 100}, "chunk": {"rows": 100}}


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        yield workshop


@pytest.fixture
def narrow(kafka_server: KafkaServer) -> str:
    """A topic that takes small messages only."""
    return kafka_server.create_topic(config={"max.message.bytes": str(SMALL)})


def to_kafka(server: KafkaServer, topic: str, **more: Any) -> dict[str, Any]:
    sink = {"kind": "kafka", "bootstrap_servers": server.bootstrap, "topic": topic, "key": ["id"], **more}
    return {"sink": sink, "options": LIMIT}


def widen(server: KafkaServer, topic: str) -> None:
    entry = ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = server.admin()
    admin.incremental_alter_configs([resource])[resource].result(15)


async def large(shop: Workshop, *ids: int, size: int = 3000) -> None:
    """Rows that do not fit into the topic."""
    await shop.source.execute("UPDATE orders SET note = repeat('x', $2) WHERE id = ANY ($1)", list(ids), size)


async def letters(shop: Workshop, job: Job, **filters: str) -> Sequence[KeptLetter]:
    page, _ = await shop.store.dead_letters(ACCOUNT, job.id, filters, limit=500, after=None)
    return page


async def numbers(shop: Workshop, job: Job) -> list[int]:
    return sorted(int(one.key[0]) for one in await letters(shop, job))


async def in_topic(server: KafkaServer, topic: str) -> list[int]:
    return [int(row.key[0]) for row in await asyncio.to_thread(lambda: list(kafka_rows(server.bootstrap, topic)))]


async def retry(shop: Workshop, job: Job, origin: str, *ids: str) -> int:
    """Send again, and wait until the retry has ended."""
    asked = await shop.store.retry_dead_letters(ACCOUNT, ACTOR, job.id, ids=list(ids) or None, origin=origin)
    await ended(shop, job)
    return asked.letters


async def ended(shop: Workshop, job: Job) -> None:
    async def over() -> bool:
        events = await shop.events_of(job)
        done = events.count("dead_letters_retried") + events.count("dead_letters_retry_failed")
        return done == events.count("dead_letters_retry")

    await until(over, 30, "the retry has ended")


def counts(job: Job) -> tuple[int, int, int]:
    assert job.run is not None
    assert (job.run.rows_read, job.run.rows_sent, job.run.rows_dead) == (
        job.totals.rows_read,
        job.totals.rows_sent,
        job.totals.rows_dead,
    )
    return job.totals.rows_read, job.totals.rows_sent, job.totals.rows_dead


# Kafka


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_records_over_the_topics_limit_are_set_aside_and_all_others_arrive(
    shop: Workshop, kafka_server: KafkaServer, narrow: str, delivery: str
) -> None:
    await shop.rows(500)
    wrong = [1, 2, 99, 100, 101, 250, 500]
    await large(shop, *wrong)
    job = await shop.job("orders", **to_kafka(kafka_server, narrow, delivery=delivery))
    await shop.engine().start()
    job = await shop.run(job)
    assert (job.state, counts(job), job.last_id) == (State.SUCCESSFUL, (500, 493, 7), ("500",))
    assert await in_topic(kafka_server, narrow) == [n for n in range(1, 501) if n not in wrong]
    found = await letters(shop, job)
    assert [int(one.key[0]) for one in found] == wrong
    one = found[0]
    row = await shop.source.fetchval("SELECT row_to_json(o)::text FROM orders o WHERE id = 1")
    assert (one.payload, one.payload_bytes, one.message_key) == (row.encode(), len(row), b"1")
    assert one.code == "row_too_large"
    assert "max.message.bytes" in one.message


@pytest.mark.kafka
async def test_chunks_without_a_row_that_can_be_sent_take_no_sequence(
    shop: Workshop, kafka_server: KafkaServer, narrow: str
) -> None:
    await shop.rows(60)
    await large(shop, *range(11, 41))
    spec = to_kafka(kafka_server, narrow)
    job = await shop.job("orders", **{**spec, "options": {**LIMIT, "chunk": {"rows": 10}}})
    await shop.engine().start()
    job = await shop.run(job)
    assert counts(job) == (60, 30, 30)
    outputs, _ = await shop.store.outputs(ACCOUNT, job.id, limit=50, after=None)
    assert [(one.sequence, one.rows) for one in outputs] == [(1, 10), (2, 10), (3, 10)]
    assert await in_topic(kafka_server, narrow) == [*range(1, 11), *range(41, 61)]


@pytest.mark.kafka
async def test_without_a_limit_the_first_one_ends_the_run_and_says_which(
    shop: Workshop, kafka_server: KafkaServer, narrow: str
) -> None:
    await shop.rows(300)
    await large(shop, 150)
    job = await shop.job("orders", **{**to_kafka(kafka_server, narrow), "options": {"chunk": {"rows": 100}}})
    await shop.engine().start()
    job = await shop.run(job)
    assert [cause.code for cause in job.errors][:2] == ["dead_letters_exceeded", "row_too_large"]
    assert "options.dead_letters.max_rows is 0" in job.errors[0].message
    assert "PATCH" in job.errors[0].message
    assert "key 150" in job.errors[1].message
    assert (counts(job), await numbers(shop, job)) == ((100, 100, 0), [])
    spec = {**job.spec, "options": {**LIMIT, "dead_letters": {"max_rows": 1}}}
    await shop.store.patch(ACCOUNT, ACTOR, job.id, spec)
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, job.totals.rows_dead) == (State.SUCCESSFUL, 299, 1)
    assert await in_topic(kafka_server, narrow) == [n for n in range(1, 301) if n != 150]


@pytest.mark.kafka
async def test_what_was_within_the_limit_stays_when_the_run_ends_beyond_it(
    shop: Workshop, kafka_server: KafkaServer, narrow: str
) -> None:
    await shop.rows(300)
    await large(shop, 50, 150, 250)
    spec = {**to_kafka(kafka_server, narrow), "options": {**LIMIT, "dead_letters": {"max_rows": 2}}}
    job = await shop.job("orders", **spec)
    await shop.engine().start()
    job = await shop.run(job)
    assert (job.state, job.errors[0].code) == (State.ERROR, "dead_letters_exceeded")
    assert (counts(job), await numbers(shop, job)) == ((200, 198, 2), [50, 150])
    # Each run has its limit to itself.
    job = await shop.run(job)
    assert (job.state, await numbers(shop, job)) == (State.SUCCESSFUL, [50, 150, 250])
    assert await in_topic(kafka_server, narrow) == [n for n in range(1, 301) if n not in {50, 150, 250}]


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("origin", ["source", "payload"])
async def test_records_are_sent_again_when_the_topic_takes_them(
    shop: Workshop, kafka_server: KafkaServer, narrow: str, origin: str, delivery: str
) -> None:
    await shop.rows(200)
    await large(shop, 10, 20, 30)
    job = await shop.job("orders", **to_kafka(kafka_server, narrow, delivery=delivery))
    await shop.engine().start()
    await shop.run(job)
    await shop.source.execute("UPDATE orders SET note = 'short' WHERE id = 10; DELETE FROM orders WHERE id = 20")
    widen(kafka_server, narrow)
    await retry(shop, job, origin)
    job = await shop.get(job)
    left = [20] if origin == "source" else []
    assert (job.state, counts(job)) == (State.SUCCESSFUL, (200, 200 - len(left), len(left)))
    assert await numbers(shop, job) == left
    if left:
        (one,) = await letters(shop, job)
        assert (one.retries, one.retry) == (1, None)
        assert "no row with this key" in (one.note or "")
    sent = await in_topic(kafka_server, narrow)
    assert sorted(sent) == [n for n in range(1, 201) if n not in left]
    assert sent[-3 + len(left) :] == [n for n in (10, 20, 30) if n not in left]
    rows = await asyncio.to_thread(lambda: list(kafka_rows(kafka_server.bootstrap, narrow)))
    note = next(json.loads(row.value)["note"] for row in rows if row.key == ("10",))
    assert note == ("short" if origin == "source" else "x" * 3000)
    outputs, _ = await shop.store.outputs(ACCOUNT, job.id, limit=50, after=None)
    assert [(one.split, one.sequence, one.rows) for one in outputs][-1] == (-1, 1, 3 - len(left))


@pytest.mark.kafka
async def test_what_is_refused_again_stays_and_the_next_retry_has_a_number_of_its_own(
    shop: Workshop, kafka_server: KafkaServer, narrow: str
) -> None:
    await shop.rows(100)
    await large(shop, 10, 20, 30)
    job = await shop.job("orders", **to_kafka(kafka_server, narrow))
    await shop.engine().start()
    await shop.run(job)
    await shop.source.execute("UPDATE orders SET note = 'short' WHERE id = 20")
    assert await retry(shop, job, "source") == 3
    assert [(one.key[0], one.retries) for one in await letters(shop, job)] == [("10", 1), ("30", 1)]
    assert await retry(shop, job, "source") == 2
    assert [one.retries for one in await letters(shop, job)] == [2, 2]
    widen(kafka_server, narrow)
    thirty = (await letters(shop, job))[1]
    assert await retry(shop, job, "payload", thirty.id) == 1
    assert await numbers(shop, job) == [10]
    assert sorted(await in_topic(kafka_server, narrow)) == [n for n in range(1, 101) if n != 10]


@pytest.mark.kafka
async def test_a_job_does_not_start_while_its_dead_letters_are_sent_and_removal_fences_the_retry(
    shop: Workshop, kafka_server: KafkaServer, narrow: str
) -> None:
    await shop.rows(50)
    await large(shop, 10)
    job = await shop.job("orders", mode="full", **to_kafka(kafka_server, narrow))
    engine = shop.engine()
    await engine.start()
    await shop.run(job)
    await engine.stop(1.0)
    await shop.store.retry_dead_letters(ACCOUNT, ACTOR, job.id, ids=None, origin="source")
    with pytest.raises(Conflict) as refused:
        await shop.verb(job, Event.START)
    assert refused.value.code == "retry_running"
    await shop.engine("two").start()
    await ended(shop, job)
    assert (await shop.run(job)).state is State.SUCCESSFUL
    assert len(await letters(shop, job)) == 2
    assert await shop.remove(job)

    async def cleaned() -> bool:
        return (await shop.events_of(job)).count("cleaned_up") == 2

    await until(cleaned, 30, "both generations are cleaned up")
    admin = kafka_server.admin()
    groups = await asyncio.to_thread(lambda: admin.list_consumer_groups().result(15))
    assert not [group.group_id for group in groups.valid if job.id in group.group_id]


# Rows that Postgres can not hand over


async def test_rows_over_max_row_bytes_are_passed_over_by_key_and_reason(shop: Workshop) -> None:
    await shop.rows(300)
    await large(shop, 1, 150, 151, 300, size=5000)
    options = {**LIMIT, "max_row_bytes": 2000, "splits": 2}
    job = await shop.job("orders", options=options)
    await shop.engine().start()
    job = await shop.run(job)
    assert (job.state, counts(job), job.last_id) == (State.SUCCESSFUL, (300, 296, 4), ("300",))
    found = await letters(shop, job)
    assert {(one.code, one.payload, one.payload_bytes) for one in found} == {("row_too_large", None, None)}
    assert "max_row_bytes" in found[0].message
    seen = sorted(int(row.key[0]) for row in file_rows(shop.folder / "files" / ACCOUNT / job.name))
    assert seen == [n for n in range(1, 301) if n not in {1, 150, 151, 300}]
    await retry(shop, job, "payload")
    assert {one.note for one in await letters(shop, job)} == {"its record was never read: send it from source"}
    await shop.source.execute("UPDATE orders SET note = 'short' WHERE id IN (1, 150)")
    await retry(shop, job, "source")
    assert await numbers(shop, job) == [151, 300]
    seen = sorted(int(row.key[0]) for row in file_rows(shop.folder / "files" / ACCOUNT / job.name))
    assert seen == [n for n in range(1, 301) if n not in {151, 300}]
    # What a retry has written is no stranger to the next finish step, and no part of it.
    job = await shop.run(job, from_beginning=True)
    assert job.state is State.SUCCESSFUL


async def test_a_retry_reads_and_sends_no_faster_than_the_job_may(shop: Workshop) -> None:
    await shop.rows(45)
    await large(shop, *range(1, 41), size=5000)
    job = await shop.job("orders", options={**LIMIT, "max_row_bytes": 2000, "rate": {"rows_per_second": 20}})
    await shop.engine().start()
    await shop.run(job)
    await shop.source.execute("UPDATE orders SET note = 'short'")
    began = time.monotonic()
    assert await retry(shop, job, "source") == 40
    assert time.monotonic() - began >= 1.9, "forty rows at twenty a second"
    assert await numbers(shop, job) == []


async def test_a_row_over_max_row_bytes_ends_a_run_without_a_limit(shop: Workshop) -> None:
    await shop.rows(10)
    await large(shop, 5, size=5000)
    job = await shop.job("orders", options={"max_row_bytes": 2000})
    await shop.engine().start()
    job = await shop.run(job)
    assert [cause.code for cause in job.errors] == ["dead_letters_exceeded", "row_too_large"]
    assert "raise options.max_row_bytes" in job.errors[1].message


# Elasticsearch


@pytest.fixture
def index(opensearch_server: SearchServer) -> str:
    return opensearch_server.index_name()


def to_search(server: SearchServer, index: str, **more: Any) -> dict[str, Any]:
    mapping = {"mappings": {"properties": {"note": {"type": "long"}}}}
    sink = {"kind": "elasticsearch", "url": server.url, "index": index, "mapping": mapping, **more}
    return {"sink": sink, "options": LIMIT}


async def documents(server: SearchServer, index: str) -> dict[int, Any]:
    found = await asyncio.to_thread(server.documents, index)
    return {int(json.loads(key)[0]): json.loads(source) for key, source in found.items()}


@pytest.mark.parametrize("strategy", ["incremental", "replace"])
async def test_documents_that_do_not_fit_the_mapping_are_set_aside(
    shop: Workshop, opensearch_server: SearchServer, index: str, strategy: str
) -> None:
    await shop.rows(300)
    await shop.source.execute("UPDATE orders SET note = CASE WHEN id % 50 = 0 THEN 'no number' ELSE '1' END")
    job = await shop.job("orders", mode="full", **to_search(opensearch_server, index, strategy=strategy))
    await shop.engine().start()
    job = await shop.run(job)
    assert (job.state, counts(job)) == (State.SUCCESSFUL, (300, 294, 6))
    wrong = [50, 100, 150, 200, 250, 300]
    assert await numbers(shop, job) == wrong
    assert sorted(await documents(opensearch_server, index)) == [n for n in range(1, 301) if n not in wrong]
    found = await letters(shop, job, code="mapping_conflict")
    assert len(found) == 6
    assert json.loads(found[0].payload or b"")["note"] == "no number"
    assert all(one.version is not None for one in found)
    outputs, _ = await shop.store.outputs(ACCOUNT, job.id, limit=50, after=None)
    assert sum(one.rows for one in outputs) == 294


async def test_beyond_the_limit_a_chunk_stays_prepared_and_is_sent_again_when_it_is_raised(
    shop: Workshop, opensearch_server: SearchServer, index: str
) -> None:
    await shop.rows(300)
    await shop.source.execute("UPDATE orders SET note = CASE WHEN id IN (150, 160) THEN 'no' ELSE '1' END")
    spec = {**to_search(opensearch_server, index), "options": {**LIMIT, "dead_letters": {"max_rows": 1}}}
    job = await shop.job("orders", **spec)
    await shop.engine().start()
    job = await shop.run(job)
    assert [cause.code for cause in job.errors] == ["dead_letters_exceeded", "mapping_conflict"]
    assert (counts(job), await numbers(shop, job)) == ((100, 100, 0), [])
    raised = {**job.spec, "options": {**LIMIT, "dead_letters": {"max_rows": 2}}}
    await shop.store.patch(ACCOUNT, ACTOR, job.id, raised)
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, await numbers(shop, job)) == (State.SUCCESSFUL, 298, [150, 160])
    assert len(await documents(opensearch_server, index)) == 298


async def test_from_its_payload_a_document_keeps_its_first_version_and_from_source_gets_a_new_one(
    shop: Workshop, opensearch_server: SearchServer, index: str
) -> None:
    await shop.rows(20)
    await shop.source.execute("UPDATE orders SET note = CASE WHEN id <= 4 THEN 'word ' || id ELSE '1' END")
    job = await shop.job("orders", **to_search(opensearch_server, index))
    await shop.engine().start()
    await shop.run(job)
    first = {int(one.key[0]): one for one in await letters(shop, job)}
    # Refused again: a new reason would be told, the version stays.
    await retry(shop, job, "payload")
    assert {one.version for one in await letters(shop, job)} == {first[1].version}
    assert {one.retries for one in await letters(shop, job)} == {1}
    # Somebody newer has written 1 meanwhile; the record that was kept must not win over it.
    newer = (first[1].version or 0) + 1
    opensearch_server.call(
        "PUT", f"/{index}/_doc/%5B%221%22%5D?version={newer}&version_type=external", {"id": 1, "note": 7}
    )
    opensearch_server.call(
        "PUT", f"/{index}/_mapping", {"properties": {"note": {"type": "long", "ignore_malformed": True}}}
    )
    await retry(shop, job, "payload", first[1].id, first[2].id)
    found = await documents(opensearch_server, index)
    assert (found[1]["note"], found[2]["note"]) == (7, "word 2")
    await shop.source.execute("UPDATE orders SET note = '3' WHERE id = 3")
    await retry(shop, job, "source")
    assert await numbers(shop, job) == []
    assert (await documents(opensearch_server, index))[3]["note"] == "3"
    assert counts(await shop.get(job)) == (20, 20, 0)
