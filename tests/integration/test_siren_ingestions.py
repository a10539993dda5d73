"""Configurations of the Siren dialect on real Postgres and real OpenSearch: what they are told as, and what they do."""

from __future__ import annotations

import asyncio
import contextlib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine.ticker import Ticker
from service.lifecycle import Verbs
from tests.integration.siren_cases import SirenCase
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.elasticsearch import SearchServer

QUERY = "select * from events {{#max_primary_key}}WHERE id>{{max_primary_key}}{{/max_primary_key}} limit 10000"
EVENTS = """
CREATE TABLE events (id bigint PRIMARY KEY, value text, lat double precision, lon double precision);
INSERT INTO events SELECT n, 'value ' || n, n % 90, n % 180 FROM generate_series(0, 99) AS n
"""


class IngestCase(SirenCase):
    """A service with a table `events` and the search server as its own."""

    def __init__(self, control_dsn: str, source_dsn: str, server: SearchServer) -> None:
        super().__init__(control_dsn, source_dsn, siren_elasticsearch_url=server.url, dialect_delay_seconds=0.1)
        self.server = server
        self.index = server.index_name()

    def ingest(self, **changes: Any) -> dict[str, Any]:
        """Siren's documented sample, with less of it."""
        found = {
            "datasource": "shop",
            "query": QUERY,
            "target": self.index,
            "strategy": "INCREMENTAL",
            "pk_field": "id",
        }
        return {"ingest": {name: value for name, value in {**found, **changes}.items() if value is not None}}

    async def put(self, name: str = "events", status: int = 201, **changes: Any) -> Any:
        """Make a configuration."""
        return await self.told("PUT", f"/ingestion/{name}", self.ingest(**changes), status)

    async def get(self, name: str = "events") -> Any:
        """What it is now."""
        return (await self.told("GET", f"/ingestion/{name}"))["_source"]["ingest"]

    async def ran(self, name: str = "events") -> tuple[str, int, str | None]:
        """A run: state, count, last_id."""
        started = await self.told("POST", f"/ingestion/{name}/_run")
        assert (started["_id"], started["status"]["state"]) == (name, "running")
        status = await self.ended(name)
        assert status["state"] == "successful", status.get("error")
        return status["state"], status["count"], status.get("last_id")

    async def documents(self) -> dict[int, dict[str, Any]]:
        """What readers of the target see, by id."""

        def look() -> dict[int, dict[str, Any]]:
            self.server.call("POST", f"/{self.index}/_refresh")
            hits = self.server.call("GET", f"/{self.index}/_search?size=5000")["hits"]["hits"]
            return {hit["_source"]["id"]: hit["_source"] for hit in hits}

        return await asyncio.to_thread(look)


@pytest.fixture
async def siren(database: str, control_database: str, opensearch_server: SearchServer) -> AsyncIterator[IngestCase]:
    async with IngestCase(control_database, database, opensearch_server) as case:
        await case.source.execute(EVENTS)
        await case.shop()
        await case.engine.start()
        yield case


async def test_a_configuration_is_made_shown_changed_and_removed(siren: IngestCase):
    assert await siren.put(description="all events") == {"_id": "events", "result": "created"}
    safety = {"safety": {"kind": "delay", "delay_seconds": 0.1}}
    shown = {**siren.ingest(description="all events")["ingest"], "options": safety}
    assert await siren.told("GET", "/ingestion/events") == {
        "_id": "events",
        "found": True,
        "_source": {"ingest": shown},
    }
    hits = {"hits": {"total": 1, "hits": [{"_id": "events", "_source": {"ingest": shown}}]}}
    assert await siren.told("GET", "/ingestion/_search") == hits
    changed = await siren.put(status=200, batch_size=10, schedule="0 0 * * * ?", enable_schedule=False)
    assert changed == {"_id": "events", "result": "updated"}
    shown = await siren.get()
    assert [shown.get(name) for name in ("batch_size", "schedule", "enable_scheduler", "description")] == [
        *(10, "0 0 * * * ?", False, None)
    ]
    assert (await siren.told("PUT", "/ingestion/events", {"ingest": shown}))["result"] == "updated"
    assert await siren.get() == shown
    assert await siren.told("DELETE", "/ingestion/events") == {"_id": "events", "result": "deleted"}
    assert await siren.told("GET", "/ingestion/events", status=404) == {"_id": "events", "found": False}
    assert await siren.told("DELETE", "/ingestion/events", status=404) == {"_id": "events", "found": False}
    assert await siren.told("GET", "/ingestion/_search") == {"hits": {"total": 0, "hits": []}}


