"""Sink and source of a generation that is closed, such that what it had prepared can be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent
from workers.changes import repeatable
from workers.owners import origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.domain.steps import GenerationState, Step
    from sinks.base import Sink
    from workers.ports import Workplace
    from workers.sources.base import Source

log = structlog.get_logger(__name__)


async def reopened(place: Workplace, step: Step, old: GenerationState) -> tuple[Sink, Source]:
    """What the generation wrote with and read from, for whoever closes it, and who closes them."""
    source = await _source(place, step, old, old.target)
    target = old.target
    if any(split.prepared for split in old.splits):
        try:
            target = await repeatable(old, source)
        except Permanent as error:  # there may be nothing to repeat; else it comes again
            log.warning(LogEvent.NOT_REPEATABLE, generation=old.number, cause=str(error))
        finally:
            await source.close()
        source = await _source(place, step, old, target)
    sink = await place.sinks.sink(
        step.account, old.spec, old.secrets, target, job_id=step.lease.job_id, generation=old.number
    )
    return sink, source


async def _source(place: Workplace, step: Step, old: GenerationState, target: Mapping[str, object]) -> Source:
    return await place.sources.source(
        step.account,
        old.spec,
        target,
        name=place.title(step),
        origin=origin(step, generation=old.number),
        secrets=old.secrets,
    )
