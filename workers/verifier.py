"""A verification: every settled chunk of a generation, read once from the source and once from the sink.

One chunk at a time. What was found and how far it came are stored together after a chunk, so whoever goes on after a
kill begins with the next one. Nothing is written outside the control database; the source is read as a run reads it, by
short keyset pages of the key alone, under the job's rate.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent, Stopped
from service.domain.shape import held_as, name_of
from service.domain.spec import JobSpec
from service.domain.steps import Condition
from service.domain.verification import END_OF_SPLIT, Findings, VerifyProgress
from sinks.reading import Wanted
from workers.closing import put_down
from workers.comparing import Comparison
from workers.cuts import compared_with_now
from workers.easing import Easing
from workers.limits import pay
from workers.metrics import VERIFIED_ROWS, VERIFY_DIFFERENCES
from workers.owners import owner
from workers.retrying import Retry
from workers.signals import Point
from workers.verdicts import Judge, beyond

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.domain.control import Control
    from service.domain.steps import ChunkRecord, Step
    from service.domain.verification import Difference, SplitCounts, VerifyTask
    from sinks.base import Sink
    from workers.ports import Workplace
    from workers.sources.base import Source

KEEP_EVERY_SECONDS: Final = 1.0
PUT_DOWN_SECONDS: Final = 0.4
NO_KEY_NOTE: Final = (
    "the records do not hold the key's columns (source.columns leaves them out): rows are counted, not told apart"
)

NO_DELETED_NOTE: Final = (
    "sink.key does not hold the whole key of a row, so a tombstone does not tell which row is gone: rows are counted, "
    "not told apart"
)
LATE_NOTE: Final = (
    "rows that arrived late (options.late_window) are in chunks of their own, which are counted; where the chunks of "
    "their ranges were read before them, as many rows of the source that are not in these are no change"
)
ENVELOPE_NOTE: Final = "values with metadata are not compared: when a row was read is another time by now"
PARQUET_NOTE: Final = "values in Parquet are compared by the checksum of the whole file alone"

log = structlog.get_logger(__name__)


class VerifyWork:
    """The work of one leased verify step."""

    def __init__(self, step: Step, control: Control, workplace: Workplace, sink: Sink) -> None:
        """The sink stays the caller's to close."""
        self._step, self._control, self._place, self._sink = step, control, workplace, sink
        self._spec = JobSpec.model_validate(step.spec)
        self._retry = Retry(control)
        self._task: VerifyTask | None = None
        self._position = (-(2**31), 0)
        self._findings = Findings()
        self._chunks_done = self._rows_done = 0
        self._next_keep = 0.0
        self._easing: Easing | None = None

    async def run(self) -> None:
        """Returns when everything is compared. Raises Stopped when it was parked in between, LeaseLost, Permanent."""
        task = self._task = await self._place.store.verify_task(self._step.lease)
        self._position, self._findings = task.position, task.findings
        self._chunks_done, self._rows_done = task.chunks_done, task.rows_done
        await self._retry.run(self._pass)
        log.info(LogEvent.VERIFIED, chunks=self._chunks_done, **{k.value: n for k, n in self._findings.counts.items()})

    async def _pass(self) -> None:
        assert self._task is not None, "set by run"
        if (said := compared_with_now(self._step)) is not None:
            self._findings.note(said)
        await self._control.renew()  # and hear of the job's limits before the first page
        key = await self._key_columns()
        held = held_as(self._spec.source.columns, key)
        if not self._sink.upserts and not _tells_deleted_apart(self._spec, key):
            held = None
            self._findings.note(NO_DELETED_NOTE)
        elif held is None:
            self._findings.note(NO_KEY_NOTE)
        if held is None and self._sink.upserts:
            held = key
        values = self._task.checksums and held is not None
        if values and getattr(self._spec.format, "envelope", None) == "with_metadata":
            self._findings.note(ENVELOPE_NOTE)
            values = False
        if values and self._spec.format.kind == "parquet":
            self._findings.note(PARQUET_NOTE)
            values = False
        wanted = Wanted(held, values=values)
        reader = self._sink.reader(owner(self._step), wanted)
        if reader is None:
            raise Permanent("not_verifiable", f"sink {self._sink.kind} keeps nothing that could be compared")
        source = await self._source(
            _reading(self._step.spec, None if wanted.values else key, held), whole=wanted.values
        )
        self._easing = Easing(source, self._control)
        try:
            comparison = Comparison(reader, source, wanted, self._control, self._rate, newest=self._task.newest)
            await self._compare_all(comparison)
            with self._control.last_write():
                await self._place.store.verify_ended(self._step.lease, self._progress())
        finally:
            await put_down("reader", reader.close(), PUT_DOWN_SECONDS)
            await put_down("source", source.close(), PUT_DOWN_SECONDS)

    async def _compare_all(self, comparison: Comparison) -> None:
        assert self._task is not None, "set by run"
        store, lease = self._place.store, self._step.lease
        try:
            for split in self._task.splits:
                done, after = self._position
                if split.ordinal < done or (split.ordinal == done and after >= END_OF_SPLIT):
                    continue
                after = after if split.ordinal == done else 0
                late = await store.verify_late(lease, split.ordinal)
                async for chunk, dead in store.verify_chunks(lease, split.ordinal, after):
                    await self._compare(comparison, split, chunk, dead, late)
                await self._behind(comparison, split)
        except Stopped:
            await store.verify_progress(lease, self._progress())
            raise

    async def _compare(
        self, comparison: Comparison, split: SplitCounts, chunk: ChunkRecord, dead: int, late: int
    ) -> None:
        if chunk.late:
            self._findings.note(LATE_NOTE)
        if split.ordinal < 0 or chunk.late:
            seen = await comparison.counted(chunk)
        else:
            known = await self._place.store.verify_dead(self._step.lease, split.ordinal, chunk.sequence) if dead else ()
            seen = await comparison.chunk(chunk, frozenset(known), forgotten=max(0, dead - len(known)) + late)
        judge = Judge(split.ordinal, chunk, comparison.read_key, comparison.read_token)
        self._findings.compared(
            split, upto=chunk.last_key, chunks=1, recorded=chunk.rows, source=seen.source, sink=seen.sink, dead=dead
        )
        VERIFIED_ROWS.labels(sink=self._sink.kind).inc(chunk.rows)
        self._add(judge.judge(seen))
        self._chunks_done += 1
        self._rows_done += chunk.rows
        await self._reached(split.ordinal, chunk.sequence)

    async def _behind(self, comparison: Comparison, split: SplitCounts) -> None:
        """A split that was done had read everything up to its end: what is there now came later."""
        assert self._task is not None, "set by run"
        whole = self._task.run_id is None and self._spec.source.limit is None
        if whole and split.upper is not None and split.ordinal in self._task.ended:
            last = self._task.ended[split.ordinal] or split.lower
            keys, count = await comparison.count(last, split.upper)
            self._findings.compared(split, upto=split.upper, source=count)
            self._add(list(beyond(split.ordinal, keys, count)))
        await self._reached(split.ordinal, END_OF_SPLIT)

    def _add(self, differences: list[Difference]) -> None:
        self._findings.add(differences)
        for one in differences:
            VERIFY_DIFFERENCES.labels(kind=one.kind.value).inc(one.count)

    async def _reached(self, ordinal: int, sequence: int) -> None:
        """Found and position go together; stored now and then, since a chunk may be small."""
        self._position = (ordinal, sequence)
        self._retry.progressed()
        await self._retry.recovered()
        if (now := time.monotonic()) >= self._next_keep:
            self._next_keep = now + KEEP_EVERY_SECONDS
            await self._place.store.verify_progress(self._step.lease, self._progress())
        await self._place.signals.reached(Point.COMPARED, self._step.lease)
        if self._control.stopping:
            raise Stopped

    def _progress(self) -> VerifyProgress:
        return VerifyProgress(self._position, self._chunks_done, self._rows_done, self._findings)

    async def _rate(self, rows: int, size: int) -> None:
        """As a run of the job: its limits are those of its source, and it gives way as one."""
        if self._easing is not None:
            await self._easing.wait()
        await pay(self._place.rate(self._step.lease.job_id), self._control, rows, size)

    async def _key_columns(self) -> tuple[str, ...]:
        source = await self._source(_reading(self._step.spec, None))
        try:
            inspection = await source.inspect()
        finally:
            await put_down("source", source.close(), PUT_DOWN_SECONDS)
        for finding in inspection.findings:
            if finding.severity == "error":
                raise Permanent(finding.code, finding.message, hint=finding.hint)
        return tuple(column.name for column in inspection.key)

    async def _source(self, spec: Mapping[str, object], *, whole: bool = False) -> Source:
        return await self._place.sources.source(
            self._step.account,
            spec,
            self._step.target if whole else None,
            name=self._place.title(self._step),
            secrets=self._step.secrets,
            waiting=lambda waiting: self._control.report_soon(
                Condition(waiting_for="connections" if waiting else None)
            ),
        )


