"""Retries in place: capped, jittered back-off that starts anew with every progress, that a stop cuts short, and that
the job shows in `retrying`.

Written here because the waits must end with a stop, the count must fall back with progress, and a fencing error asks
the store in between: more exceptions than rules for a general retry library (docs/decisions/0002-dependencies.md).
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import structlog

from config.names import LogEvent
from service.domain.errors import LeaseLost, Permanent, RowferryError, Transient
from service.domain.steps import Condition
from sinks.base import Fenced, Restage, SinkError
from workers.metrics import RETRIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.domain.control import Control

T = TypeVar("T")

FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 15.0
MOST_RESTAGES = 64
"""A sink halves a size with each restage: more of them means that it does not converge."""

log = structlog.get_logger(__name__)


def from_sink(error: SinkError) -> RowferryError:
    """The same news in the runner's classes."""
    kind = Transient if error.retryable else Permanent
    made = kind(error.code, error.message)
    made.__cause__ = error.__cause__
    return made


def backoff(attempt: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds before try `attempt` + 1: doubling from a quarter of a second to fifteen, the upper half of it jitter
    (Exponential Backoff And Jitter, AWS Architecture Blog, "equal jitter")."""
    full = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * float(2 ** min(attempt - 1, 16)))
    return full / 2 + full / 2 * jitter()


class Retry:
    """Runs one step's work until it ends, again and again while what stops it may pass."""

    def __init__(
        self, control: Control, monotonic: Callable[[], float] = time.monotonic, *, most_seconds: float | None = None
    ) -> None:
        """Progress counts from now. `most_seconds` without it are taken, where the job allows more."""
        self._most_seconds = most_seconds
        self._control = control
        self._monotonic = monotonic
        self._attempt = 0
        self._restages = 0
        self._progress_at = monotonic()
        self._shown = False

    @property
    def away(self) -> bool:
        """The other side is known to be away: nothing has worked since the last error."""
        return self._attempt > 0

    def progressed(self) -> None:
        """Something was settled, or the sink and the source both answered."""
        self._attempt = 0
        self._restages = 0
        self._progress_at = self._monotonic()

    async def recovered(self) -> None:
        """Both sides answer again: the job no longer shows `retrying`."""
        if self._shown:
            self._shown = False
            await self._control.report(Condition())

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`. Raises Permanent (`retries_exhausted` with the last error as its cause), Stopped when
        a stop comes during a wait, and whatever else `work` raises."""
        while True:
            try:
                return await work()
            except Restage as error:
                self._restages += 1
                if self._restages > MOST_RESTAGES:
                    raise Permanent(error.code, error.message) from error
                log.info(LogEvent.CHUNK_RESTAGED, reason=error.code)
            except Fenced as error:
                # Not a lost lease by itself: a transaction that timed out looks the same. Only the store knows.
                await self._control.renew()
                await self._wait(from_sink(error))
            except SinkError as error:
                if not error.retryable:
                    raise from_sink(error) from error
                await self._wait(from_sink(error))
            except Transient as error:
                await self._wait(error)

    async def _wait(self, error: RowferryError) -> None:
        self._control.check()
        self._attempt += 1
        idle = self._monotonic() - self._progress_at
        patience = self._control.max_without_progress_seconds
        if idle > (patience if self._most_seconds is None else min(patience, self._most_seconds)):
            raise Permanent(
                "retries_exhausted",
                f"gave up after {idle:.0f} seconds without progress: {error.message}",
                hint="mend it and start the job again; options.retry.max_without_progress_seconds says how long to try",
            ) from error
        delay = backoff(self._attempt)
        RETRIES.labels(code=error.code).inc()
        log.warning(
            LogEvent.RETRYING, attempt=self._attempt, delay_seconds=round(delay, 3), code=error.code, cause=error.whole
        )
        await self._show(error, delay)
        await self._control.pause(delay)

    async def _show(self, error: RowferryError, delay: float) -> None:
        self._shown = True
        shown = {
            "attempt": self._attempt,
            "next_at": (datetime.now(UTC) + timedelta(seconds=delay)).isoformat(timespec="microseconds"),
            "cause": {"code": error.code, "message": error.whole},
        }
        try:
            await self._control.report(Condition(retrying=shown))
        except LeaseLost:
            raise
        except Transient:
            # The store itself may be what is away; the lease's own clock ends this step in time.
            return
