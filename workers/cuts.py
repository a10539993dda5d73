"""A job that reads one moment of its source (`options.snapshot`): who holds it, for how long, and what ends it.

The plan step takes the moment and holds it, leased, until the last split is done. A moment can not be handed on: when
its holder ends in any other way, the generation can not be read to its end as of that moment, and says so. Its splits
notice that by themselves, wherever they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

import structlog

from config.names import LogEvent
from service.domain.errors import LeaseLost, RowferryError, Stopped
from service.domain.spec import JobSpec
from service.domain.steps import Condition
from workers.closing import put_down
from workers.metrics import SNAPSHOTS_ENDED, SNAPSHOTS_HELD
from workers.sources.cut import REMEDY, Cut, lost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.control import Control
    from service.domain.steps import GenerationState, OpenRange, Step
    from workers.ports import Workplace
    from workers.sources.base import Snapshot

CUT: Final = "snapshot"
"""The member of a generation's target that says which moment it is read as of."""
COMPARED_WITH_NOW: Final = (
    "the rows were read as of {} (options.snapshot), which nobody holds any more: they are compared with the source as "
    "it is now, and what has changed since then is counted as source_changed"
)
LOOK_SECONDS: Final = 0.1
CLOSE_SECONDS: Final = 0.3

log = structlog.get_logger(__name__)


def cut_of(step: Step) -> Cut | None:
    """The moment that a split is read as of; None where each page may show its own. Raises Permanent `snapshot_lost`
    where the generation was planned without one."""
    if not JobSpec.model_validate(step.spec).options.snapshot:
        return None
    kept = _kept(step.target)
    if kept is None:
        raise lost("the source", "the generation was planned before options.snapshot was set, and has none")
    return kept


def warn_of_another_moment(old: GenerationState) -> None:
    """For who repeats a chunk of a closed generation, whose moment is gone."""
    if _kept(old.target) is not None:
        log.warning(LogEvent.CHUNK_OF_ANOTHER_MOMENT, generation=old.number)


def say_rows_are_of_now(step: Step) -> None:
    """For who sends dead letters of a generation again, as its source gives them now."""
    if (kept := _kept(step.target)) is not None:
        log.warning(LogEvent.DEAD_LETTERS_OF_NOW, generation=step.lease.generation, taken_at=kept.taken_at)


def compared_with_now(step: Step) -> str | None:
    """What a verification says of a generation that was read as of one moment."""
    kept = _kept(step.target)
    return None if kept is None else COMPARED_WITH_NOW.format(kept.taken_at)


def _kept(target: Mapping[str, object]) -> Cut | None:
    kept = target.get(CUT)
    return Cut.from_json(kept) if isinstance(kept, dict) else None


class Keeper:
    """What a plan step does about its generation's moment; nothing, where the job does not ask for one."""

    def __init__(self, step: Step, control: Control, place: Workplace) -> None:
        self._step, self._control, self._place = step, control, place
        self._wanted = JobSpec.model_validate(step.spec).options.snapshot
        self._snapshot: Snapshot | None = None
        self._taken_at = 0.0
        self._outcome = "released"
        self._holds = False

    async def take(self, target: dict[str, object]) -> None:
        """Before anything is read: `target` says from now on which moment it is. A second time: of a later one, for
        nobody has read by the first. Raises what `Sources.snapshot` raises."""
        if not self._wanted:
            return
        await self.close()
        self._snapshot = await self._place.sources.snapshot(
            self._step.account,
            self._step.spec,
            name=self._place.title(self._step),
            secrets=self._step.secrets,
            waiting=self._waits_for_connection,
        )
        cut = self._snapshot.cut
        self._taken_at, self._outcome = time.monotonic(), "released"
        SNAPSHOTS_HELD.inc()
        log.info(LogEvent.SNAPSHOT_TAKEN, pid=cut.pid, taken_at=cut.taken_at, until=cut.until)
        target[CUT] = cut.as_json()

    def holds(self, splits: Sequence[OpenRange]) -> bool:
        """Whether the step goes on when the plan is saved: there is something to read in the moment."""
        self._holds = self._snapshot is not None and bool(splits)
        return self._holds

    async def take_up(self, generation: GenerationState) -> None:
        """The plan is there already. Raises Permanent `snapshot_lost` unless it was saved by this very step, whose
        moment is still held."""
        if not self._wanted:
            await self._place.store.end_plan(self._step.lease)
            return
        kept = _kept(generation.target)
        if self._snapshot is None or kept != self._snapshot.cut:
            raise lost("the source", "who held it was stopped, or ended, before every split was done")
        self._holds = True

    async def keep(self) -> None:
        """Hold the moment; whoever ends the step (its last split, an abort) cancels this. Raises Permanent
        `snapshot_lost` or `snapshot_expired`, and Stopped, when all who read have settled what they had."""
        if self._snapshot is None or not self._holds:
            return
        over = asyncio.create_task(self._snapshot.over())
        stop = asyncio.create_task(self._control.stop_wanted())
        try:
            await asyncio.wait({over, stop}, return_when=asyncio.FIRST_COMPLETED)
            if over.done() and not self._control.stopping:
                error = over.result()
                self._outcome = error.code.removeprefix("snapshot_")
                raise error
            while not over.done() and await self._still_read():
                await asyncio.wait({over}, timeout=LOOK_SECONDS)
            self._control.reason = f"the snapshot that the run read was given back: {REMEDY}"
            raise Stopped
        finally:
            for task in (over, stop):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _still_read(self) -> bool:
        """Who stops may have to read a chunk again, to settle what is in flight."""
        if time.monotonic() >= (self._control.stop_at or 0.0):
            return False
        try:
            return await self._place.store.split_leased(self._step.lease)
        except LeaseLost:
            raise
        except RowferryError:  # the store is away for a moment: so it may be for them
            return True

    async def close(self) -> None:
        """Let go of it. Never raises; more often does nothing."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return
        SNAPSHOTS_HELD.dec()
        SNAPSHOTS_ENDED.labels(outcome=self._outcome).inc()
        await put_down("snapshot", snapshot.close(), CLOSE_SECONDS)
        seconds = round(time.monotonic() - self._taken_at, 3)
        log.info(LogEvent.SNAPSHOT_RELEASED, outcome=self._outcome, seconds=seconds)

    def _waits_for_connection(self, waiting: bool) -> None:
        self._control.report_soon(Condition(waiting_for="connections" if waiting else None))
