"""Verifications: asked for over HTTP, worked on by a leased step that is no part of any run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Conflict, LeaseLost, NotFound
from service.domain.states import LIVE, State
from service.domain.steps import Condition, StepKind
from service.domain.verification import (
    END_OF_SPLIT,
    Findings,
    SplitCounts,
    Verification,
    VerifyState,
    VerifyTask,
)
from service.store.chunks import chunk_record
from service.store.held import Held, by_holder, end_step, key_out
from service.store.ids import uuid7
from service.store.part import Part, locked
from service.store.rows import causes_of, is_id
from service.store.sql import load
from service.store.transitions import abort_verification, causes_to_json, record_event
from service.store.verbs import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from service.domain.errors import Cause
    from service.domain.records import Actor, Key
    from service.domain.steps import ChunkRecord, Lease
    from service.domain.verification import VerifyProgress
    from service.store.pool import Connection, Row

SQL = load("verifications")

_PAGE = 200


class VerifySteps(Held):
    """Implements `service.domain.verification.VerifySteps`."""

    async def verify_task(self, lease: Lease) -> VerifyTask:
        """As the protocol says."""
        place = (lease.job_id, lease.generation)
        async with self._held(lease, StepKind.VERIFY) as (connection, _):
            row = await connection.fetchrow(SQL["task"], *place)
            if row is None:
                raise LeaseLost
            splits = await connection.fetch(SQL["splits"], *place, row["created_at"])
        return VerifyTask(
            id=row["id"],
            run_id=row["run_id"],
            checksums=row["checksums"],
            newest=row["newest"],
            splits=[SplitCounts(s["ordinal"], key_out(s["lower"]), key_out(s["upper"])) for s in splits],
            ended={s["ordinal"]: key_out(s["last_key"]) for s in splits if s["done"]},
            position=(row["ordinal"], row["sequence"]),
            chunks_done=row["chunks_done"],
            rows_done=row["rows_done"],
            findings=Findings.from_json(row["findings"]),
        )

    async def verify_chunks(self, lease: Lease, ordinal: int, after: int) -> AsyncIterator[tuple[ChunkRecord, int]]:
        """As the protocol says; the lease is checked with each page, and no lock is held between them."""
        while after < END_OF_SPLIT:
            async with self._held(lease, StepKind.VERIFY) as (connection, _):
                rows = await connection.fetch(SQL["chunks"], lease.job_id, lease.generation, ordinal, after, _PAGE)
            for row in rows:
                yield chunk_record(row), row["rows_dead"]
            if len(rows) < _PAGE:
                return
            after = rows[-1]["sequence"]

    async def verify_dead(self, lease: Lease, ordinal: int, sequence: int) -> frozenset[Key]:
        """As the protocol says."""
        place = (lease.job_id, lease.generation, ordinal, sequence)
        async with self._held(lease, StepKind.VERIFY) as (connection, _):
            rows = await connection.fetch(SQL["dead_keys"], *place)
        return frozenset(tuple(row["key"]) for row in rows)

    async def verify_late(self, lease: Lease, ordinal: int) -> int:
        """As the protocol says."""
        async with self._held(lease, StepKind.VERIFY) as (connection, _):
            rows: int = await connection.fetchval(SQL["late_rows"], lease.job_id, lease.generation, ordinal)
            return rows

    async def verify_progress(self, lease: Lease, progress: VerifyProgress) -> None:
        """As the protocol says."""
        async with self._held(lease, StepKind.VERIFY) as (connection, _):
            await _keep(connection, lease, progress)

    async def verify_ended(self, lease: Lease, progress: VerifyProgress) -> None:
        """As the protocol says."""
        async with self._held(lease, StepKind.VERIFY) as (connection, job):
            await _keep(connection, lease, progress)
            await end_verification(connection, job, lease, VerifyState.SUCCESSFUL)

    async def verify_failed(self, lease: Lease, errors: Sequence[Cause]) -> None:
        """As the protocol says."""
        async with self._held(lease, StepKind.VERIFY) as (connection, job):
            await end_verification(connection, job, lease, VerifyState.ERROR, errors)


async def end_verification(
    connection: Connection, job: Row, lease: Lease, state: VerifyState, errors: Sequence[Cause] = ()
) -> None:
    """By the holder of its step, whose job's row is locked."""
    ended = await connection.fetchrow(SQL["end"], lease.job_id, lease.generation, state.value, causes_to_json(errors))
    await end_step(connection, lease)
    if ended is not None:
        counts = ended["findings"].get("counts", {})
        details = {"id": ended["id"], "state": ended["state"], "counts": counts}
        await record_event(connection, job, "verification_ended", by_holder(lease), details=details)


