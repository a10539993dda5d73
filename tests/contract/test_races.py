"""Pairs of transitions on two connections, in both orders: what comes out is what one after the other would give."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from service.domain.states import Event, State
from service.domain.steps import StepKind
from tests.contract.control_jobs import causes
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase, case
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.domain.records import Job
    from service.domain.steps import Lease

__all__ = ["case"]  # fixtures

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


# (state, first, second): the state after both, once the last lease is back. `leased` is the claim of a queued job's
# step, `finished`, `failed` and `parked` are said by the holder of the one step that is leased.
SERIAL: dict[tuple[str, str, str], str] = {
    ("queued", "stop", "leased"): "stopped",
    ("queued", "leased", "stop"): "stopping",
    ("queued", "abort", "leased"): "aborted",
    ("queued", "leased", "abort"): "aborting",
    ("queued", "stop", "abort"): "stopped",
    ("queued", "abort", "stop"): "aborted",
    ("queued", "start", "leased"): "running",
    ("queued", "leased", "leased"): "running",
    ("running", "stop", "abort"): "aborted",
    ("running", "abort", "stop"): "aborted",
    ("running", "stop", "stop"): "stopped",
    ("running", "stop", "finished"): "successful",
    ("running", "finished", "stop"): "successful",
    ("running", "abort", "finished"): "aborted",
    ("running", "finished", "abort"): "successful",
    ("running", "finished", "start"): "successful",
    ("running", "stop", "failed"): "error",
    ("running", "failed", "stop"): "error",
    ("running", "abort", "failed"): "aborted",
    ("running", "failed", "abort"): "error",
    ("running", "failed", "start"): "queued",
    ("running", "stop", "parked"): "stopped",
    ("running", "parked", "stop"): "stopped",
    ("running", "parked", "abort"): "aborted",
    ("stopping", "abort", "parked"): "aborted",
    ("stopping", "parked", "abort"): "stopped",
    ("stopping", "parked", "start"): "queued",
    ("stopping", "finished", "abort"): "successful",
    ("failing", "abort", "parked"): "aborted",
    ("failing", "parked", "abort"): "error",
    ("failing", "parked", "start"): "queued",
}


async def with_finish_leased(case: StoreCase) -> tuple[Job, Lease]:
    """A running job whose one leased step is the last."""
    job = await case.create(mode="once")
    await case.start(job)
    await case.plan(job)
    return await case.get(job.id), await case.lease(job, StepKind.FINISH)


async def prepared(case: StoreCase, state: str) -> tuple[Job, Lease | None]:
    if state == "queued":
        return await case.in_state(State.QUEUED), None
    if state == "failing":
        job = await case.create()
        await case.start(job)
        await case.plan(job, ("0",), ("50",), ("99",))
        first, second = await case.lease(job), await case.lease(job)
        await case.fail(first)
        return await case.get(job.id), second
    job, lease = await with_finish_leased(case)
    if state == "stopping":
        await case.verb(job, Event.STOP)
    return job, lease


def action(case: StoreCase, job: Job, lease: Lease | None, what: str) -> Callable[[], Awaitable[object]]:
    if what in {"start", "stop", "abort"}:
        return lambda: case.verb(job, Event(what))
    if what == "leased":
        return lambda: case.store.claim("two", list(StepKind), lease_seconds=60)
    assert lease is not None
    if what == "finished":
        return lambda: case.store.finish_run(lease)
    if what == "failed":
        return lambda: case.store.fail(lease, causes("sink_refused", datetime(2026, 1, 1, tzinfo=UTC)))
    return lambda: case.store.park(lease)


@pytest.mark.parametrize(("state", "first", "second"), sorted(SERIAL))
async def test_two_at_once_do_what_one_after_the_other_does(
    case: StoreCase, state: str, first: str, second: str
) -> None:
    job, lease = await prepared(case, state)
    assert job.state in {state, "running"}
    tasks: list[asyncio.Task[object]] = []
    async with case.store._pool.transaction() as connection:
        await connection.execute("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE", job.id)
        for place, what in enumerate((first, second), start=1):
            run = action(case, job, lease, what)
            tasks.append(asyncio.ensure_future(run()))  # type: ignore[arg-type]
            # Who waits first gets the row first. A claim that finds the row busy comes back to it last.
            await until(lambda place=place: _waiting(case, place), 10, f"{what} waits for the job's row")
    await asyncio.gather(*tasks, return_exceptions=True)
    # A holder whose word came too late leaves; its lease goes back.
    if (await case.get(job.id)).state in {State.STOPPING, State.ABORTING, State.FAILING} and lease is not None:
        await case.store.release(lease)
    after = await case.get(job.id)
    assert after.state == SERIAL[state, first, second]
    assert after.run is not None
    assert after.run.state is after.state
    await _history_is_whole(case, job)


async def _waiting(case: StoreCase, count: int) -> bool:
    return bool((await case.sql(WAITING))[0][0] == count)


async def _history_is_whole(case: StoreCase, job: Job) -> None:
    """Each event begins where the one before it ended, and every run but the last has ended."""
    events, _ = await case.store.events(ACCOUNT, {"job_id": job.id}, limit=50, after=None)
    moves = [(event.state_from, event.state_to) for event in events if event.state_to is not None]
    assert [before for before, _ in moves[1:]] == [after for _, after in moves[:-1]]
    assert moves[-1][1] == (await case.get(job.id)).state
    runs, _ = await case.store.runs(ACCOUNT, {"job_id": job.id}, limit=50, after=None)
    assert all(run.ended_at is not None for run in runs[1:])
    assert [run.number for run in runs] == list(range(len(runs), 0, -1))


async def test_many_at_once_on_one_job_leave_one_whole_history(case: StoreCase) -> None:
    job = await case.create(mode="full")
    verbs = [Event.START, Event.STOP, Event.START, Event.ABORT] * 5
    outcomes = await asyncio.gather(*(case.verb(job, event) for event in verbs), return_exceptions=True)
    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    await _history_is_whole(case, job)
    after = await case.get(job.id)
    moved = sum(outcome[1] for outcome in outcomes)  # type: ignore[index]
    events, _ = await case.store.events(ACCOUNT, {"job_id": job.id}, limit=100, after=None)
    assert len(events) == 1 + moved
    assert after.totals.runs == sum(event.event == "start" for event in events)


async def test_removal_and_a_clean_end_at_once(case: StoreCase) -> None:
    job, lease = await with_finish_leased(case)
    await case.verb(job, Event.STOP)
    await asyncio.gather(
        case.store.remove_when_aborted(ACCOUNT, ANA, job.id), case.store.finish_run(lease), return_exceptions=True
    )
    if await case.store.get(ACCOUNT, job.id) is not None:
        await case.store.release(lease)
    assert await case.store.get(ACCOUNT, job.id) is None
