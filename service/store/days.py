"""Which days of a continuous generation are over, what became visible on them, and which are listed in a manifest.

A day is one of UTC, and a chunk belongs to the day of its settle, both by the database's clock. Every look is made
under the lock of the job's row, which every settle takes: when a day is over, nothing of it is still on its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.steps import StepKind
from service.store.chunks import chunk_record
from service.store.held import Held
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import date

    from service.domain.steps import ChunkRecord, Lease

SQL = load("days")

_PAGE = 500


class Days(Held):
    """The part of `StepStore` that lets continuous generations be listed day by day."""

    async def day_to_list(self, lease: Lease, number: int, *, today: bool = False) -> date | None:
        """As `StepStore.day_to_list`."""
        async with self._held(lease) as (connection, _):
            mine = (lease.job_id, number)
            if lease.kind is StepKind.SPLIT and not await connection.fetchval(SQL["is_first"], *mine, lease.ordinal):
                return None
            day: date | None = await connection.fetchval(SQL["day_to_list"], *mine, today)
            return day

    async def chunks_of_day(self, lease: Lease, number: int, day: date) -> AsyncIterator[ChunkRecord]:
        """As `StepStore.chunks_of_day`; the lease is checked with each page, and no lock is held between them."""
        after = (None, 0, 0)
        while True:
            async with self._held(lease) as (connection, _):
                rows = await connection.fetch(SQL["day_page"], lease.job_id, number, day, *after, _PAGE)
            for row in rows:
                yield chunk_record(row)
            if len(rows) < _PAGE:
                return
            after = (rows[-1]["settled_at"], rows[-1]["ordinal"], rows[-1]["sequence"])

    async def day_listed(self, lease: Lease, number: int, day: date) -> None:
        """As `StepStore.day_listed`."""
        async with self._held(lease) as (connection, _):
            await connection.execute(SQL["day_listed"], lease.job_id, number, day)
