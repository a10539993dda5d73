"""What a generation knows of its source that its guarantee depends on (`workers.guarantees`).

The plan step looks. Who leases a split of it later makes the job say so again: its definition may have been replaced
since, and what decides whether rows are lost (the barrier, where `options.late_window` may stand in for it) altered.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from service.domain.options import Options
from workers.guarantees import guaranteed
from workers.sources.base import Facts

if TYPE_CHECKING:
    from service.domain.steps import Step
    from sinks.base import Sink
    from workers.ports import Workplace
    from workers.sources.base import Source

FACTS: Final = "source_facts"
"""Under which name a generation keeps them, beside what its sink said."""


async def seen_facts(source: Source) -> dict[str, object]:
    """What a generation keeps under `FACTS`."""
    return asdict(await source.facts())


def facts_of(kept: object) -> Facts:
    """Out of what was kept; of a generation that an earlier version planned nothing is known."""
    return Facts(**kept) if isinstance(kept, dict) else Facts()


async def promise_again(step: Step, place: Workplace, sink: Sink, source: Source, *, looks_back: bool) -> None:
    """Make the job say what its leased split delivers; `looks_back`: the split has a window. Nothing is asked nor
    written where the definition alone says all. Raises what asking the source raises."""
    kept = facts_of(step.target.get(FACTS))
    if looks_back and Options.model_validate(step.spec.get("options", {})).safety.kind == "commit":
        kept = await source.facts()
    if kept != Facts():
        promise = guaranteed(step.spec, sink.promise(), kept)
        await place.store.keep_of_source(step.lease, {FACTS: asdict(kept)}, promise=promise)
