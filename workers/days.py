"""The days of a continuous generation, each listed when it is over: for sinks that write manifests, in one of its own.

Beside the rows, not between them: a target that refuses a manifest must not hold rows back. It is said in the log and
tried again, and until then the day's chunk records stay.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent
from service.domain.errors import LeaseLost, Permanent, RowferryError
from sinks.base import ListsDays, SinkError
from workers.chunks import to_prepared
from workers.closing import put_down
from workers.owners import owner
from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import date

    from service.domain.steps import Step
    from sinks.base import Prepared, Sink
    from workers.ports import Workplace

LOOK_EVERY_SECONDS = 60.0
PUT_DOWN_SECONDS = 0.3

log = structlog.get_logger(__name__)


@asynccontextmanager
async def listing_days(step: Step, place: Workplace, sink: Sink) -> AsyncIterator[None]:
    """While a split of a continuous job is worked on, list each day that is over, at the latest a minute after
    midnight UTC; those that passed while nobody worked first."""
    if step.spec.get("mode") != "continuous":
        yield
        return
    task = asyncio.create_task(_keep_listing(step, place, sink), name="list-days")
    try:
        yield
    finally:
        task.cancel()
        await put_down("days", _ended(task), PUT_DOWN_SECONDS)


async def list_days(step: Step, place: Workplace, sink: Sink, generation: int, *, today: bool = False) -> None:
    """List every day of `generation` that is over and not listed yet; with `today` the present one too, where nothing
    is settled any more. Repeatable. Raises what the sink and the store raise."""
    store, lease = place.store, step.lease
    while (day := await store.day_to_list(lease, generation, today=today)) is not None:
        if isinstance(sink, ListsDays):
            await sink.list_day(owner(step, generation=generation), day, _chunks(place, step, generation, day))
        await place.signals.reached(Point.DAY_WRITTEN, lease)
        await store.day_listed(lease, generation, day)
        log.info(LogEvent.DAY_LISTED, day=day.isoformat(), generation=generation)


async def _chunks(place: Workplace, step: Step, generation: int, day: date) -> AsyncIterator[Prepared]:
    async for chunk in place.store.chunks_of_day(step.lease, generation, day):
        yield to_prepared(chunk)


async def _keep_listing(step: Step, place: Workplace, sink: Sink) -> None:
    while True:
        try:
            await list_days(step, place, sink, step.lease.generation)
        except LeaseLost:
            return
        except (SinkError, RowferryError) as error:
            # The rows meet the same trouble when the whole target or the store is away, and tell of it.
            refused = isinstance(error, Permanent) or (isinstance(error, SinkError) and not error.retryable)
            (log.warning if refused else log.info)(LogEvent.DAY_NOT_LISTED, code=error.code, cause=str(error))
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
