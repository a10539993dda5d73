"""Runs one leased step to its outcome, whatever ends it.

| what ends it | what the store hears |
|---|---|
| done | the step's own last write (plan saved, split done, run finished, retry finished, cleaned up) |
| stop, shutdown; other columns, which its next lease knows | park; release where a prepared chunk may remain |
| abort | release, with the reason when something may still become visible |
| permanent error, too many rejected rows | fail, with the cause chain; a retry is given up |
| lost lease | nothing: somebody else may own the step |
| ended in its name (a snapshot that nobody reads any more) | nothing: it knows |
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from config.names import LogEvent
from service.domain.control import Ending
from service.domain.errors import (
    Aborted,
    Cause,
    Interrupted,
    LeaseLost,
    RowferryError,
    Stopped,
    cause_chain,
)
from service.domain.spec import JobSpec
from service.domain.steps import Condition, StepKind
from sinks.base import SinkError
from sinks.registry import HOLDS_ITS_CHUNK
from workers.closing import put_down
from workers.cuts import cut_of
from workers.days import listing_days
from workers.finisher import CleanUpWork, FinishWork
from workers.metrics import STEPS_ENDED, STEPS_RUNNING
from workers.owners import origin
from workers.planner import PlanWork
from workers.rendering import limited
from workers.retries import RetryWork
from workers.retrying import Retry, from_sink
from workers.signals import Point
from workers.sources.base import SourceChanged
from workers.splits import SplitWork
from workers.verifier import VerifyWork
from workers.window import window_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.domain.control import Control
    from service.domain.steps import Step
    from sinks.base import Sink
    from workers.delivery import Delivery
    from workers.ports import Workplace
    from workers.sources.base import Source

T = TypeVar("T")

PAGES_HELD = 5
"""Pages that a split holds at most: one written, one waiting, one on its way, and what the sink has not sent yet."""
SINK_BYTES = 16 * 1024 * 1024
PAGES_COMPARED = 2
VERIFY_BYTES = 48 * 1024 * 1024
"""Blocks of the sink on their way, and rows of one side that wait for the other (`workers.matching.MOST`)."""
CLEAN_UP_AGAIN_SECONDS = 60.0
TELL_STORE_SECONDS = 2.0
PUT_DOWN_SECONDS = 0.3

log = structlog.get_logger(__name__)


class Runner:
    """Runs steps. One a process; `run` is called once a lease, concurrently."""

    def __init__(self, workplace: Workplace) -> None:
        """The workplace is shared by all steps of the process."""
        self._place = workplace

    async def run(self, step: Step, control: Control) -> None:
        """Returns when the step has ended in any way. Never raises, but for the cancellation of a caller that did not
        go through `control.end`."""
        lease = step.lease
        with bound_contextvars(
            account=step.account,
            job=step.job_name,
            job_id=lease.job_id,
            run_id=lease.run_id,
            step=lease.kind.value,
            split=lease.ordinal if lease.kind is StepKind.SPLIT else None,
            epoch=lease.epoch,
        ):
            log.info(LogEvent.STEP_LEASED)
            guard = asyncio.create_task(_guard_stop(control))
            try:
                with STEPS_RUNNING.labels(kind=lease.kind.value).track_inprogress():
                    outcome = await self._outcome(step, control)
                STEPS_ENDED.labels(kind=lease.kind.value, outcome=outcome).inc()
            finally:
                guard.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await guard

    async def _outcome(self, step: Step, control: Control) -> str:
        step = replace(step, spec=limited(step.spec, step.target))
        work = _Work(step, control, self._place)
        try:
            await self._place.signals.reached(Point.LEASED, step.lease)
            await work.run()
        except asyncio.CancelledError:
            if control.ending is None:
                raise
            return await self._cancelled(step, control, work)
        except LeaseLost:
            log.info(LogEvent.LEASE_LOST)
            return "lost"
        except (Stopped, Aborted) as error:
            return await self._give_back(step, control, work, park=isinstance(error, Stopped))
        except SourceChanged:
            return await self._give_back(step, control, work, park=True)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the job must say it
            return await self._failed(step, error)
        log.info(LogEvent.STEP_DONE)
        return "done"

    async def _cancelled(self, step: Step, control: Control, work: _Work) -> str:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        if control.ending is Ending.LOST:
            log.info(LogEvent.LEASE_LOST)
            return "lost"
        if control.ending is Ending.DONE:
            log.info(LogEvent.STEP_DONE)
            return "done"
        return await self._give_back(step, control, work, park=False)

    async def _give_back(self, step: Step, control: Control, work: _Work, *, park: bool) -> str:
        store = self._place.store
        parked = park and not work.unsettled
        reason = control.reason
        if park and work.unsettled:
            reason = reason or (
                f"a chunk of split {step.lease.ordinal} is prepared and its outcome is not known; "
                "the next start finds out"
            )
        silent = parked and reason is None
        await self._tell(store.park(step.lease) if silent else store.release(step.lease, reason))
        log.info(LogEvent.STEP_PARKED if parked else LogEvent.STEP_RELEASED, reason=reason)
        await self._place.signals.reached(Point.PARKED, step.lease)
        return "parked" if parked else "released"

    async def _failed(self, step: Step, error: Exception) -> str:
        if isinstance(error, SinkError):
            error = from_sink(error)
        known = isinstance(error, RowferryError) and not isinstance(error, Interrupted)
        if known:
            said = getattr(error, "whole", str(error))
            log.error(LogEvent.STEP_FAILED, code=getattr(error, "code", None), cause=said)
        else:
            log.error(LogEvent.STEP_CRASHED, exc_info=error)
        now = datetime.now(UTC)
        causes = cause_chain(error, now)
        if not known:
            sentence = "an unexpected error; please report it with the lines of the log around this time"
            causes.insert(0, Cause("internal_error", sentence, now, retryable=False))
        if step.lease.kind is StepKind.CLEAN_UP:
            await self._tell(self._place.store.postpone(step.lease, CLEAN_UP_AGAIN_SECONDS, causes[0]))
        elif step.lease.kind is StepKind.RETRY:
            await self._tell(self._place.store.give_up_retry(step.lease, causes[0]))
        elif step.lease.kind is StepKind.VERIFY:
            await self._tell(self._place.store.verify_failed(step.lease, causes))
        else:
            await self._tell(self._place.store.fail(step.lease, causes))
        return "failed"

    async def _tell(self, write: Awaitable[None]) -> None:
        """Tell the store how it ended; when it does not listen, the lease runs out by itself."""
        try:
            async with asyncio.timeout(TELL_STORE_SECONDS):
                await write
        except LeaseLost:
            log.info(LogEvent.LEASE_LOST)
        except (TimeoutError, RowferryError) as error:
            log.warning(LogEvent.OUTCOME_NOT_STORED, cause=str(error))


class _Work:
    """Builds what a step needs, runs it, and gives everything back."""

    def __init__(self, step: Step, control: Control, place: Workplace) -> None:
        self._step, self._control, self._place = step, control, place
        self._delivery: Delivery | None = None

    @property
    def unsettled(self) -> bool:
        return self._delivery is not None and self._delivery.unsettled

    async def run(self) -> None:
        if self._step.lease.kind in {StepKind.SPLIT, StepKind.RETRY}:
            spec = JobSpec.model_validate(self._step.spec)
            needed = spec.options.page_bytes * PAGES_HELD + SINK_BYTES
            if spec.sink.kind in HOLDS_ITS_CHUNK:
                needed += spec.options.chunk.bytes
            if spec.format.kind == "parquet":
                needed += 6 * int(getattr(spec.format, "row_group_bytes", 0))  # docs/formats.md
            needed += window_bytes(spec.options)
            if not self._place.memory.fits(needed):
                self._control.report_soon(Condition(waiting_for="memory"))
            async with self._place.memory.hold(needed):
                await self._with_sink()
        elif self._step.lease.kind is StepKind.VERIFY:
            spec = JobSpec.model_validate(self._step.spec)
            async with self._place.memory.hold(spec.options.page_bytes * PAGES_COMPARED + VERIFY_BYTES):
                await self._with_sink()
        else:
            await self._with_sink()

    async def _with_sink(self) -> None:
        step, control, place = self._step, self._control, self._place
        lease = step.lease
        sink = await self._built(
            lambda: place.sinks.sink(
                step.account, step.spec, step.secrets, step.target, job_id=lease.job_id, generation=lease.generation
            )
        )
        try:
            match step.lease.kind:
                case StepKind.FINISH:
                    await FinishWork(step, control, place, sink).run()
                case StepKind.CLEAN_UP:
                    await CleanUpWork(step, control, place, sink).run()
                case StepKind.VERIFY:
                    await VerifyWork(step, control, place, sink).run()
                case _:
                    source = await self._built(
                        lambda: place.sources.source(
                            step.account,
                            step.spec,
                            step.target,
                            name=place.title(step),
                            origin=origin(step),
                            secrets=step.secrets,
                            waiting=self._waits_for_connection,
                            cut=cut_of(step) if lease.kind is StepKind.SPLIT else None,
                        )
                    )
                    try:
                        if step.lease.kind is StepKind.PLAN:
                            await PlanWork(step, control, place, sink, source).run()
                        else:
                            await self._deliver(sink, source)
                    finally:
                        await put_down("source", source.close(), PUT_DOWN_SECONDS)
        finally:
            await put_down("sink", sink.close(), PUT_DOWN_SECONDS)

    async def _built(self, build: Callable[[], Awaitable[T]]) -> T:
        """What `build` makes out of stored datasources and credentials. The store may be away for a moment: that ends
        no job. (A clean-up comes back by itself, for as long as it takes.)"""
        if self._step.lease.kind is StepKind.CLEAN_UP:
            return await build()
        return await Retry(self._control).run(build)

    async def _deliver(self, sink: Sink, source: Source) -> None:
        step, control, place = self._step, self._control, self._place
        if step.lease.kind is StepKind.RETRY:
            retry = RetryWork(step, control, place, sink, source)
            self._delivery = retry.delivery
            await retry.run()
            return
        split = SplitWork(step, control, place, sink, source)
        self._delivery = split.delivery
        async with listing_days(step, place, sink):
            await split.run()

    def _waits_for_connection(self, waiting: bool) -> None:
        self._control.report_soon(Condition(waiting_for="connections" if waiting else None))


async def _guard_stop(control: Control) -> None:
    """End a step that was asked to stop and did not settle in time."""
    await control.overdue()
    control.end(Ending.OVERDUE)