async def _keep(connection: Connection, lease: Lease, progress: VerifyProgress) -> None:
    await connection.execute(
        SQL["progress"],
        lease.job_id,
        lease.generation,
        *progress.position,
        progress.chunks_done,
        progress.rows_done,
        progress.findings.as_json(),
    )


class Verifications(Part):
    """Implements `service.domain.verification.Verifications`."""

    async def verify(
        self, account: str, actor: Actor, job_id: str, *, run_id: str | None, checksums: bool
    ) -> Verification:
        """As the protocol says."""
        made = uuid7()
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            generation = await _generation(connection, job, run_id)
            if State(job["state"]) in LIVE and generation == job["generation"]:
                raise running(job, "verifying what it still delivers")
            if (other := await connection.fetchval(SQL["open"], job_id)) is not None:
                raise Conflict(
                    "verification_running",
                    f"job {job['name']!r} is being verified already",
                    hint="wait for it, or abort it",
                    id=other,
                )
            facts = await connection.fetchrow(SQL["settled"], job_id, generation, run_id)
            assert facts is not None, "an aggregate has a row"
            _refuse(job, facts, generation)
            names = (job["account_id"], job_id, job["name"], generation, run_id, checksums)
            await connection.execute(SQL["insert"], made, *names, facts["chunks"], facts["rows"])
            await connection.execute(SQL["ready_step"], job_id, generation)
            details = {"id": made, "generation": generation, "run_id": run_id, "checksums": checksums}
            await record_event(connection, job, "verification_asked", actor, details=details)
            await connection.execute(SQL["wake"], job_id)
            row = await connection.fetchrow(SQL["select"], account, job_id, made)
            assert row is not None, "it was written a moment ago"
            return _verification(row)

    async def verification(self, account: str, job_id: str, verification_id: str) -> Verification | None:
        """As the protocol says."""
        if not is_id(job_id) or not is_id(verification_id):
            return None
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(SQL["select"], account, job_id, verification_id)
        return None if row is None else _verification(row)

    async def abort_verification(
        self, account: str, actor: Actor, job_id: str, verification_id: str
    ) -> tuple[Verification, bool]:
        """As the protocol says."""
        if not is_id(verification_id):
            raise NotFound("verification", verification_id)
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            row = await connection.fetchrow(SQL["select"], account, job_id, verification_id)
            if row is None:
                raise NotFound("verification", verification_id)
            if row["ended_at"] is not None:
                return _verification(row), False
            await abort_verification(connection, job, actor)
            row = await connection.fetchrow(SQL["select"], account, job_id, verification_id)
            assert row is not None, "it was read a moment ago"
            return _verification(row), True


async def _generation(connection: Connection, job: Row, run_id: str | None) -> int:
    number: int = job["generation"]
    if run_id is not None:
        known = await connection.fetchval(SQL["generation_of_run"], job["id"], run_id) if is_id(run_id) else None
        if known is None:
            raise NotFound("run", run_id)
        number = known
    return number


def _refuse(job: Row, facts: Row, generation: int) -> None:
    """Raises Conflict for a generation whose chunks can not be compared."""
    if not facts["planned"]:
        raise Conflict("never_run", f"generation {generation} of job {job['name']!r} has delivered nothing yet")
    if job["sink_kind"] == "donothing":
        raise Conflict("not_verifiable", "sink donothing keeps nothing that could be compared")
    if facts["kept"] < facts["sequences"]:
        raise Conflict(
            "not_verifiable",
            f"of {facts['sequences']} chunks of generation {generation} the records of {facts['kept']} are left: the "
            "others are older than ROWFERRY_JOB_LOG_RETENTION_DAYS",
        )


def _verification(row: Row) -> Verification:
    condition = row["condition"]
    return Verification(
        id=row["id"],
        job_id=row["job_id"],
        job_name=row["job_name"],
        generation=row["generation"],
        run_id=row["run_id"],
        checksums=row["checksums"],
        state=VerifyState(row["state"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        chunks_done=row["chunks_done"],
        chunks_total=row["chunks_total"],
        rows_done=row["rows_done"],
        rows_total=row["rows_total"],
        findings=Findings.from_json(row["findings"]),
        errors=causes_of(row["errors"]),
        condition=Condition(condition.get("waiting_for"), condition.get("retrying")) if condition else None,
    )
