"""Soft deletes become tombstones: Kafka's null values, Elasticsearch's deletes; nothing else takes a row back."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.api_cases import ApiCase, definition
from tests.integration.source_cases import connected
from tests.support.kafka_rows import read_settled
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.elasticsearch import SearchServer
    from tests.support.kafka import KafkaServer

SOFT = {"soft_delete": {"column": "deleted_at"}}
BY_CHANGE = {"mode": "incremental", "options": {"safety": {"kind": "none"}, "chunk": {"rows": 40}}}


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as made:
        await made.shop()
        await made.source.execute(
            """
            ALTER TABLE orders ADD COLUMN deleted_at timestamptz,
                ADD COLUMN updated_at timestamptz NOT NULL DEFAULT '2020-01-01';
            CREATE UNIQUE INDEX ON orders (updated_at, id);
            """
        )
        await made.rows(100)
        await made.source.execute("UPDATE orders SET deleted_at = now() WHERE id % 10 = 0")
        await made.engine.start()
        yield made


def given(sink: dict[str, Any], *, key: list[str] | None = None, **more: Any) -> dict[str, Any]:
    made = definition(sink=sink, **more)
    made["source"] |= SOFT | ({"key": key} if key else {})
    return made


async def ran(api: ApiCase, *, start: bool = False) -> dict[str, Any]:
    if start:
        await api.ok("POST", "/v1/jobs/j/start", status=202)
    job: dict[str, Any] = await api.until_state("j", "successful")
    return job


async def verified(api: ApiCase, **body: Any) -> dict[str, Any]:
    found = await api.verified(**body)
    kinds = ("missing", "doubled", "foreign", "checksum", "gone", "not_verifiable", "source_changed")
    return {kind: found[kind] for kind in kinds if found[kind]} | {"notes": found["notes"]}


@pytest.mark.kafka
async def test_a_deleted_row_is_its_key_without_a_value_and_a_verification_knows_it(
    api: ApiCase, kafka_server: KafkaServer, topic: str
) -> None:
    kafka = {"kind": "kafka", "bootstrap_servers": kafka_server.bootstrap, "topic": topic, "key": ["id"]}
    await api.ok("POST", "/v1/jobs?start=true", given(kafka, options={"chunk": {"rows": 30}}), 201)
    assert (await ran(api))["totals"]["rows_sent"] == 100
    records = await read_settled(kafka_server, topic)
    assert sorted(int(one.key or b"") for one in records) == list(range(1, 101))
    assert {int(one.key or b"") for one in records if one.value is None} == set(range(10, 101, 10))
    assert all(one.value is None or json.loads(one.value)["id"] == int(one.key or b"") for one in records)
    for checksums in (False, True):
        assert await verified(api, checksums=checksums) == {"notes": []}
    await api.source.execute("UPDATE orders SET deleted_at = now() WHERE id = 5")
    assert (await verified(api))["source_changed"] == 2


@pytest.mark.kafka
async def test_updates_and_deletes_come_by_updated_at_and_the_last_record_of_a_key_is_what_is(
    api: ApiCase, kafka_server: KafkaServer, topic: str
) -> None:
    kafka = {"kind": "kafka", "bootstrap_servers": kafka_server.bootstrap, "topic": topic, "key": ["id"]}
    await api.ok("POST", "/v1/jobs?start=true", given(kafka, key=["updated_at", "id"], **BY_CHANGE), 201)
    await ran(api)
    await api.source.execute(
        """
        UPDATE orders SET note = 'changed', updated_at = '2021-01-01' WHERE id % 10 = 1;
        UPDATE orders SET deleted_at = now(), updated_at = '2021-01-02' WHERE id % 10 = 2;
        UPDATE orders SET deleted_at = NULL, updated_at = '2021-01-03' WHERE id % 10 = 0;
        """
    )
    assert (await ran(api, start=True))["run"]["rows_sent"] == 30
    state = {int(one.key or b""): one.value for one in await read_settled(kafka_server, topic)}
    rows = await api.source.fetch(
        "SELECT id, CASE WHEN deleted_at IS NULL THEN row_to_json(o)::text END AS row FROM orders o"
    )
    assert state == {row["id"]: row["row"] and row["row"].encode() for row in rows}


@pytest.mark.kafka
@pytest.mark.parametrize("mode", ["incremental", "continuous"])
async def test_changes_by_updated_at_wait_for_those_that_began_before_them(
    api: ApiCase, kafka_server: KafkaServer, topic: str, mode: str
) -> None:
    """`safety: commit` on `(updated_at, id)`: a row of a long transaction is dated before others that are long there,
    and one that is dated in the future passes over nobody."""
    kafka = {"kind": "kafka", "bootstrap_servers": kafka_server.bootstrap, "topic": topic, "key": ["id"]}
    options = {"safety": {"kind": "commit"}, "key_is_monotonic": True, "poll_seconds": 0.05, "chunk": {"seconds": 0.1}}
    made = given(kafka, key=["updated_at", "id"], mode=mode, options=options)
    job = await api.ok("POST", "/v1/jobs?start=true", made, 201)
    assert "at your word" in job["guarantee_note"]

    async def sent(rows: int) -> bool:
        job = await api.ok("GET", "/v1/jobs/j")
        assert job["totals"]["rows_sent"] <= rows, job["totals"]
        if job["state"] == "successful" and job["totals"]["rows_sent"] < rows:
            await api.ok("POST", "/v1/jobs/j/start", status=202)
        return bool(job["totals"]["rows_sent"] == rows and (mode == "continuous" or job["state"] == "successful"))

    await until(lambda: sent(100), 30, "the first rows")
    async with connected(api.source_dsn) as slow:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute("UPDATE orders SET note = 'late', updated_at = now() WHERE id = 1")
        await api.source.execute(
            """
            UPDATE orders SET deleted_at = now(), updated_at = now() WHERE id = 2;
            UPDATE orders SET note = 'not yet', updated_at = now() + interval '1 day' WHERE id = 3;
            """
        )

        async def waits() -> bool:
            job = await api.ok("GET", "/v1/jobs/j")
            return bool(job["horizon"] and job["horizon"]["ahead_of_generator"] == 2)

        if mode == "continuous":
            await until(waits, 20, "both rows wait")
        else:
            assert (await ran(api, start=True))["totals"]["rows_sent"] == 100
        await transaction.commit()
    await until(lambda: sent(102), 30, "both changes")
    records = (await read_settled(kafka_server, topic))[100:]
    assert [int(one.key or b"") for one in records] == [1, 2], "in the order of their times"
    assert json.loads(records[0].value or b"")["note"] == "late"
    assert records[1].value is None


async def test_documents_of_deleted_rows_go_and_come_back_with_the_row(
    api: ApiCase, opensearch_server: SearchServer
) -> None:
    index = opensearch_server.index_name()
    search = {"kind": "elasticsearch", "url": opensearch_server.url, "index": index}
    # The document's id is the key, so a key that moves with each update would leave the old document behind.
    await api.ok("POST", "/v1/jobs?start=true", given(search, mode="full", options={"chunk": {"rows": 30}}), 201)
    await ran(api)

    async def is_as_the_table() -> None:
        rows = await api.source.fetch("SELECT id FROM orders WHERE deleted_at IS NULL")
        documents = await asyncio.to_thread(opensearch_server.documents, index)
        assert set(documents) == {json.dumps([str(row["id"])]) for row in rows}
        assert await verified(api) == {"notes": []}

    await is_as_the_table()
    await api.source.execute(
        "UPDATE orders SET deleted_at = CASE WHEN id % 10 = 0 THEN NULL ELSE now() END WHERE id % 10 IN (0, 3)"
    )
    assert (await ran(api, start=True))["run"]["rows_dead"] == 0
    await is_as_the_table()


async def test_a_document_stays_with_its_row_while_the_key_moves_with_each_update(
    api: ApiCase, opensearch_server: SearchServer
) -> None:
    index = opensearch_server.index_name()
    search = {"kind": "elasticsearch", "url": opensearch_server.url, "index": index, "id": ["id"]}
    await api.ok("POST", "/v1/jobs?start=true", given(search, key=["updated_at", "id"], **BY_CHANGE), 201)
    await ran(api)
    await api.source.execute(
        """
        UPDATE orders SET note = 'changed', updated_at = '2021-01-01' WHERE id % 10 = 1;
        UPDATE orders SET deleted_at = now(), updated_at = '2021-01-02' WHERE id % 10 = 2;
        """
    )
    assert (await ran(api, start=True))["run"]["rows_sent"] == 20
    rows = await api.source.fetch("SELECT id, row_to_json(o)::text AS row FROM orders o WHERE deleted_at IS NULL")
    documents = await asyncio.to_thread(opensearch_server.documents, index)
    assert {one: json.loads(document) for one, document in documents.items()} == {
        json.dumps([str(row["id"])]): json.loads(row["row"]) for row in rows
    }
    assert await verified(api) == {"notes": []}
    wrong = given({**search, "id": ["note"]}, key=["updated_at", "id"])
    await api.refused("POST", "/v1/jobs:preview", wrong, 422, "column_unknown")


@pytest.mark.parametrize(
    ("sink", "pointer", "code"),
    [
        ({"kind": "file", "path": "x"}, "/source/soft_delete", "soft_delete_not_supported"),
        ({"kind": "donothing"}, "/source/soft_delete", "soft_delete_not_supported"),
        ({"kind": "s3", "bucket": "rows"}, "/source/soft_delete", "soft_delete_not_supported"),
        (
            {"kind": "hdfs", "url": "http://127.0.0.1:1", "path": "/x"},
            "/source/soft_delete",
            "soft_delete_not_supported",
        ),
        ({"kind": "kafka", "bootstrap_servers": "127.0.0.1:1", "topic": "t"}, "/sink/key", "tombstone_without_key"),
    ],
)
async def test_a_sink_that_can_not_take_a_row_back_is_refused(
    api: ApiCase, sink: dict[str, Any], pointer: str, code: str
) -> None:
    problem = await api.refused("POST", "/v1/jobs", given(sink), 422, code)
    assert [one["pointer"] for one in problem["errors"]] == [pointer]


async def test_validation_says_that_removed_rows_are_never_seen(api: ApiCase) -> None:
    made = given({"kind": "kafka", "bootstrap_servers": "127.0.0.1:1", "topic": "t", "key": ["id"]}, **BY_CHANGE)
    found = (await api.ok("POST", "/v1/jobs:validate", made))["findings"]
    assert "hard_deletes_unseen" in [one["code"] for one in found]
