"""Job requests of the Devo dialect: what Devo's pages and clients know, over real jobs."""

from __future__ import annotations

import io
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.devo_cases import FIRST, DevoCase, launch, shape
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ORDER = [
    *(
        "status",
        "id",
        "eventGenerated",
        "eventsSent",
        "lastDatetime",
        "error",
        "type",
        "friendlyName",
        "query",
        "table",
    ),
    *("owner", "domain", "cid", "extra", "lastId"),
]


@pytest.fixture
async def devo(control_database: str, database: str) -> AsyncIterator[DevoCase]:
    async with DevoCase(control_database, database, rate_limit=100_000) as case:
        yield case


async def completed(devo: DevoCase, job_id: str) -> Any:
    async def look() -> Any:
        found = await devo.status(job_id)
        return found if found["status"] in {"COMPLETED", "STOPPED"} else None

    return await until(look, 30, f"{job_id} to end")


async def test_a_job_is_launched_runs_and_completes(devo: DevoCase) -> None:
    await devo.events(50)
    await devo.engine.start()
    launched = await devo.devo("POST", "/search/query", launch(query="from web.events where status = 200"))
    assert launched.status == 200
    assert shape(launched.raw) == (
        '{"status": 0, "cid": "<cid>", "timestamp": <ms>, "msg": "", "object": {"id": "<uuid>"}, "success": true}'
    )
    job = await completed(devo, launched.body["object"]["id"])
    assert (job["status"], job["eventGenerated"], job["eventsSent"], job["error"]) == ("COMPLETED", 17, 17, [])
    assert job["lastDatetime"] == (FIRST + 48) * 1000
    assert job["query"] == "from web.events where status = 200"
    assert (job["table"], job["domain"], job["type"]) == ("web.events", "default", "donothing")
    assert job["cid"] == launched.body["cid"]
    assert job["friendlyName"].startswith("donothing_")
    native = await devo.ok("GET", f"/v1/jobs/{job['id']}")
    assert (native["state"], native["run"]["trigger"], native["spec"]["mode"]) == ("successful", "devo", "once")
    assert native["spec"]["source"]["where"] == "status = 200"
    assert native["spec"]["source"]["key"] == ["at", "id"]


async def test_the_sample_of_a_finished_job_key_by_key(devo: DevoCase) -> None:
    await devo.events(3)
    await devo.engine.start()
    job_id = await devo.job()
    await completed(devo, job_id)
    reply = await devo.devo("GET", f"/job/{job_id}")
    begin = (
        '{"status": 0, "cid": "<cid>", "timestamp": <ms>, "object": {"status": "COMPLETED", "id": "<uuid>", '
        f'"eventGenerated": 3, "eventsSent": 3, "lastDatetime": {(FIRST + 2) * 1000}, "error": [], "type": '
    )
    assert shape(reply.raw).startswith(begin)
    assert shape(reply.raw).endswith('}, "success": true}')
    assert list(reply.body) == ["status", "cid", "timestamp", "object", "success"]
    assert list(reply.body["object"]) == ORDER
    assert b"error" not in reply.raw[:15]


@pytest.mark.parametrize("prefix", ["/search", ""])
async def test_stop_start_and_remove(devo: DevoCase, prefix: str) -> None:
    await devo.engine.start()
    job_id = await devo.job(to=None, query="from web.events select id, at, status")
    await devo.events(5)
    await until(lambda: _sent(devo, job_id, 5), 30, "five rows")
    stopped = (await devo.devo("GET", f"{prefix}/job/stop/{job_id}")).body
    assert (stopped["status"], stopped["object"]["status"]) == (0, "STOPPED")
    again = (await devo.devo("GET", f"{prefix}/job/stop/{job_id}")).body
    assert (again["status"], again["object"]) == (0, stopped["object"])
    started = (await devo.devo("GET", f"{prefix}/job/start/{job_id}")).body
    assert (started["status"], started["object"]["status"]) == (0, "RUNNING")
    assert (await devo.devo("GET", f"{prefix}/job/start/{job_id}")).body["status"] == 0
    await devo.events(5, first=5)
    await until(lambda: _sent(devo, job_id, 10), 30, "ten rows")
    removed = (await devo.devo("GET", f"{prefix}/job/remove/{job_id}")).body
    assert (removed["status"], removed["object"]["status"], removed["object"]["id"]) == (0, "REMOVED", job_id)
    gone = await devo.devo("GET", f"{prefix}/job/{job_id}")
    assert gone.status == 404
    assert shape(gone.raw) == '{"status": 100, "cid": "<cid>", "timestamp": <ms>, "msg": "Task not found"}'
    assert (await devo.devo("GET", f"{prefix}/jobs")).body["object"] == []


