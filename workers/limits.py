"""What a process and a job may use at once: rates of a job, memory of a process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.domain.steps import Condition
from workers.metrics import MEMORY_HELD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.domain.control import Control

LONGEST_PAUSE_SECONDS = 0.5
"""Between two looks: the rate may have been changed meanwhile."""


class RateLimit:
    """Rows and bytes a second, shared by the splits of a job in this process: a token bucket of one second.

    A batch is let through as long as the bucket is not in debt and pays afterwards, so a batch larger than a second's
    worth is possible and delays its successors.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Starts with a full bucket."""
        self._monotonic = monotonic
        self._free_at = 0.0

    def delay(self) -> float:
        """Seconds until the next batch may go."""
        return max(0.0, self._free_at - self._monotonic())

    def take(self, rows: int, size: int, rows_per_second: float | None, bytes_per_second: float | None) -> None:
        """Account for a batch of `rows` and `size` bytes that goes now."""
        cost = max(
            rows / rows_per_second if rows_per_second else 0.0, size / bytes_per_second if bytes_per_second else 0.0
        )
        self._free_at = max(self._free_at, self._monotonic()) + cost


async def pay(limit: RateLimit, control: Control, rows: int, size: int) -> None:
    """Account for rows that were read, and wait until more may be. Raises Stopped when a stop is wanted."""
    limit.take(rows, size, control.rows_per_second, control.bytes_per_second)
    if (delay := limit.delay()) > 1:
        await control.report(Condition(waiting_for="rate"))
    while delay > 0:
        await control.pause(min(delay, LONGEST_PAUSE_SECONDS))
        delay = limit.delay()


class MemoryBudget:
    """Bytes that the running splits of this process may hold together; first come, first served."""

    def __init__(self, total: int) -> None:
        """`total` in bytes. A single request above it is let through when nothing else is held."""
        self._total = total
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def fits(self, size: int) -> bool:
        """Whether `size` bytes would be given at once."""
        return not self._waiting and (self._held == 0 or self._held + size <= self._total)

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait for `size` bytes and hold them."""
        if self.fits(size):
            self._hold(size)
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._free(size)
                else:
                    self._waiting.remove((size, turn))
                raise
        try:
            yield
        finally:
            self._free(size)

    def _hold(self, size: int) -> None:
        self._held += size
        MEMORY_HELD.inc(size)

    def _free(self, size: int) -> None:
        self._held -= size
        MEMORY_HELD.dec(size)
        while self._waiting and (self._held == 0 or self._held + self._waiting[0][0] <= self._total):
            given, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._hold(given)
                turn.set_result(None)


def most_rows(rate: float | None) -> int | None:
    """Of a slice: small ones under a rate, so that rows flow evenly."""
    return None if rate is None else max(1, int(rate / 4))