SAMPLE: dict[str, Any] = {
    "batch_size": 10,
    "schedule": "0 0 * * * ?",
    "enable_scheduler": True,
    "staging_prefix": "staging-index",
    "strategy": "REPLACE",
    "description": "description",
    "mapping": {
        "properties": {
            "id": {"type": "long"},
            "value": {"type": "keyword"},
            "location": {"type": "text"},
            "geolocation": {"type": "geo_point"},
        }
    },
    "pipeline": {"processors": [{"stamp": {"field": "foo"}}]},
    "transforms": [
        {"input": [{"source": "id"}], "output": "id", "mapping": {"type": "long"}},
        {
            "input": [{"source": "lat"}, {"source": "lon"}],
            "output": "geolocation",
            "transform": "geo_point",
            "mapping": {"type": "geo_point"},
        },
    ],
}
"""The sample of Siren's page."""


async def test_the_sample_of_siren_s_page_is_taken_as_it_stands(siren: IngestCase):
    await siren.source.execute("ALTER TABLE events ADD location text")
    sample = deepcopy(SAMPLE)
    await siren.put(**sample)
    assert await siren.ran() == ("successful", 100, "99")
    found = await siren.documents()
    assert len(found) == 100
    assert found[7] == {
        "id": 7,
        "value": "value 7",
        "lat": 7,
        "lon": 7,
        "location": None,
        "foo": True,
        "geolocation": {"lat": 7, "lon": 7},
    }
    generation = f"staging-index-{siren.index}-1"
    assert list(siren.server.call("GET", f"/_alias/{siren.index}")) == [generation]
    properties = siren.server.call("GET", f"/{generation}/_mapping")[generation]["mappings"]["properties"]
    assert [properties[name]["type"] for name in ("id", "value", "geolocation")] == ["long", "keyword", "geo_point"]
    shown = await siren.get()
    sample["transforms"][0]["transform"] = "copy"
    assert {name: shown[name] for name in sample} == sample
    await siren.source.execute("DELETE FROM events WHERE id < 50")
    assert await siren.ran() == ("successful", 50, "99")
    assert min(await siren.documents()) == 50
    assert list(siren.server.call("GET", f"/_alias/{siren.index}")) == [f"staging-index-{siren.index}-2"]
    # Readers keep what they see, and the name of its index is taken: the next of the same name goes beside it.
    await siren.told("DELETE", "/ingestion/events")
    await siren.put(**{**sample, "enable_scheduler": False})
    for _ in range(2):
        assert (await siren.ran())[:2] == ("successful", 50)
    (behind,) = siren.server.call("GET", f"/_alias/{siren.index}")
    assert behind.startswith(f"staging-index-{siren.index}-")
    refused = siren.ingest(**{**sample, "pipeline": {"processors": [{"nothing": {}}]}})
    assert "ingest.sink.pipeline" in await siren.reason("POST", "/ingestion/events/_validate", refused)


async def test_each_run_brings_what_came_since_and_an_abort_keeps_what_it_brought(siren: IngestCase):
    await siren.put(batch_size=20, options={"rate": {"rows_per_second": 100}, "safety": {"kind": "none"}})
    await siren.told("POST", "/ingestion/events/_run")

    async def moved() -> bool:
        return (await siren.told("GET", "/jobs/ingestion/events"))["status"]["count"] > 0

    await until(moved, 20, "the first rows")
    assert "running" in await siren.reason("POST", "/ingestion/events/_run", status=409)
    assert "running" in await siren.reason("PUT", "/ingestion/events", siren.ingest(), status=409)
    assert "running" in await siren.reason("DELETE", "/ingestion/events", status=409)
    aborted = (await siren.told("POST", "/jobs/ingestion/events/_abort"))["status"]
    assert aborted["state"] == "aborted"
    reached = aborted["count"]
    assert 0 < reached < 100
    assert aborted["last_id"] == str(reached - 1)
    await siren.put(status=200)
    assert await siren.ran() == ("successful", 100 - reached, "99")
    assert await siren.ran() == ("successful", 0, None)
    await siren.source.execute("INSERT INTO events VALUES (100)")
    assert await siren.ran() == ("successful", 1, "100")
    assert sorted(await siren.documents()) == list(range(101))


async def test_the_old_documents_stay_when_a_replacement_fails_or_is_aborted(siren: IngestCase):
    await siren.put(strategy="REPLACE")
    await siren.ran()
    await siren.put(status=200, strategy="REPLACE", batch_size=10, options={"rate": {"rows_per_second": 50}})
    await siren.source.execute("UPDATE events SET value = 'new'")
    await siren.told("POST", "/ingestion/events/_run")

    async def moved() -> bool:
        return (await siren.told("GET", "/jobs/ingestion/events"))["status"]["count"] > 0

    await until(moved, 20, "the first rows")
    await siren.told("POST", "/jobs/ingestion/events/_abort")
    assert {one["value"] for one in (await siren.documents()).values()} == {f"value {n}" for n in range(100)}
    await siren.put(status=200, strategy="REPLACE")
    assert (await siren.ran())[0] == "successful"
    assert {one["value"] for one in (await siren.documents()).values()} == {"new"}


