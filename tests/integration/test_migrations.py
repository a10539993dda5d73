"""Migrations on a real database: once each, by one process at a time, never onto a newer schema."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from service.domain.errors import Permanent, RowferryError, Transient
from service.store.migrate import Migration, available, in_order, migrate, pending
from service.store.pool import Pool, connect
from tests.support.ports import free_port

ADDED = Migration(available()[-1].version + 1, "expand_added", "CREATE TABLE rowferry.added (n int)")


async def fetch(dsn: str, sql: str) -> list[asyncpg.Record]:
    connection = await connect(dsn)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def test_an_empty_database_gets_everything_once(database: str) -> None:
    assert [m.version for m in await pending(database)] == [m.version for m in available()]
    assert await migrate(database) == available()
    assert await pending(database) == []
    assert await migrate(database) == []
    applied = await fetch(database, "SELECT version, name, checksum FROM rowferry.migrations ORDER BY version")
    assert [tuple(row) for row in applied] == [(m.version, m.name, m.checksum) for m in available()]


async def test_pending_changes_nothing(database: str) -> None:
    await pending(database)
    assert await fetch(database, "SELECT FROM pg_namespace WHERE nspname = 'rowferry'") == []


async def test_every_table_is_owned_by_an_account(database: str) -> None:
    await migrate(database)
    rows = await fetch(
        database,
        """SELECT t.table_name FROM information_schema.tables t WHERE t.table_schema = 'rowferry'
           AND t.table_name NOT IN ('accounts', 'migrations')
           AND NOT EXISTS (SELECT FROM information_schema.columns c WHERE c.table_schema = 'rowferry'
               AND c.table_name = t.table_name AND c.column_name IN ('account_id', 'job_id'))""",
    )
    assert rows == []


async def test_processes_that_start_together_wait_for_one(database: str) -> None:
    wanted = [*available(), ADDED]
    done = await asyncio.gather(*(migrate(database, migrations=wanted) for _ in range(4)))
    assert sorted(len(migrations) for migrations in done) == [0, 0, 0, len(wanted)]


async def test_a_migration_that_fails_leaves_nothing_of_itself(database: str) -> None:
    await migrate(database)
    broken = Migration(ADDED.version, ADDED.name, "CREATE TABLE rowferry.half (n int); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(database, migrations=[*available(), broken])
    assert await fetch(database, "SELECT FROM pg_class WHERE relname = 'half'") == []
    assert await migrate(database, migrations=[*available(), ADDED]) == [ADDED]


async def test_a_newer_schema_is_refused(database: str) -> None:
    await migrate(database, migrations=[*available(), ADDED])
    for call in (migrate, pending):
        with pytest.raises(Permanent) as refused:
            await call(database)
        assert refused.value.code == "schema_newer"
        assert str(ADDED.version) in refused.value.message


async def test_a_released_file_must_not_change(database: str) -> None:
    await migrate(database, migrations=[*available(), ADDED])
    changed = Migration(ADDED.version, ADDED.name, ADDED.sql + " ")
    with pytest.raises(Permanent) as refused:
        await migrate(database, migrations=[*available(), changed])
    assert refused.value.code == "migration_changed"


async def test_a_role_without_the_right_is_told_what_to_do(database: str, postgres_server) -> None:
    await postgres_server.create_user("reader", "reader-password")
    name = database.rsplit("/", 1)[1].split("?", maxsplit=1)[0]
    with pytest.raises(Permanent) as refused:
        await migrate(postgres_server.dsn(name, user="reader", password="reader-password"))
    assert refused.value.code == "schema_refused"
    assert "reader-password" not in str(refused.value)


@pytest.mark.parametrize(
    "names",
    [
        ["0001_initial.sql", "0002_expand_a.sql", "0002_expand_b.sql"],
        ["0001_initial.sql", "0002_a.sql"],
        ["0002_expand_a.sql"],
    ],
)
def test_files_are_named_by_number_and_phase(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"name it|next number"):
        in_order([(name, "") for name in names])


def test_line_ends_do_not_change_a_checksum() -> None:
    assert Migration(1, "a", "x\ny").checksum == Migration(1, "a", "x\r\ny").checksum


async def test_a_database_that_is_away_is_transient() -> None:
    dsn = f"postgresql://postgres@127.0.0.1:{free_port()}/nothing"
    for call in (migrate, pending, Pool.open):
        with pytest.raises(Transient) as away:
            await call(dsn)
        assert away.value.code == "store_unreachable"


async def test_a_wrong_password_is_permanent_and_not_repeated(database: str, postgres_server) -> None:
    await postgres_server.create_user("writer", "right")
    name = database.rsplit("/", 1)[1].split("?", maxsplit=1)[0]
    with pytest.raises(RowferryError) as refused:
        await Pool.open(postgres_server.dsn(name, user="writer", password="wrong-password"))
    assert refused.value.code == "store_refused"
    assert "wrong-password" not in str(refused.value)