def _tells_deleted_apart(spec: JobSpec, key: tuple[str, ...]) -> bool:
    """Whether a tombstone's message key says which row is gone."""
    if spec.source.soft_delete is None:
        return True
    held = held_as(spec.source.columns, key)
    return held is not None and set(held) <= set(getattr(spec.sink, "key", None) or ())


def _reading(
    spec: Mapping[str, object], key: tuple[str, ...] | None, held: tuple[str, ...] | None = None
) -> Mapping[str, object]:
    """The definition as a verification reads its source: the same rows, in the sink's format, bare, the key's columns
    alone where it is given (under the names `held`, where they have others); without the checks of modes that move on,
    and without Kafka's message key, but where it tells which row is gone."""
    source, sink = spec["source"], spec["sink"]
    assert isinstance(source, dict), "a stored definition"
    assert isinstance(sink, dict), "a stored definition"
    form = {**(spec.get("format") or {}), "envelope": None}  # type: ignore[dict-item]  # an object, as the others
    wanted = {"routing"} | ({"key"} if source.get("soft_delete") else set())
    routing = {"kind": sink["kind"]} | {name: sink[name] for name in wanted if sink.get(name)}
    if key is not None:
        entries = [{"column": name, "as": shown} for name, shown in zip(key, held or key, strict=True)]
        asked = {*(routing.get("key") or ()), routing.get("routing")} - {entry["as"] for entry in entries}
        shaped = [one for one in source.get("columns", ()) if isinstance(one, dict) and name_of(one) in asked]
        source = {**source, "columns": [*entries, *shaped]}
    options = {**(spec.get("options") or {}), "late_window": None}  # type: ignore[dict-item]  # an object too
    return {**spec, "mode": "once", "options": options, "source": source, "sink": routing, "format": form}
