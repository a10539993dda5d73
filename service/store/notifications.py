"""Who waits for a job to change hears of it here: one connection that LISTENs for the whole process.

The control database sends `NOTIFY rowferry_jobs, '<job id>'` with every change of a job, and `rowferry_schedules` with
every change of a next run. Notifications are a hint to look now, never the truth: while the connection is away they are
lost, so everybody is woken after each reconnect, and nobody may wait on them without an end.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg
import structlog

from config.names import LogEvent
from service.domain.errors import RowferryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from service.store.pool import Connection

CHANNEL = "rowferry_jobs"
SCHEDULES = "rowferry_schedules"
_PING_SECONDS = 15.0
_PING_TIMEOUT_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
# Who does not say what it has seen can miss a change between its look and its wait: it looks again this often.
_BLIND_WAIT_SECONDS = 1.0

_log = structlog.get_logger("rowferry.store")


class Subscription:
    """The ids of jobs that changed, each once however often it changed before it was taken."""

    def __init__(self) -> None:
        self._pending: dict[str | None, None] = {}
        self._arrived = asyncio.Event()

    def offer(self, job_id: str | None) -> None:
        """Remember that `job_id` changed; None: any job may have."""
        self._pending[job_id] = None
        self._arrived.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> str | None:
        """The next job that changed, oldest first; None after a reconnect: look at all of them."""
        await self._arrived.wait()
        job_id = next(iter(self._pending))
        del self._pending[job_id]
        if not self._pending:
            self._arrived.clear()
        return job_id


class Notifications:
    """One listening connection, started and stopped with the store; reconnects by itself for ever."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """`connect` makes a connection of its own, outside any pool."""
        self._connect = connect
        self._changes = 0
        self._changed = asyncio.Event()
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()
        """Set while the connection is up."""
        self.rescheduled = asyncio.Event()
        """Set when a job's next run may have become another. Whoever waits for it clears it before it looks."""

    @property
    def changes(self) -> int:
        """How many changes were heard of: take it before looking, give it to `wait_changed`."""
        return self._changes

    async def start(self) -> None:
        """Begin to listen, in the background. Harmless when already started."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="rowferry notifications")

    async def stop(self) -> None:
        """Close the connection and wake whoever waits. Idempotent, safe before start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.listening.clear()
        self._heard(None)

    async def wait_changed(self, timeout_seconds: float, *, since: int | None = None) -> None:
        """Return as soon as any job changed after `changes` was `since`, or when the time is over. Without `since` a
        change just before the call is not seen, so the wait ends after a second at the latest: look again."""
        if since is not None and self._changes != since:
            return
        wait = timeout_seconds if since is not None else min(timeout_seconds, _BLIND_WAIT_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait)):
                await self._changed.wait()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Hear of every change from now on, job by job."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _heard(self, job_id: str | None) -> None:
        self._changes += 1
        waited, self._changed = self._changed, asyncio.Event()
        waited.set()
        for subscription in self._subscriptions:
            subscription.offer(job_id)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._listen()
            except (RowferryError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.warning(LogEvent.NOTIFICATIONS_LOST, error=str(error), again_in_seconds=round(pause, 1))
            if self.listening.is_set():
                self.listening.clear()
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _listen(self) -> None:
        """Return or raise when the connection has ended."""
        connection = await self._connect()
        ended = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, lambda *arguments: self._heard(str(arguments[3])))
            await connection.add_listener(SCHEDULES, lambda *_: self.rescheduled.set())
            self.listening.set()
            self._heard(None)
            self.rescheduled.set()
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PING_SECONDS):
                        await ended.wait()
                    return
                # A connection whose other end froze or vanished behind a firewall says nothing at all.
                await connection.fetchval("SELECT 1", timeout=_PING_TIMEOUT_SECONDS)
        finally:
            connection.terminate()
