"""Who may what in the Devo dialect, and how they say who they are."""

from __future__ import annotations

import hmac
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.api_cases import definition
from tests.integration.devo_cases import KEY, SECRET, DevoCase, launch
from tests.unit.test_jwts import OTHER, SAID, SIGNER, by_hand, keys, pem, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.integration.api_cases import Reply

REFUSED = {"error": {"code": 12, "message": "Invalid signature validation"}}
UNAUTHORIZED = {"error": {"code": 401, "message": "Unauthorized"}}


@pytest.fixture
async def devo(control_database: str, database: str) -> AsyncIterator[DevoCase]:
    async with DevoCase(control_database, database, rate_limit=100_000) as case:
        yield case


async def jobs(devo: DevoCase, headers: dict[str, str]) -> Reply:
    return await devo.send("GET", "/search/jobs", b"", headers)


async def test_the_same_signature_twice_is_fine(devo: DevoCase) -> None:
    headers = devo.headers()
    for _ in range(2):
        assert (await jobs(devo, headers)).status == 200


@pytest.mark.parametrize(
    "how",
    [
        {"secret": "another"},
        {"key": "nobody"},
        {"key": ""},
        {"key": "x" * 5000},
        {"age": 301},
        {"age": -301},
    ],
)
async def test_signatures_that_open_nothing(devo: DevoCase, how: dict[str, object]) -> None:
    reply = await jobs(devo, devo.headers(**how))  # type: ignore[arg-type]
    assert (reply.status, reply.body) == (401, REFUSED)


@pytest.mark.parametrize("how", [{}, {"secret": "another"}, {"key": "nobody"}, {"age": 301}])
async def test_a_signature_is_compared_in_constant_time_also_for_a_key_that_does_not_exist(
    devo: DevoCase, monkeypatch: pytest.MonkeyPatch, how: dict[str, object]
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    headers = devo.headers(**how)  # type: ignore[arg-type]
    monkeypatch.setattr("service.api.dialects.devo_auth.hmac.compare_digest", watched)
    await jobs(devo, headers)
    assert compared == [(64, 64)], "the whole of both, once"


@pytest.mark.parametrize("age", [290, -290])
async def test_a_clock_may_be_a_little_off(devo: DevoCase, age: float) -> None:
    assert (await jobs(devo, devo.headers(age=age))).status == 200


async def test_a_body_that_was_changed_after_signing(devo: DevoCase) -> None:
    body = b'{"query": "from web.events", "from": "1d"}'
    reply = await devo.send("POST", "/search/query", body + b" ", devo.headers(body))
    assert (reply.status, reply.body) == (401, REFUSED)
    assert (await devo.ok("GET", "/v1/jobs"))["jobs"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"x-logtrust-sign": ""},
        {"x-logtrust-sign": "0" * 64},
        {"x-logtrust-sign": "no hex at all"},
        {"x-logtrust-timestamp": "now"},
        {"x-logtrust-timestamp": ""},
        {"x-logtrust-timestamp": "1" * 400},
        {"x-logtrust-timestamp": str(int(time.time()))},
        {"x-logtrust-timestamp": "١٢٣٤٥٦٧٨٩٠١٢٣"},
    ],
)
async def test_malformed_headers(devo: DevoCase, change: dict[str, str]) -> None:
    reply = await jobs(devo, devo.headers() | change)
    assert (reply.status, reply.body) == (401, REFUSED)


async def test_a_signature_in_capitals_or_without_one_header(devo: DevoCase) -> None:
    headers = devo.headers()
    capitals = headers | {"x-logtrust-sign": headers["x-logtrust-sign"].upper()}
    assert (await jobs(devo, capitals)).body == REFUSED
    for name in ("x-logtrust-apikey", "x-logtrust-timestamp", "x-logtrust-sign"):
        fewer = {key: value for key, value in headers.items() if key != name}
        assert (await jobs(devo, fewer)).status == 401


async def test_bearer_tokens_with_and_without_their_word(devo: DevoCase) -> None:
    token = await devo.token("viewer")
    for value in (f"Bearer {token}", token):
        assert (await jobs(devo, {"Authorization": value})).status == 200
    for value in ("Bearer wrong", "wrong", "jwt wrong", "Basic eDp5", ""):
        reply = await jobs(devo, {"Authorization": value})
        assert (reply.status, reply.body) == (401, UNAUTHORIZED), value
    reply = await jobs(devo, {})
    assert (reply.status, reply.body) == (401, UNAUTHORIZED)


