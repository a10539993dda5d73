"""The connection budget: first come first served, nothing lost by cancellation, idle ones asked back."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.datasource import Datasource
from workers.sources.budget import ConnectionBudget


def datasource(name: str = "shop", limit: int | None = 1) -> Datasource:
    return Datasource("default", name, "127.0.0.1", 5432, "shop", "reader", max_connections=limit)


async def test_waits_in_order_and_says_so() -> None:
    budget = ConnectionBudget()
    first = await budget.acquire(datasource())
    order: list[int] = []
    said: list[bool] = []

    async def take(number: int) -> None:
        slot = await budget.acquire(datasource(), said.append)
        order.append(number)
        slot.release()

    tasks = [asyncio.create_task(take(number)) for number in range(3)]
    await asyncio.wait(tasks, timeout=0.01)
    assert order == []
    assert said == [True, True, True]
    first.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert said.count(False) == 3
    assert budget.held(datasource()) == 0


async def test_a_cancelled_waiter_loses_no_slot() -> None:
    budget = ConnectionBudget()
    first = await budget.acquire(datasource())
    waiter = asyncio.create_task(budget.acquire(datasource()))
    await asyncio.wait([waiter], timeout=0.01)
    first.release()  # the slot is the waiter's now, who leaves before it wakes
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    async with asyncio.timeout(1):
        (await budget.acquire(datasource())).release()
    assert budget.held(datasource()) == 0


async def test_an_idle_connection_is_asked_back_the_longest_idle_first() -> None:
    budget = ConnectionBudget()
    asked: list[str] = []
    slots = {name: await budget.acquire(datasource(limit=2)) for name in ("older", "newer")}
    for name, slot in slots.items():
        slot.idle(lambda name=name, slot=slot: (asked.append(name), slot.release()))
    async with asyncio.timeout(1):
        await budget.acquire(datasource(limit=2))
    assert asked == ["older"]


async def test_a_busy_connection_is_left_alone_until_it_is_idle() -> None:
    budget = ConnectionBudget()
    slot = await budget.acquire(datasource())
    slot.idle(slot.release)
    slot.busy()
    waiter = asyncio.create_task(budget.acquire(datasource()))
    await asyncio.wait([waiter], timeout=0.01)
    assert not waiter.done()
    slot.idle(slot.release)
    async with asyncio.timeout(1):
        await waiter


async def test_datasources_and_accounts_count_apart() -> None:
    budget = ConnectionBudget(1)
    await budget.acquire(datasource("a", None))
    async with asyncio.timeout(1):
        await budget.acquire(datasource("b", None))


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ConnectionBudget(0)
