"""The first step of a generation: close what came before it, find its bounds, cut it into splits."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent, RowferryError
from service.domain.spec import JobSpec
from service.domain.steps import Condition, OpenRange
from sinks.base import SinkError, TargetGone
from sinks.formats import columns
from sinks.registry import COLUMNS, TAKES_FORMATS
from workers.beforehand import getting_ready
from workers.changes import SEEN, TABLES, known_tables, seen
from workers.chunks import settlement, to_prepared, to_record
from workers.cuts import Keeper, warn_of_another_moment
from workers.days import list_days
from workers.delivery import position_conflict, position_unknown, stage_again
from workers.facts import FACTS, facts_of, seen_facts
from workers.guarantees import guaranteed
from workers.owners import owner
from workers.ranges import limit_of, ranges_of
from workers.recovery import Action, decide
from workers.reopening import reopened
from workers.retrying import Retry
from workers.shown import described, shown
from workers.signals import Point
from workers.splitting import auto_splits
from workers.template_plan import reading
from workers.window_plan import planned, read_by_one, window_left, with_tail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from service.domain.control import Control
    from service.domain.steps import ChunkRecord, GenerationState, Lease, SplitState, Step
    from sinks.base import Sink, Writer
    from workers.ports import Workplace
    from workers.sources.base import Horizon, KnownTables, Size, Source

HORIZON_REPORT_SECONDS = 1.0
LONGEST_FENCING_SECONDS = 60.0
"""How long a target that is no longer the job's is tried; an orphan transaction ends by itself within this time."""

log = structlog.get_logger(__name__)


