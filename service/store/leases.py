"""Leases of steps: taken, kept, given back, run out.

The database's clock decides when a lease has run out; the holder has its own, which runs out earlier. A step is ready
again after every way of losing its lease, and the job's state says whether anybody may take it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Aborted, Cause, Permanent, Stopped, cause_chain
from service.domain.records import Actor
from service.domain.states import Event, State
from service.domain.steps import Lease, Step, StepKind
from service.domain.verification import VerifyState
from service.store import retries
from service.store.held import (
    SQL,
    Held,
    by_holder,
    directive,
    end_step,
    give_back,
    refuse_prepared,
    show_condition,
    step_key,
)
from service.store.transitions import SQL as TRANSITIONS
from service.store.transitions import VERIFICATIONS, end_if_idle, lock_job, record_event, transition
from service.store.verifications import end_verification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.steps import Condition, Directive
    from service.store.pool import Connection, Row

_CANDIDATES = 16
_ROUNDS = 5
_CLEAN_UP_HOURS = 24
_SECONDS_FOR_A_KEY = 3600.0
"""How long a clean-up waits whose secrets can not be opened: for somebody to bring the key back."""
_STORE = Actor("", "store")
_OF_A_RUN = (StepKind.PLAN, StepKind.SPLIT, StepKind.FINISH)
_MAY_FAIL = frozenset({State.RUNNING, State.STOPPING})


class Leases(Held):
    """The part of `StepStore` that is about having a step at all."""

    async def claim(
        self, owner: str, kinds: Sequence[StepKind], *, lease_seconds: float, only_jobs: Sequence[str] | None = None
    ) -> Step | None:
        """As `StepStore.claim`. A job whose secrets can not be opened fails, and the next step is looked for."""
        wanted = [kind.value for kind in kinds]
        for _ in range(_ROUNDS):
            async with self._pool.connection() as connection:
                candidates = await connection.fetch(SQL["candidates"], wanted, _CANDIDATES, only_jobs)
            if not candidates:
                return None
            # First only jobs that nobody is writing to; what is left is worth a short wait.
            for wait in (False, True):
                for candidate in candidates:
                    step = await self._take(candidate, owner, lease_seconds, wait=wait)
                    if step is not None:
                        return step
        return None

    async def _take(self, candidate: Row, owner: str, lease_seconds: float, *, wait: bool) -> Step | None:
        job_id = candidate["job_id"]
        async with self._pool.transaction() as connection:
            lock = lock_job(connection, job_id) if wait else connection.fetchrow(SQL["lock_job_unless_busy"], job_id)
            job = await lock
            if job is None:
                return None
            kind = StepKind(candidate["kind"])
            key = (job_id, candidate["generation"], kind.value, candidate["ordinal"])
            epoch = await connection.fetchval(SQL["take"], *key, owner, lease_seconds)
            if epoch is None:
                return None
            work = await connection.fetchrow(SQL["work"], job_id, candidate["generation"])
            assert work is not None, "a step has a generation, and a generation a job"
            run_id = None if kind in {StepKind.CLEAN_UP, StepKind.VERIFY} else work["run_id"]
            lease = Lease(job_id, candidate["generation"], kind, candidate["ordinal"], epoch, owner, run_id)
            if kind is StepKind.VERIFY:
                await connection.execute(VERIFICATIONS["begin"], job_id, candidate["generation"])
            elif kind in _OF_A_RUN and job["state"] == State.QUEUED.value:
                await transition(connection, job_id, Event.LEASED, by_holder(lease))
            try:
                return self._step(lease, work, lease_seconds)
            except Permanent as error:
                await self._give_up(connection, lease, error)
                return None

    def _step(self, lease: Lease, work: Row, lease_seconds: float) -> Step:
        return Step(
            lease=lease,
            account=work["account"],
            job_name=work["job_name"],
            run_number=work["run_number"],
            spec=work["spec"],
            secrets=self._box.open(work["secrets"]),
            lease_seconds=lease_seconds,
            target=work["target"],
        )

    async def _give_up(self, connection: Connection, lease: Lease, error: Permanent) -> None:
        """The lease is of no use to anybody: without this, one job with a lost key would stand first in every claim."""
        now = await connection.fetchval(SQL["now"])
        causes = cause_chain(error, now)
        job = await lock_job(connection, lease.job_id)
        assert job is not None, "its row is locked"
        if lease.kind is StepKind.CLEAN_UP:
            await self._postpone(connection, job, lease, _SECONDS_FOR_A_KEY, causes[0])
        elif lease.kind is StepKind.RETRY:
            await retries.give_up(connection, job, lease, causes[0])
        elif lease.kind is StepKind.VERIFY:
            await end_verification(connection, job, lease, VerifyState.ERROR, causes)
        else:
            await _fail(connection, job, lease, causes)

    async def renew(self, leases: Sequence[Lease], *, lease_seconds: float) -> Sequence[Directive]:
        """As `StepStore.renew`; directives in the order of `leases`. A lease that has run out and that nobody has
        freed yet is still its holder's. Rates are the owner's share: what its leased splits of the job may move
        together."""
        if not leases:
            return []
        keys = ((*step_key(lease), lease.epoch, lease.owner) for lease in leases)
        columns = [list(map(str, column)) for column in zip(*keys, strict=True)]
        async with self._pool.connection() as connection:
            rows = await connection.fetch(SQL["renew"], *columns, lease_seconds)
        return [directive(lease, row) for lease, row in zip(leases, rows, strict=True)]

    async def expire(self) -> int:
        """As `StepStore.expire`. A job that somebody else is writing to at this moment is left for the next call."""
        async with self._pool.connection() as connection:
            due = await connection.fetch(SQL["due"])
        changed = 0
        for row in due:
            async with self._pool.transaction() as connection:
                job = await connection.fetchrow(SQL["lock_job_unless_busy"], row["id"])
                if job is not None:
                    changed += await _expire(connection, job)
        return changed

    async def park(self, lease: Lease) -> None:
        """As `StepStore.park`. Raises Conflict `chunk_unsettled` when a prepared chunk is left: release it."""
        async with self._held(lease) as (connection, job):
            await refuse_prepared(connection, lease)
            await give_back(connection, job, lease)

    async def release(self, lease: Lease, reason: str | None = None) -> None:
        """As `StepStore.release`."""
        async with self._held(lease) as (connection, job):
            if reason is not None:
                await connection.execute(SQL["set_reason"], lease.job_id, reason)
            await give_back(connection, job, lease)

    async def fail(self, lease: Lease, errors: Sequence[Cause]) -> None:
        """As `StepStore.fail`. The first error stays: that of a job already failing or aborting is not shown."""
        if not errors:
            raise ValueError("a failure has a cause")
        async with self._held(lease, *_OF_A_RUN) as (connection, job):
            await _fail(connection, job, lease, errors)

    async def report(self, lease: Lease, condition: Condition) -> None:
        """As `StepStore.report`."""
        shown = {
            "waiting_for": condition.waiting_for,
            "retrying": None if condition.retrying is None else dict(condition.retrying),
            "horizon": None if condition.horizon is None else dict(condition.horizon),
            "lag": None if condition.lag is None else dict(condition.lag),
        }
        stored = {name: value for name, value in shown.items() if value is not None} or None
        async with self._held(lease) as (connection, _):
            await connection.execute(SQL["set_condition"], *step_key(lease), stored)
            if lease.kind is StepKind.VERIFY:
                return  # the job has nothing to do with it
            await show_condition(connection, lease.job_id)
            if condition.progressed:
                await connection.execute(SQL["note_progress"], lease.job_id)

    async def finish_run(self, lease: Lease) -> None:
        """As `StepStore.finish_run`. Raises Aborted or Stopped when the job is aborting or failing: nothing is
        written, the holder releases."""
        async with self._held(lease, StepKind.FINISH) as (connection, job):
            await end_step(connection, lease)
            await connection.execute(SQL["end_generation"], lease.job_id, lease.generation)
            if await transition(connection, lease.job_id, Event.FINISHED, by_holder(lease)) is None:
                raise Aborted if job["state"] == State.ABORTING.value else Stopped

    async def cleaned_up(self, lease: Lease, outcome: str) -> None:
        """As `StepStore.cleaned_up`; the row goes with the clean-up of the job's last generation."""
        async with self._held(lease, StepKind.CLEAN_UP) as (connection, job):
            await self._cleaned_up(connection, job, lease, outcome)

    async def _cleaned_up(self, connection: Connection, job: Row, lease: Lease, outcome: str) -> None:
        await end_step(connection, lease)
        details = {"generation": lease.generation, "outcome": outcome}
        await record_event(connection, job, "cleaned_up", by_holder(lease), details=details)
        if await connection.fetchval(SQL["clean_up_left"], lease.job_id) == 0:
            await connection.execute(TRANSITIONS["delete_job"], lease.job_id)

    async def postpone(self, lease: Lease, seconds: float, cause: Cause) -> None:
        """As `StepStore.postpone`. A clean-up that is older than 24 hours is given up instead: its event says why."""
        async with self._held(lease, StepKind.CLEAN_UP) as (connection, job):
            await self._postpone(connection, job, lease, seconds, cause)

    async def _postpone(self, connection: Connection, job: Row, lease: Lease, seconds: float, cause: Cause) -> None:
        if await connection.fetchval(SQL["clean_up_too_old"], lease.job_id, _CLEAN_UP_HOURS):
            outcome = f"given up after {_CLEAN_UP_HOURS} hours: {cause.code}: {cause.message}"
            await self._cleaned_up(connection, job, lease, outcome)
            return
        details = {"generation": lease.generation, "seconds": seconds, "code": cause.code, "message": cause.message}
        await record_event(connection, job, "clean_up_postponed", by_holder(lease), details=details)
        await give_back(connection, job, lease, seconds=seconds)


