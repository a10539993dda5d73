"""A key and the job that it asks for, read in one go: never a key that is not one any more, never another account's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from service.domain.errors import Permanent
from service.lifecycle import Keys
from service.store.ids import uuid7
from service.store.secrets import SecretBox
from service.store.store import Store
from tests.contract.store_cases import ACCOUNT, ANA, KEY, StoreCase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.named import SigningKey
    from service.domain.records import Job


@pytest.fixture
async def case(control_database: str) -> AsyncIterator[StoreCase]:
    opened = await StoreCase.open(control_database)
    await opened.store.ensure_account("other")
    yield opened
    await opened.store.close()


@pytest.fixture
async def reader(case: StoreCase) -> AsyncIterator[Store]:
    """The store of another process."""
    opened = await Store.open(case.dsn, box=SecretBox(KEY), size=2)
    yield opened
    await opened.close()


async def made(case: StoreCase, account: str = ACCOUNT) -> tuple[SigningKey, Job]:
    key = await Keys(case.store).create(account, ANA, "ci", "operator")
    return key, await case.create("orders", account=account)


async def test_key_and_job_come_together_as_each_by_itself(case: StoreCase, reader: Store) -> None:
    key, job = await made(case)
    for asked in (job.id, job.id.upper(), job.id):
        assert await reader.signed(key.key, asked) == (key, job)
    first, again = await reader.signed(key.key, job.id), await reader.signed(key.key, job.id)
    assert first is not None
    assert again is not None
    assert first[0] is again[0]
    assert first[1] is again[1] is await reader.get(ACCOUNT, job.id)


async def test_without_the_key_or_the_job_there_is_nothing(case: StoreCase, reader: Store) -> None:
    key, job = await made(case)
    for asked, job_id in ((key.key, uuid7()), ("0" * 32, job.id), ("", job.id), (key.key, "orders"), (key.key, "")):
        assert await reader.signed(asked, job_id) is None
    assert await case.store.remove(ACCOUNT, ANA, job.id)
    assert await reader.signed(key.key, job.id) is None


async def test_a_key_sees_the_jobs_of_its_own_account_alone(case: StoreCase, reader: Store) -> None:
    mine, theirs = await made(case), await made(case, "other")
    for key, job, seen in ((mine[0], theirs[1], False), (theirs[0], mine[1], False), (*mine, True), (*theirs, True)):
        found = await reader.signed(key.key, job.id)
        assert found == ((key, job) if seen else None)
    together = await asyncio.gather(
        *(reader.signed(key.key, job.id) for key, _ in (mine, theirs) for _, job in (mine, theirs))
    )
    assert together == [mine, None, None, theirs]


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("UPDATE keys SET role = 'viewer' WHERE key = $1", "role", "viewer"),
        ("UPDATE keys SET name = 'new' WHERE key = $1", "name", "new"),
        (
            "UPDATE accounts SET name = 'moved' WHERE id = (SELECT account_id FROM keys WHERE key = $1)",
            "account",
            "moved",
        ),
    ],
)
async def test_whatever_others_change_of_a_key_is_in_the_next_answer(
    case: StoreCase, reader: Store, change: str, field: str, value: str
) -> None:
    key, job = await made(case)
    assert await reader.signed(key.key, job.id) == (key, job)
    await case.sql(change, key.key)
    found = await reader.signed(key.key, job.id)
    assert found is not None
    assert getattr(found[0], field) == value


async def test_another_secret_is_seen_and_a_key_that_is_gone_is_gone(case: StoreCase, reader: Store) -> None:
    key, job = await made(case)
    assert await reader.signed(key.key, job.id) == (key, job)
    await case.sql(
        "UPDATE keys SET secret = $2 WHERE key = $1", key.key, SecretBox(KEY).seal({"secret": "another one"})
    )
    found = await reader.signed(key.key, job.id)
    assert found is not None
    assert found[0].secret == "another one"
    assert await case.store.delete_key(ACCOUNT, ANA, key.key)
    assert await reader.signed(key.key, job.id) is None


async def test_a_job_that_others_change_is_seen_beside_a_key_that_is_the_same(case: StoreCase, reader: Store) -> None:
    key, job = await made(case)
    assert await reader.signed(key.key, job.id) == (key, job)
    await case.start(job)
    assert await reader.signed(key.key, job.id) == (key, await case.get(job.id))


async def test_a_secret_that_cannot_be_opened_harms_nobody_who_asks_at_the_same_time(
    case: StoreCase, reader: Store
) -> None:
    mine, theirs = await made(case), await made(case, "other")
    box = SecretBox("another sentence of at least 32 c")
    await case.sql("UPDATE keys SET secret = $2 WHERE key = $1", theirs[0].key, box.seal({"secret": "theirs"}))
    found, refused = await asyncio.gather(
        *(reader.signed(key.key, job.id) for key, job in (mine, theirs)), return_exceptions=True
    )
    assert found == mine
    assert isinstance(refused, Permanent)
    assert refused.code == "secret_key_wrong"
