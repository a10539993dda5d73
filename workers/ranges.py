"""Which key ranges a generation reads: from the beginning, as given, or what its predecessor left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from service.domain.spec import JobSpec
from service.domain.steps import OpenRange
from workers.rendering import limited

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.records import Key
    from service.domain.steps import GenerationState, SplitState
    from workers.sources.base import Source


def ranges_of(history: Sequence[GenerationState], spec: JobSpec) -> Sequence[OpenRange]:
    """What the last generation of `history` reads; an upper of None is bounded by the source."""
    generation, before = history[-1], history[:-1]
    match generation.begins:
        case "given":
            return list(generation.ranges or [])
        case "keep" if before:
            return _left_over(before[-1], spec) if before[-1].planned else ranges_of(before, spec)
        case "beginning" | "keep":
            return [OpenRange(None, None)]
        case other:
            raise Permanent("generation_unknown", f"generation {generation.number} begins at {other!r}: unknown here")


def _left_over(before: GenerationState, spec: JobSpec) -> Sequence[OpenRange]:
    """What the predecessor did not deliver, and what came since beyond its bound, where the mode follows the table."""
    follows = spec.mode in {"incremental", "continuous"}
    limit = limit_of(before.spec, before.target)
    cut = {s.ordinal for s in before.splits if limit is not None and s.rows_read >= limit} if follows else set()
    left = [
        OpenRange((s.position or s.lower) if s.ordinal in cut else _reached_key(s), s.upper)
        for s in before.splits
        if (not s.done or s.ordinal in cut) and not s.tail
    ]
    tails = [OpenRange(_reached_key(s), None) for s in before.splits if s.tail]
    if not tails and follows:
        tails = [OpenRange(before.bound, None)]
    ranges = left + (tails if follows else [])
    # A limit, and what a template is rendered with, are those of the whole run.
    return _joined(ranges) if limit is not None or spec.source.limit or spec.source.template else ranges


def _joined(ranges: Sequence[OpenRange]) -> Sequence[OpenRange]:
    """Ranges of which one begins where the other ends, as one."""
    joined: list[OpenRange] = []
    for one in ranges:
        if joined and joined[-1].upper == one.lower and one.lower is not None:
            joined[-1] = OpenRange(joined[-1].lower, one.upper)
        else:
            joined.append(one)
    return joined


def limit_of(spec: Mapping[str, object], target: Mapping[str, object]) -> int | None:
    """How many rows a run of a generation reads at most."""
    return JobSpec.model_validate(limited(spec, target)).source.limit


def _reached_key(split: SplitState) -> Key | None:
    return split.scanned_to or split.position or split.lower


async def start_of(split: SplitState, source: Source) -> Key | None:
    """Behind which key a split reads on."""
    if split.position is not None and split.scanned_to is not None and split.position != split.scanned_to:
        return await source.later(split.position, split.scanned_to)
    return _reached_key(split)


def rows_left(split: SplitState, spec: JobSpec) -> int | None:
    """How many rows the split may still read; None: as many as there are."""
    limit = spec.source.limit
    return None if limit is None else max(0, limit - split.rows_read)
