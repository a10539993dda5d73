"""What `Registry` promises: named things, who uses them, and tokens."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from service.domain.errors import Conflict, NotFound, Permanent
from service.domain.states import Event, State
from service.domain.steps import StepKind
from service.store.secrets import SecretBox
from service.store.store import Store
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase, case, definition

__all__ = ["case"]  # fixtures

SHOP = {"host": "db.example", "port": 5432, "database": "shop", "user": "reader"}


async def test_a_datasource_comes_back_with_its_password_and_shows_it_to_nobody(case: StoreCase) -> None:
    put, created = await case.store.put_datasource(ACCOUNT, ANA, "shop", SHOP, "hunter2")
    assert created
    assert (put.name, put.account, put.revision, put.definition, put.password) == ("shop", ACCOUNT, 1, SHOP, "hunter2")
    assert "hunter2" not in repr(put)
    assert await case.store.datasource(ACCOUNT, "shop") == put
    dump = await case.sql("SELECT d::text || (SELECT string_agg(e::text, '') FROM events e) FROM datasources d")
    assert "hunter2" not in dump[0][0]
    await case.store.put_datasource(ACCOUNT, ANA, "archive", SHOP, None)
    assert [each.name for each in await case.store.datasources(ACCOUNT)] == ["archive", "shop"]
    assert (await case.store.datasources(ACCOUNT))[0].password is None
    await case.store.ensure_account("other")
    assert await case.store.datasources("other") == []
    assert await case.store.datasource("other", "shop") is None


async def test_a_revision_counts_changes_only(case: StoreCase) -> None:
    first, _ = await case.store.put_datasource(ACCOUNT, ANA, "shop", SHOP, "a")
    same, created = await case.store.put_datasource(ACCOUNT, ANA, "shop", dict(SHOP), "a")
    assert (same, created) == (first, False)
    revisions = []
    for definition_, password in [(SHOP, "b"), ({**SHOP, "port": 5433}, "b"), (SHOP, None)]:
        changed, created = await case.store.put_datasource(ACCOUNT, ANA, "shop", definition_, password)
        assert not created
        assert changed.password == password
        revisions.append(changed.revision)
    assert revisions == [2, 3, 4]
    one, _ = await case.store.put_credential(ACCOUNT, ANA, "kafka", {"username": "u", "password": "p"})
    assert await case.store.put_credential(ACCOUNT, ANA, "kafka", {"password": "p", "username": "u"}) == (one, False)
    two, _ = await case.store.put_credential(ACCOUNT, ANA, "kafka", {"password": "q"})
    assert (one.revision, two.revision, two.secrets) == (1, 2, {"password": "q"})
    events, _ = await case.store.events(ACCOUNT, {}, limit=50, after=None)
    assert [event.event for event in events] == ["datasource_put"] * 4 + ["credential_put"] * 2
    assert {event.actor for event in events} == {"ana"}


async def test_a_secret_needs_a_key_and_no_other_opens_it(case: StoreCase) -> None:
    await case.store.put_datasource(ACCOUNT, ANA, "shop", SHOP, "hunter2")
    async with await Store.open(case.dsn) as keyless:
        await keyless.put_datasource(ACCOUNT, ANA, "open", SHOP, None)
        for attempt in (
            keyless.put_datasource(ACCOUNT, ANA, "shut", SHOP, "hunter2"),
            keyless.put_credential(ACCOUNT, ANA, "shut", {"a": "hunter2"}),
            keyless.datasource(ACCOUNT, "shop"),
        ):
            with pytest.raises(Permanent) as refused:
                await attempt
            assert refused.value.code == "secret_key_required"
        assert await keyless.datasource(ACCOUNT, "shut") is None
    async with await Store.open(case.dsn, box=SecretBox("another sentence of more than enough letters")) as stranger:
        with pytest.raises(Permanent) as wrong:
            await stranger.datasource(ACCOUNT, "shop")
        assert wrong.value.code == "secret_key_wrong"
    with pytest.raises(ValueError, match="no secret fields"):
        await case.store.put_credential(ACCOUNT, ANA, "empty", {})


async def test_what_a_job_uses_stays(case: StoreCase) -> None:
    await case.store.put_datasource(ACCOUNT, ANA, "shop", SHOP, None)
    await case.store.put_credential(ACCOUNT, ANA, "prod", {"password": "p"})
    job = await case.create("orders", sink="kafka")
    await case.sql("UPDATE jobs SET spec = jsonb_set(spec, '{sink,credential}', '\"prod\"') WHERE id = $1", job.id)
    with pytest.raises(Conflict, match="'orders'") as used:
        await case.store.delete_datasource(ACCOUNT, ANA, "shop")
    assert (used.value.code, used.value.facts) == ("datasource_in_use", {"job": "orders"})
    with pytest.raises(Conflict, match="'orders'") as used:
        await case.store.delete_credential(ACCOUNT, ANA, "prod")
    assert (used.value.code, used.value.facts) == ("credential_in_use", {"job": "orders"})
    await case.store.remove(ACCOUNT, ANA, job.id)
    assert await case.store.delete_datasource(ACCOUNT, ANA, "shop")
    assert await case.store.delete_credential(ACCOUNT, ANA, "prod")
    assert not await case.store.delete_datasource(ACCOUNT, ANA, "shop")
    assert not await case.store.delete_credential(ACCOUNT, ANA, "prod")


async def test_a_credential_stays_until_whatever_was_made_with_it_is_closed(case: StoreCase) -> None:
    await case.store.put_credential(ACCOUNT, ANA, "old", {"password": "p"})
    spec = definition("orders")
    spec["sink"] = {"kind": "kafka", "credential": "old"}
    job = await case.store.create(ACCOUNT, ANA, spec, {}, guarantee="", guarantee_note="")
    await case.start(job)
    await case.plan(job, None, ("99",))
    await case.verb(job, Event.STOP)
    await case.store.replace(
        *(ACCOUNT, ANA, job.id, definition("orders"), {}),
        guarantee="",
        guarantee_note="",
        if_revision=None,
        position="reset",
        target_changed=True,
    )
    with pytest.raises(Conflict, match="job 'orders'"):
        await case.store.delete_credential(ACCOUNT, ANA, "old")
    await case.store.remove(ACCOUNT, ANA, job.id)
    with pytest.raises(Conflict, match="clean-up of removed job 'orders'"):
        await case.store.delete_credential(ACCOUNT, ANA, "old")
    await case.store.cleaned_up(await case.lease(job, StepKind.CLEAN_UP), "done")
    assert await case.store.delete_credential(ACCOUNT, ANA, "old")


async def test_nothing_is_put_into_an_account_that_is_not_there(case: StoreCase) -> None:
    for attempt in (
        case.store.put_datasource("nobody", ANA, "shop", SHOP, None),
        case.store.put_credential("nobody", ANA, "prod", {"a": "b"}),
        case.store.delete_datasource("nobody", ANA, "shop"),
    ):
        with pytest.raises(NotFound, match="account 'nobody'"):
            await attempt
    await case.store.ensure_account(ACCOUNT)
    assert [row[0] for row in await case.sql("SELECT name FROM accounts")] == [ACCOUNT]


# Tokens


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def test_a_token_is_found_by_its_digest_until_it_expires_or_goes(case: StoreCase) -> None:
    assert not await case.store.any_token()
    later = datetime.now(UTC) + timedelta(hours=1)
    token = await case.store.create_token(ACCOUNT, ANA, "ci", "operator", digest("one"), later)
    assert (token.name, token.role, token.account, token.expires_at) == ("ci", "operator", ACCOUNT, later)
    assert await case.store.token(digest("one")) == token
    assert await case.store.token(digest("two")) is None
    assert await case.store.any_token()
    assert await case.store.tokens(ACCOUNT) == [token]
    await case.sql("UPDATE tokens SET expires_at = clock_timestamp()")
    assert await case.store.token(digest("one")) is None
    assert not await case.store.any_token()
    assert len(await case.store.tokens(ACCOUNT)) == 1
    assert await case.store.delete_token(ACCOUNT, ANA, "ci")
    assert not await case.store.delete_token(ACCOUNT, ANA, "ci")


async def test_tokens_of_an_account_are_named_once_and_make_the_account(case: StoreCase) -> None:
    mine = await case.store.create_token("new", ANA, "ci", "viewer", digest("one"), None)
    with pytest.raises(Conflict) as taken:
        await case.store.create_token("new", ANA, "ci", "viewer", digest("two"), None)
    assert taken.value.code == "name_taken"
    await case.store.create_token(ACCOUNT, ANA, "ci", "admin", digest("three"), None)
    with pytest.raises(ValueError, match="role 'owner'"):
        await case.store.create_token(ACCOUNT, ANA, "x", "owner", digest("four"), None)
    assert [token.role for token in await case.store.tokens("new")] == ["viewer"]
    assert not await case.store.delete_token(ACCOUNT, ANA, mine.id)
    assert await case.store.delete_token("new", ANA, mine.id)
    found = await case.store.token(digest("three"))
    assert found is not None
    assert found.account == ACCOUNT
    events, _ = await case.store.events("new", {}, limit=10, after=None)
    assert [(event.event, event.details["name"]) for event in events] == [
        ("token_created", "ci"),
        ("token_deleted", "ci"),
    ]


async def test_a_job_in_use_is_told_whatever_its_state(case: StoreCase) -> None:
    await case.store.put_datasource(ACCOUNT, ANA, "shop", SHOP, None)
    await case.in_state(State.SUCCESSFUL, name="done")
    with pytest.raises(Conflict, match="'done'"):
        await case.store.delete_datasource(ACCOUNT, ANA, "shop")