async def _sent(devo: DevoCase, job_id: str, rows: int) -> Any:
    job = await devo.status(job_id)
    assert job["error"] == []
    return job if job["eventsSent"] == rows else None


async def test_a_job_that_has_completed_can_be_neither_stopped_nor_started(devo: DevoCase) -> None:
    await devo.events(1)
    await devo.engine.start()
    job_id = await devo.job()
    job = await completed(devo, job_id)
    for verb in ("stop", "start"):
        reply = await devo.devo("GET", f"/search/job/{verb}/{job_id}")
        assert (reply.status, reply.body["status"], reply.body["success"]) == (200, 101, False)
        assert reply.body["msg"] == "Cannot change the status of task"
        assert list(reply.body) == ["status", "cid", "timestamp", "msg", "object", "success"]
        assert reply.body["object"] == job


async def test_a_job_that_failed_is_stopped_and_says_why(devo: DevoCase) -> None:
    await devo.engine.start()
    sink = {"type": "kafka", "params": {"topic": "t", "bootstrap.servers": "169.254.169.254:9092"}}
    job = await completed(devo, await devo.job(sink))
    assert job["status"] == "STOPPED"
    assert any("destination_refused" in text for text in job["error"]), job


async def test_ids_that_nobody_has(devo: DevoCase) -> None:
    await devo.job({"type": "donothing", "params": {"friendlyName": "no-uuid"}})
    for verb in ("", "stop/", "start/", "remove/"):
        for job_id in (str(uuid.uuid4()), "no-uuid", "%00", "..%2f", "'", "1" * 5000):
            reply = await devo.devo("GET", f"/search/job/{verb}{job_id}")
            assert reply.status == 404, reply
            assert list(reply.body)[:4] == ["status", "cid", "timestamp", "msg"]
    assert len((await devo.devo("GET", "/search/jobs")).body["object"]) == 1


async def test_jobs_of_other_languages_are_there_too_and_those_of_other_accounts_are_not(devo: DevoCase) -> None:
    made = await devo.ok("POST", "/v1/jobs", {
        "name": "native", "source": {"datasource": "shop", "table": "public.web_events"}, "sink": {"kind": "donothing"},
    }, 201)  # fmt: skip
    job = (await devo.devo("GET", "/search/jobs")).body["object"][0]
    assert list(job) == ORDER
    assert (job["id"], job["friendlyName"], job["status"]) == (made["id"], "native", "CREATED")
    assert (job["type"], job["query"], job["table"], job["cid"]) == (
        "donothing",
        "public.web_events",
        "public.web_events",
        "",
    )
    assert (job["lastDatetime"], job["lastId"], job["extra"]) == (0, None, {})
    await devo.key("another-key-0123456789", "another-secret-0123456789", "admin", account="other")
    other = {"key": "another-key-0123456789", "secret": "another-secret-0123456789"}
    assert (await devo.devo("GET", "/search/jobs", **other)).body["object"] == []
    assert (await devo.devo("GET", f"/search/job/{made['id']}", **other)).status == 404
    assert (await devo.devo("GET", f"/search/job/remove/{made['id']}", **other)).status == 404


async def test_every_job_is_listed_in_one_answer(devo: DevoCase) -> None:
    for number in range(3):
        await devo.job({"type": "donothing", "params": {"friendlyName": f"job-{number}"}})
    reply = await devo.devo("GET", "/search/jobs")
    assert [job["friendlyName"] for job in reply.body["object"]] == ["job-0", "job-1", "job-2"]
    assert list(reply.body) == ["status", "cid", "timestamp", "object", "success"]
    assert all(list(job) == ORDER for job in reply.body["object"])
    assert len((await devo.devo("GET", "/search/jobs/donothing")).body["object"]) == 3
    assert (await devo.devo("GET", "/search/jobs/kafka")).body["object"] == []


async def test_a_friendly_name_is_given_once(devo: DevoCase) -> None:
    named = {"type": "donothing", "params": {"friendlyName": "nightly"}}
    await devo.job(named)
    reply = await devo.devo("POST", "/search/query", launch(named))
    assert reply.status == 500
    assert shape(reply.raw) == (
        '{"msg": "Unable to Start Task: Task Key Duplicate: nightly", "code": 500, "timestamp": <ms>, "cid": "<cid>"}'
    )


