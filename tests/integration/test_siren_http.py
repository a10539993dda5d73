"""How the Siren dialect speaks: paths, who asks, errors in Elasticsearch's shape."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import pytest

from service.api.dialects import siren
from tests.integration.api_cases import ADMIN, definition
from tests.integration.siren_cases import PREFIX, SirenCase, basic, of_error
from tests.unit.test_jwts import OTHER, SAID, by_hand, keys, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def case(control_database: str, database: str) -> AsyncIterator[SirenCase]:
    async with SirenCase(control_database, database, rate_limit=100_000) as case:
        yield case


async def test_every_way_to_say_who_asks(case: SirenCase) -> None:
    viewer = await case.token("viewer")
    pair = base64.b64encode(f"viewer-token:{viewer}".encode()).decode()
    for given in (
        basic(),
        f"bearer {ADMIN}",
        f"ApiKey {ADMIN}",
        basic("viewer-token", viewer),
        f"basic {pair}",
        f"ApiKey {pair}",
        f"APIKEY  {viewer}",
        f"Bearer {viewer}",
    ):
        assert (await case.siren("GET", "/jobs/ingestion", authorization=given)).status == 200, given


async def test_whoever_is_not_known_is_asked_for_basic(case: SirenCase) -> None:
    viewer = await case.token("viewer")
    wrong = [
        basic("viewer-token", "rf_nobody-has-this-token"),
        basic("somebody-else", viewer),
        basic("viewer-token", ADMIN),
        "Basic",
        "Basic ===",
        f"Basic {base64.b64encode(b'no colon').decode()}",
        f"Basic {base64.b64encode(bytes([255, 58, 255])).decode()}",
        "Basic " + "A" * 8_000,
        "ApiKey rf_nobody",
        f"ApiKey {base64.b64encode(f'other:{viewer}'.encode()).decode()}",
        "Negotiate abc",
        "Bearer",
        viewer,
    ]
    for given in wrong:
        reply = await case.siren("GET", "/jobs/ingestion", authorization=given)
        assert (reply.status, reply.headers["WWW-Authenticate"][:6]) == (401, "Basic "), (given, reply)
        assert reply.body["error"]["type"] == "security_exception"
        assert "unable to authenticate" in of_error(reply)
        assert viewer.encode() not in reply.raw
    for headers in ({}, {"Cookie": "session=x"}):
        assert (await case.send("GET", f"{PREFIX}/jobs/ingestion", None, headers)).status == 401


async def test_a_role_is_not_enough_for_what_is_above_it(case: SirenCase) -> None:
    viewer = basic("viewer-token", await case.token("viewer"))
    reply = await case.siren("POST", "/jobs/ingestion/j/_abort", authorization=viewer)
    assert (reply.status, reply.body["error"]["type"]) == (403, "security_exception")
    assert "operator" in of_error(reply)


async def test_guessing_is_slow_and_says_when_to_come_back(control_database: str, database: str) -> None:
    async with SirenCase(control_database, database, rate_limit=3) as case:
        statuses = [(await case.siren("GET", "/jobs/ingestion", authorization="Bearer x")) for _ in range(6)]
        late = statuses[-1]
        assert (late.status, late.body["error"]["type"]) == (429, "es_rejected_execution_exception")
        assert int(late.headers["Retry-After"]) >= 1
        of_error(late)


async def test_errors_of_routes_and_bodies_have_elasticsearchs_shape(case: SirenCase) -> None:
    assert await case.reason("GET", "/nothing/here", status=404) == (
        "no handler found for uri [/_siren/connector/nothing/here] and method [GET]"
    )
    for path in ("/_siren", "/_siren/", "//_siren/nothing"):
        of_error(await case.send("GET", path, None, {"Authorization": basic()}))
    wrong = await case.siren("DELETE", "/jobs/ingestion")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET")
    assert "allowed: [GET]" in of_error(wrong)
    body = io.BytesIO(b" " * (1024 * 1024 + 1))
    large = await case.send("POST", f"{PREFIX}/jobs/ingestion/j/_abort", body, {"Authorization": basic()})
    assert (large.status, large.body["error"]["type"]) == (413, "content_too_long_exception")
    of_error(large)
    for body in (b"{", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"a": NaN}'):
        reply = await case.siren("POST", "/jobs/ingestion/j/_abort", body)
        assert (reply.status, reply.body["error"]["type"]) == (400, "parsing_exception"), reply
        of_error(reply)
    for given in (b"[]", b"1", b'"x"', b'{"force": true}'):
        assert (await case.siren("POST", "/jobs/ingestion/j/_abort", given)).status == 400, given


async def test_a_post_needs_neither_body_nor_content_type(case: SirenCase) -> None:
    await case.shop()
    await case.ok("POST", "/v1/jobs", definition(), 201)
    for body in (None, b"", b" ", b"{}"):
        for kind in ("", "text/plain", "application/vnd.elasticsearch+json; compatible-with=8", "nonsense"):
            headers = {"Authorization": basic(), **({"Content-Type": kind} if kind else {})}
            reply = await case.send("POST", f"{PREFIX}/jobs/ingestion/j/_abort", body, headers)
            assert reply.status == 200, (body, kind, reply)


async def test_a_second_slash_in_front_is_the_same_path(case: SirenCase) -> None:
    for slash in ("", "/"):
        reply = await case.send("GET", f"{slash}{PREFIX}/jobs/ingestion", None, {"Authorization": basic()})
        assert (reply.status, reply.raw) == (200, b'{"hits":{"total":0,"hits":[]}}')
    assert {route.path.removeprefix("/") for route in siren.ROUTES if route.path.startswith("//")} == {
        route.path for route in siren.ROUTES if not route.path.startswith("//")
    }


async def test_pretty_answers_have_lines(case: SirenCase) -> None:
    for given, lines in (("?pretty", True), ("?pretty=true", True), ("?pretty=false", False), ("", False)):
        for path in ("/jobs/ingestion", "/jobs/nothing", "/nowhere"):
            reply = await case.siren("GET", path + given)
            assert (b'\n  "' in reply.raw) is lines, reply
    assert (await case.siren("GET", "/jobs/ingestion?pretty")).raw == (
        b'{\n  "hits" : {\n    "total" : 0,\n    "hits" : []\n  }\n}\n'
    )
    assert "unrecognized parameter: ['prety']" in await case.reason("GET", "/jobs/ingestion?prety")
    assert "2 times" in await case.reason("GET", "/jobs/_search?size=1&size=2")


async def test_what_elasticsearchs_clients_look_for_in_the_headers(case: SirenCase) -> None:
    for path, status in (("/jobs/ingestion", 200), ("/nowhere", 404)):
        reply = await case.siren("GET", path, X_Opaque_Id="task 7")
        assert reply.status == status
        assert reply.headers["X-Elastic-Product"] == "Elasticsearch"
        assert reply.headers["X-Opaque-Id"] == "task 7"
        assert reply.headers["Cache-Control"] == "no-store"
    native = await case.call("GET", "/v1/jobs")
    assert "X-Elastic-Product" not in native.headers


async def test_when_the_control_database_is_away_it_says_so_and_when_to_come_back(case: SirenCase) -> None:
    await case.store.close()
    reply = await case.siren("GET", "/jobs/ingestion")
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    of_error(reply)


async def test_a_jwt_stands_for_a_token_in_every_scheme(control_database: str, database: str, tmp_path: Path) -> None:
    settings = {"jwt_keys_file": keys(tmp_path), "jwt_issuer": SAID["iss"], "jwt_audience": SAID["aud"]}
    async with SirenCase(control_database, database, rate_limit=100_000, **settings) as case:
        admin = token(role="admin")
        jdbc = {"url": "jdbc:postgresql://127.0.0.1:1/d", "username": "u"}
        made = await case.siren("PUT", "/datasource/shop", {"jdbc": jdbc}, authorization=basic("ana", admin))
        assert made.status == 201, made
        pair = base64.b64encode(f"ana:{admin}".encode()).decode()
        for given in (basic("ana", admin), f"ApiKey {admin}", f"ApiKey {pair}", f"Bearer {admin}", f"jwt {admin}"):
            reply = await case.siren("GET", "/datasource/shop", authorization=given)
            assert reply.status == 200, (given, reply)
        assert (await case.siren("GET", "/datasource/shop")).status == 404, "the jwt's account is another"
        viewer = token(role="viewer")
        assert (await case.siren("DELETE", "/datasource/shop", authorization=basic("ana", viewer))).status == 403
        for wrong in (token(key=OTHER), token(exp=1), token(iss="https://login.elsewhere"), by_hand({"alg": "none"})):
            for given in (basic("ana", wrong), f"ApiKey {wrong}", f"Bearer {wrong}"):
                reply = await case.siren("GET", "/datasource/shop", authorization=given)
                assert reply.status == 401, reply
                assert wrong not in of_error(reply)
        assert (await case.siren("GET", "/datasource/shop", authorization=basic("bo", admin))).status == 401


async def test_searches_answer_get_post_and_head_and_page_by_page(case: SirenCase) -> None:
    await case.shop()
    for number in range(5):
        await case.ok("POST", "/v1/jobs", definition(name=f"job-{number}"), 201)
    whole = await case.told("GET", "/ingestion/_search")
    assert [hit["_id"] for hit in whole["hits"]["hits"]] == [f"job-{number}" for number in range(5)]
    pages = [(await case.told("GET", f"/ingestion/_search?from={begin}&size=2"))["hits"] for begin in (0, 2, 4, 6)]
    assert [page["total"] for page in pages] == [5] * 4
    assert [hit for page in pages for hit in page["hits"]] == whole["hits"]["hits"]
    for path, found in (("/ingestion", 5), ("/datasource", 1), ("/jobs", 0)):
        given = {"from": 0, "size": 1}
        got = await case.told("GET", f"{path}/_search?from=0&size=1")
        assert got["hits"]["total"] == found
        assert len(got["hits"]["hits"]) == min(found, 1)
        assert await case.told("POST", f"{path}/_search", given) == got
        assert await case.told("POST", f"{path}/_search?size=1", {"size": "3"}) == got, "the query wins"
        assert await case.told("POST", f"{path}/_search") == await case.told("GET", f"{path}/_search")
        head = await case.siren("HEAD", f"{path}/_search")
        assert (head.status, head.raw) == (200, b"")
        for wrong in ({"query": {"match_all": {}}}, {"size": -1}, {"size": True}, {"from": 9_999, "size": 2}, []):
            await case.reason("POST", f"{path}/_search", wrong)
        anonymous = await case.siren("POST", f"{path}/_search", authorization=basic(token="nothing"))
        assert anonymous.status == 401


async def test_preview_in_our_own_language_shows_what_an_ingestion_renders(case: SirenCase) -> None:
    await case.shop()
    template = "SELECT * FROM orders {{#max_primary_key}}WHERE id > {{max_primary_key}}{{/max_primary_key}}"
    ingest = {"ingest": {"datasource": "shop", "query": template, "pk_field": "id"}}
    ingest["ingest"] |= {"strategy": "INCREMENTAL", "sink": {"kind": "donothing"}}
    await case.told("PUT", "/ingestion/events", ingest, 201)
    spec = (await case.ok("GET", "/v1/jobs/events"))["spec"]
    seen = await case.ok("POST", "/v1/jobs:preview", spec)
    said = [one["message"] for one in seen["findings"] if one["code"] == "query_rendered"]
    assert len(said) == 1
    assert "a first run reads: SELECT * FROM orders" in said[0]