class PlanWork:
    """The work of one leased plan step. Repeatable: every part finds out what was done before."""

    def __init__(self, step: Step, control: Control, workplace: Workplace, sink: Sink, source: Source) -> None:
        """Sink and source stay the caller's to close."""
        self._step, self._control, self._place, self._sink, self._source = step, control, workplace, sink, source
        self._spec = JobSpec.model_validate(step.spec)
        self._lease = step.lease
        self._retry = Retry(control)
        self._next_report = 0.0
        self._inherited: int | None = None
        self._keeper = Keeper(step, control, workplace)

    async def run(self) -> None:
        """Returns when the plan is saved, or, where it is read as of one moment, when nobody reads any more. Raises
        Stopped, LeaseLost, Permanent."""
        # else what is read is not known yet
        known = self._spec.source.template is None and not self._spec.options.snapshot
        try:
            async with getting_ready(self._source) if known else nullcontext():
                await self._retry.run(self._plan)
            await self._keeper.keep()
        finally:
            await self._keeper.close()

    async def _plan(self) -> None:
        store, lease = self._place.store, self._lease
        generation = await store.generation(lease, lease.generation)
        if generation.planned:
            await self._keeper.take_up(generation)
            return
        by_itself = generation.begins in {"beginning", "given"}
        history = [
            before if before.closed else await self._close(before, by_itself=by_itself)
            for before in await self._predecessors(lease)
        ]
        target = dict(await self._prepare_target(None if by_itself or not history else history[0]))
        ranges = ranges_of([*history, generation], self._spec)
        self._inherited = window_left([*history, generation], self._spec)
        ranges = ranges if self._inherited is None else read_by_one(ranges)
        await self._keeper.take(target)
        async with reading(self._place, self._step, self._source, target, ranges, history) as source:
            target[SEEN] = await seen(self._step.spec, source)
            if self._spec.sink.kind in TAKES_FORMATS:
                # Whatever the format is now: a definition that is replaced meanwhile may name another.
                target[COLUMNS] = columns.to_json(await source.columns())
            await self._retry.recovered()
            tables = known_tables(self._step, self._place, None if by_itself or not history else history[0].target)
            await self._bound(source, ranges, target, tables)
        await self._reached(Point.PLANNED)

    async def _prepare_target(self, before: GenerationState | None) -> Mapping[str, object]:
        """A generation that takes up where the one `before` ended goes into the very same target, or says that it is
        gone: the rows that were delivered are not there any more, and nobody said that they may be missing."""
        step = self._step
        if before is None or not before.planned or not _same_sink(before, step):
            return await self._sink.prepare_target()
        sink = await self._place.sinks.sink(
            step.account,
            step.spec,
            step.secrets,
            before.target,
            job_id=self._lease.job_id,
            generation=self._lease.generation,
        )
        try:
            return await sink.prepare_target()
        finally:
            await sink.close()

    async def _promise(self, target: Mapping[str, object]) -> tuple[str, str]:
        """What the job delivers into this very target, which may be less than its kind can do."""
        step = self._step
        sink = await self._place.sinks.sink(step.account, step.spec, step.secrets, target)
        try:
            return guaranteed(step.spec, sink.promise(), facts_of(target.get(FACTS)))
        finally:
            await sink.close()

    async def _predecessors(self, lease: Lease) -> Sequence[GenerationState]:
        """Back to the last one that was planned, oldest first: that one has closed all before it."""
        found: list[GenerationState] = []
        for number in range(lease.generation - 1, 0, -1):
            found.append(await self._place.store.generation(lease, number))
            if found[-1].planned:
                break
        return found[::-1]

    # -- closing the generation before ---------------------------------------------------------------------------

    async def _close(self, old: GenerationState, *, by_itself: bool) -> GenerationState:
        """Fence every split that was ever opened, and settle or drop what it had prepared.
        `by_itself`: the successor begins where it was told to, so the target of the old one may be gone. Answers the
        generation as it is then."""
        same_target = _same_sink(old, self._step)
        fenced = True
        sink, source = await reopened(self._place, self._step, old)
        try:
            async with asyncio.timeout(None if same_target else LONGEST_FENCING_SECONDS):
                try:
                    for split in old.splits:
                        if old.epochs.get(split.ordinal, 0) > 0:
                            await self._fence(sink, source, old, split, by_itself=by_itself)
                except TargetGone as error:
                    if not by_itself:
                        raise
                    log.warning(LogEvent.OLD_TARGET_GONE, generation=old.number, cause=str(error))
                    await self._give_up(sink, old)
                if old.spec.get("mode") == "continuous":
                    await self._list_rest(sink, old.number)
        except (TimeoutError, SinkError, RowferryError) as error:
            if same_target or not isinstance(error, TimeoutError | SinkError):
                raise
            fenced = False
            log.warning(LogEvent.OLD_GENERATION_NOT_FENCED, generation=old.number, cause=str(error))
        finally:
            await sink.close()
            await source.close()
        await self._place.store.close_generation(self._lease, old.number, fenced=fenced)
        await self._reached(Point.CLOSED)
        return await self._place.store.generation(self._lease, old.number)

    async def _list_rest(self, sink: Sink, number: int) -> None:
        """The last days of a continuous generation that nobody works on any more."""
        try:
            await list_days(self._step, self._place, sink, number, today=True)
        except SinkError as error:
            log.warning(LogEvent.DAY_NOT_LISTED, code=error.code, cause=str(error))

    async def _fence(
        self, sink: Sink, source: Source, old: GenerationState, split: SplitState, *, by_itself: bool
    ) -> None:
        store, lease = self._place.store, self._lease
        epoch = await store.fence_epoch(lease, old.number, split.ordinal)
        writer = sink.writer(owner(self._step, generation=old.number, split=split.ordinal, epoch=epoch))
        try:
            await writer.open()
            await self._control.renew()
            if not split.prepared:
                return
            mark = await writer.visible([to_prepared(c) for c in split.prepared])
            decision = decide(
                sink.shows,
                mark,
                generation=old.number,
                epoch=epoch,
                settled=split.sequence,
                prepared=split.prepared,
            )
            match decision.action:
                case Action.SETTLE if decision.chunk is not None:
                    receipt = sink.receipt(to_prepared(decision.chunk))
                    await store.settle_closed(lease, old.number, split.ordinal, settlement(decision.chunk, receipt))
                case Action.DROP | Action.SEND_AGAIN:
                    await store.drop_closed(lease, old.number, split.ordinal)
                case Action.REPEAT if decision.chunk is not None:
                    warn_of_another_moment(old)
                    attempt = 1 + max((c.attempt for c in split.prepared if c.epoch == epoch), default=0)
                    try:
                        await self._repeat(writer, source, (old.number, split), decision.chunk, attempt)
                    except Permanent as error:
                        if not by_itself:
                            raise
                        # Nobody sees it, nobody can write it any more, and the successor begins where it was told to.
                        log.warning(LogEvent.NOT_REPEATABLE, generation=old.number, cause=str(error))
                        await store.drop_closed(lease, old.number, split.ordinal)
                case Action.UNKNOWN:
                    raise position_unknown(split)
                case _:
                    raise position_conflict(split.ordinal, mark)
        finally:
            await writer.discard()
            await writer.close()

    async def _repeat(
        self, writer: Writer, source: Source, of: tuple[int, SplitState], chunk: ChunkRecord, attempt: int
    ) -> None:
        """Make a chunk of an old generation's split visible as it was cut. Raises Permanent where the source does not
        give its rows any more."""
        reader, place = source.reader(), (of[0], of[1].ordinal)
        try:
            load = await stage_again(writer, reader, chunk, of[1], attempt)
        finally:
            await reader.close()
        prepared = await writer.prepare(load.cut)
        record = replace(to_record(prepared, chunk.run_id), late=load.late, seen=tuple(load.seen))
        await self._place.store.prepare_closed(self._lease, *place, record, load.dead)
        receipt = await writer.make_visible(prepared)
        await self._place.store.settle_closed(self._lease, *place, settlement(record, receipt))

    async def _give_up(self, sink: Sink, old: GenerationState) -> None:
        """Whether a prepared chunk became visible is moot without its target; only its owner must not come back."""
        for split in old.splits:
            if old.epochs.get(split.ordinal, 0) > 0:
                epoch = await self._place.store.fence_epoch(self._lease, old.number, split.ordinal)
                await sink.clean_up([owner(self._step, generation=old.number, split=split.ordinal, epoch=epoch)])
                if split.prepared:
                    await self._place.store.drop_closed(self._lease, old.number, split.ordinal)

    # -- bounds and splits ---------------------------------------------------------------------------------------

    async def _bound(
        self, source: Source, ranges: Sequence[OpenRange], target: dict[str, object], tables: KnownTables
    ) -> None:
        splits: list[OpenRange] = []
        end, rows = None, 0
        limit, window = limit_of(self._step.spec, target), self._spec.options.late_window
        for given in ranges:
            plan = await planned(
                source, given, self._wanted(given, limit), self._show_horizon, window, self._inherited, tables=tables
            )
            splits.extend(OpenRange(s.lower, s.upper) for s in plan.splits)
            end = given.upper or plan.bound or given.lower
            rows += plan.estimated_rows or 0
        if tables.oids is not None:
            target[TABLES] = sorted(tables.oids)
        tail = self._spec.mode == "continuous"
        if tail:
            splits = with_tail(splits, end, joined=window is not None and ranges[-1].upper is None)
        await self._reached(Point.BOUNDED)
        target[FACTS] = await seen_facts(source)
        promise = await self._promise(target)
        holds = self._keeper.holds(splits)
        with nullcontext() if holds else self._control.last_write():
            await self._place.store.save_plan(
                self._lease,
                splits,
                bound=end,
                tail=tail,
                estimated_rows=rows or None,
                target=target,
                promise=promise,
                window=window is not None,
                window_of=self._inherited,
                holds=holds,
            )
        log.info(LogEvent.PLANNED, splits=len(splits), bound=shown(end), estimated_rows=rows)

    def _wanted(self, given: OpenRange, limit: int | None) -> int | Callable[[Size], int]:
        if limit or given.upper is not None:
            return 1
        splits = self._spec.options.splits
        return splits if isinstance(splits, int) else partial(auto_splits, self._spec)

    def _show_horizon(self, horizon: Horizon | None) -> None:
        """Told often by the source while it waits; shown once a second."""
        now = time.monotonic()
        if horizon is not None and now < self._next_report:
            return
        self._next_report = now + HORIZON_REPORT_SECONDS
        condition = Condition()
        if horizon is not None:
            condition = Condition(waiting_for="horizon", horizon=described(horizon), progressed=True)
        self._control.report_soon(condition)

    async def _reached(self, point: Point) -> None:
        await self._place.signals.reached(point, self._lease)


def _same_sink(generation: GenerationState, step: Step) -> bool:
    return dict(generation.spec).get("sink") == dict(step.spec).get("sink")
