"""What a running step knows of its lease and of what is wanted of it.

The engine feeds it (heartbeats, notifications); the runner reads it. The holder stops itself by its own monotonic
clock, counted from the sending of the last renewal, so that a lease never outlives what the database granted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from service.domain.errors import Aborted, LeaseLost, RowferryError, Stopped
from service.domain.states import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from service.domain.steps import Condition, Directive, Lease

MARGIN_SECONDS = 2.0
"""How much earlier than the database the holder believes its lease to have ended: covers slow clocks and the time
between a check and the write it allows. At most a fifth of the lease."""

STOP_SECONDS = 30.0
"""For settling what is in flight, where the job does not say how long."""


class Ending(Enum):
    """Why a step's task is being cancelled."""

    ABORT = auto()
    LOST = auto()
    DONE = auto()
    """The step was ended in our name, by what it was needed for."""
    OVERDUE = auto()
    """The time for settling what is in flight is over."""


class Control:
    """One leased step's wishes and clock. Used from one event loop."""

    def __init__(
        self,
        lease: Lease,
        *,
        lease_seconds: float,
        leased_at: float,
        renew: Callable[[Lease], Awaitable[Directive]],
        report: Callable[[Lease, Condition], Awaitable[None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`leased_at` is the monotonic time at which the claim was sent."""
        self.lease = lease
        self.ending: Ending | None = None
        self._over = False
        self.rows_per_second: float | None = None
        self.bytes_per_second: float | None = None
        self.max_without_progress_seconds = 900.0
        self.active_sessions: int | None = None
        self.stop_at: float | None = None
        self.reason: str | None = None
        """What the job should say about an abort that could not take everything back."""
        self._renew = renew
        self._report = report
        self._monotonic = monotonic
        self._lease_seconds = lease_seconds
        self._expires_at = leased_at + lease_seconds
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reports: set[asyncio.Task[None]] = set()

    @property
    def stopping(self) -> bool:
        """Read no more, settle what is in flight, park."""
        return self._stop.is_set()

    @property
    def expires_at(self) -> float:
        """Monotonic time at which the holder must have stopped."""
        return self._expires_at - min(MARGIN_SECONDS, self._lease_seconds / 5)

    def attach(self, task: asyncio.Task[None]) -> None:
        """The task to cancel on abort and loss."""
        self._task = task

    def check(self) -> None:
        """Raises LeaseLost when the lease has ended by our own clock."""
        if self.ending is Ending.LOST or self._monotonic() >= self.expires_at:
            raise LeaseLost

    async def renew(self) -> None:
        """Renew now and take in the directive. Raises LeaseLost or Aborted; a stop is taken in silently."""
        sent = self._monotonic()
        self.apply(await self._renew(self.lease), sent)
        if self.ending in {Ending.LOST, Ending.DONE}:
            raise LeaseLost
        if self.ending is Ending.ABORT:
            raise Aborted

    def apply(self, directive: Directive, sent_at: float | None = None) -> None:
        """Take in what the store said; `sent_at` is when a renewal was sent, None when this was not one."""
        if self._over:
            return
        if not directive.valid:
            self.end(Ending.DONE if directive.ended else Ending.LOST)
            return
        if sent_at is not None:
            self._expires_at = max(self._expires_at, sent_at + self._lease_seconds)
        self.rows_per_second = directive.rows_per_second
        self.bytes_per_second = directive.bytes_per_second
        self.max_without_progress_seconds = directive.max_without_progress_seconds
        self.active_sessions = directive.active_sessions
        if directive.state is State.ABORTING:
            self.end(Ending.ABORT)
        elif directive.state in {State.STOPPING, State.FAILING}:
            self.park(STOP_SECONDS if directive.stop_in_seconds is None else directive.stop_in_seconds)

    @contextlib.contextmanager
    def last_write(self) -> Iterator[None]:
        """Around the write that ends the step: from its sending on, a lease that is not there any more may have ended
        with it, and the write itself is told when it was lost. Raises what it raises."""
        self._over = True
        try:
            yield
        except BaseException:
            self._over = False
            raise

    def park(self, within_seconds: float) -> None:
        """Ask for a stop: what is in flight has `within_seconds` to be settled. The first call sets the time."""
        if not self.stopping:
            self.stop_at = self._monotonic() + within_seconds
            self._stop.set()

    def end(self, ending: Ending) -> None:
        """Cancel the step's task; the first reason stays, but a lost lease outweighs all."""
        if self._over and ending in {Ending.LOST, Ending.DONE}:
            return
        if self.ending is None or ending is Ending.LOST:
            first = self.ending is None
            self.ending = ending
            self.park(0.0)
            if first and self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()

    async def report(self, condition: Condition) -> None:
        """Show what stands beside the state. Raises LeaseLost."""
        await self._report(self.lease, condition)

    def report_soon(self, condition: Condition) -> None:
        """As `report`, from where nothing can be awaited; a report that fails is dropped, the next one follows."""
        task = asyncio.create_task(self._report_quietly(condition))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _report_quietly(self, condition: Condition) -> None:
        with contextlib.suppress(RowferryError):
            await self._report(self.lease, condition)

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than until a stop. Raises Stopped when one comes."""
        if self.stopping:
            raise Stopped
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        if self.stopping:
            raise Stopped

    async def stop_wanted(self) -> None:
        """Returns when a stop is wanted."""
        await self._stop.wait()

    async def overdue(self) -> None:
        """Returns when a stop was wanted and the time for settling what is in flight is over."""
        await self._stop.wait()
        await asyncio.sleep(max(0.0, (self.stop_at or 0.0) - self._monotonic()))