async def test_who_only_looks_may_not_act(devo: DevoCase) -> None:
    job_id = await devo.job()
    await devo.key("viewer-key-0123456789", "viewer-secret-0123456789", "viewer")
    viewer = {"key": "viewer-key-0123456789", "secret": "viewer-secret-0123456789"}
    for path in ("/search/jobs", f"/search/job/{job_id}", "/search/table/web.events"):
        assert (await devo.devo("GET", path, **viewer)).status == 200
    for verb in ("stop", "start", "remove"):
        reply = await devo.devo("GET", f"/search/job/{verb}/{job_id}", **viewer)
        assert (reply.status, reply.body["status"]) == (403, 403)
        assert list(reply.body) == ["timestamp", "cid", "msg", "status"]
    assert (await devo.devo("POST", "/search/query", launch(), **viewer)).status == 403
    assert (await devo.status(job_id))["status"] in {"RUNNING", "CREATED"}


async def test_a_key_that_was_removed_opens_nothing(devo: DevoCase) -> None:
    assert (await devo.devo("GET", "/search/jobs")).status == 200
    from service.domain.records import Actor

    assert await devo.store.delete_key("default", Actor("test", "test"), KEY)
    assert (await devo.devo("GET", "/search/jobs")).body == REFUSED


async def test_the_secret_is_in_no_answer_and_no_table(devo: DevoCase) -> None:
    wrong = await devo.devo("POST", "/search/query", launch({"type": SECRET, "params": {"friendlyName": SECRET}}))
    assert wrong.status == 400
    assert SECRET.encode() not in wrong.raw
    for table in ("keys", "events", "jobs", "log"):
        rows = await devo.control(f"SELECT t::text FROM rowferry.{table} t")
        assert not any(SECRET in row[0] for row in rows), table


async def test_pages_of_other_origins_are_let_in_by_a_setting_alone(devo: DevoCase) -> None:
    closed = await devo.send("GET", "/search/system/ping", b"", {"Origin": "https://console.example"})
    assert "Access-Control-Allow-Origin" not in closed.headers
    assert (await devo.send("OPTIONS", "/search/query", b"", {"Origin": "https://console.example"})).status == 405


async def test_what_an_allowed_origin_is_told(control_database: str, database: str) -> None:
    async with DevoCase(control_database, database, devo_cors_origins=frozenset({"https://console.example"})) as devo:
        for origin, allowed in (("https://console.example", "https://console.example"), ("https://evil.example", None)):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            before = await devo.send("OPTIONS", "/search/query", b"", asked)
            assert before.status == 204
            for reply in (
                before,
                await jobs(devo, {**devo.headers(), "Origin": origin}),
                await jobs(devo, {"Origin": origin}),
                await devo.send("GET", "/search/nothing", b"", {"Origin": origin}),
            ):
                assert reply.headers.get("Access-Control-Allow-Origin") == allowed, reply
        assert "x-logtrust-sign" in before.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("scheme", ["jwt", "JWT", "Bearer"])
async def test_a_jwt_opens_the_dialect_for_its_account_and_role(
    control_database: str, database: str, tmp_path: Path, scheme: str
) -> None:
    settings = {"jwt_keys_file": keys(tmp_path), "jwt_issuer": SAID["iss"], "jwt_audience": SAID["aud"]}
    async with DevoCase(control_database, database, **settings) as devo:
        mine = await devo.ok("POST", "/v1/jobs", definition(), 201)
        viewer = {"Authorization": f"{scheme} {token(role='viewer', account='default')}"}
        listed = await jobs(devo, viewer)
        assert (listed.status, [job["id"] for job in listed.body["object"]]) == (200, [mine["id"]])
        stopped = await devo.send("GET", f"/search/job/stop/{mine['id']}", b"", viewer)
        assert (stopped.status, stopped.body["status"]) == (403, 403)
        operator = {"Authorization": f"{scheme} {token(role='operator', account='default')}"}
        assert (await devo.send("GET", f"/search/job/stop/{mine['id']}", b"", operator)).status == 200
        other = {"Authorization": f"{scheme} {token(role='admin')}"}
        assert (await jobs(devo, other)).body["object"] == [], "its account is another"
        for text in (token(exp=1), token(key=OTHER), by_hand({"alg": "none"}), by_hand({"alg": "HS256"}, pem(SIGNER))):
            refused = await jobs(devo, {"Authorization": f"{scheme} {text}"})
            assert (refused.status, refused.body) == (401, UNAUTHORIZED)
