"""The control database goes away and comes back: every call says so, and the store is whole again by itself."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.domain.errors import RowferryError, Transient
from service.domain.states import State
from service.store.pool import Pool
from tests.contract.store_cases import ACCOUNT, StoreCase, case
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.postgres import PostgresServer

__all__ = ["case"]  # fixtures


async def test_a_killed_database_is_told_and_its_return_needs_nobody(
    case: StoreCase, postgres_server: PostgresServer
) -> None:
    job = await case.in_state(State.RUNNING)
    notifications = case.store.notifications
    await happened(notifications.listening, 10, "the store listens")
    with notifications.subscribe() as changed:
        postgres_server.kill()
        try:
            for attempt in (case.store.ping, lambda: case.store.get(ACCOUNT, job.id), lambda: case.start(job)):
                with pytest.raises(Transient) as away:
                    await attempt()
                assert away.value.code == "store_unreachable"
            await until(lambda: not notifications.listening.is_set(), 10, "the loss is noticed")
        finally:
            postgres_server.start()
        await until(lambda: _answers(case), 20, "the store answers again")
        assert (await case.get(job.id)).state is State.RUNNING
        async with asyncio.timeout(20):
            assert await anext(changed) is None
        created = await case.create()
        async with asyncio.timeout(10):
            assert await anext(changed) == created.id


async def test_a_frozen_database_does_not_hold_up_who_asks_whether_it_is_there(
    case: StoreCase, postgres_server: PostgresServer
) -> None:
    await case.store.ping()
    postgres_server.freeze()
    began = time.monotonic()
    try:
        with pytest.raises(Transient) as away:
            await case.store.ping()
        assert away.value.code == "store_unreachable"
        assert time.monotonic() - began < 6
    finally:
        postgres_server.thaw()
    await until(lambda: _answers(case), 20, "the store answers again")


async def test_a_database_that_takes_no_writes_is_told_and_its_return_needs_nobody(
    case: StoreCase, postgres_server: PostgresServer, control_database: str
) -> None:
    job = await case.create()
    name = control_database.rsplit("/", 1)[1].partition("?")[0]
    await _order(postgres_server, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await _order(postgres_server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        for attempt in (lambda: case.start(job), case.store.ping):
            await until(lambda attempt=attempt: _says(attempt, "store_read_only"), 10, "that nothing can be written")
        assert (await case.get(job.id)).state is State.CREATED
    finally:
        await _order(postgres_server, f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    await until(lambda: _answers(case), 10, "the store takes writes again")
    await case.start(job)


async def test_a_password_that_is_changed_while_the_store_is_open_is_waited_for(
    control_database: str, postgres_server: PostgresServer
) -> None:
    name = control_database.rsplit("/", 1)[1].partition("?")[0]
    await postgres_server.create_user("keeper", "first")
    pool = await Pool.open(postgres_server.dsn(name, user="keeper", password="first"), size=2)
    try:
        async with pool.connection():
            await _order(postgres_server, "ALTER ROLE keeper PASSWORD 'second'")
            # The one that is open stays; the next has to ask for the password again.
            with pytest.raises(Transient) as refused:
                async with pool.connection():
                    pass
        assert refused.value.code == "store_refused"
        await _order(postgres_server, "ALTER ROLE keeper PASSWORD 'first'")
        async with pool.connection(), pool.connection():
            pass
    finally:
        await pool.close()


async def _says(attempt: Callable[[], Awaitable[object]], code: str) -> bool:
    try:
        await attempt()
    except Transient as error:
        return error.code == code
    return False


async def _answers(case: StoreCase) -> bool:
    try:
        await case.store.ping()
    except RowferryError:
        return False
    return True


async def _order(server: PostgresServer, *statements: str) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
