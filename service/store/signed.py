"""A job and the key that a request for it is signed with, read in one go: a signed status costs one trip."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from service.store.clauses import compose, inlined
from service.store.gathered import Gathered
from service.store.jobs import Jobs
from service.store.kept_records import KeptRecords, weight
from service.store.part import SQL as JOBS_SQL
from service.store.published import Published
from service.store.registry import SQL
from service.store.rows import is_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.records import Job, SigningKey
    from service.store.pool import Connection, Row

_KEPT_BYTES: Final = 1024 * 1024
"""Of keys as they were read last: some hundreds."""
_JOB: Final = inlined(
    JOBS_SQL["select_jobs"], frozenset({"mark", "present", "id"}), {"account": "a.name", "id": "asked.id"}
)
_SIGNED: Final = SQL["select_signed"].replace(":job", _JOB)


class Signed(Jobs, Published):
    """The part of `Registry` that looks up key and job together."""

    async def signed(self, key: str, job_id: str) -> tuple[SigningKey, Job] | None:
        """As `Registry.signed`. Raises Permanent `secret_key_wrong` or `secret_key_required`."""
        found = await self._by_key_and_id.get((key, job_id.lower())) if is_id(job_id) else None
        if found is None:
            return None
        row, job = found
        kept = self._kept_keys.get(key, row["mark"])
        if kept is None:
            # Not where it is read: a secret that can not be opened is nothing to others who ask at the same time.
            kept = self._key_of(row, secret=self._opened(row["secret"]))
            self._kept_keys.keep(key, row["mark"], kept, weight(kept))
        return kept, job

    @cached_property
    def _by_key_and_id(self) -> Gathered[tuple[str, str], tuple[Row, Job], Connection]:
        return Gathered(self._pool.connection, self._read_signed)

    @cached_property
    def _kept_keys(self) -> KeptRecords[SigningKey]:
        return KeptRecords(_KEPT_BYTES)

    async def _read_signed(
        self, connection: Connection, asked: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[Row, Job]]:
        """Whole only those jobs that have changed since they were read last."""
        keys, ids = [key for key, _ in asked], [job_id for _, job_id in asked]
        query, arguments = compose(_SIGNED, frozenset(), {"keys": keys, "ids": ids})
        rows = await connection.fetch(query, *arguments)
        jobs: dict[str, Job] = {}
        changed: dict[str, list[str]] = {}
        for row in rows:
            job = self._kept.get(row["job_id"], row["job_mark"])
            if job is None:
                changed.setdefault(row["account"], []).append(row["job_id"])
            else:
                jobs[row["job_id"]] = job
        for account, ids in changed.items():
            jobs |= {job.id: job for job in await self._read_whole(connection, account, ids)}
        # What is not among them was removed between the two reads.
        return {(row["key"], row["job_id"]): (row, jobs[row["job_id"]]) for row in rows if row["job_id"] in jobs}
