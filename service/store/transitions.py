"""The one place where a job changes its state: `service.domain.states.TRANSITIONS` as a conditional UPDATE.

Everything in here runs inside the caller's transaction and locks the job's row itself; the caller that has locked it
already loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.domain.states import FINAL, REMOVABLE, Desired, Event, State, desired_after, next_state
from service.domain.verification import VerifyState
from service.store.sql import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.errors import Cause
    from service.domain.records import Actor
    from service.store.pool import Connection, Row

SQL = load("transitions")
VERIFICATIONS = load("verifications")

_ENDS_BY = {State.STOPPING: Event.PARKED, State.ABORTING: Event.RELEASED, State.FAILING: Event.PARKED}


@dataclass(frozen=True, slots=True)
class NewRun:
    """The run that a start begins."""

    id: str
    trigger: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What a transition did."""

    before: State
    after: State
    """Where the job stands now: a stop with no leased step ends in `stopped` at once, over `stopping`."""


async def lock_job(connection: Connection, job_id: str) -> Row | None:
    """Lock the job's row until the end of the transaction, waiting for whoever has it; None when there is no such
    job. Removed jobs whose clean-up is not over are found too (`removed_at`)."""
    return await connection.fetchrow(SQL["lock_job"], job_id)


async def transition(
    connection: Connection,
    job_id: str,
    event: Event,
    by: Actor,
    *,
    reason: str | None = None,
    errors: Sequence[Cause] | None = None,
    run: NewRun | None = None,
    details: Mapping[str, object] | None = None,
) -> Moved | None:
    """
    Apply `event`: state, desired state, deadlines, event row, the run's row. None when the table has no such line for
    the job's present state, or there is no such job: nothing was written.

    `run` goes with `Event.START` and only with it; the caller has asked `may_start` and has made the generation that
    the run works on. `reason` None keeps the reason shown (a start clears it); `errors` None keeps the errors.
    A job that is stopping, aborting or failing without a leased step moves on to its end here, each transition with
    an event of its own, and a job to be removed when it has ended is removed.
    """
    if (event is Event.START) != (run is not None):
        raise ValueError("a start, and nothing else, begins a run")
    row = await lock_job(connection, job_id)
    target = None if row is None else next_state(State(row["state"]), event)
    if row is None or target is None or row["removed_at"] is not None:
        return None
    before = State(row["state"])
    moved = await _move(connection, row, event, target, reason, errors, run)
    if run is not None:
        await connection.execute(SQL["begin_run"], run.id, job_id, run.trigger)
        await connection.execute(SQL["queue_steps"], job_id, moved["generation"])
    else:
        chain = None if errors is None else causes_to_json(errors)
        await connection.execute(SQL["move_run"], moved["run_id"], target.value, target in FINAL, chain)
    await record_event(
        connection, moved, event.value, by, state_from=before, state_to=target, details=_details(reason, details)
    )
    if target in FINAL and moved["remove_when_ended"]:
        await retire(connection, job_id, by)
    return Moved(before, await end_if_idle(connection, job_id, target, by))


async def _move(
    connection: Connection,
    row: Row,
    event: Event,
    target: State,
    reason: str | None,
    errors: Sequence[Cause] | None,
    run: NewRun | None,
) -> Row:
    before = State(row["state"])
    desired: Desired | None = desired_after(before, event)
    moved = await connection.fetchrow(
        SQL["move"],
        row["id"],
        before.value,
        target.value,
        None if desired is None else desired.value,
        reason,
        None if errors is None else causes_to_json(errors),
        None if run is None else run.id,
        target in FINAL,
    )
    # The row is locked: only a caller that changed the state behind this module's back can get here.
    assert moved is not None, f"job {row['id']} left {before} under its lock"
    return moved


async def end_if_idle(
    connection: Connection, job_id: str, state: State, by: Actor, *, reason: str | None = None
) -> State:
    """To be called whenever a step was given back: a job that is stopping, aborting or failing ends with its last
    leased step. The state afterwards."""
    event = _ENDS_BY.get(state)
    if event is None or await connection.fetchval(SQL["has_leased_step"], job_id):
        return state
    moved = await transition(connection, job_id, event, by, reason=reason)
    return state if moved is None else moved.after


async def retire(connection: Connection, job_id: str, by: Actor) -> bool:
    """Remove the job for everybody outside: its name is free, a clean-up step is ready for every generation that may
    have left something in its sink; without one the row goes at once. False when it is live, gone, or removed."""
    row = await lock_job(connection, job_id)
    removable = [state.value for state in REMOVABLE]
    if row is None or await connection.execute(SQL["retire"], job_id, removable) == "UPDATE 0":
        return False
    await record_event(connection, row, Event.REMOVE.value, by, state_from=State(row["state"]))
    await connection.execute(SQL["end_retries"], job_id)
    await abort_verification(connection, row, by)
    if await connection.execute(SQL["ready_clean_up"], job_id) == "INSERT 0 0":
        await connection.execute(SQL["delete_job"], job_id)
    return True


async def abort_verification(connection: Connection, job: Row, by: Actor) -> None:
    """End the locked job's open verification, if it has one, whoever works on it: its holder is refused from now on."""
    ended = await connection.fetchrow(VERIFICATIONS["end"], job["id"], None, VerifyState.ABORTED.value, [])
    await connection.execute(VERIFICATIONS["end_steps"], job["id"])
    if ended is not None:
        await record_event(connection, job, "verification_aborted", by, details={"id": ended["id"]})
        await connection.execute(VERIFICATIONS["wake"], job["id"])


async def record_event(
    connection: Connection,
    job: Row,
    event: str,
    by: Actor,
    *,
    state_from: State | None = None,
    state_to: State | None = None,
    details: Mapping[str, object] | None = None,
) -> None:
    """An event row of `job` (a row with account_id, id, name, run_id) in the caller's transaction. An actor without a
    name is the service itself."""
    await connection.execute(
        SQL["record_event"],
        job["account_id"],
        event,
        job["id"],
        job["name"],
        job["run_id"],
        by.name or None,
        by.origin,
        by.request_id,
        None if state_from is None else state_from.value,
        None if state_to is None else state_to.value,
        dict(details or {}),
    )


def causes_to_json(errors: Sequence[Cause]) -> list[dict[str, object]]:
    """A cause chain for a jsonb column, as the API shows it."""
    return [{"code": e.code, "message": e.message, "at": e.at.isoformat(), "retryable": e.retryable} for e in errors]


def _details(reason: str | None, details: Mapping[str, object] | None) -> dict[str, object]:
    return {**({} if reason is None else {"reason": reason}), **(details or {})}
