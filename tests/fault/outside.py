"""What a stranger sees of a service at work: its sessions on the source, and its memory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

import asyncpg

from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.service import ServiceProcess

EVERY_SECONDS = 0.2
LONGEST_TRANSACTION_SECONDS = 2.0
"""What a source is promised for a table that is read by its key; nothing is allowed for waiting for a sink."""
BUSY_SECONDS = 1.0
"""What a busy machine adds before a statement that has ended is seen to have ended."""
_SESSIONS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 AS open_seconds,
       coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
                FILTER (WHERE state LIKE 'idle in transaction%'), 0)::float8 AS idle_seconds
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'rowferry%'
"""


class Outside:
    """`async with Outside(dsn, service) as outside:` looks again and again; `check` says what it saw."""

    def __init__(self, dsn: str, service: ServiceProcess) -> None:
        self._dsn, self._service = dsn, service
        self.looks = 0
        self.longest_open = 0.0
        """Seconds that a transaction of the service was open on the source."""
        self.longest_idle = 0.0
        """Seconds of it in which it did nothing."""
        self.first_bytes = 0
        self.most_bytes = 0
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to look."""
        connection = await asyncpg.connect(self._dsn)
        self._stack.push_async_callback(connection.close)
        self.first_bytes = self.most_bytes = self._service.rss_bytes()
        task = asyncio.create_task(self._look(connection))
        self._stack.push_async_callback(_ended, task)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Look no more."""
        await self._stack.aclose()

    async def _look(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while True:
            row = await connection.fetchrow(_SESSIONS)
            assert row is not None
            self.longest_open = max(self.longest_open, row["open_seconds"])
            self.longest_idle = max(self.longest_idle, row["idle_seconds"])
            self.most_bytes = max(self.most_bytes, self._service.rss_bytes())
            self.looks += 1
            await asyncio.sleep(EVERY_SECONDS)

    async def seen(self, looks: int) -> None:
        """At least so many looks were taken."""
        await until(lambda: self.looks >= looks, 60, f"{looks} looks at the source's sessions")

    def check(self, *, memory: int) -> None:
        """AssertionError when a transaction stood open, or when the service grew by more than `memory` bytes."""
        said = f"open {self.longest_open:.1f} s, idle {self.longest_idle:.1f} s in {self.looks} looks"
        assert self.longest_open <= LONGEST_TRANSACTION_SECONDS + BUSY_SECONDS, said
        assert self.longest_idle <= BUSY_SECONDS, said
        grown = self.most_bytes - self.first_bytes
        assert grown <= memory, f"grew by {grown >> 20} MiB, from {self.first_bytes >> 20} MiB"


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
