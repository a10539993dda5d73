"""Jobs in Siren's language: the documented samples, abort, and the log of ended runs."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.steps import StepKind
from tests.integration.api_cases import Reply, definition
from tests.integration.siren_cases import SirenCase, basic, shape
from tests.support.ports import LOOPBACK, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GOLDEN = Path(__file__).parents[1] / "golden" / "siren"
NAME = "postgres-events"
PATH = f"/jobs/ingestion/{NAME}"
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
GREGORIAN = datetime(1582, 10, 15, tzinfo=UTC)
SLOWLY = {"rate": {"rows_per_second": None, "bytes_per_second": 1}, "chunk": {"rows": 1, "bytes": 1_024, "seconds": 60}}
"""One row is delivered, the next one in minutes."""


@pytest.fixture
async def case(control_database: str, database: str) -> AsyncIterator[SirenCase]:
    async with SirenCase(control_database, database, rate_limit=100_000) as case:
        await case.ok("PUT", "/v1/datasources/postgres", {"url": case.source_dsn}, 201)
        yield case


def compare(name: str, reply: Reply) -> None:
    """The documented sample, byte for byte but for times, numbers and causes."""
    documented = (GOLDEN / f"{name}.json").read_bytes().rstrip(b"\n")
    assert (reply.status, shape(reply.raw)) == (200, shape(documented))


async def job(case: SirenCase, name: str = NAME, **more: Any) -> None:
    """A job of `/v1`."""
    given = definition(name, source={"datasource": "postgres", "table": "public.orders"}, mode="incremental", **more)
    await case.ok("POST", "/v1/jobs", given, 201)


async def start(case: SirenCase, name: str = NAME) -> None:
    await case.ok("POST", f"/v1/jobs/{name}/start", status=202)


async def counted(case: SirenCase, rows: int, name: str = NAME) -> None:
    """Wait until so many rows are delivered."""

    async def look() -> bool:
        found = await case.told("GET", f"/jobs/ingestion/{name}")
        return bool(found.get("status", {}).get("count") == rows)

    await until(look, 30, f"{rows} rows of {name}")


async def runs(case: SirenCase, count: int, *, job_name: str = "logged", state: str = "successful") -> None:
    """Runs of a job that is gone, a second apart, each a minute long."""
    await case.control(
        "INSERT INTO rowferry.runs (id, account_id, job_id, job_name, number, generation, trigger, state, mode, sink,"
        " datasource, started_at, ended_at, rows_sent, rows_dead, last_id)"
        f" SELECT gen_random_uuid(), a.id, j.id, '{job_name}', n, 1, 'siren', '{state}', 'once', 'file', 'postgres',"
        f" t.at, CASE WHEN '{state}' <> 'running' THEN t.at + interval '60.0005 seconds' END,"
        " n, 1, jsonb_build_array(n::text, 'b')"
        f" FROM rowferry.accounts a, gen_random_uuid() AS j(id), generate_series(0, {count} - 1) n,"
        f" LATERAL (SELECT '{FIRST.isoformat()}'::timestamptz + n * interval '1.0004 seconds') AS t(at)"
        " WHERE a.name = 'default'"
    )


async def test_the_documented_samples(case: SirenCase) -> None:
    await case.engine.start()
    await case.rows(3)
    await job(case, options=SLOWLY)
    never = await case.siren("GET", PATH)
    assert (never.status, never.raw) == (200, b'{"_id":"postgres-events","type":"ingestion","found":true}')
    await start(case)
    await counted(case, 1)
    compare("running", await case.siren("GET", PATH))
    running = await case.told("GET", "/jobs/ingestion")
    assert running["hits"]["total"] == 1
    assert list(running["hits"]["hits"][0]) == ["_id", "_source"]
    assert running["hits"]["hits"][0]["_id"] == NAME
    assert running["hits"]["hits"][0]["_source"]["ingestion"]["state"] == "running"
    aborted = await case.siren("POST", f"{PATH}/_abort")
    compare("aborted", aborted)
    compare("aborted", await case.siren("GET", PATH))
    assert await case.told("GET", "/jobs/ingestion") == {"hits": {"total": 0, "hits": []}}
    options = {"rate": None, "retry": {"max_without_progress_seconds": 1}}
    await case.ok("PATCH", f"/v1/jobs/{NAME}", {"options": options})
    again = await case.siren("POST", f"{PATH}/_abort")
    assert (again.status, again.raw) == (200, aborted.raw)


async def test_the_documented_sample_of_a_run_that_did_all(case: SirenCase) -> None:
    await case.engine.start()
    await case.rows(3)
    await job(case)
    await start(case)
    await case.ended(NAME)
    compare("successful", await case.siren("GET", PATH))
    await start(case)
    nothing = await case.ended(NAME)
    assert (nothing["state"], nothing["count"], "last_id" in nothing) == ("successful", 0, False)
    await case.source.execute("TRUNCATE orders")
    await job(case, "postgresevents")
    await start(case, "postgresevents")
    await case.ended("postgresevents")
    compare("search", await case.siren("GET", "/jobs/_search?id=postgresevents"))


async def test_the_documented_sample_of_a_run_whose_database_is_away(case: SirenCase) -> None:
    await case.engine.start()
    away = {"host": LOOPBACK, "port": free_port(), "database": "d", "user": "u"}
    await case.ok("PUT", "/v1/datasources/postgres", away)
    await job(case, options={"retry": {"max_without_progress_seconds": 1}})
    await start(case)
    failed = await case.ended(NAME)
    compare("error", await case.siren("GET", PATH))
    outermost, pool, driver = failed["error"][:3]
    assert outermost == "Could not execute datasource query [postgres]."
    assert "without progress" in pool
    assert "can not be reached" in driver
    assert "Connect call failed" in failed["error"][-1]


async def test_an_abort_that_takes_longer_is_answered_aborting(control_database: str, database: str) -> None:
    async with SirenCase(control_database, database, rate_limit=100_000, dialect_wait_seconds=0.0) as case:
        await case.ok("PUT", "/v1/datasources/postgres", {"url": case.source_dsn}, 201)
        await case.rows(3)
        await job(case)
        await start(case)
        # A step that somebody holds who is not there: the run can not end before the lease does.
        step = await case.store.claim("elsewhere", [StepKind.PLAN], lease_seconds=60)
        assert step is not None
        told = await case.told("POST", f"{PATH}/_abort")
        assert list(told["status"]) == [
            *("version", "id", "is_running", "is_aborting", "start_time", "infos", "state", "count")
        ]
        assert told["status"]["infos"] == "The job is aborting."
        assert (told["status"]["state"], told["status"]["is_running"]) == ("aborting", True)
        assert (await case.told("GET", PATH))["status"]["state"] == "aborting"
        await case.store.release(step.lease)
        assert (await case.ended(NAME))["state"] == "aborted"


async def test_a_queued_run_is_running_and_a_stopped_one_is_aborted(case: SirenCase) -> None:
    await case.rows(1)
    await job(case)
    await start(case)
    queued = (await case.told("GET", PATH))["status"]
    assert (queued["state"], queued["is_running"], queued["count"]) == ("running", True, 0)
    await case.ok("POST", f"/v1/jobs/{NAME}/stop", status=202)
    stopped = (await case.told("GET", PATH))["status"]
    assert (stopped["state"], stopped["is_aborting"], stopped["infos"]) == (
        "aborted",
        True,
        "The job has been aborted.",
    )
    assert (await case.told("GET", "/jobs/_search?state=aborted"))["hits"]["total"] == 1


async def test_jobs_that_are_not_there_and_types_that_are_none(case: SirenCase) -> None:
    await job(case)
    native = await case.ok("GET", f"/v1/jobs/{NAME}")
    for name in ("nobody", "_search", "a%20b", "%00", "x" * 3000, native["id"]):
        for method, path in (("GET", ""), ("POST", "/_abort")):
            reply = await case.siren(method, f"/jobs/ingestion/{name}{path}")
            assert (reply.status, list(reply.body)) == (404, ["_id", "type", "found"]), (name, reply)
            assert (reply.body["type"], reply.body["found"]) == ("ingestion", False)
    for path in ("/jobs/reflection", "/jobs/reflection/x", f"/jobs/_all/{NAME}", "/jobs/_search?type=reflection"):
        assert "the only type is [ingestion]" in await case.reason("GET", path)
    elsewhere = await case.token("admin", account="elsewhere")
    reply = await case.siren("GET", PATH, authorization=basic("admin-token", elsewhere))
    assert reply.status == 404


async def found(case: SirenCase, query: str = "") -> tuple[int, list[Any]]:
    """Total and statuses."""
    hits = (await case.told("GET", f"/jobs/_search{query}"))["hits"]
    return hits["total"], [hit["_source"]["ingestion"] for hit in hits["hits"]]


async def test_the_log_is_searched_by_every_filter(case: SirenCase) -> None:
    await runs(case, 30)
    await runs(case, 4, job_name="others", state="error")
    await runs(case, 3, job_name="others", state="stopped")
    await runs(case, 2, job_name="others", state="aborted")
    await runs(case, 5, job_name="others", state="running")
    total, newest = await found(case)
    assert (total, len(newest)) == (39, 10)
    times = [one["start_time"] for one in newest]
    assert times == sorted(times, reverse=True)
    assert (await found(case, "?id=logged"))[0] == 30
    assert (await found(case, "?id=nobody"))[0] == 0
    by_state = {"successful": 30, "error": 4, "aborted": 5, "running": 0, "aborting": 0}
    for state, count in by_state.items():
        assert (await found(case, f"?state={state}&type=ingestion"))[0] == count, state
    # Within a millisecond: a run of that time is found by exactly it, from and to.
    first = (FIRST - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    for n in (0, 1, 7, 29):
        at = first + n * 1000 + n * 400 // 1000
        total, hits = await found(case, f"?id=logged&start_time_from={at}&start_time_to={at}")
        assert (total, [one["count"] for one in hits]) == (1, [n + 1]), n
        assert (hits[0]["start_time"], hits[0]["end_time"]) == (at, first + (n * 1_000_400 + 60_000_500) // 1000)
        assert hits[0]["last_id"] == f'["{n}","b"]'
    both = f"?id=others&state=error&start_time_from={first}&start_time_to={first + 1001}"
    assert (await found(case, both))[0] == 2


async def test_the_pages_of_the_log_are_the_whole_log(case: SirenCase) -> None:
    await runs(case, 27)
    whole = (await case.told("GET", "/jobs/_search?size=10000"))["hits"]["hits"]
    assert len(whole) == 27
    paged = []
    for begin in range(0, 40, 5):
        page = (await case.told("GET", f"/jobs/_search?from={begin}&size=5"))["hits"]
        assert page["total"] == 27
        paged += page["hits"]
    assert paged == whole
    assert (await case.told("GET", "/jobs/_search?size=0"))["hits"] == {"total": 27, "hits": []}


async def test_a_document_of_the_log_is_called_the_same_at_every_read(case: SirenCase) -> None:
    await runs(case, 12)
    once, again = [await case.told("GET", "/jobs/_search?size=50") for _ in range(2)]
    assert once == again
    names = [hit["_id"] for hit in once["hits"]["hits"]]
    assert len(set(names)) == 12
    for hit in once["hits"]["hits"]:
        made = uuid.UUID(hit["_id"].removeprefix("logged"))
        assert (made.version, made.variant) == (1, uuid.RFC_4122)
        at = GREGORIAN + timedelta(microseconds=made.time // 10)
        assert (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == (
            hit["_source"]["ingestion"]["end_time"]
        )
        assert made.node >> 40 & 1, "a node that no card has"


async def test_filters_that_can_not_be_are_refused(case: SirenCase) -> None:
    for wrong in ("-1", "1.5", "x", "", "9" * 30, "%D9%A3", "1e3", "null", "+1", "%00"):
        for name in ("from", "size", "start_time_from", "start_time_to"):
            assert name in await case.reason("GET", f"/jobs/_search?{name}={wrong}")
    for query in ("size=10000000", "size=10001", "from=9999&size=2", "from=10001"):
        await case.reason("GET", f"/jobs/_search?{query}")
    assert "the states are" in await case.reason("GET", "/jobs/_search?state=done")
    assert "unrecognized" in await case.reason("GET", "/jobs/_search?q=x")
    assert (await found(case, "?from=9990&size=10&start_time_to=253402300799998"))[0] == 0