async def test_a_schedule_with_seconds_starts_it(siren: IngestCase):
    await siren.put(schedule="* * * * * ?", enable_scheduler=True)
    store = siren.store
    verbs = Verbs(store, store, siren.engine.wake)
    ticking = asyncio.create_task(Ticker(store, verbs, store.notifications.rescheduled, owner="one").run())
    try:
        status = await siren.ended("events")
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
    assert (status["state"], status["count"]) == ("successful", 100)
    runs = (await siren.ok("GET", "/v1/jobs/events/runs"))["runs"]
    assert {one["trigger"] for one in runs} == {"schedule"}


async def test_a_job_is_seen_in_every_language(siren: IngestCase):
    await siren.put(es_credentials={"username": "u", "password": "secret-of-search"})
    native = await siren.ok("GET", "/v1/jobs/events")
    assert native["spec"]["source"]["template"] == QUERY
    assert native["spec"]["sink"]["password"] == "***"
    assert (await siren.get())["es_credentials"] == {"username": "u"}
    made = {"name": "files", "source": {"datasource": "shop", "table": "orders"}, "sink": {"kind": "file", "path": "x"}}
    await siren.ok("POST", "/v1/jobs", made, 201)
    shown = await siren.get("files")
    assert shown.keys() == {"source", "sink"}
    assert (shown["source"]["table"], shown["sink"]["kind"]) == ("orders", "file")
    await siren.ok("PATCH", "/v1/jobs/events", {"labels": {"siren.description": "changed elsewhere"}})
    assert (await siren.get())["description"] == "changed elsewhere"
    await siren.told("DELETE", "/ingestion/files")
    assert (await siren.call("GET", "/v1/jobs/files")).status == 404


async def test_another_sink_and_passwords_that_stay_where_they_belong(siren: IngestCase):
    await siren.source.execute("DROP ROLE IF EXISTS reader_of_events")
    await siren.source.execute(
        "CREATE ROLE reader_of_events LOGIN PASSWORD 'pw'; GRANT SELECT ON events TO reader_of_events"
    )
    try:
        ds = {"username": "reader_of_events", "password": "pw"}
        await siren.put(target=None, sink={"kind": "file", "path": "out"}, ds_credentials=ds)
        assert await siren.ran() == ("successful", 100, "99")
        assert (await siren.get())["ds_credentials"] == {"username": "reader_of_events"}
        kept = {"target": None, "sink": {"kind": "file", "path": "out"}}
        await siren.put(status=200, **kept, ds_credentials={"username": "reader_of_events"})
        assert await siren.ran() == ("successful", 0, None)
        other = siren.ingest(**kept, ds_credentials={"username": "postgres"})
        assert "ds_credentials" in await siren.reason("PUT", "/ingestion/events", other)
        reply = await siren.siren("GET", "/ingestion/_search")
        assert b'"pw"' not in reply.raw
    finally:
        await siren.source.execute("DROP OWNED BY reader_of_events; DROP ROLE reader_of_events")


