"""Somebody who writes into the source while a job reads it: commits out of the order of keys, and takes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Self

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = "events"
WRITERS = 3
MOST_ROWS = 8
LONGEST_SECONDS = 0.6
AGAIN_SECONDS = 0.2
ONE_IN_SIX = 1 / 6
_ANSWER_SECONDS = 5.0
# The last: what asyncpg says of a connection whose cancelled statement was never answered.
UNANSWERED = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Writers:
    """`async with Writers(dsn, seed) as writers:`: a few sessions insert until `stop`; they ride out a server that is
    away. What they committed is what the table holds: an answer that was lost says nothing."""

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn, self._seed = dsn, seed
        self._done = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Make the table, begin to write."""
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(
                f"CREATE TABLE {TABLE} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount numeric, note text)"
            )
        finally:
            await connection.close()
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """As `stop`, at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> int:
        """End every transaction; how many rows the table holds then."""
        self._done.set()
        await asyncio.gather(*self._tasks)
        connection = await asyncpg.connect(self._dsn)
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM {TABLE}"))
        finally:
            await connection.close()

    async def _write(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        while not self._done.is_set():
            with contextlib.suppress(*UNANSWERED):
                await self._session(chance)
            await self._pause(AGAIN_SECONDS)

    async def _session(self, chance: random.Random) -> None:
        # A server that is frozen or killed: whatever is not answered in time is asked on another connection.
        connection = await asyncpg.connect(self._dsn, timeout=_ANSWER_SECONDS, command_timeout=_ANSWER_SECONDS)
        try:
            while not self._done.is_set():
                transaction = connection.transaction()
                await transaction.start()
                for amount in _amounts(chance):
                    await connection.execute(f"INSERT INTO {TABLE} (amount, note) VALUES ($1, $2)", amount, "written")
                # Open for a while: others draw higher keys and commit before.
                await self._pause(chance.uniform(0.0, LONGEST_SECONDS) ** 2)
                await (transaction.rollback() if chance.random() < ONE_IN_SIX else transaction.commit())
                await self._pause(chance.uniform(0.1, LONGEST_SECONDS))
        finally:
            connection.terminate()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._done.wait()


def _amounts(chance: random.Random) -> Iterator[int]:
    return (chance.randrange(1_000) for _ in range(chance.randrange(1, MOST_ROWS + 1)))
