"""Public tables and signing keys: what the query dialect looks up, in the store and over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import Conflict, Permanent
from service.lifecycle import Keys
from service.store.secrets import SecretBox
from service.store.store import Store
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase
from tests.integration.api_cases import ApiCase, definition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ORDERS = {
    "datasource": "shop",
    "table": "public.orders",
    "time_column": "created_at",
    "key": ["id"],
    "columns": ["*"],
    "key_is_monotonic": False,
}
NAME = "shop.web.orders"


@pytest.fixture
async def case(control_database: str) -> AsyncIterator[StoreCase]:
    opened = await StoreCase.open(control_database)
    await opened.store.put_datasource(ACCOUNT, ANA, "shop", {"host": "h"}, None)
    yield opened
    await opened.store.close()


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as opened:
        await opened.shop()
        yield opened


async def events(case: StoreCase) -> list[tuple[str, str]]:
    rows, _ = await case.store.events(ACCOUNT, {}, limit=100, after=None)
    return [(row.event, str(row.details["name"])) for row in rows if row.event != "datasource_put"]


async def test_a_table_is_put_once_changed_and_removed(case: StoreCase) -> None:
    made, created = await case.store.put_table(ACCOUNT, ANA, NAME, ORDERS)
    same, again = await case.store.put_table(ACCOUNT, ANA, NAME, dict(ORDERS))
    assert (created, again, same) == (True, False, made)
    changed, _ = await case.store.put_table(ACCOUNT, ANA, NAME, {**ORDERS, "key_is_monotonic": True, "key": None})
    assert (changed.id, changed.revision, changed.key, changed.key_is_monotonic) == (made.id, 2, None, True)
    assert await case.store.table(ACCOUNT, NAME) == changed
    assert await case.store.tables(ACCOUNT) == [changed]
    assert await case.store.delete_table(ACCOUNT, ANA, NAME)
    assert not await case.store.delete_table(ACCOUNT, ANA, NAME)
    assert await case.store.table(ACCOUNT, NAME) is None
    assert await events(case) == [("table_put", NAME), ("table_put", NAME), ("table_deleted", NAME)]


async def test_tables_and_keys_are_of_one_account(case: StoreCase) -> None:
    await case.store.ensure_account("other")
    await case.store.put_table(ACCOUNT, ANA, NAME, ORDERS)
    assert await case.store.table("other", NAME) is None
    assert await case.store.tables("other") == []
    assert not await case.store.delete_table("other", ANA, NAME)
    made = await Keys(case.store).create("other", ANA, "ci", "viewer")
    assert await case.store.keys(ACCOUNT) == []
    assert not await case.store.delete_key(ACCOUNT, ANA, made.key)
    found = await Keys(case.store).find(made.key)
    assert found is not None
    assert (found.account, found.role, found.secret) == ("other", "viewer", made.secret)


async def test_a_datasource_stays_while_a_table_lies_in_it(case: StoreCase) -> None:
    await case.store.put_table(ACCOUNT, ANA, NAME, ORDERS)
    with pytest.raises(Conflict, match=NAME) as used:
        await case.store.delete_datasource(ACCOUNT, ANA, "shop")
    assert used.value.code == "datasource_in_use"
    await case.store.delete_table(ACCOUNT, ANA, NAME)
    assert await case.store.delete_datasource(ACCOUNT, ANA, "shop")
    with pytest.raises(Conflict) as gone:
        await case.store.put_table(ACCOUNT, ANA, NAME, ORDERS)
    assert gone.value.code == "datasource_unknown"


async def test_a_secret_comes_back_for_signatures_and_stands_nowhere_in_the_clear(case: StoreCase) -> None:
    keys = Keys(case.store)
    made = await keys.create(ACCOUNT, ANA, "ci", "operator")
    assert made.secret is not None
    assert made.secret not in repr(made)
    assert await keys.find(made.key) == made
    assert [(one.key, one.secret) for one in await case.store.keys(ACCOUNT)] == [(made.key, None)]
    dump = await case.sql(
        "SELECT (SELECT string_agg(k::text, '') FROM keys k) || (SELECT string_agg(e::text, '') FROM events e)"
    )
    assert made.secret not in dump[0][0]
    with pytest.raises(Conflict) as taken:
        await keys.create(ACCOUNT, ANA, "ci", "viewer")
    assert taken.value.code == "name_taken"
    assert await events(case) == [("key_created", "ci")]


@pytest.mark.parametrize("key", ["", "0" * 32, "a' OR true --", "ключ", "x\0", "k" * 10_000])
async def test_what_is_no_key_opens_nothing(case: StoreCase, key: str) -> None:
    await Keys(case.store).create(ACCOUNT, ANA, "ci", "operator")
    assert await Keys(case.store).find(key) is None


async def test_a_key_needs_the_operators_own_key_to_be_kept(case: StoreCase) -> None:
    made = await Keys(case.store).create(ACCOUNT, ANA, "ci", "operator")
    for box, code in (
        (SecretBox(), "secret_key_required"),
        (SecretBox("another sentence of at least 32 c"), "secret_key_wrong"),
    ):
        async with await Store.open(case.dsn, box=box) as store:
            with pytest.raises(Permanent) as refused:
                await Keys(store).find(made.key)
            assert refused.value.code == code
            assert [one.name for one in await store.keys(ACCOUNT)] == ["ci"]
    async with await Store.open(case.dsn, box=SecretBox()) as store:
        with pytest.raises(Permanent) as unkept:
            await Keys(store).create(ACCOUNT, ANA, "second", "operator")
        assert unkept.value.code == "secret_key_required"
        assert [one.name for one in await store.keys(ACCOUNT)] == ["ci"]


async def test_a_table_over_http(api: ApiCase) -> None:
    path = f"/v1/tables/{NAME}"
    given = {"datasource": "shop", "table": "public.orders", "time_column": "created_at"}
    reply = await api.call("PUT", path, given)
    assert (reply.status, reply.headers["Location"]) == (201, path)
    made = reply.body
    assert {name: made[name] for name in ORDERS} == {**ORDERS, "key": None}
    assert await api.ok("PUT", path, given) == made
    viewer = await api.token("viewer")
    assert await api.ok("GET", path, token=viewer) == made
    assert await api.ok("GET", "/v1/tables", token=viewer) == {"tables": [made]}
    await api.refused("DELETE", "/v1/datasources/shop", None, 409, "datasource_in_use")
    await api.ok("DELETE", path, status=204)
    await api.refused("GET", path, None, 404, "not_found")
    await api.refused("DELETE", path, None, 404, "not_found")


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"datasource": "nowhere"}, "datasource_unknown", "/datasource"),
        ({"table": "a.b.c.d"}, "table_invalid", "/table"),
        ({"table": "orders; DROP TABLE orders"}, "table_invalid", "/table"),
        ({"table": None}, "invalid_definition", "/table"),
        ({"columns": []}, "invalid_definition", "/columns"),
        ({"key": "id"}, "invalid_definition", "/key"),
        ({"key_is_monotonic": "yes"}, "invalid_definition", "/key_is_monotonic"),
        ({"monotonic": True}, "unknown_field", "/monotonic"),
        ({"name": "another"}, "name_mismatch", "/name"),
    ],
)
async def test_a_table_that_can_not_be_is_refused_by_its_field(
    api: ApiCase, change: dict[str, Any], code: str, pointer: str
) -> None:
    given = {"datasource": "shop", "table": "public.orders", **change}
    problem = await api.refused("PUT", f"/v1/tables/{NAME}", given, 422, code)
    assert [one["pointer"] for one in problem["errors"]] == [pointer]
    assert await api.ok("GET", "/v1/tables") == {"tables": []}


async def test_a_job_whose_table_is_none_is_refused_before_it_is_stored(api: ApiCase) -> None:
    given = definition(source={"datasource": "shop", "table": "orders; DROP TABLE orders"})
    problem = await api.refused("POST", "/v1/jobs", given, 422, "table_invalid")
    assert [one["pointer"] for one in problem["errors"]] == ["/source/table"]


async def test_a_key_over_http_is_shown_once(api: ApiCase) -> None:
    given = {"name": "ci", "role": "operator"}
    made = await api.call("POST", "/v1/keys", given, Idempotency_Key="once")
    assert made.status == 201
    again = await api.call("POST", "/v1/keys", given, Idempotency_Key="once")
    assert again.body == {**made.body, "secret": "***"}
    secret = made.body["secret"]
    listed = await api.call("GET", "/v1/keys")
    assert [one["key"] for one in listed.body["keys"]] == [made.body["key"]]
    assert secret.encode() not in listed.raw
    for table in ("keys", "idempotency", "events"):
        rows = await api.control(f"SELECT t::text FROM rowferry.{table} t")
        assert not any(secret in row[0] for row in rows), table
    await api.refused("POST", "/v1/keys", given, 409, "name_taken")
    await api.ok("DELETE", f"/v1/keys/{made.body['key']}", status=204)
    await api.refused("DELETE", "/v1/keys?name=ci", None, 404, "not_found")
    await api.ok("POST", "/v1/keys", given, 201)
    await api.ok("DELETE", "/v1/keys?name=ci", status=204)


async def test_keys_are_made_for_ones_own_account_only(api: ApiCase) -> None:
    admin = await api.token("admin", account="elsewhere")
    given = {"name": "x", "role": "viewer", "account": "default"}
    await api.refused("POST", "/v1/keys", given, 403, "account_not_allowed", token=admin)
    made = await api.ok("POST", "/v1/keys", {"name": "x", "role": "viewer"}, 201, token=admin)
    assert made["account"] == "elsewhere"
    assert (await api.ok("GET", "/v1/keys"))["keys"] == []
    await api.refused("DELETE", f"/v1/keys/{made['key']}", None, 404, "not_found")
