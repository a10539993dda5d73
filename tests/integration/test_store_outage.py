"""The control database goes away and comes back: every call says so, and the store is whole again by itself."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from service.domain.errors import RowferryError, Transient
from service.domain.states import State
from tests.contract.store_cases import ACCOUNT, StoreCase
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer


@pytest.fixture
async def case(control_database: str) -> AsyncIterator[StoreCase]:
    opened = await StoreCase.open(control_database)
    yield opened
    await opened.store.close()


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


async def _answers(case: StoreCase) -> bool:
    try:
        await case.store.ping()
    except RowferryError:
        return False
    return True
