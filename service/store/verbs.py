"""Start, stop, abort, remove, and the checkpoint: what sets a job in motion or moves its position.

Each is one transaction that locks the job's row first, so of two callers at once one finds what the other did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.errors import Conflict
from service.domain.states import LIVE, UNCHANGED, Event, State, may_start, verbs
from service.store import generations
from service.store.folders import path_in_use
from service.store.ids import uuid7
from service.store.letters import SQL as LETTERS
from service.store.part import SQL, Part, locked, read_job
from service.store.transitions import NewRun, record_event, retire, transition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.domain.records import Actor, Job
    from service.domain.steps import OpenRange
    from service.store.pool import Connection, Row


def running(job: Row, what: str) -> Conflict:
    """The refusal of what is possible only while nothing runs."""
    state = State(job["state"])
    return Conflict(
        "job_running",
        f"{what} is not possible while job {job['name']!r} is {state}",
        hint="stop or abort it first",
        state=state.value,
        verbs=verbs(state),
    )


async def retry_running(connection: Connection, job: Row, what: str) -> Conflict | None:
    """The refusal of what is possible only while no dead letters of the locked job are being sent again; None when
    none are."""
    if not await connection.fetchval(LETTERS["retry_active"], job["id"]):
        return None
    state = State(job["state"])
    return Conflict(
        "retry_running",
        f"{what} is not possible while dead letters of job {job['name']!r} are sent again",
        hint="it ends by itself, within a minute without progress; event dead_letters_retried tells",
        state=state.value,
        verbs=verbs(state),
    )


async def refuse_while_retrying(connection: Connection, job: Row, what: str) -> None:
    """Raises Conflict `retry_running`."""
    if (refusal := await retry_running(connection, job, what)) is not None:
        raise refusal


class Verbs(Part):
    """The part of `JobStore` that moves jobs."""

    async def verb(
        self, account: str, actor: Actor, job_id: str, event: Event, *, trigger: str, from_beginning: bool = False
    ) -> tuple[Job, bool]:
        """As `JobStore.verb`."""
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            if (State(job["state"]), event) in UNCHANGED and not from_beginning:
                return await read_job(connection, account, job_id), False
            if event is Event.START:
                await start(connection, job, actor, trigger, from_beginning=from_beginning)
            elif await transition(connection, job_id, event, actor) is None:
                raise _refused(job, event)
            return await read_job(connection, account, job_id), True

    async def remove(self, account: str, actor: Actor, job_id: str) -> bool:
        """As `JobStore.remove`."""
        async with self._pool.transaction() as connection:
            await locked(connection, account, job_id)
            return await retire(connection, job_id, actor)

    async def remove_when_aborted(self, account: str, actor: Actor, job_id: str) -> None:
        """As `JobStore.remove_when_aborted`."""
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            if await retire(connection, job_id, actor):
                return
            await connection.execute(SQL["remove_when_ended"], job_id)
            await record_event(connection, job, "removal_asked", actor)
            # Already aborting: whoever ends that removes it.
            await transition(connection, job_id, Event.ABORT, actor)

    async def put_checkpoint(
        self,
        account: str,
        actor: Actor,
        job_id: str,
        *,
        seen_generation: int,
        ranges: Sequence[OpenRange],
        reason: str,
    ) -> Job:
        """As `JobStore.put_checkpoint`."""
        async with self._pool.transaction() as connection:
            job = await locked(connection, account, job_id)
            if State(job["state"]) in LIVE:
                raise running(job, "moving the position")
            if job["generation"] != seen_generation:
                raise Conflict(
                    "generation_changed",
                    f"job {job['name']!r} is at generation {job['generation']}, not {seen_generation}",
                    hint="read the checkpoint again, then decide",
                    generation=job["generation"],
                )
            number = await generations.begin(connection, job, "given", unrun=True, ranges=ranges)
            details = {"generation": number, "reason": reason, "ranges": len(ranges)}
            await record_event(connection, job, "checkpoint_put", actor, details=details)
            return await read_job(connection, account, job_id)


async def start(
    connection: Connection,
    job: Row,
    actor: Actor,
    trigger: str,
    *,
    from_beginning: bool = False,
    details: Mapping[str, object] | None = None,
) -> None:
    """Begin a run of the locked job; `details` are further ones of the event. Raises Conflict `verb_refused`,
    `path_in_use`."""
    allowed = may_start(
        State(job["state"]), job["mode"], from_beginning=from_beginning, generation_unrun=job["generation_unrun"]
    )
    if not allowed:
        raise _refused(job, Event.START, from_beginning=from_beginning)
    await refuse_while_retrying(connection, job, "a start")
    if (conflict := await path_in_use(connection, job)) is not None:
        raise conflict
    number = await generations.for_start(connection, job, from_beginning=from_beginning)
    facts = {"trigger": trigger, "generation": number, "from_beginning": from_beginning, **(details or {})}
    await transition(connection, job["id"], Event.START, actor, run=NewRun(uuid7(), trigger), details=facts)


def _refused(job: Row, event: Event, *, from_beginning: bool = False) -> Conflict:
    state = State(job["state"])
    verb = f"{event} from the beginning" if from_beginning else event.value
    hint = ""
    if event is Event.START:
        hint = "a job of this mode starts again from the beginning" if state is State.SUCCESSFUL else "let it end first"
    startable = may_start(state, job["mode"], generation_unrun=job["generation_unrun"])
    return Conflict(
        "verb_refused",
        f"{verb} is not possible while job {job['name']!r} is {state}",
        hint=hint,
        state=state.value,
        verbs=verbs(state, may_start=startable),
    )
