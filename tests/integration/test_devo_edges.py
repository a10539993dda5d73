"""The edges of the Devo dialect: states that come and go, waits that end, a control database that fails, who asks from
where, streams that have nothing to say."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from service.api.dialects import devo_rows
from service.domain.steps import StepKind
from tests.integration.api_cases import ADMIN
from tests.integration.devo_cases import FIRST, KEY, DevoCase, launch
from tests.integration.test_devo_golden import compare
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.domain.steps import Lease


@pytest.fixture
async def devo(control_database: str, database: str) -> AsyncIterator[DevoCase]:
    async with DevoCase(control_database, database, rate_limit=100_000) as case:
        yield case


async def held(devo: DevoCase) -> Lease:
    """A step that somebody holds who is not there: its run can not end before the lease does."""
    step = await devo.store.claim("elsewhere", [StepKind.PLAN], lease_seconds=60)
    assert step is not None
    return step.lease


async def verb(devo: DevoCase, verb: str, job_id: str) -> tuple[int, str]:
    """Code and status of an answer."""
    reply = await devo.devo("GET", f"/search/job/{verb}/{job_id}")
    assert reply.status == 200, reply
    return reply.body["status"], reply.body["object"]["status"]


async def until_status(devo: DevoCase, job_id: str, status: str) -> None:
    async def look() -> bool:
        return bool((await devo.status(job_id))["status"] == status)

    await until(look, 20, status)


async def test_who_does_not_wait_is_told_that_it_runs(control_database: str, database: str) -> None:
    async with DevoCase(control_database, database, rate_limit=100_000, dialect_wait_seconds=0.0) as devo:
        job_id = await devo.job()
        lease = await held(devo)
        assert await verb(devo, "stop", job_id) == (0, "RUNNING")
        assert (await devo.ok("GET", f"/v1/jobs/{job_id}"))["state"] == "stopping"
        assert await verb(devo, "start", job_id) == (101, "RUNNING")
        await devo.store.release(lease)
        await until_status(devo, job_id, "STOPPED")
        assert await verb(devo, "start", job_id) == (0, "RUNNING")
        lease = await held(devo)
        assert await verb(devo, "remove", job_id) == (0, "RUNNING")
        assert (await devo.ok("GET", f"/v1/jobs/{job_id}"))["state"] == "aborting"
        await devo.store.release(lease)
        assert (await devo.devo("GET", f"/search/job/{job_id}")).status == 404


@pytest.mark.parametrize(("asked", "answered"), [("stop", (0, "STOPPED")), ("start", (0, "RUNNING"))])
async def test_a_job_on_its_way_to_an_error_is_waited_for(
    devo: DevoCase, asked: str, answered: tuple[int, str]
) -> None:
    job_id = await devo.job()
    lease = await held(devo)
    await devo.control(f"UPDATE rowferry.jobs SET state = 'failing' WHERE id = '{job_id}'")
    answer = asyncio.create_task(verb(devo, asked, job_id))
    assert await asyncio.wait({answer}, timeout=0.3) == (set(), {answer}), "it has not ended yet"
    await devo.store.release(lease)
    assert await answer == answered


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ('retrying = \'{"attempt": 1, "cause": {"code": "source_unreachable"}}\'', "RECONNECTING"),
        ('retrying = \'{"attempt": 1, "cause": {"code": "sink_unreachable"}}\'', "RUNNING"),
        ("updated_at = now() - interval '3 seconds'", "PAUSED"),
    ],
)
async def test_what_a_job_that_runs_is_called(devo: DevoCase, change: str, status: str) -> None:
    job_id = await devo.job()
    lease = await held(devo)
    if status == "PAUSED":
        await devo.store.release(lease)
    await devo.control("ALTER TABLE rowferry.jobs DISABLE TRIGGER jobs_touch")
    await devo.control(f"UPDATE rowferry.jobs SET {change} WHERE id = '{job_id}' RETURNING state")
    shown = await devo.status(job_id)
    assert shown["status"] == status, shown
    listed = (await devo.devo("GET", "/search/jobs")).body["object"]
    assert [one["status"] for one in listed] == [status]


@pytest.mark.parametrize(("verb", "code"), [("stop", 103), ("start", 104), ("remove", 102)])
async def test_a_control_database_that_fails_has_its_code_for_each_verb(devo: DevoCase, verb: str, code: int) -> None:
    job_id = await devo.job()
    await devo.store.close()
    reply = await devo.send("GET", f"/search/job/{verb}/{job_id}", b"", {"Authorization": f"Bearer {ADMIN}"})
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert list(reply.body) == ["status", "cid", "timestamp", "msg", "code"]
    assert (reply.body["status"], reply.body["code"]) == (code, code)
    looked = await devo.send("GET", f"/search/job/{job_id}", b"", {"Authorization": f"Bearer {ADMIN}"})
    assert (looked.status, looked.body["code"]) == (503, 503)


@pytest.mark.parametrize("allowed", [False, True])
async def test_signed_requests_over_http_are_taken_from_this_host_alone_unless_a_setting_allows_it(
    control_database: str, database: str, tmp_path: Path, allowed: bool
) -> None:
    settings = {"devo_signed_over_http": allowed, "devo_clock_skew_seconds": 5.0}
    async with DevoCase(control_database, database, rate_limit=100_000, **settings) as devo:
        runner = devo.client.server.runner
        assert runner is not None
        path = str(tmp_path / "sock")  # who comes this way has no address of this host
        await web.UnixSite(runner, path).start()
        signed, bearer = devo.headers(), {"Authorization": f"Bearer {ADMIN}"}
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            for headers, status in ((signed, 200 if allowed else 401), (bearer, 200)):
                async with session.get("http://rowferry/search/jobs", headers=headers) as reply:
                    assert reply.status == status
                    if status == 401:
                        said = {"code": 12, "message": "signed requests are taken over https only"}
                        assert await reply.json() == {"error": said}
        assert (await devo.devo("GET", "/search/jobs")).status == 200
        assert (await devo.devo("GET", "/search/jobs", age=7)).status == 401, "the skew is a setting"


async def test_a_body_of_a_get_is_ignored(devo: DevoCase) -> None:
    for body in (b"{}", b"no json", b"\xff" * 1000):
        reply = await devo.send("GET", "/search/jobs", body, devo.headers())
        assert (reply.status, reply.body["status"]) == (200, 0), reply


async def test_events_say_who_did_what_from_where(devo: DevoCase) -> None:
    job_id = await devo.job({"type": "donothing", "params": {"friendlyName": "nightly"}})
    assert (await devo.status(job_id))["owner"] == f"operator-{KEY[:8]}"
    for name in ("stop", "start", "remove"):
        await verb(devo, name, job_id)
    found = (await devo.ok("GET", "/v1/events?limit=500"))["events"]
    told = {one["event"]: (one["actor"], one["origin"]) for one in found if one["job_id"] == job_id}
    assert {"create", "start", "stop", "remove"} <= told.keys(), told
    assert {told[name] for name in ("create", "start", "stop", "remove")} == {(f"operator-{KEY[:8]}", "127.0.0.1")}


async def test_a_table_that_the_source_does_not_let_us_read(devo: DevoCase) -> None:
    await devo.source.execute("CREATE ROLE sees_nothing LOGIN PASSWORD 'pw'")
    try:
        shop = await devo.ok("GET", "/v1/datasources/shop")
        given = {name: shop[name] for name in ("host", "port", "database")} | {"user": "sees_nothing", "password": "pw"}
        await devo.ok("PUT", "/v1/datasources/shop", given)
        compare("table_not_allowed", await devo.devo("POST", "/search/query", launch()), 403)
        compare("table_not_allowed", await devo.devo("GET", "/search/table/web.events"), 403)
        asked = {name: value for name, value in launch().items() if name != "destination"}
        compare("table_not_allowed", await devo.devo("POST", "/search/query", asked), 403)
    finally:
        await devo.source.execute("DROP ROLE sees_nothing")


async def test_without_bucket_settings_rows_go_to_the_configured_one(control_database: str, database: str) -> None:
    settings = {"devo_s3_default_bucket": "rows", "ambient_s3_buckets": frozenset({"rows"})}
    async with DevoCase(control_database, database, rate_limit=100_000, **settings) as devo:
        job_id = await devo.job({"type": "s3", "params": {}})
        sink = (await devo.ok("GET", f"/v1/jobs/{job_id}"))["spec"]["sink"]
        assert (sink["bucket"], sink.get("access_key_id")) == ("rows", None)
        some = await devo.devo("POST", "/search/query", launch({"type": "s3", "params": {"aws.bucket": "other"}}))
        assert (some.status, some.body["code"]) == (400, 205), "all four settings, or none"


@pytest.mark.parametrize(
    ("mode", "more", "before", "filler"),
    [
        ("json", {}, b'{"id": 1, "user": null}', b"    "),
        ("json/compact", {}, b"[1, null]", b"    "),
        ("json/simple", {}, b'{"id":1,"user":null}\r\n', b"    "),
        ("json/simple/compact", {}, b'{"d":[1,null]}\r\n', b"    "),
        ("csv", {}, b"1,\n", b"\n"),
        ("tsv", {"keepAlive": {"type": "empty"}}, b"1\t\n", b"\t\n"),
        ("csv", {"keepAlive": {"type": "token", "token": "ping\n"}}, b"1,\n", b"ping\n"),
    ],
)
async def test_a_stream_with_nothing_to_say_is_filled(
    devo: DevoCase, monkeypatch: pytest.MonkeyPatch, mode: str, more: dict[str, Any], before: bytes, filler: bytes
) -> None:
    monkeypatch.setattr(devo_rows, "FILLER_SECONDS", 0.01)
    await devo.source.execute("INSERT INTO web_events (at, status) VALUES (to_timestamp($1), 1)", FIRST)
    asked = {"query": "from web.events select id, user", "from": FIRST, "mode": {"type": mode}, **more}
    body = json.dumps(asked).encode()
    async with devo.client.post("/search/query", data=body, headers=devo.headers(body)) as answer:
        assert answer.status == 200
        read = b""
        async with asyncio.timeout(20):
            while before + 2 * filler not in read:
                read += await answer.content.readany()
        assert read.partition(before)[2].replace(filler, b"") == b"", read
        answer.close()
