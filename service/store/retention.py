"""Forgets what its time is over for: runs, chunk records, log lines, events, stored answers.

By the database's clock, in small batches, safe to run in every process at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.store.part import Part
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Mapping

SQL = load("retention")

_DAY_SECONDS = 86_400.0
_BATCH = 2_000
# A batch is short; a backlog of years is worked off over several calls instead of in one that never ends.
_MOST_BATCHES = 500


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days things are kept; settings `ROWFERRY_JOB_LOG_RETENTION_DAYS`, `_LOG_…`, `_EVENT_…`."""

    job_log_days: float = 90.0
    """Runs, and the chunk records of finished generations."""
    log_days: float = 30.0
    event_days: float = 90.0


class Forgetting(Part):
    """The part of the store that deletes by age."""

    async def purge(self, retention: Retention, *, batch: int = _BATCH) -> Mapping[str, int]:
        """Delete what is older than its retention; how many of each went. Runs that have not ended, chunk
        records of generations that are neither finished nor closed, and prepared ones stay whatever their age."""
        kept = {
            "runs": retention.job_log_days,
            "verifications": retention.job_log_days,
            "settled_chunks": retention.job_log_days,
            "dropped_chunks": retention.job_log_days,
            "log": retention.log_days,
            "events": retention.event_days,
            "idempotency": 1.0,
        }
        return {table: await self._delete(table, days * _DAY_SECONDS, batch) for table, days in kept.items()}

    async def _delete(self, table: str, seconds: float, batch: int) -> int:
        deleted = 0
        for _ in range(_MOST_BATCHES):
            async with self._pool.connection() as connection:
                count = int((await connection.execute(SQL[table], seconds, batch)).rpartition(" ")[2])
            deleted += count
            if count < batch:
                break
        return deleted