async def _fail(connection: Connection, job: Row, lease: Lease, errors: Sequence[Cause]) -> None:
    # Given back first: `transition` then sees whether this was the last leased step.
    await connection.execute(SQL["give_back"], *step_key(lease), None)
    await show_condition(connection, lease.job_id)
    by = by_holder(lease)
    row = await lock_job(connection, lease.job_id)
    assert row is not None, "its row is locked"
    state = State(row["state"])
    if state in _MAY_FAIL:
        details = {"code": errors[0].code, "step": lease.kind.value, "ordinal": lease.ordinal}
        await transition(
            connection, lease.job_id, Event.FAILED, by, reason=errors[0].message, errors=errors, details=details
        )
    else:
        await end_if_idle(connection, job["id"], state, by)


async def _expire(connection: Connection, job: Row) -> int:
    """What is due for one locked job; how many rows changed."""
    due = await connection.fetchrow(SQL["overdue"], job["id"])
    assert due is not None, "its row is locked"
    freed = await connection.fetch(SQL["free"], job["id"], due["stop"])
    for step in freed:
        event = "stop_timeout" if due["stop"] and StepKind(step["kind"]) in _OF_A_RUN else "lease_expired"
        await record_event(connection, job, event, _STORE, details=dict(step))
    if freed:
        await show_condition(connection, job["id"])
    state = State(job["state"])
    if due["run"]:
        message = f"the run took longer than its options.timeout_seconds of {due['run_seconds']:g}"
        error = Cause("run_timeout", message, due["now"], retryable=False)
        await transition(connection, job["id"], Event.FAILED, _STORE, reason=message, errors=[error])
        return len(freed) + 1
    reason = None
    if freed and due["stop"] and state is State.STOPPING:
        reason = (
            f"what was in flight was discarded after options.stop_timeout_seconds of {due['stop_seconds']:g}; "
            "the next start reads it again"
        )
    after = await end_if_idle(connection, job["id"], state, _STORE, reason=reason)
    return len(freed) + (after is not state)
