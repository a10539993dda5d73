"""Where a generation's window begins, and what it takes over from the generation before (`options.late_window`).

The last split of a generation looks back. Of a generation from the beginning it reads the rows of the window alone, up
to the bound, and the tail what follows; what lies before is cut into splits as always, which remember nothing. One that
goes on where another ended takes over what that remembers, and reads by itself what has come since: nobody else may
move the window on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.steps import OpenRange
from workers.sources.base import Plan, SplitRange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.domain.records import Key
    from service.domain.spec import JobSpec
    from service.domain.steps import GenerationState
    from workers.sources.base import Horizon, KnownTables, Size, Source


def window_left(history: Sequence[GenerationState], spec: JobSpec) -> int | None:
    """The generation whose memory the last of `history` goes on with: the last that was planned, where this one begins
    at its position and reads the same rows. None: it begins with an empty one."""
    *before, generation = history
    if spec.options.late_window is None or not before or not before[0].planned:
        return None
    if any(one.begins != "keep" for one in (*before[1:], generation)):
        return None
    if not any(split.window is not None for split in before[0].splits):
        return None
    same = dict(before[0].spec).get("source") == dict(generation.spec).get("source")
    return before[0].number if same else None


def read_by_one(ranges: Sequence[OpenRange]) -> Sequence[OpenRange]:
    """What is left of the split that looked back, and what follows it, as one range."""
    if len(ranges) > 1 and ranges[-2].upper == ranges[-1].lower:
        return [*ranges[:-2], OpenRange(ranges[-2].lower, ranges[-1].upper)]
    return ranges


async def planned(
    source: Source,
    given: OpenRange,
    splits: int | Callable[[Size], int],
    waiting: Callable[[Horizon | None], None],
    rows: int | None,
    inherited: int | None,
    *,
    tables: KnownTables | None = None,
) -> Plan:
    """As `Source.plan`; of a range without end, where `options.late_window` is `rows`, with a last range of so many
    rows below the bound: one range where a memory is inherited, an empty one where nothing has come since."""
    if rows is None or given.upper is not None:
        return await source.plan(given.lower, splits, waiting=waiting, given_upper=given.upper, tables=tables)
    plan = await source.plan(given.lower, 1, waiting=waiting, tables=tables)
    if inherited is not None:
        end = plan.bound or given.lower
        return Plan(end, () if end is None else (SplitRange(given.lower, end),), plan.estimated_rows)
    floor = None if plan.bound is None else await source.back(given.lower, plan.bound, rows)
    if floor is None:
        return plan
    before = await source.plan(given.lower, splits, waiting=waiting, given_upper=floor)
    return Plan(plan.bound, (*before.splits, SplitRange(floor, plan.bound)), plan.estimated_rows)


def with_tail(splits: Sequence[OpenRange], end: Key | None, *, joined: bool) -> list[OpenRange]:
    """The splits and what follows `end`; `joined`: as one with the last of them, which begins where its window does."""
    if joined and splits and splits[-1].upper == end:
        return [*splits[:-1], OpenRange(splits[-1].lower, None)]
    return [*splits, OpenRange(end, None)]