async def test_validation_shows_the_text_and_what_is_to_be_known(siren: IngestCase):
    await siren.put()
    told = await siren.told("POST", "/ingestion/events/_validate")
    assert (told["_id"], told["valid"]) == ("events", True)
    assert any("safety delay" in one for one in told["warnings"])
    assert "SELECT * FROM events LIMIT 10000; later ones" in told["query"]
    asked = siren.ingest(strategy="REPLACE")
    told = await siren.told("POST", "/ingestion/other/_validate", asked)
    assert any("max_primary_key" in one for one in told["warnings"])
    metadata = {"kind": "elasticsearch", "url": "http://169.254.169.254", "index": "x"}
    elsewhere = siren.ingest(target=None, sink=metadata)
    assert "not allowed" in await siren.reason("POST", "/ingestion/other/_validate", elsewhere)
    assert "column 'nope'" in await siren.reason("POST", "/ingestion/other/_validate", siren.ingest(pk_field="nope"))
    assert (await siren.siren("GET", "/ingestion/other")).status == 404


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"query": "select * from events; drop table events"}, "ingest.query"),
    ({"query": "select pg_read_file('/etc/passwd') as id"}, "ingest.query"),
    (
        {"query": "select * from events where id in (select id from (delete from events returning id) q)"},
        "ingest.query",
    ),
    (
        {"target": None, "sink": {"kind": "elasticsearch", "url": "http://127.0.0.1:9", "index": "x"}}
        | {"es_credentials": {"username": "a", "password": "env:HOME"}},
        "reference",
    ),
    ({"es_credentials": {"username": "a", "password": "file:/etc/passwd"}}, "reference"),
    ({"query": "select {{#max_primary_key}} from events"}, "line 1 column 8"),
    ({"query": "select * from events where id > {{max_key}}"}, "no variable 'max_key'"),
    ({"query": "select * from events limit 5 offset 3"}, "OFFSET"),
    ({"query": "select * from (select * from events limit 5) q"}, "ORDER BY"),
    ({"pk_field": None}, "pk_field"),
    ({"strategy": "UPSERT"}, "strategy"),
    ({"strategy": None}, "strategy"),
    ({"batch_size": 10_000_000}, "batch_size"),
    ({"batch_size": "10"}, "batch_size"),
    ({"schedule": "0 0 0 31 2 ?"}, "never fires"),
    ({"schedule": "0 0 3 * *"}, "ingest.schedule"),
    ({"schedule": "0 0 3 * * ? 1999"}, "schedule"),
    ({"enable_scheduler": True}, "needs schedule"),
    ({"schedule": "0 0 3 * * ?", "enable_scheduler": True, "enable_schedule": False}, "two spellings"),
    ({"datasource": "nothing"}, "datasource"),
    ({"target": None}, "target"),
    ({"target": "Capitals"}, "ingest.sink.index"),
    ({"sink": {"kind": "smtp"}}, "kind"),
    ({"sink": {"kind": "elasticsearch", "url": "http://127.0.0.1:9", "index": "another"}}, "differ"),
    ({"sink": {"kind": "file", "path": "x"}, "pipeline": "p"}, "ingest.pipeline"),
    ({"options": {"splits": 0}}, "options.splits"),
    ({"batch_size": 5, "options": {"chunk": {"rows": 6}}}, "differ"),
    ({"mapping": {"properties": 3}}, "mapping"),
    ({"transforms": [{"input": [], "output": "x"}]}, "transforms"),
    ({"transforms": [{"input": [{"source": "a"}, {"source": "b"}], "output": "x"}]}, "one column"),
    ({"transforms": [{"input": [{"source": "a"}], "output": "x", "transform": "md5"}]}, "transform"),
    ({"ds_credentials": {"username": "a", "password": "env:HOME"}}, "reference"),
    ({"es_credentials": {"username": "a"}}, "password"),
    ({"colour": "red"}, "colour"),
    ({"description": "x" * 1001}, "description"),
]


async def test_what_is_wrong_is_told_and_changes_nothing(siren: IngestCase):
    for changes, said in WRONG:
        assert said in await siren.reason("PUT", "/ingestion/events", siren.ingest(**changes)), changes
    assert await siren.told("GET", "/ingestion/_search") == {"hits": {"total": 0, "hits": []}}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["datasource", "query", "batch_size", "schedule", "enable_scheduler", "target", "staging_prefix", "strategy",
     "pk_field", "mapping", "pipeline", "transforms", "ds_credentials", "es_credentials", "description", "sink",
     "options"]
)  # fmt: skip


async def test_no_value_under_any_key_is_a_bug_of_ours(siren: IngestCase):
    bodies: list[Any] = []

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(KEYS, JSON, max_size=2))
    def collect(changes: dict[str, Any]) -> None:
        bodies.append(changes)

    collect()
    for changes in bodies:
        body = {"ingest": {**siren.ingest()["ingest"], **changes}}
        reply = await siren.siren("PUT", "/ingestion/fuzzed", body)
        assert reply.status in {200, 201, 400}, (reply, changes)


async def test_who_may_what(siren: IngestCase):
    tokens = {}
    for role in ("viewer", "operator"):
        tokens[role] = (await siren.ok("POST", "/v1/tokens", {"name": role, "role": role}, 201))["token"]
    await siren.put()
    viewer, operator = (f"Bearer {tokens[role]}" for role in ("viewer", "operator"))
    await siren.told("GET", "/ingestion/events", authorization=viewer)
    await siren.reason("POST", "/ingestion/events/_run", status=403, authorization=viewer)
    await siren.reason("PUT", "/ingestion/events", siren.ingest(), status=403, authorization=operator)
    await siren.reason("POST", "/ingestion/events/_validate", status=403, authorization=operator)
    await siren.reason("DELETE", "/ingestion/events", status=403, authorization=operator)
    await siren.told("POST", "/ingestion/events/_run", authorization=operator)
    assert (await siren.ended("events"))["state"] == "successful"
    await siren.told("DELETE", "/ingestion/events")
    told = {one["event"]: (one["actor"], one["origin"]) for one in (await siren.ok("GET", "/v1/events"))["events"]}
    assert {name: told.get(name) for name in ("create", "start", "remove")} == {
        "create": ("admin", "127.0.0.1"),
        "start": ("operator", "127.0.0.1"),
        "remove": ("admin", "127.0.0.1"),
    }
