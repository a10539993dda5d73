"""The Elasticsearch sink behind the HTTP API: bad definitions, secrets, credentials, destinations, findings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.integration.serving import serving
from tests.support.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.elasticsearch import SearchServer
    from tests.support.service import ServiceProcess

KEY = "bm90LWZvci1hbnlib2R5OmVsc2Ux"


@pytest.fixture
async def service(database: str, control_database: str) -> AsyncIterator[ServiceProcess]:
    """With a datasource over a table of 500 rows."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
        await connection.execute("INSERT INTO orders (note) SELECT 'note ' || n FROM generate_series(1, 500) n")
    finally:
        await connection.close()
    async with serving(control_database, database, ROWFERRY_LOG_LEVEL="debug") as made:
        yield made


def job(url: str, name: str = "orders", sink: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "source": {"datasource": "shop", "table": "public.orders"},
        "sink": {"kind": "elasticsearch", "url": url, "index": "orders", **(sink or {})},
        "options": {"chunk": {"rows": 100}},
        **changes,
    }


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "url": ("/sink/url", {"sink": {"url": "https://ana:hush-hush@search"}}),
    "index": ("/sink/index", {"sink": {"index": "Orders"}}),
    "strategy": ("/sink/strategy", {"sink": {"strategy": "append"}}),
    "mapping": ("/sink", {"sink": {"mapping": {"properties": {}}}}),
    "unknown": ("/sink/shards", {"sink": {"shards": 3}}),
    "format": ("/format/compression", {"format": {"compression": "gzip"}}),
    "mode": ("", {"mode": "incremental", "sink": {"strategy": "replace"}}),
}


async def test_a_bad_definition_is_told_at_its_place(service: ServiceProcess):
    told = {}
    async with service.client() as api:
        for name, (_, changes) in BAD.items():
            answer = await api.request("POST", "/v1/jobs", json=job("https://search", **changes))
            assert answer.status == 422, name
            assert "hush-hush" not in str(answer.body)
            told[name] = [error["pointer"] for error in answer.body["errors"]]
    assert told == {name: [pointer] for name, (pointer, _) in BAD.items()}
    assert "hush-hush" not in service.log_text()


async def test_a_job_runs_with_a_credential_and_its_secret_is_nowhere(
    service: ServiceProcess, opensearch_server: SearchServer
):
    index = opensearch_server.index_name()
    async with Gateway(opensearch_server.url, authorization=f"ApiKey {KEY}") as gateway, service.client() as api:
        await api.call("PUT", "/v1/credentials/search", json={"secrets": {"api_key": KEY}})
        answers = [await api.create(job(gateway.url, sink={"index": index, "credential": "search"}), start=True)]
        answers.append(await api.wait_for_state("orders", "successful", timeout=40))
        answers.append({"outputs": await api.outputs("orders")})
        given = await api.create(job(gateway.url, name="given", sink={"index": index, "api_key": KEY}))
        assert given["spec"]["sink"]["api_key"] == "***"
        answers += [given, await api.validate(job(gateway.url, name="third", sink={"index": index, "api_key": KEY}))]
        # A stored key goes nowhere but where it was given for.
        moved = given["spec"] | {"sink": given["spec"]["sink"] | {"url": "http://127.0.0.1:1"}}
        refused = await api.request("PUT", "/v1/jobs/given", json=moved)
        assert (refused.status, refused.body["code"]) == (422, "secret_required")
    assert (answers[1]["guarantee"], answers[1]["totals"]["rows_sent"]) == ("idempotent", 500)
    assert {output["target"] for output in answers[2]["outputs"]} == {index}
    assert len(await asyncio.to_thread(opensearch_server.documents, index)) == 500
    assert KEY not in str(answers)
    assert KEY not in service.log_text()


async def test_validate_says_what_stands_in_the_way_and_what_will_be_made(
    service: ServiceProcess, opensearch_server: SearchServer
):
    index = opensearch_server.index_name()

    async def findings(**sink: Any) -> list[tuple[str, str]]:
        async with service.client() as api:
            answer = await api.validate(job(opensearch_server.url, sink={"index": index, **sink}))
        return [(one["severity"], one["code"]) for one in answer["findings"] if one["pointer"].startswith("/sink")]

    assert await findings() == [("info", "index_will_be_created")]
    assert await findings(pipeline="nowhere") == [("error", "pipeline_missing")]
    assert await findings(url="http://127.0.0.1:1") == [("error", "sink_unreachable")]
    assert await findings(url="http://169.254.169.254") == [("error", "destination_refused")]
    opensearch_server.call("PUT", f"/{index}")
    assert await findings() == []
    assert await findings(strategy="replace") == [("error", "alias_taken")]
    opensearch_server.call("POST", f"/{index}/_close")
    assert await findings() == [("error", "index_closed")]


async def test_a_destination_of_another_kind_is_not_one_of_this(
    control_database: str, database: str, opensearch_server: SearchServer
):
    settings = {"ROWFERRY_ALLOWED_DESTINATIONS": "postgres=127.0.0.0/8;kafka=127.0.0.0/8"}
    async with serving(control_database, database, **settings) as service, service.client() as api:
        answer = await api.validate(job(opensearch_server.url))
    assert "destination_refused" in [one["code"] for one in answer["findings"] if one["pointer"].startswith("/sink")]


async def test_replace_refuses_what_would_show_readers_a_part_alone(
    service: ServiceProcess, opensearch_server: SearchServer
):
    index = opensearch_server.index_name()
    given = job(opensearch_server.url, sink={"index": index, "strategy": "replace"}, mode="full")
    async with service.client() as api:
        await api.create(given, start=True)
        await api.wait_for_state("orders", "successful", timeout=40)
        checkpoint = await api.request("GET", "/v1/jobs/orders/checkpoint")
        body = {"generation": checkpoint.body["generation"], "last_id": "250", "allow_repeats": True}
        etag = {"If-Match": checkpoint.headers["ETag"]} if "ETag" in checkpoint.headers else {}
        put = await api.request("PUT", "/v1/jobs/orders/checkpoint", json=body, headers=etag)
        assert (put.status, put.body["code"]) == (409, "replace_needs_all"), put.body
        changed = given | {"source": given["source"] | {"where": "id > 100"}}
        kept = await api.request("PUT", "/v1/jobs/orders", params={"position": "keep"}, json=changed)
        assert (kept.status, kept.body["code"]) == (409, "replace_needs_all"), kept.body
        await api.call("PUT", "/v1/jobs/orders", params={"position": "reset"}, json=changed)
        await api.start("orders")
        await api.wait_for_state("orders", "successful", timeout=40)
    assert len(await asyncio.to_thread(opensearch_server.documents, index)) == 400
