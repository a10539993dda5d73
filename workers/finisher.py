"""The last step of a run, and the one after removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks.base import ListsDays
from workers.chunks import to_prepared
from workers.days import list_days
from workers.owners import owner, retry_split
from workers.retrying import Retry
from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.control import Control
    from service.domain.steps import Step
    from sinks.base import Prepared, Sink
    from workers.ports import Workplace


class FinishWork:
    """The work of one leased finish step: repeatable until it is settled."""

    def __init__(self, step: Step, control: Control, workplace: Workplace, sink: Sink) -> None:
        """The sink stays the caller's to close."""
        self._step, self._control, self._place, self._sink = step, control, workplace, sink

    async def run(self) -> None:
        """Returns when the run is successful. Raises Stopped, LeaseLost, Permanent."""
        await Retry(self._control).run(self._finish)

    async def _finish(self) -> None:
        await self._close()
        await self._place.signals.reached(Point.CHECKED, self._step.lease)
        self._control.check()
        with self._control.last_write():
            await self._place.store.finish_run(self._step.lease)
        await self._place.signals.reached(Point.FINISHED, self._step.lease)

    async def _close(self) -> None:
        """A continuous generation has its manifests by day: records of its first days may be gone by now, and so may
        what lay in the target."""
        if self._step.spec.get("mode") == "continuous" and isinstance(self._sink, ListsDays):
            await list_days(self._step, self._place, self._sink, self._step.lease.generation, today=True)
        else:
            await self._sink.finish(owner(self._step), self._chunks())

    async def _chunks(self) -> AsyncIterator[Prepared]:
        async for _ordinal, chunk in self._place.store.settled_chunks(self._step.lease):
            yield to_prepared(chunk)


class CleanUpWork:
    """After removal: fence what may still be open in the sink and delete what only this job left there."""

    def __init__(self, step: Step, control: Control, workplace: Workplace, sink: Sink) -> None:
        """The sink stays the caller's to close."""
        self._step, self._control, self._place, self._sink = step, control, workplace, sink

    async def run(self) -> None:
        """Returns when the sink is clean. Raises what the sink raises; the caller postpones."""
        generation = await self._place.store.generation(self._step.lease, self._step.lease.generation)
        owners = [
            owner(self._step, split=split.ordinal, epoch=generation.epochs.get(split.ordinal, 0) + 1)
            for split in generation.splits
            if generation.epochs.get(split.ordinal, 0) > 0
        ] + [
            owner(self._step, split=retry_split(number), epoch=epoch + 1)
            for number, epoch in generation.retries.items()
            if epoch > 0
        ]
        if owners:
            await self._sink.clean_up(owners)
        await self._place.store.cleaned_up(self._step.lease, "done")
