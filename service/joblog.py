"""Carries log lines into the job log: from any thread, without ever holding up whoever logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Counter

from config import messages, names
from service.domain.errors import RowferryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.domain.history import LogStore

MOST_WAITING: Final = 10_000
MOST_AT_ONCE: Final = 500
PAUSE_SECONDS: Final = 0.5
_COLUMNS: Final = ("level", "event", "message", "account", "job_id", "run_id", "split", "epoch", "request_id")
_LEFT_OUT: Final = frozenset({"timestamp", "job", "logger"})
"""`job` is the name that the line's `job_id` has anyway."""
DROPPED: Final = Counter(names.JOB_LOG_DROPPED.name, names.JOB_LOG_DROPPED.help)


class JobLog:
    """A tap for `config.logs.configure`: lines of an account wait here until the control database takes them.

    Lines are dropped, oldest first, when the database does not keep up; the metric counts them, since a log line about
    it would take the same way.
    """

    def __init__(self) -> None:
        """Takes lines at once; they are written from `start` on."""
        self._lines: deque[Mapping[str, Any]] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._store: LogStore | None = None

    def tap(self, line: Mapping[str, Any]) -> None:
        """One line, already redacted. Never blocks, raises or logs; safe from any thread."""
        if line.get("account") is None:
            return
        if len(self._lines) >= MOST_WAITING:
            with contextlib.suppress(IndexError):
                self._lines.popleft()
            DROPPED.inc()
        self._lines.append(_stored(line))
        if not self._arrived.is_set() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)

    def start(self, store: LogStore) -> None:
        """Write what waits and what comes."""
        self._store = store
        self._task = asyncio.create_task(self._write(), name="job-log")

    async def stop(self) -> None:
        """Write what still waits, for at most two seconds."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            with contextlib.suppress(TimeoutError, RowferryError):
                async with asyncio.timeout(2.0):
                    while self._lines:
                        await self._flush()

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            # Gathers a moment: one statement for many lines.
            await asyncio.sleep(PAUSE_SECONDS)
            self._arrived.clear()
            try:
                while self._lines:
                    await self._flush()
            except RowferryError:
                # The control database is away; whoever works with it says so. The lines wait.
                self._arrived.set()

    async def _flush(self) -> None:
        if self._store is None:
            return
        batch = [self._lines[index] for index in range(min(MOST_AT_ONCE, len(self._lines)))]
        await self._store.write(batch)
        for _ in batch:
            with contextlib.suppress(IndexError):
                self._lines.popleft()


def _stored(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as the log table has it: what is no column goes into `fields`."""
    rest = {name: value for name, value in line.items() if name not in _COLUMNS and name not in _LEFT_OUT}
    stored = {name: line[name] for name in _COLUMNS if line.get(name) is not None}
    stored.setdefault("message", messages.sentence(line))
    return {**stored, "at": line.get("timestamp"), "fields": rest}
