"""Every stored secret under the newest key: two keys, the old one taken away afterwards."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import Permanent
from service.store.rekey import SQL, TABLES, rekey
from service.store.secrets import SecretBox
from service.store.store import Store
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OLD = "the old key: a sentence that is long enough"
NEW = "the new key: a sentence that is long enough"
# What is no secret, or not encrypted by us: a digest, an answer, and rows.
PLAIN = {
    ("tokens", "digest"),
    ("idempotency", "body"),
    ("dead_letters", "payload"),
    ("dead_letters", "message_key"),
    ("window_keys", "packed"),
}


@pytest.fixture
async def case(control_database: str) -> AsyncIterator[StoreCase]:
    """A store with one secret of each kind under the old key; the job has run, so its generation has one too."""
    opened = await StoreCase.open(control_database, key=OLD)
    job = await opened.create("orders", secrets={"/sink/password": "of the job"})
    await opened.start(job)
    await opened.store.put_datasource(ACCOUNT, ANA, "shop", {"host": "h"}, "of the datasource")
    await opened.store.put_credential(ACCOUNT, ANA, "aws", {"secret_access_key": "of the credential"})
    await opened.sql(
        "INSERT INTO keys (id, account_id, name, key, role, secret)"
        " SELECT gen_random_uuid(), id, 'browser', 'k', 'viewer', $1 FROM accounts",
        SecretBox(OLD).seal({"secret": "of the key"}),
    )
    yield opened
    await opened.store.close()


async def readable(case: StoreCase, key: str) -> dict[str, dict[str, str]]:
    """What a box with this key alone opens, by its table."""
    box, found = SecretBox(key), {}
    for table in TABLES:
        for row in await case.sql(SQL[table]):
            with suppress(Permanent):
                found[table] = box.open(row["sealed"])
    return found


async def rekeyed(case: StoreCase, keys: str) -> tuple[int, int, int, list[str]]:
    found = await rekey(case.store._pool, SecretBox(keys))
    return found.renewed, found.newest, found.changed, found.unreadable


async def test_everything_is_under_the_newest_key_afterwards_and_says_the_same(case: StoreCase) -> None:
    before = await readable(case, OLD)
    assert before.keys() == set(TABLES)
    assert await rekeyed(case, f"{NEW},{OLD}") == (5, 0, 0, [])
    assert await readable(case, OLD) == {}
    assert await readable(case, NEW) == before
    assert await rekeyed(case, f"{NEW},{OLD}") == (0, 5, 0, []), "a second time there is nothing to do"


async def test_a_store_with_the_new_key_alone_reads_what_was_stored_with_the_old(case: StoreCase) -> None:
    await rekeyed(case, f"{NEW},{OLD}")
    store = await Store.open(case.dsn, box=SecretBox(NEW), size=2)
    try:
        stored = await store.datasource(ACCOUNT, "shop")
        assert stored is not None
        assert stored.password == "of the datasource"
        credential = await store.credential(ACCOUNT, "aws")
        assert credential is not None
        assert credential.secrets == {"secret_access_key": "of the credential"}
    finally:
        await store.close()


async def test_what_no_key_opens_is_named_and_stays(case: StoreCase) -> None:
    sealed = SecretBox(["some third key: long enough and lost since then"]).seal({"secret": "x"})
    await case.sql("UPDATE keys SET secret = $1", sealed)
    assert await rekeyed(case, f"{NEW},{OLD}") == (4, 0, 0, ["key browser"])
    assert [row["secret"] for row in await case.sql("SELECT secret FROM keys")] == [sealed]


async def test_a_secret_that_is_stored_meanwhile_is_left_to_its_writer(case: StoreCase) -> None:
    theirs = SecretBox(NEW).seal({"secret": "stored meanwhile"})

    box = SecretBox(f"{NEW},{OLD}")
    (row,) = await case.sql(SQL["keys"])
    renewed = box.renewed(row["sealed"])
    await case.sql("UPDATE keys SET secret = $1", theirs)
    await case.sql(SQL["write_keys"], row["key"], row["number"], row["sealed"], renewed)
    assert (await readable(case, NEW))["keys"] == {"secret": "stored meanwhile"}


async def test_no_encrypted_column_is_forgotten(case: StoreCase) -> None:
    found: list[Any] = await case.sql(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'rowferry' AND data_type = 'bytea'"
    )
    columns = {(row["table_name"], row["column_name"]) for row in found} - PLAIN
    written = {(table, column) for table, column in columns if f"SET {column} = $4" in SQL.get(f"write_{table}", "")}
    assert columns == written
    assert {table for table, _ in columns} == set(TABLES)


async def test_without_a_key_nothing_is_touched(case: StoreCase) -> None:
    with pytest.raises(Permanent) as refused:
        await rekey(case.store._pool, SecretBox())
    assert refused.value.code == "secret_key_required"
    assert (await readable(case, OLD)).keys() == set(TABLES)
