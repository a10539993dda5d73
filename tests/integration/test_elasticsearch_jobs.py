"""Whole jobs from Postgres to OpenSearch: planner, splits, finish and clean-up on a real sink."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.states import Event, State
from tests.support.proxy import FaultProxy
from tests.support.search_rows import documents
from tests.support.waiting import happened, until
from tests.support.workshop import ACCOUNT, Workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.records import Job
    from tests.support.elasticsearch import SearchServer


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        yield workshop


@pytest.fixture
def index(opensearch_server: SearchServer) -> str:
    return opensearch_server.index_name()


def sink(server: SearchServer, index: str, **changes: Any) -> dict[str, Any]:
    return {"kind": "elasticsearch", "url": server.url, "index": index, **changes}


async def job(shop: Workshop, server: SearchServer, index: str, *, name: str = "orders", **changes: Any) -> Job:
    given = {"sink": sink(server, index, **changes.pop("sink", {})), "options": {"chunk": {"rows": 100}}, **changes}
    return await shop.job(name, **given)


async def there(shop: Workshop) -> dict[str, bytes]:
    """The table as the documents that it should be."""
    rows = await shop.source.fetch("SELECT row_to_json(o)::text AS row FROM orders o")
    return documents([row["row"].encode() for row in rows])


async def found(server: SearchServer, index: str) -> dict[str, bytes]:
    return await asyncio.to_thread(server.documents, index)


async def cause(shop: Workshop, made: Job) -> dict[str, Any]:
    failed = await shop.state(made, State.ERROR)
    first: Any = failed.errors[0]
    return first if isinstance(first, dict) else {"code": first.code, "message": first.message}


async def test_a_table_becomes_documents_and_a_second_full_run_brings_the_changes(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.rows(1500)
    made = await job(shop, opensearch_server, index, mode="full", options={"splits": 3, "chunk": {"rows": 170}})
    await shop.engine().start()
    await shop.run(made)
    assert await found(opensearch_server, index) == await there(shop)
    await shop.source.execute("UPDATE orders SET note = 'changed' WHERE id % 3 = 0")
    await shop.rows(100)
    await shop.run(made)
    assert await found(opensearch_server, index) == await there(shop)
    run = (await shop.get(made)).run
    assert run is not None
    assert (run.rows_sent, run.rows_maybe_doubled) == (1600, 0)


async def test_composite_keys_of_any_text_and_a_routing_column(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.source.execute(
        "CREATE TABLE places (region text, code text, name text, PRIMARY KEY (region, code));"
        "INSERT INTO places SELECT r, c, 'a name' FROM unnest(ARRAY['north', 'sö\"uth', E'tab\\there', 'a\\b', ''])"
        " AS r, unnest(ARRAY['1', E'line\\nbreak', repeat('x', 600), '[\"north\"]']) AS c"
    )
    made = await job(
        shop, opensearch_server, index, source={"datasource": "shop", "table": "places"}, sink={"routing": "region"}
    )
    await shop.engine().start()
    await shop.run(made)
    hits = opensearch_server.call("GET", f"/{index}/_search?size=100")["hits"]["hits"]
    rows = await shop.source.fetch("SELECT region, code FROM places")
    assert sorted((hit["_source"]["region"], hit["_source"]["code"]) for hit in hits) == sorted(map(tuple, rows))
    for hit in hits:
        key = [hit["_source"]["region"], hit["_source"]["code"]]
        assert hit.get("_routing", "") == key[0]
        assert hit["_id"].startswith("sha256:") if len(key[1]) == 600 else json.loads(hit["_id"]) == key


async def test_a_routing_column_that_is_not_there_is_told_by_its_field(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.rows(10)
    made = await job(shop, opensearch_server, index, sink={"routing": "region"})
    await shop.engine().start()
    await shop.verb(made, Event.START)
    told = await cause(shop, made)
    assert told["code"] == "column_unknown"
    assert "sink.routing" in told["message"]


async def test_a_row_that_does_not_fit_the_mapping_ends_the_run_naming_key_and_reason(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.rows(300)
    await shop.source.execute("UPDATE orders SET note = 'not a number' WHERE id IN (150, 160)")
    await shop.source.execute("UPDATE orders SET note = '1' WHERE id NOT IN (150, 160)")
    mapping = {"mappings": {"properties": {"note": {"type": "long"}}}}
    made = await job(shop, opensearch_server, index, sink={"mapping": mapping})
    await shop.engine().start()
    await shop.verb(made, Event.START)
    assert (await cause(shop, made))["code"] == "dead_letters_exceeded"
    told = (await shop.get(made)).errors[1]
    assert told.code == "mapping_conflict"
    assert "key 160" in told.message
    await shop.source.execute("UPDATE orders SET note = '7' WHERE id IN (150, 160)")
    await shop.run(made)
    assert await found(opensearch_server, index) == await there(shop)
    job_now = await shop.get(made)
    assert job_now.totals.rows_sent == 300


async def test_a_closed_index_ends_the_run_and_opened_again_it_goes_on(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.rows(500)
    opensearch_server.call("PUT", f"/{index}")
    opensearch_server.call("POST", f"/{index}/_close")
    made = await job(shop, opensearch_server, index)
    await shop.engine().start()
    await shop.verb(made, Event.START)
    assert (await cause(shop, made))["code"] == "index_closed"
    opensearch_server.call("POST", f"/{index}/_open")
    await shop.run(made)
    assert await found(opensearch_server, index) == await there(shop)


@pytest.mark.parametrize(("action", "executed"), [("cut_after", True), ("cut_before", False)])
async def test_a_lost_answer_is_read_and_sent_again_and_nothing_counts_as_doubled(
    shop: Workshop, opensearch_server: SearchServer, index: str, action: str, executed: bool
):
    await shop.rows(500)
    async with FaultProxy(opensearch_server.port) as proxy:
        made = await job(shop, opensearch_server, index, sink={"url": f"http://{proxy.address}"})
        rule = proxy.on_request(action, predicate=lambda data: b"/_bulk" in data[:200], count=2)  # type: ignore[arg-type]
        await shop.engine().start()
        await shop.verb(made, Event.START)
        await happened(rule.triggered, 20, "an answer is lost")
        await shop.state(made, State.SUCCESSFUL)
    assert rule.hits == 2
    assert await found(opensearch_server, index) == await there(shop)
    run = (await shop.get(made)).run
    assert run is not None
    assert (run.rows_sent, run.rows_maybe_doubled) == (500, 0)


async def test_replace_shows_the_old_documents_until_a_run_has_ended_and_through_one_that_fails(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.rows(400)
    mapping = {"mappings": {"properties": {"note": {"type": "keyword"}, "amount": {"type": "double"}}}}
    made = await job(shop, opensearch_server, index, mode="full", sink={"strategy": "replace", "mapping": mapping})
    await shop.engine().start()
    await shop.run(made)
    first = await there(shop)
    assert await found(opensearch_server, index) == first

    # NaN is no double: the second run fails in the middle, and readers see the first one's documents.
    await shop.source.execute("UPDATE orders SET note = 'new'; DELETE FROM orders WHERE id <= 50")
    await shop.source.execute("ALTER TABLE orders ALTER amount TYPE numeric")
    await shop.source.execute("UPDATE orders SET amount = 'NaN' WHERE id = 250")
    await shop.verb(made, Event.START)
    assert (await cause(shop, made))["code"] == "dead_letters_exceeded"
    assert (await shop.get(made)).errors[1].code == "mapping_conflict"
    assert await found(opensearch_server, index) == first
    assert len(opensearch_server.call("GET", f"/{index}*")) == 2

    await shop.source.execute("UPDATE orders SET amount = 7 WHERE id = 250")
    await shop.run(made)
    assert await found(opensearch_server, index) == await there(shop)
    assert len(opensearch_server.call("GET", f"/{index}*")) == 1


async def test_removing_a_job_removes_the_generation_that_nobody_saw(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.rows(300)
    mapping = {"mappings": {"properties": {"note": {"type": "keyword"}}, "dynamic": "strict"}}
    made = await job(shop, opensearch_server, index, sink={"strategy": "replace", "mapping": mapping})
    await shop.engine().start()
    await shop.verb(made, Event.START)
    assert (await cause(shop, made))["code"] == "dead_letters_exceeded"
    assert (await shop.get(made)).errors[1].code == "mapping_conflict"
    assert len(opensearch_server.call("GET", f"/{index}*")) == 1
    await shop.remove(made)

    async def gone() -> bool:
        return await shop.store.get(ACCOUNT, made.id) is None and not opensearch_server.call("GET", f"/{index}*")

    await until(gone, 30, "the clean-up has removed the index")


async def test_an_index_that_is_deleted_in_the_middle_is_said_and_a_new_beginning_makes_it_again(
    shop: Workshop, opensearch_server: SearchServer, index: str
):
    await shop.rows(400)
    await shop.source.execute("UPDATE orders SET note = CASE WHEN id = 350 THEN 'x' ELSE '1' END")
    mapping = {"mappings": {"properties": {"note": {"type": "long"}}}}
    made = await job(shop, opensearch_server, index, sink={"mapping": mapping})
    await shop.engine().start()
    await shop.verb(made, Event.START)
    assert (await cause(shop, made))["code"] == "dead_letters_exceeded"
    assert (await shop.get(made)).errors[1].code == "mapping_conflict"
    opensearch_server.call("DELETE", f"/{index}")
    await shop.source.execute("UPDATE orders SET note = '1'")
    await shop.verb(made, Event.START)
    assert (await cause(shop, made))["code"] == "index_missing"
    await shop.verb(made, Event.START, from_beginning=True)
    await shop.state(made, State.SUCCESSFUL)
    assert await found(opensearch_server, index) == await there(shop)
