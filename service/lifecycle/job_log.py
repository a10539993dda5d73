"""From the log pipe to the store: lines that belong to an account, in batches, without ever holding anybody up."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from config.names import LogEvent
from service.domain.errors import RowferryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from service.domain.ports import LogStore

_COLUMNS: Final = frozenset({"account", "job_id", "run_id", "split", "epoch", "request_id", "level", "event"})
_NOT_KEPT: Final = frozenset({"timestamp", "message", "logger", "job"})
_MOST_WAITING: Final = 10_000
_BATCH: Final = 500


class JobLog:
    """`tap` is what `config.logs.configure` is given; `start` and `stop` bracket the writing.

    Lines without an account are not the API's. While the control database is away the newest 10,000 lines wait; what
    is dropped is counted, and said in a line of its own."""

    def __init__(self, *, flush_seconds: float = 0.25, dropped: Callable[[int], None] | None = None) -> None:
        self._waiting: deque[dict[str, Any]] = deque()
        self._lost = 0
        self._flush_seconds = flush_seconds
        self._dropped = dropped or (lambda _count: None)
        self._store: LogStore | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def tap(self, line: Mapping[str, Any]) -> None:
        """Take a line. Never blocks, raises or logs; safe from any thread."""
        if not line.get("account") or line.get("event") == LogEvent.JOB_LOG_DROPPED:
            return
        if len(self._waiting) >= _MOST_WAITING:
            with suppress(IndexError):
                self._waiting.popleft()
            self._lost += 1
            self._dropped(1)
        self._waiting.append(_record(line))

    async def start(self, store: LogStore) -> None:
        """Begin to write."""
        self._store = store
        self._stopping.clear()
        self._task = asyncio.create_task(self._run(), name="rowferry job log")

    async def stop(self) -> None:
        """Write what waits, in two seconds at most, and end. Idempotent, safe before start."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await task

    async def flush(self) -> None:
        """Write everything that waits now. Raises as `LogStore.write`; what was not written waits on."""
        assert self._store is not None, "start comes first"
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if self._lost:
                batch.append(_lost(self._lost, batch[-1]))
            try:
                await self._store.write(batch)
            except BaseException:
                self._waiting.extendleft(reversed(batch[:-1] if self._lost else batch))
                raise
            self._lost = 0

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._stopping.wait()
            # A line about this would come back here; the store says by itself that it is away.
            with suppress(RowferryError):
                await self.flush()


def _record(line: Mapping[str, Any]) -> dict[str, Any]:
    event = str(line.get("event", ""))
    record: dict[str, Any] = {name: line[name] for name in _COLUMNS if name in line}
    record["at"] = line.get("timestamp")
    record["message"] = str(line.get("message") or event.replace("_", " "))
    record["fields"] = {name: value for name, value in line.items() if name not in _COLUMNS and name not in _NOT_KEPT}
    return record


def _lost(count: int, beside: Mapping[str, Any]) -> dict[str, Any]:
    event = LogEvent.JOB_LOG_DROPPED.value
    message = f"{count} lines were dropped: the control database did not take them in time"
    return {
        "at": beside.get("at"),
        "level": "warning",
        "event": event,
        "message": message,
        "account": beside.get("account"),
        "fields": {"dropped": count},
    }
