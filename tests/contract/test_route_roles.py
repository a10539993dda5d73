"""Every route has a role, and the role is asked for: the whole matrix, on the real application."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.api.app import DIALECTS, TABLE
from service.api.routes import Role
from tests.integration.api_cases import ADMIN, ApiCase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROLES = ("viewer", "operator", "admin")


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database, rate_limit=100_000) as case:
        yield case


def filled(path: str) -> str:
    for name in ("job", "name", "token", "run", "id", "key", "type"):
        path = path.replace(f"{{{name}}}", "nobody")
    return path


def test_every_route_names_a_role_and_only_these_need_none() -> None:
    assert all(isinstance(route.role, Role) for route in TABLE)
    public = {route.path for route in TABLE if route.role is Role.PUBLIC}
    assert public == {"/healthz", "/readyz", "/v1/info", "/openapi.json"}


def test_the_router_holds_nothing_beside_the_table(api: ApiCase) -> None:
    listed = {(route.method, route.pattern) for route in TABLE}
    listed |= {("HEAD", route.pattern) for route in TABLE if route.method == "GET" and not route.stream}
    listed |= {(route.method, route.pattern) for route in DIALECTS}
    canonical = {(method, _canonical(path)) for method, path in listed}
    app = api.client.server.app  # type: ignore[attr-defined]
    assert {(route.method, route.resource.canonical) for route in app.router.routes()} == canonical


def _canonical(pattern: str) -> str:
    return pattern.replace(":[^/:]+}", "}")


async def test_who_may_what(api: ApiCase) -> None:
    tokens = {role: await api.token(role) for role in ROLES}
    for method, path, role in ((route.method, route.path, route.role) for route in TABLE):
        anonymous = await api.call(method, filled(path), token=None)
        wrong = await api.call(method, filled(path), token="rf_nobody-has-this-token")
        if role is not Role.PUBLIC:
            for reply in (anonymous, wrong):
                assert (reply.status, reply.body["code"]) == (401, "unauthorized"), (method, path, reply)
                assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        else:
            assert anonymous.status == wrong.status == 200, (method, path, anonymous)
        for word in ROLES:
            reply = await api.call(method, filled(path), token=tokens[word])
            if Role[word.upper()] < role:
                assert (reply.status, reply.body["code"]) == (403, "forbidden"), (method, path, word, reply)
            else:
                assert reply.status not in {401, 403, 500}, (method, path, word, reply)


async def test_who_may_what_in_the_dialects(api: ApiCase) -> None:
    assert all(isinstance(route.role, Role) for route in DIALECTS)
    assert {route.path for route in DIALECTS if route.role is Role.PUBLIC} == {"/system/ping", "/search/system/ping"}
    tokens = {role: await api.token(role) for role in ROLES}
    for route in DIALECTS:
        for token in (None, "rf_nobody-has-this-token"):
            reply = await api.call(route.method, filled(route.path), token=token)
            assert reply.status == (200 if route.role is Role.PUBLIC else 401), (route, reply)
        for word in ROLES:
            reply = await api.call(route.method, filled(route.path), token=tokens[word])
            if Role[word.upper()] < route.role:
                assert reply.status == 403, (route, word, reply)
            else:
                assert reply.status not in {401, 403, 405}, (route, word, reply)


async def test_a_token_that_was_removed_or_has_expired_opens_nothing(api: ApiCase) -> None:
    token = await api.token("viewer")
    assert (await api.call("GET", "/v1/jobs", token=token)).status == 200
    await api.ok("DELETE", "/v1/tokens?name=viewer-token", status=204)
    assert (await api.call("GET", "/v1/jobs", token=token)).status == 401
    expired = {"name": "old", "role": "admin", "expires_at": "2020-01-01T00:00:00Z"}
    made = await api.ok("POST", "/v1/tokens", expired, 201)
    assert (await api.call("GET", "/v1/jobs", token=made["token"])).status == 401


async def test_tokens_are_shown_once_and_never_again(api: ApiCase) -> None:
    made = await api.call("POST", "/v1/tokens", {"name": "ci", "role": "operator"}, Idempotency_Key="once")
    token = made.body["token"]
    again = await api.call("POST", "/v1/tokens", {"name": "ci", "role": "operator"}, Idempotency_Key="once")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.body == {**made.body, "token": "***"}
    listed = await api.call("GET", "/v1/tokens")
    assert [one["name"] for one in listed.body["tokens"]] == ["ci"]
    assert token.encode() not in listed.raw
    for table in ("tokens", "idempotency", "events"):
        rows = await api.control(f"SELECT t::text FROM rowferry.{table} t")
        assert not any(token in row[0] for row in rows), table


async def test_tokens_belong_to_one_account(api: ApiCase) -> None:
    admin = await api.token("admin", account="elsewhere")
    made = {"name": "x", "role": "viewer", "account": "default"}
    await api.refused("POST", "/v1/tokens", made, 403, "account_not_allowed", token=admin)
    assert [one["name"] for one in (await api.ok("GET", "/v1/tokens", token=admin))["tokens"]] == ["admin-token"]
    assert (await api.ok("GET", "/v1/tokens"))["tokens"] == []


async def test_health_needs_no_token_and_tells_more_with_one(api: ApiCase) -> None:
    assert await api.ok("GET", "/healthz", token=None) == {"status": "ok"}
    assert await api.ok("GET", "/readyz", token=None) == {"ready": True, "checks": {"database": {"ok": True}}}
    info = await api.ok("GET", "/v1/info", token=None)
    assert info["sinks"] == ["donothing", "elasticsearch", "file", "hdfs", "kafka", "s3"]
    assert (info["engine"], info["formats"]) == ("local", ["json", "csv", "parquet"])
    metrics = await api.call("GET", "/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain")
    await api.store.close()
    lost = await api.call("GET", "/readyz", token=None)
    assert (lost.status, lost.body) == (503, {"ready": False, "checks": {"database": {"ok": False}}})
    told = (await api.call("GET", "/readyz", token=ADMIN)).body["checks"]["database"]
    assert told.keys() == {"ok", "error", "since"}
    assert await api.ok("GET", "/healthz", token=None) == {"status": "ok"}
