"""jwt authorization over HTTP: who it is, in which account, with which role, and that it stands in no log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.api_cases import ADMIN, ApiCase, definition
from tests.unit.test_jwts import OTHER, SAID, SIGNER, by_hand, keys, pem, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def api(control_database: str, database: str, tmp_path: Path) -> AsyncIterator[ApiCase]:
    settings = {"jwt_keys_file": keys(tmp_path), "jwt_issuer": SAID["iss"], "jwt_audience": SAID["aud"]}
    async with ApiCase(control_database, database, **settings) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["jwt", "JWT", "Bearer"])
async def test_a_jwt_comes_in_with_its_account_role_and_name(api: ApiCase, scheme: str) -> None:
    admin = f"{scheme} {token(role='admin')}"
    await api.ok("PUT", "/v1/datasources/shop", {"url": api.source_dsn}, 201, token=None, Authorization=admin)
    made = await api.ok("POST", "/v1/jobs", definition(), 201, token=None, Authorization=admin)
    assert (made["account"], made["owner"]) == ("shop", "ana")
    events = await api.ok("GET", "/v1/events", token=None, Authorization=f"{scheme} {token(role='viewer')}")
    assert {one["actor"] for one in events["events"]} == {"ana"}
    assert (await api.ok("GET", "/v1/jobs"))["jobs"] == [], "account default has none"
    await api.refused("POST", "/v1/jobs", definition("k"), 403, "forbidden", token=None, Authorization=f"jwt {token()}")


async def test_a_jwt_that_opens_nothing_is_told_why(api: ApiCase) -> None:
    for text in (
        by_hand({"alg": "none"}),
        by_hand({"alg": "HS256"}, pem(SIGNER)),
        token(key=OTHER),
        token(exp=1),
        token(iss="https://login.elsewhere"),
        token(account="not a name"),
        "nonsense",
    ):
        reply = await api.call("GET", "/v1/jobs", token=None, Authorization=f"jwt {text}")
        assert (reply.status, reply.body["code"]) == (401, "unauthorized"), reply
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert text not in reply.body["detail"]


async def test_a_jwt_names_no_other_account(api: ApiCase) -> None:
    headers = {"Authorization": f"jwt {token(role='admin')}", "X_Rowferry_Account": "default"}
    await api.refused("GET", "/v1/jobs", None, 403, "account_not_allowed", token=None, **headers)


async def test_other_tokens_come_in_as_before(api: ApiCase) -> None:
    viewer = await api.token("viewer")
    await api.ok("GET", "/v1/jobs", token=viewer)
    await api.refused("GET", "/v1/jobs", None, 401, "unauthorized", token=None, Authorization=f"jwt {ADMIN}")
    await api.refused("GET", "/v1/jobs", None, 401, "unauthorized", token="rf_nobody-has-this")


async def test_without_the_settings_no_jwt_opens_anything(control_database: str, database: str) -> None:
    async with ApiCase(control_database, database) as api:
        for scheme in ("jwt", "Bearer"):
            given = f"{scheme} {token(role='admin')}"
            await api.refused("GET", "/v1/jobs", None, 401, "unauthorized", token=None, Authorization=given)
