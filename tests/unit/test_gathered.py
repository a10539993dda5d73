"""Reads that are asked for one by one and made together."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from service.store.gathered import Gathered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Shelf:
    """What is read: every read waits until it is let go, and shows what stands there then."""

    def __init__(self) -> None:
        self.values = {n: f"value {n}" for n in range(500)}
        self.reads: list[list[int]] = []
        self.begun = asyncio.Semaphore(0)
        self.go = asyncio.Semaphore(0)
        self.error: BaseException | None = None
        self.opened = 0
        self.closed = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Shelf]:
        self.opened += 1
        try:
            yield self
        except ConnectionError as error:
            raise RuntimeError("as the store calls it") from error
        finally:
            self.closed += 1

    async def read_keys(self, there: Shelf, keys: Sequence[int]) -> dict[int, str]:
        assert there.opened > there.closed
        return await self.read(keys)

    async def read(self, keys: Sequence[int]) -> dict[int, str]:
        self.reads.append(list(keys))
        self.begun.release()
        await self.go.acquire()
        if self.error is not None:
            raise self.error
        return {key: self.values[key] for key in keys if key in self.values}


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def on(shelf: Shelf) -> Gathered[int, str, Shelf]:
    return Gathered(shelf.open, shelf.read_keys, long_seconds=0)


async def ask(gathered: Gathered[int, str, Shelf], *keys: int) -> list[asyncio.Task[str | None]]:
    """Ask for each by itself."""
    tasks = [asyncio.create_task(gathered.get(key)) for key in keys]
    await asyncio.wait([asyncio.create_task(asyncio.wait(tasks, timeout=0))])
    return tasks


async def test_one_who_asks_alone_is_read_alone(shelf: Shelf) -> None:
    shelf.go.release()
    assert await on(shelf).get(3) == "value 3"
    assert shelf.reads == [[3]]


async def test_what_is_not_there_is_none(shelf: Shelf) -> None:
    shelf.go.release()
    assert await on(shelf).get(-1) is None


async def test_who_asks_while_reads_are_under_way_shares_the_next(shelf: Shelf) -> None:
    gathered = on(shelf)
    first = await ask(gathered, 1)
    await shelf.begun.acquire()
    second = await ask(gathered, 2)
    await shelf.begun.acquire()
    others = await ask(gathered, *range(10, 110), 10, 11)
    assert shelf.reads == [[1], [2]]
    for _ in range(3):
        shelf.go.release()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*first, *second) == ["value 1", "value 2"]
        assert await asyncio.gather(*others) == [f"value {n}" for n in (*range(10, 110), 10, 11)]
    assert shelf.reads[2:] == [list(range(10, 110))]


async def test_no_read_brings_more_than_a_hundred(shelf: Shelf) -> None:
    gathered = on(shelf)
    tasks = await ask(gathered, *range(250))
    for _ in range(4):
        shelf.go.release()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*tasks) == [f"value {n}" for n in range(250)]
    assert max(len(keys) for keys in shelf.reads) == 100


async def test_nobody_is_given_what_was_read_before_the_question(shelf: Shelf) -> None:
    gathered = on(shelf)
    (before,) = await ask(gathered, 7)
    await shelf.begun.acquire()
    (after,) = await ask(gathered, 7)
    shelf.go.release()
    async with asyncio.timeout(5):
        assert await before == "value 7"
        shelf.values[7] = "changed"
        shelf.go.release()
        assert await after == "changed"


async def test_an_error_reaches_everybody_of_its_read_and_nobody_else(shelf: Shelf) -> None:
    gathered = on(shelf)
    tasks = await ask(gathered, 1, 1)
    await shelf.begun.acquire()
    shelf.error = ConnectionError("away")
    shelf.go.release()
    async with asyncio.timeout(5):
        assert [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == [RuntimeError] * 2
        shelf.error = None
        shelf.go.release()
        assert await gathered.get(1) == "value 1"


async def test_a_caller_who_leaves_takes_nothing_along(shelf: Shelf) -> None:
    gathered = on(shelf)
    leaving, staying = await ask(gathered, 5, 5)
    await shelf.begun.acquire()
    leaving.cancel()
    shelf.go.release()
    async with asyncio.timeout(5):
        assert await staying == "value 5"
    assert leaving.cancelled()


async def test_who_asks_in_the_moment_in_which_every_read_ends_is_not_forgotten() -> None:
    shelf, asked = Shelf(), []

    async def read(_: Shelf, keys: Sequence[int]) -> dict[int, str]:
        found = await shelf.read(keys)
        if keys == [1]:  # the first of two that end together
            # Runs behind the end of both, and before anybody has heard of it.
            asyncio.get_running_loop().call_soon(ask_at_once, 11)
        return found

    def ask_at_once(key: int) -> None:
        asked.append(gathered.get(key))
        asked[-1].send(None)

    gathered = Gathered(shelf.open, read, long_seconds=0)
    tasks = [*await ask(gathered, 1)]
    await shelf.begun.acquire()
    tasks += await ask(gathered, 2)
    await shelf.begun.acquire()
    for _ in range(3):
        shelf.go.release()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*tasks) == ["value 1", "value 2"]
        await shelf.begun.acquire()
    assert shelf.reads == [[1], [2], [11]]
    for coroutine in asked:
        coroutine.close()


async def test_one_connection_serves_read_after_read_and_is_given_back() -> None:
    shelf = Shelf()
    gathered = on(shelf)
    tasks = await ask(gathered, *range(250))
    for _ in range(4):
        shelf.go.release()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
    assert len(shelf.reads) >= 3
    assert shelf.opened <= 2
    assert shelf.closed == shelf.opened


async def test_who_could_not_even_be_connected_hears_of_it() -> None:
    shelf = Shelf()
    refused = 0

    @asynccontextmanager
    async def refusing() -> AsyncIterator[Shelf]:
        nonlocal refused
        refused += 1
        raise ConnectionError("no")
        yield shelf

    gathered = Gathered(refusing, shelf.read_keys)
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(gathered.get(n) for n in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [ConnectionError] * 3
    assert refused >= 1


async def test_a_read_that_takes_long_holds_up_nobody_who_asks_later() -> None:
    shelf = Shelf()
    gathered = Gathered(shelf.open, shelf.read_keys, long_seconds=0.02)
    first = await ask(gathered, 1)
    await shelf.begun.acquire()
    second = await ask(gathered, 2)
    assert shelf.reads == [[1]], "it may be back at any moment, and bring more then"
    loop = asyncio.get_running_loop()
    long = loop.time() + 0.02
    while loop.time() < long:
        await asyncio.wait(second, timeout=long - loop.time())
    third = await ask(gathered, 3)
    await shelf.begun.acquire()
    assert shelf.reads == [[1], [2, 3]]
    for _ in range(2):
        shelf.go.release()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*first, *second, *third) == ["value 1", "value 2", "value 3"]