async def test_renamed_columns_and_eventdate(devo: DevoCase) -> None:
    await devo.events(4)
    await devo.engine.start()
    job = await completed(devo, await devo.job(query='from web.events where user -> "user" select eventdate, id as at'))
    assert (job["status"], job["eventsSent"]) == ("COMPLETED", 4), job
    assert job["lastDatetime"] == (FIRST + 3) * 1000
    native = await devo.ok("GET", f"/v1/jobs/{job['id']}")
    assert native["spec"]["source"]["columns"] == ["eventdate", "at"]


async def test_a_continuous_job_follows_and_says_what_it_promises(devo: DevoCase) -> None:
    job_id = await devo.job(to=None)
    native = await devo.ok("GET", f"/v1/jobs/{job_id}")
    assert native["spec"]["mode"] == "continuous"
    assert native["spec"]["options"]["safety"] == {"kind": "delay", "delay_seconds": 10.0}
    assert "10 s" in native["guarantee_note"]
    later = await devo.ok("GET", f"/v1/jobs/{await devo.job(to='now() + 1h')}")
    assert later["spec"]["mode"] == "continuous"
    assert later["spec"]["source"]["time"]["to"] is not None


REFUSED: list[tuple[dict[str, Any], int, dict[str, Any]]] = [
    ({"from": None}, 400, {"status": 1, "code": 1}),
    ({"from": "yesterday"}, 400, {"status": 1, "code": 1}),
    ({"to": {"a": 1}}, 400, {"status": 1, "code": 1}),
    ({"query": 5}, 400, {"status": 1, "code": 1}),
    ({"query": None}, 400, {"status": 1, "code": 1}),
    ({"query": None, "queryId": "abc"}, 500, {"status": 500, "msg": "Error Launching Query"}),
    ({"limit": "many"}, 400, {"status": 1, "code": 1}),
    ({"limit": -1}, 400, {"status": 1, "code": 1}),
    ({"limit": True}, 400, {"status": 1, "code": 1}),
    ({"mode": {"type": "avro"}}, 400, {"status": 1, "code": 1}),
    ({"mode": {"type": ["json"]}}, 400, {"status": 1, "code": 1}),
    ({"timeZone": "Mars"}, 400, {"status": 1, "code": 1}),
    ({"query": "from web.events group by x"}, 500, {"status": 500, "msg": "Error Launching Query"}),
    ({"query": "from web.events where nothing = 1"}, 500, {"status": 500, "msg": "Error Launching Query"}),
    ({"query": "from web.events where status = 'x'"}, 500, {"status": 500, "msg": "Error Launching Query"}),
    ({"query": "from web.events where status"}, 500, {"status": 500, "msg": "Error Launching Query"}),
    ({"query": "from web.events where id = 1; DROP TABLE web_events"}, 500, {"msg": "Error Launching Query"}),
    ({"query": "from web.events where pg_read_file('/etc/passwd') = 'x'"}, 500, {"msg": "Error Launching Query"}),
    (
        {"query": "from no.such.table"},
        500,
        {"code": 624, "context": {"table": "no.such.table", "domain": "default"}},
    ),
    ({"destination": {"type": "email", "params": {}}}, 400, {"code": 205, "status": 205}),
    ({"destination": {"type": "snmp"}}, 400, {"code": 205, "status": 205}),
    ({"destination": {"type": "redis"}}, 400, {"code": 205, "status": 205}),
    ({"destination": {"type": "donothing", "params": []}}, 400, {"code": 205}),
    ({"destination": {"type": "donothing", "params": {"friendlyName": "a b"}}}, 400, {"code": 205}),
    ({"destination": {"type": "donothing", "params": {"friendlyName": str(uuid.uuid4())}}}, 400, {"code": 205}),
    ({"destination": "kafka"}, 400, {"status": 1, "code": 1}),
    ({"destination": {"type": "kafka", "params": {"topic": "t"}}}, 400, {"code": 205}),
    ({"destination": {"type": "kafka", "params": {"bootstrap.servers": "h:1", "topic": ""}}}, 400, {"code": 205}),
    (
        {"destination": {"type": "kafka", "params": {"bootstrap.servers": "nohost", "topic": "t"}}},
        400,
        {"code": 205},
    ),
]


