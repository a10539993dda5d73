"""Reads the job log: a run, outputs, and the key ranges that are durable in the sink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.domain.steps import OpenRange
from service.store import pages
from service.store.clauses import compose
from service.store.part import Part
from service.store.rows import is_id, key_of, output_of, run_of
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from service.domain.history import Output
    from service.domain.records import Run
    from service.store.pool import Row

SQL = load("runs")

_AS_SETTLED = "settled_at"


class Runs(Part):
    """The part of `JobStore` that answers what was done."""

    async def run(self, account: str, run_id: str) -> Run | None:
        """As `JobStore.run`."""
        if not is_id(run_id):
            return None
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(SQL["select_run"], account, run_id)
        return None if row is None else run_of(row)

    async def outputs(
        self, account: str, job_id: str, *, limit: int, after: str | None
    ) -> tuple[Sequence[Output], str | None]:
        """As `JobStore.outputs`; nothing for an unknown or removed job. Raises ValueError for a wrong `after`."""
        if not is_id(job_id):
            return [], None
        values: dict[str, Any] = {"account": account, "job_id": job_id, "limit": limit + 1}
        tags: frozenset[str] = frozenset()
        if after is not None:
            tags = frozenset({"after"})
            readers = (pages.moment, pages.whole, pages.whole, pages.big)
            names = ("after_at", "after_part", "after_split", "after_seq")
            values.update(zip(names, pages.decode(after, _AS_SETTLED, *readers), strict=True))
        query, arguments = compose(SQL["select_outputs"], tags, values)
        async with self._pool.connection() as connection:
            rows = await connection.fetch(query, *arguments)
        token = None
        if len(rows) > limit:
            last = rows[limit - 1]
            token = pages.encode(_AS_SETTLED, last["settled_at"], last["generation"], last["ordinal"], last["sequence"])
        return [output_of(row) for row in rows[:limit]], token

    async def output_targets(self, account: str, job_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """As `JobStore.output_targets`."""
        found: dict[str, list[str]] = {job_id: [] for job_id in job_ids}
        async with self._pool.connection() as connection:
            for row in await connection.fetch(SQL["output_targets"], account, list(job_ids)) if job_ids else ():
                found[row["job_id"]].append(row["target"])
        return found

    async def delivered_ranges(self, account: str, job_id: str) -> Sequence[OpenRange]:
        """As `JobStore.delivered_ranges`: also of the generations that the current one goes on from, back to the last
        that began at the beginning. Ranges that touch are one."""
        if not is_id(job_id):
            return []
        async with self._pool.connection() as connection:
            rows = await connection.fetch(SQL["delivered_splits"], account, job_id)
        return _joined(_delivered(rows))


def _delivered(rows: Iterable[Row]) -> Iterable[OpenRange]:
    for row in rows:
        lower, upper, position = key_of(row["lower"]), key_of(row["upper"]), key_of(row["position"])
        if row["done"]:
            # Without an upper bound it was done where the time range or the limit ended it.
            reached = upper if upper is not None else key_of(row["scanned_to"]) or position
            if reached is not None:
                yield OpenRange(lower, reached)
        elif position is not None:
            yield OpenRange(lower, position)


def _joined(ranges: Iterable[OpenRange]) -> list[OpenRange]:
    """Only equality of keys is asked for: their order is Postgres's business."""
    found: list[OpenRange] = []
    for each in ranges:
        if found and each.lower is not None and found[-1].upper == each.lower:
            found[-1] = OpenRange(found[-1].lower, each.upper)
        else:
            found.append(each)
    return found
