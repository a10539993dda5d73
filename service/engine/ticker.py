"""Starts jobs by their schedules. Every service and worker of a control database runs one; the store sees to it that a
tick is one run.

It sleeps until the next tick by the database's clock, and is woken when one that is sooner comes to be. A minute is the
longest sleep: so long does a lost notification, a clock that was set, or a machine that slept make it late at most.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from config.names import LogEvent
from service.domain.errors import NotFound, RowferryError
from service.domain.records import Actor

if TYPE_CHECKING:
    from service.domain.schedules import DueJob, ScheduleStore, Tick

LONGEST_SLEEP_SECONDS: Final = 60.0
AGAIN_SECONDS: Final = 2.0
"""After a round that met an error."""
_BATCH: Final = 100

log = structlog.get_logger(__name__)


class Starter(Protocol):
    """`service.lifecycle.Verbs`, as far as the ticker asks it."""

    async def tick(self, due: DueJob, actor: Actor) -> Tick | None:
        """Start what is due, or say why not."""


class Ticker:
    """One long task; cancel it to end it. A tick that is being taken is then either whole or not there."""

    def __init__(
        self,
        store: ScheduleStore,
        starter: Starter,
        news: asyncio.Event,
        *,
        owner: str,
        longest_sleep_seconds: float = LONGEST_SLEEP_SECONDS,
    ) -> None:
        """`news` is set when a next run may have become another."""
        self._store, self._starter, self._news = store, starter, news
        self._actor = Actor("", owner)
        self._longest = longest_sleep_seconds
        self._away = False
        self.rounds = 0
        """How often it has looked: it does not look without a reason."""

    async def run(self) -> None:
        """For ever."""
        while True:
            self._news.clear()
            self.rounds += 1
            try:
                wait = await self._round()
                if self._away:
                    self._away = False
                    log.info(LogEvent.STORE_BACK)
            except RowferryError as error:
                wait = AGAIN_SECONDS
                if not self._away:
                    self._away = True
                    log.warning(LogEvent.STORE_UNREACHABLE, cause=error.message)
            except Exception:
                # One round that meets a bug of ours must not end all the others.
                wait = AGAIN_SECONDS
                log.exception(LogEvent.SCHEDULE_FAILED)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()

    async def _round(self) -> float:
        """Take what is due; how long to sleep then."""
        failed = False
        for due in await self._store.due(_BATCH):
            try:
                await self._take(due)
            except NotFound:
                continue  # removed since it was looked for
            except RowferryError:
                raise
            except Exception:
                # What is wrong with one job is nothing to the others.
                failed = True
                log.exception(LogEvent.SCHEDULE_FAILED, job_id=due.job_id)
        left = await self._store.until_due()
        if failed:
            return AGAIN_SECONDS
        return self._longest if left is None else min(max(left, 0.0), self._longest)

    async def _take(self, due: DueJob) -> None:
        tick = await self._starter.tick(due, self._actor)
        if tick is None:
            return  # another service's
        facts = {"job_id": due.job_id, "account": due.account, "due_at": due.at.isoformat(), "ticks": tick.ticks}
        match tick.outcome:
            case "started":
                log.info(LogEvent.SCHEDULE_STARTED, **facts)
            case "skipped":
                log.info(LogEvent.SCHEDULE_SKIPPED, **facts)
            case "missed":
                log.warning(LogEvent.SCHEDULE_MISSED, **facts)