async def test_what_is_refused_changes_nothing(devo: DevoCase) -> None:
    for change, status, members in REFUSED:
        body = {name: value for name, value in {**launch(), **change}.items() if value is not None}
        reply = await devo.devo("POST", "/search/query", body)
        assert reply.status == status, (change, reply)
        assert members.items() <= reply.body.items(), (change, reply)
        assert {"cid", "timestamp", "msg"} <= reply.body.keys()
        assert isinstance(reply.body.get("object", []), list)
    assert (await devo.ok("GET", "/v1/jobs"))["jobs"] == []


BOUNDS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"maxBytesPerCommit": 10 * 1024 * 1024}, True),
    ({"maxBytesPerCommit": str(10 * 1024 * 1024)}, True),
    ({"maxBytesPerCommit": 10 * 1024 * 1024 + 1}, False),
    ({"maxBytesPerCommit": "many"}, False),
    ({"maxTimeWithoutCommit": 1000}, True),
    ({"maxTimeWithoutCommit": 999}, False),
    ({"maxTimeWithoutCommit": True}, False),
    ({"mode": "json"}, True),
    ({"mode": "csv"}, False),
    ({"sasl.jaas.config": "x"}, False),
]


async def test_the_bounds_of_a_kafka_destination(devo: DevoCase) -> None:
    for settings, fits in BOUNDS:
        params = {"topic": "t", "bootstrap.servers": "127.0.0.1:9092", **settings}
        reply = await devo.devo("POST", "/search/query", launch({"type": "kafka", "params": params}))
        if not fits:
            assert (reply.status, reply.body["code"]) == (400, 205), (settings, reply)
            continue
        spec = (await devo.ok("GET", f"/v1/jobs/{reply.body['object']['id']}"))["spec"]
        assert spec["sink"]["delivery"] == "exactly_once"
        assert spec["options"]["chunk"]["bytes"] == int(settings.get("maxBytesPerCommit", 1024 * 1024))
        assert spec["options"]["chunk"]["seconds"] == settings.get("maxTimeWithoutCommit", 10_000) / 1000


async def test_the_columns_of_a_table(devo: DevoCase) -> None:
    reply = await devo.devo("GET", "/search/table/web.events")
    assert reply.status == 200
    assert [column["fieldName"] for column in reply.body["object"]] == [
        *("id", "at", "status", "user", "amount", "ip", "ok", "extra"),
    ]
    unknown = await devo.devo("GET", "/search/table/no.such")
    assert (unknown.status, unknown.body["code"]) == (500, 624)
    assert list(unknown.body) == ["msg", "code", "timestamp", "cid", "context"]


async def test_a_table_shows_and_takes_only_the_columns_it_was_given(devo: DevoCase) -> None:
    await devo.table("web.few", columns=["id", "status"])
    shown = (await devo.devo("GET", "/table/web.few")).body["object"]
    assert [column["fieldName"] for column in shown] == ["id", "status"]
    refused = await devo.devo("POST", "/query", launch(query='from web.few where user = "x"'))
    assert (refused.status, refused.body["object"][0]) == (500, "Error Launching Query")
    assert "'user'" in refused.body["object"][1]
    spec = (await devo.ok("GET", f"/v1/jobs/{await devo.job(query='from web.few')}"))["spec"]
    assert spec["source"]["columns"] == ["id", "status"]


async def test_paths_and_methods_that_are_not_there(devo: DevoCase) -> None:
    unknown = await devo.devo("GET", "/search/nothing/here")
    assert (unknown.status, unknown.body["status"]) == (404, 1)
    assert list(unknown.body)[:3] == ["status", "cid", "timestamp"]
    wrong = await devo.devo("DELETE", "/search/jobs")
    assert (wrong.status, wrong.body["status"]) == (405, 1)
    assert "GET" in wrong.headers["Allow"]
    assert (await devo.devo("HEAD", "/search/job/stop/x")).status == 405
    for path in ("/search/system/ping", "/system/ping"):
        assert (await devo.send("GET", path, b"", {})).status == 200
    for body in (b"", b"[]", b"{", b"\xff", b'{"query":1,"query":2}', b"[" * 100_000):
        reply = await devo.send("POST", "/search/query", body, devo.headers(body))
        assert (reply.status, reply.body["status"], reply.body["code"]) == (400, 1, 1), reply
    large = b'{"query": "' + b"x" * 1_048_576 + b'"}'
    with io.BytesIO(large) as body:
        assert (await devo.send("POST", "/search/query", body, devo.headers(large))).status == 413


async def test_a_slash_is_a_query_too(devo: DevoCase) -> None:
    reply = await devo.devo("POST", "/", launch())
    assert reply.status == 200, reply
    assert json.loads(reply.raw)["object"].keys() == {"id"}
