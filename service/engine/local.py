"""The engine of one machine: steps are asyncio tasks of this process.

Several processes on one control database share the work by leases. Every engine renews what it holds, frees what has
run out, moves on what waits for the last lease, and takes what is ready: at its start, at every notification, and once
a second, so that a missed notification costs a second and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from config.names import LogEvent
from service.domain.control import Control, Ending
from service.domain.errors import RowferryError
from service.domain.steps import StepKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.domain.ports import StepStore
    from service.domain.steps import Directive, Lease, Step

LEASE_SECONDS = 10.0
TICK_SECONDS = 1.0
STORE_SECONDS = 4.0
"""An answer of the store later than this comes too late for a lease of ten seconds and a margin of two."""

log = structlog.get_logger(__name__)

MAX_VERIFICATIONS = 2
"""At once in one process: beside the runs, not in their place."""

T = TypeVar("T")


class StepRunner(Protocol):
    """Runs one leased step to its outcome."""

    async def run(self, step: Step, control: Control) -> None:
        """Never raises; ends soon after `control.end`."""


class LocalEngine:
    """Claims, heartbeats and runs. `start` once; `stop` is idempotent and safe before `start`."""

    def __init__(
        self,
        store: StepStore,
        runner: StepRunner,
        *,
        owner: str,
        max_splits: int,
        max_runs: int,
        tick_seconds: float = TICK_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`owner` is unique among all processes of the control database."""
        self._store, self._runner, self._owner = store, runner, owner
        self._max_splits, self._max_runs = max_splits, max_runs
        self._tick_seconds, self._lease_seconds = tick_seconds, lease_seconds
        self._running: dict[asyncio.Task[None], Control] = {}
        self._news = {self._heartbeat: asyncio.Event(), self._take: asyncio.Event()}
        """Ends the pause of a loop. Heartbeats have a loop of their own: claiming many steps must not cost the first
        ones their leases."""
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = False
        self._away = False

    async def start(self) -> None:
        """Go on with whatever is ready; returns at once."""
        if not self._loops and not self._stopping:
            self._loops = [
                asyncio.create_task(self._repeat(work, news), name=f"engine {work.__name__}")
                for work, news in self._news.items()
            ]

    async def wake(self, job_id: str | None = None) -> None:  # noqa: ARG002 -- one look finds every job's change
        """Look now."""
        for news in self._news.values():
            news.set()

    @property
    def steps(self) -> int:
        """Steps running in this process."""
        return len(self._running)

    async def stop(self, timeout_seconds: float) -> None:
        """Claim no more, park every step within the time, then cut off what is left."""
        self._stopping = True
        for control in self._running.values():
            control.park(timeout_seconds)
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_seconds + 1.0)
        for control in self._running.values():
            control.end(Ending.OVERDUE)
        if self._running:
            await asyncio.wait(set(self._running), timeout=2.0)
        for task in self._loops:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._loops = []

    # -- the loops ----------------------------------------------------------------------------------------------

    async def _repeat(self, work: Callable[[], Awaitable[None]], news: asyncio.Event) -> None:
        while True:
            news.clear()
            try:
                await work()
                if self._away:
                    self._away = False
                    log.info(LogEvent.STORE_BACK)
            except (RowferryError, TimeoutError) as error:
                if not self._away:
                    self._away = True
                    log.warning(LogEvent.STORE_UNREACHABLE, cause=str(error) or type(error).__name__)
            except Exception:
                # One round that meets a bug of ours must not end all the others.
                log.exception(LogEvent.ENGINE_FAILED)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick_seconds):
                    await news.wait()

    async def _take(self) -> None:
        """Free what has run out, then claim until there is nothing ready or no room."""
        await _bounded(self._store.expire())
        while not self._stopping and (kinds := self._wanted()):
            sent = time.monotonic()
            only = self._jobs() if len(self._jobs()) >= self._max_runs else None
            step = await _bounded(
                self._store.claim(self._owner, kinds, lease_seconds=self._lease_seconds, only_jobs=only)
            )
            if step is None:
                break
            self._run(step, sent)

    async def _heartbeat(self) -> None:
        controls = {control.lease: control for control in self._running.values()}
        if not controls:
            return
        sent = time.monotonic()
        directives = await _bounded(self._store.renew(list(controls), lease_seconds=self._lease_seconds))
        for directive in directives:
            if (control := controls.get(directive.lease)) is not None:
                control.apply(directive, sent)

    def _wanted(self) -> list[StepKind]:
        splits = sum(control.lease.kind is StepKind.SPLIT for control in self._running.values())
        rest = [StepKind.PLAN, StepKind.FINISH, StepKind.CLEAN_UP, StepKind.RETRY]
        if sum(control.lease.kind is StepKind.VERIFY for control in self._running.values()) < MAX_VERIFICATIONS:
            rest.append(StepKind.VERIFY)
        return [StepKind.SPLIT, *rest] if splits < self._max_splits else rest

    def _jobs(self) -> list[str]:
        beside = {StepKind.CLEAN_UP, StepKind.RETRY, StepKind.VERIFY}
        return sorted({c.lease.job_id for c in self._running.values() if c.lease.kind not in beside})

    def _run(self, step: Step, claimed_at: float) -> None:
        control = Control(
            step.lease,
            lease_seconds=self._lease_seconds,
            leased_at=claimed_at,
            renew=self._renew_one,
            report=self._store.report,
        )
        task = asyncio.create_task(self._watched(step, control), name=f"step-{step.lease.kind.value}")
        control.attach(task)
        self._running[task] = control
        if self._stopping:
            # Claimed while the engine was asked to stop: nothing is in flight, give it back at once.
            control.park(0.0)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._news[self._take].set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(LogEvent.STEP_CRASHED, exc_info=error)

    async def _watched(self, step: Step, control: Control) -> None:
        watch = asyncio.create_task(_watch_clock(control))
        try:
            await self._runner.run(step, control)
        finally:
            watch.cancel()

    async def _renew_one(self, lease: Lease) -> Directive:
        directives = await _bounded(self._store.renew([lease], lease_seconds=self._lease_seconds))
        return directives[0]


async def _watch_clock(control: Control) -> None:
    """End the step when its lease has ended by our own clock, whatever the store says or does not say."""
    while (left := control.expires_at - time.monotonic()) > 0:  # noqa: ASYNC110 -- every renewal moves the end
        await asyncio.sleep(left)
    control.end(Ending.LOST)


async def _bounded(call: Awaitable[T]) -> T:
    async with asyncio.timeout(STORE_SECONDS):
        return await call
