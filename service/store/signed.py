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

    from service.domain.named import SigningKey
    from service.domain.records import Job
    from service.store.pool import Connection

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
        mark, account, job = found
        kept = self._kept_keys.get(key, mark)
        if kept is None:
            # Not where the marks are read: a secret that can not be opened is nothing to others who ask with it.
            row = await self._row_by_key.get(key)
            if row is None or row["account"] != account:  # it changed between the two reads
                return None
            kept = self._key_of(row, secret=self._opened(row["secret"]))
            self._kept_keys.keep(key, row["mark"], kept, weight(kept))
        return kept, job

    @cached_property
    def _by_key_and_id(self) -> Gathered[tuple[str, str], tuple[str, str, Job], Connection]:
        return Gathered(self._pool.connection, self._read_signed)

    @cached_property
    def _kept_keys(self) -> KeptRecords[SigningKey]:
        return KeptRecords(_KEPT_BYTES)

    async def _read_signed(
        self, connection: Connection, asked: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[str, str, Job]]:
        """Mark and account of the key, and the job: whole only if it has changed since it was read last."""
        keys, ids = [key for key, _ in asked], [job_id for _, job_id in asked]
        query, arguments = compose(_SIGNED, frozenset(), {"keys": keys, "ids": ids})
        found: dict[tuple[str, str], tuple[str, str, Job]] = {}
        changed: dict[str, dict[str, list[tuple[str, str]]]] = {}
        for key, mark, account, job_id, job_mark in await connection.fetch(query, *arguments):
            job = self._kept.get(job_id, job_mark)
            if job is None:
                changed.setdefault(account, {}).setdefault(job_id, []).append((key, mark))
            else:
                found[key, job_id] = (mark, account, job)
        for account, jobs in changed.items():
            for job in await self._read_whole(connection, account, list(jobs)):
                found |= {(key, job.id): (mark, account, job) for key, mark in jobs[job.id]}
        return found
