"""What holds for every request: problems, headers, bodies, keys, limits; and the fuzz."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config import logs
from service.api import bodies, unreadable
from service.api.app import LARGEST_BODY
from tests.integration.api_cases import ADMIN, ApiCase, definition, kafka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "correct-horse-battery-staple"


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database, rate_limit=100_000) as case:
        await case.shop()
        yield case


async def test_every_error_is_a_problem(api: ApiCase) -> None:
    await api.refused("GET", "/nowhere", None, 404, "not_found")
    await api.refused("GET", "/v1/jobs/no%00body", None, 404, "not_found")
    await api.refused("GET", "/v1/runs/nobody", None, 404, "not_found")
    wrong = await api.call("DELETE", "/v1/jobs")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET,HEAD,POST")
    assert wrong.body["code"] == "method_not_allowed"
    await api.refused("POST", "/v1/jobs", None, 400, "malformed_json", data=b"{")
    await api.refused("POST", "/v1/jobs", None, 400, "body_missing")
    await api.refused("POST", "/v1/jobs", None, 415, "unsupported_media_type", data=b"{}", Content_Type="text/plain")
    await api.refused(
        "POST", "/v1/jobs", None, 415, "unsupported_media_type", data=b"{}", Content_Type="application/json; charset=x"
    )
    await api.refused("POST", "/v1/jobs", None, 413, "body_too_large", data=io.BytesIO(b" " * (LARGEST_BODY + 1)))
    assert "a list, not" in (await api.refused("POST", "/v1/jobs", [], 422, "invalid_definition"))["detail"]
    assert (
        "null, not" in (await api.refused("POST", "/v1/jobs", None, 422, "invalid_definition", data=b"null"))["detail"]
    )
    digits = await api.refused("POST", "/v1/jobs", None, 400, "malformed_json", data=b'{"name": ' + b"9" * 5000 + b"}")
    assert "does not fit into 64 bits" in digits["detail"]
    packed = await api.refused("POST", "/v1/jobs", None, 400, "malformed_body", data=b"{}", Content_Encoding="gzip")
    assert "content-encoding: gzip" in packed["detail"]
    assert (await api.refused("GET", "/v1/jobs/%00", None, 404, "not_found"))["detail"] == r"there is no object '\x00'"
    await api.refused("POST", "/v1/jobs", definition(colour="red"), 422, "unknown_field")
    await api.refused("POST", "/v1/jobs/x/start", {"now": True}, 422, "body_not_expected")
    for query in ("lmit=3", "limit=0", "limit=501", "limit=x", "limit=1&limit=2", "state=asleep", "label=x", "q=%00",
                  "sort=size", "created_from=yesterday", "created_from=0001-01-01T00:00:00%2B23:00",
                  "stalled=perhaps"):  # fmt: skip
        problem = (await api.call("GET", f"/v1/jobs?{query}")).body
        assert problem["status"] == 422, query
        assert problem["errors"][0]["parameter"] == query.partition("=")[0]
        assert problem["errors"][0]["message"]
    near = (await api.call("GET", "/v1/jobs?lmit=3")).body
    assert (near["code"], near["errors"][0]["hint"]) == ("unknown_parameter", "did you mean limit?")


async def test_a_request_id_is_taken_or_made_and_in_every_answer(api: ApiCase) -> None:
    taken = await api.call("GET", "/v1/jobs/nobody", X_Request_ID="abc-1.2_3")
    assert (taken.headers["X-Request-ID"], taken.body["request_id"]) == ("abc-1.2_3", "abc-1.2_3")
    for bad in ("a b", "x" * 65, "é"):
        made = await api.call("GET", "/v1/jobs", X_Request_ID=bad)
        assert made.headers["X-Request-ID"] != bad
        assert len(made.headers["X-Request-ID"]) == 32
    assert (await api.call("GET", "/nowhere", token=None)).headers["Cache-Control"] == "no-store"


async def test_head_answers_as_get_without_a_body(api: ApiCase) -> None:
    await api.ok("POST", "/v1/jobs", definition(), 201)
    head = await api.call("HEAD", "/v1/jobs/j")
    assert (head.status, head.raw) == (200, b"")
    assert head.headers["ETag"]


async def test_the_same_key_gets_the_same_answer(api: ApiCase) -> None:
    first = await api.call("POST", "/v1/jobs", definition(), Idempotency_Key="k1")
    again = await api.call("POST", "/v1/jobs", definition(), Idempotency_Key="k1")
    assert again.raw == first.raw
    assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Location"] == first.headers["Location"]
    await api.refused("POST", "/v1/jobs", definition("x"), 422, "idempotency_key_reused", Idempotency_Key="k1")
    await api.refused("POST", "/v1/jobs?start=true", definition(), 422, "idempotency_key_reused", Idempotency_Key="k1")
    await api.ok("DELETE", "/v1/jobs/j", status=204)
    gone = await api.call("POST", "/v1/jobs", definition(), Idempotency_Key="k1")
    assert (gone.status, gone.raw) == (201, first.raw), "also when the job is gone"
    assert (await api.ok("GET", "/v1/jobs"))["jobs"] == []
    refusal = await api.call("POST", "/v1/jobs/nobody/start", Idempotency_Key="k2")
    kept = await api.call("POST", "/v1/jobs/nobody/start", Idempotency_Key="k2")
    assert (refusal.status, kept.status, kept.raw) == (404, 404, refusal.raw)
    await api.refused("POST", "/v1/jobs", definition(), 422, "invalid_parameter", Idempotency_Key="k" * 256)


async def test_a_key_under_way_is_told_to_wait_and_ends_with_its_request(api: ApiCase) -> None:
    await api.ok("POST", "/v1/jobs", definition(), 201)
    waiting = asyncio.create_task(api.call("POST", "/v1/jobs/j/start?wait=20", Idempotency_Key="k"))
    while not await api.control("SELECT 1 FROM rowferry.idempotency WHERE status IS NULL"):
        assert not waiting.done(), waiting.result()
    busy = await api.call("POST", "/v1/jobs/j/start?wait=20", Idempotency_Key="k")
    assert (busy.status, busy.body["code"], busy.headers["Retry-After"]) == (409, "request_in_progress", "1")
    await api.ok("POST", "/v1/jobs/j/abort", status=202)
    assert (await waiting).body["state"] == "aborted"


async def test_too_many_requests_are_told_when_to_come_back(control_database: str, database: str) -> None:
    async with ApiCase(control_database, database, rate_limit=3) as api:
        replies = [await api.call("GET", "/v1/runs/x") for _ in range(8)]
        refused = [reply for reply in replies if reply.status == 429]
        assert refused
        assert refused[0].headers["Retry-After"] == "1"
        assert refused[0].body["retryable"]
        guesses = [await api.call("GET", "/v1/jobs", token=f"rf_guess-{number}") for number in range(8)]
        assert 429 in [reply.status for reply in guesses]


async def test_the_database_away_is_said_so(api: ApiCase) -> None:
    await api.store.close()
    problem = await api.refused("GET", "/v1/jobs", None, 503, "store_unreachable")
    assert problem["retryable"]


async def test_datasources_are_put_read_checked_and_removed(api: ApiCase) -> None:
    url = api.source_dsn.replace("postgres@", f"postgres:{SECRET}@")
    made = await api.call("PUT", "/v1/datasources/main", {"url": url + "?sslmode=disable", "max_connections": 3})
    assert made.status == 201, made
    assert SECRET.encode() not in made.raw
    body = made.body
    assert (body["user"], body["password"], body["tls"]) == ("postgres", "***", {"mode": "disable", "ca": None})
    parts = {name: body[name] for name in ("host", "port", "database", "user")}
    assert (await api.call("PUT", "/v1/datasources/main", {**parts, "password": "***"})).status == 200
    stored = await api.store.datasource("default", "main")
    assert stored is not None
    assert stored.password == SECRET
    for change in ({"host": "127.0.0.2"}, {"port": 1}, {"user": "eve"}):
        for password in ({"password": "***"}, {}):
            given = {**parts, **change, **password}
            problem = await api.refused("PUT", "/v1/datasources/main", given, 422, "secret_required")
            assert SECRET not in str(problem)
    assert (await api.call("PUT", "/v1/datasources/main", {**parts, "port": 1, "password": None})).status == 200
    lost = await api.ok("POST", "/v1/datasources/main:validate")
    assert not lost["valid"]
    assert lost["findings"][0]["code"] == "source_unreachable"
    found = await api.ok("POST", "/v1/datasources/shop:validate")
    assert found["valid"], found
    await api.ok("POST", "/v1/jobs", definition(), 201)
    await api.refused("DELETE", "/v1/datasources/shop", None, 409, "datasource_in_use")
    await api.ok("DELETE", "/v1/datasources/main", status=204)
    await api.refused("GET", "/v1/datasources/main", None, 404, "not_found")
    assert [one["name"] for one in (await api.ok("GET", "/v1/datasources"))["datasources"]] == ["shop"]


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"url": "mysql://u:p@h/d"}, "/url"),
        ({"url": "postgresql://h/d"}, "/url"),
        ({"url": "postgresql://u@h/d", "host": "x"}, "/host"),
        ({"url": "postgresql://u@h/d?options=-c"}, "/url"),
        ({"host": "/var/run", "database": "d", "user": "u"}, "/host"),
        ({"host": "h", "database": "d", "user": "u", "properties": {"SEARCH_PATH": "x"}}, ""),
        ({"host": "h", "database": "d", "user": "u", "tls": {"mode": "maybe"}}, "/tls/mode"),
        ({"name": "other", "host": "h", "database": "d", "user": "u"}, "/name"),
        ({"host": "h", "database": "d"}, "/user"),
    ],
)
async def test_bad_datasources_are_refused_by_place(api: ApiCase, given: Any, pointer: str) -> None:
    reply = await api.call("PUT", "/v1/datasources/main", given)
    assert reply.status == 422, reply
    assert reply.body["errors"][0]["pointer"] == pointer
    assert reply.body["errors"][0]["hint"]


async def test_a_datasource_elsewhere_is_refused_the_same_whatever_is_there(api: ApiCase) -> None:
    texts = set()
    for host in ("192.0.2.1", "169.254.169.254", "nobody.invalid"):
        await api.call("PUT", "/v1/datasources/far", {"host": host, "database": "d", "user": "u"})
        (finding,) = (await api.ok("POST", "/v1/datasources/far:validate"))["findings"]
        assert finding["code"] == "destination_refused"
        texts.add(finding["message"].replace(host, "HOST"))
    assert len(texts) == 1


async def test_credentials_show_no_value(api: ApiCase) -> None:
    made = await api.call("PUT", "/v1/credentials/prod", {"secrets": {"password": SECRET, "private_key": "env:X"}})
    assert made.status == 201, made
    assert made.body["secrets"] == {"password": "***", "private_key": "***"}
    await api.ok("PUT", "/v1/credentials/prod", {"secrets": {"password": "***", "private_key": None}})
    stored = await api.store.credential("default", "prod")
    assert stored is not None
    assert stored.secrets == {"password": SECRET}
    problem = await api.refused("PUT", "/v1/credentials/x", {"secrets": {"pasword": SECRET}}, 422, "unknown_field")
    assert problem["errors"][0]["pointer"] == "/secrets/pasword"
    assert SECRET not in str(problem)
    await api.refused("PUT", "/v1/credentials/x", {"secrets": {"password": "***"}}, 422, "secret_required")
    job = definition(sink={"kind": "kafka", "bootstrap_servers": "h:1", "topic": "t", "credential": "nobody"})
    await api.refused("POST", "/v1/jobs", job, 422, "credential_unknown")
    await api.ok("DELETE", "/v1/credentials/prod", status=204)


async def test_nothing_logged_or_answered_holds_a_secret(api: ApiCase) -> None:
    stream, lines = io.StringIO(), []
    logs.configure("debug", "json", stream=stream, tap=lines.append)
    await api.call("PUT", "/v1/jobs/k", kafka(password=SECRET), X_Request_ID="the-id")
    replies = [
        await api.call("GET", "/v1/jobs/k"),
        await api.call("PUT", "/v1/jobs/k", kafka(password=SECRET, colour=SECRET)),
        await api.call("POST", "/v1/jobs:validate", kafka(password=SECRET)),
        await api.call("PUT", "/v1/datasources/d", {"url": f"postgresql://u:{SECRET}@127.0.0.1:1/d"}),
        await api.call("POST", "/v1/datasources/d:validate"),
        await api.call("GET", "/v1/events"),
    ]
    text = stream.getvalue() + str(lines) + "".join(reply.raw.decode() for reply in replies)
    assert "the-id" in stream.getvalue()
    assert SECRET not in text
    assert ADMIN not in text
    assert any(line["account"] == "default" for line in lines if line["event"] == "http_request")


async def test_what_is_no_request_is_one_line_and_no_error_of_ours(api: ApiCase) -> None:
    stream = io.StringIO()
    logs.configure("debug", "json", stream=stream)
    unreadable.quieten()
    host, port = api.client.make_url("/").host, api.client.make_url("/").port
    tls, broken = b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n"
    for sent in (tls, broken, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(sent)
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [line for line in lines if line["event"] == "http_unreadable"]
    assert [(line["level"], line["remote"]) for line in told[:3]] == [("info", "127.0.0.1")] * 3
    assert all(line["cause"] for line in told)
    assert not [line for line in lines if "exception" in line or line["level"] == "error"]


async def test_a_body_that_never_comes_is_not_waited_for_without_end(
    api: ApiCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_SECONDS", 0.2)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    problem = await api.refused("POST", "/v1/jobs", None, 408, "body_timeout", data=never())
    assert "0.2 s" in problem["detail"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
PARTS = ("name", "source", "sink", "mode", "format", "options", "labels", "schedule", "generation", "last_id", "splits")
OTHERS = ("verb", "ids", "filter", "secrets", "url", "host", "role", "/", "~")
fields = st.sampled_from([*PARTS, *OTHERS])
targets = st.sampled_from([
    ("POST", "/v1/jobs"), ("POST", "/v1/jobs:validate"), ("POST", "/v1/jobs:preview"), ("POST", "/v1/jobs:bulk"),
    ("PUT", "/v1/jobs/j"), ("PATCH", "/v1/jobs/j"), ("PUT", "/v1/jobs/j/checkpoint"), ("POST", "/v1/jobs/j:clone"),
    ("PUT", "/v1/datasources/d"), ("PUT", "/v1/credentials/c"), ("POST", "/v1/tokens"),
])  # fmt: skip


async def test_no_body_ever_makes_a_500(api: ApiCase) -> None:
    await api.ok("POST", "/v1/jobs", definition(), 201)
    sent: list[tuple[str, str, bytes]] = []

    @settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target=targets, body=st.binary(max_size=60) | st.builds(_encoded, _near(definition()) | json_values))
    def collect(target: tuple[str, str], body: bytes) -> None:
        sent.append((*target, body))

    collect()
    assert len(sent) >= 200
    for method, path, body in sent:
        reply = await api.call(method, path, data=body)
        assert reply.status < 500, (method, path, body, reply)
        if reply.status >= 400:
            assert reply.headers["Content-Type"].startswith("application/problem+json")
            assert reply.body["code"]


def _near(base: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A definition with something of it replaced, at any depth."""
    extra = st.dictionaries(fields, json_values, max_size=3)
    inner = st.dictionaries(st.sampled_from(["kind", "path", "table", "where", "key", "splits", "chunk"]), json_values)
    merged = st.builds(lambda more: {**base, **more}, extra)
    return st.builds(
        lambda given, part, more: {**given, part: {**base.get(part, {}), **more}},
        merged, st.sampled_from(["source", "sink", "options"]), inner,
    ) | merged  # fmt: skip


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()
