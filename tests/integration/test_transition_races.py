"""Every pair of things that can happen to a job, at once, on connections of their own.

Whatever comes first, the job has moved along lines of the table, with one event a line, and job and run agree.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from service.domain.errors import Aborted, Conflict, LeaseLost, RowferryError, Stopped
from service.domain.states import FINAL, LIVE, TRANSITIONS, Event, State, desired_after
from service.domain.steps import StepKind
from service.store.transitions import retire
from tests.contract.control_jobs import ANA, RUN_KINDS, Control, causes, chunk, control, control_dsn, settlement
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.domain.steps import Lease

    Act = Callable[[Control, str, Lease | None], Awaitable[object]]


__all__ = ["control", "control_dsn"]  # fixtures


async def fail(control: Control, _: str, lease: Lease | None) -> object:
    assert lease is not None
    return await control.store.fail(lease, causes("broken", await control.now()))


async def remove(control: Control, job_id: str, _: Lease | None) -> object:
    async with control.pool.transaction() as connection:
        return await retire(connection, job_id, ANA)


async def expire(control: Control, job_id: str, _: Lease | None) -> object:
    await control.run_out(job_id)
    return await control.store.expire()


async def held(lease: Lease | None, act: Callable[[Lease], Awaitable[object]]) -> object:
    assert lease is not None
    return await act(lease)


VERBS: dict[str, Act] = {
    "start": lambda control, job_id, _: control.verb(job_id, Event.START),
    "stop": lambda control, job_id, _: control.verb(job_id, Event.STOP),
    "abort": lambda control, job_id, _: control.verb(job_id, Event.ABORT),
    "remove": remove,
    "claim": lambda control, *_: control.store.claim("two", RUN_KINDS, lease_seconds=30),
    "expire": expire,
}
OF_THE_HOLDER: dict[str, Act] = {
    "fail": fail,
    "park": lambda control, _, lease: held(lease, control.store.park),
    "release": lambda control, _, lease: held(lease, control.store.release),
    "finish": lambda control, _, lease: held(lease, control.store.finish_run),
}
REFUSALS = (LeaseLost, Aborted, Stopped)


async def idle(control: Control) -> tuple[str, None]:
    return await control.job(), None


async def queued(control: Control) -> tuple[str, None]:
    job_id = await control.job()
    await control.verb(job_id, Event.START)
    return job_id, None


async def running(control: Control) -> tuple[str, Lease]:
    """One step is leased: the finish step, so that everything can happen."""
    job_id = await control.planned(splits=0)
    return job_id, (await control.claimed(StepKind.FINISH)).lease


async def stopping(control: Control) -> tuple[str, Lease]:
    job_id, lease = await running(control)
    await control.verb(job_id, Event.STOP)
    return job_id, lease


async def aborting(control: Control) -> tuple[str, Lease]:
    job_id, lease = await running(control)
    await control.verb(job_id, Event.ABORT)
    return job_id, lease


async def failing(control: Control) -> tuple[str, Lease]:
    """One split has failed, the other is still leased."""
    job_id = await control.planned(splits=2)
    first, second = await control.leases(2)
    await control.store.fail(first, causes("first", await control.now()))
    return job_id, second


async def stopped(control: Control) -> tuple[str, None]:
    job_id = await control.planned(splits=1)
    await control.verb(job_id, Event.STOP)
    return job_id, None


STARTS = {f.__name__: f for f in (idle, queued, running, stopping, aborting, failing, stopped)}


async def waiting_for_locks(control: Control, count: int) -> bool:
    waits: int = await control.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return waits >= count


async def race(control: Control, job_id: str, first: Awaitable[object], second: Awaitable[object]) -> list[object]:
    """Both reach the job's row while somebody else has it; `first` is the first in the queue for it. What does not
    queue (looking for run-out leases passes busy jobs over) runs at some moment of that."""
    async with control.pool.transaction() as gate:
        await gate.fetchrow("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        tasks: list[asyncio.Future[object]] = []
        for act in (first, second):
            task = asyncio.ensure_future(act)
            tasks.append(task)
            queued_now = sum(not t.done() for t in tasks)

            async def settled(task: asyncio.Future[object] = task, count: int = queued_now) -> bool:
                return task.done() or await waiting_for_locks(control, count)

            await until(settled, 10, "the act waits for the job's row, or is over")
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def check(control: Control, job_id: str, results: list[object], what: str) -> None:
    for result in results:
        assert result is None or not isinstance(result, BaseException) or isinstance(result, REFUSALS), (what, result)
    moves = await control.moves(job_id)
    expected, desired = "created", None
    for before, event, after in moves:
        assert before == expected, (what, moves)
        assert TRANSITIONS[State(before), Event(event)] == after, (what, moves)
        expected, desired = after, desired_after(State(before), Event(event))
    jobs = await control.sql("SELECT * FROM jobs WHERE id = $1", job_id)
    runs = await control.sql("SELECT * FROM runs WHERE job_id = $1 ORDER BY number", job_id)
    assert len(runs) == sum(event == "start" for _, event, _ in moves), what
    for run in runs[:-1]:
        assert run["ended_at"] is not None, (what, dict(run))
    if runs:
        assert runs[-1]["state"] == expected, (what, moves)
        assert (runs[-1]["ended_at"] is not None) == (State(expected) in FINAL), (what, moves)
    if not jobs:
        assert State(expected) not in LIVE, (what, moves)
        return
    job = jobs[0]
    assert (job["state"], job["totals_runs"]) == (expected, len(runs)), (what, moves)
    assert job["desired"] == desired, (what, moves)
    leased = await control.value(
        "SELECT count(*) FROM steps WHERE job_id = $1 AND state = 'leased' AND kind <> 'clean_up'", job_id
    )
    assert leased == 0 or job["state"] in {"running", "stopping", "aborting", "failing"}, (what, moves)
    assert leased > 0 or job["state"] not in {"stopping", "aborting", "failing"}, (what, moves)
    errors = await control.value("SELECT count(*) FROM events WHERE job_id = $1 AND state_to = 'error'", job_id)
    assert (errors == 0) or job["errors"] or "start" in [event for _, event, _ in moves[1:]], what


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.timeout(300)
async def test_every_pair_ends_on_lines_of_the_table(control: Control, start: str) -> None:
    acts = VERBS if start in {"idle", "queued", "stopped"} else VERBS | OF_THE_HOLDER
    if start == "failing":
        acts = {name: act for name, act in acts.items() if name != "finish"}
    for name, first in acts.items():
        for other, second in acts.items():
            job_id, lease = await STARTS[start](control)
            results = await race(control, job_id, first(control, job_id, lease), second(control, job_id, lease))
            await check(control, job_id, results, f"{start}: {name}, then {other}")
            await control.sql("DELETE FROM jobs")


async def test_two_owners_never_both_settle(control: Control) -> None:
    """The old owner's settle against the freeing of its step and the new owner's settle of the same chunk."""
    for first in ("settle", "expire"):
        job_id = await control.planned(splits=1)
        (old,) = await control.leases(1)
        record = chunk(old)
        await control.store.prepare(old, record)
        await control.run_out(job_id)
        acts = {"settle": control.store.settle(old, settlement(record)), "expire": control.store.expire()}
        order = ["settle", "expire"] if first == "settle" else ["expire", "settle"]
        await asyncio.gather(*(acts[name] for name in order), return_exceptions=True)
        await control.store.expire()
        (new,) = await control.leases(1, owner="two")
        adopted = (await control.store.split(new)).prepared
        if adopted:
            await control.store.settle(new, settlement(adopted[0]))
        with pytest.raises(LeaseLost):
            await control.store.settle(old, settlement(record))
        job = await control.row("jobs", job_id)
        assert (job["totals_rows_sent"], (await control.store.split(new)).sequence) == (10, 1)
        await control.sql("DELETE FROM jobs")


async def test_renewing_against_freeing_has_one_winner(control: Control) -> None:
    """The step's row is held while both come to it: who is first decides, and the other sees it."""
    for order in (("renew", "expire"), ("expire", "renew")):
        job_id = await control.planned(splits=2)
        leases = await control.leases(2)
        await control.run_out(job_id)
        async with control.pool.transaction() as gate:
            await gate.fetch("SELECT FROM steps WHERE job_id = $1 AND kind = 'split' FOR UPDATE", job_id)
            tasks: dict[str, asyncio.Future[object]] = {}
            for place, name in enumerate(order, start=1):
                act: Awaitable[object] = (
                    control.store.renew(leases[::-1], lease_seconds=30) if name == "renew" else control.store.expire()
                )
                tasks[name] = asyncio.ensure_future(act)
                await until(lambda n=place: waiting_for_locks(control, n), 10, f"{name} waits for the steps")
        freed, directives = await tasks["expire"], await tasks["renew"]
        assert freed == (2 if order[0] == "expire" else 0)
        assert isinstance(directives, list)
        assert [d.valid for d in directives] == [order[0] == "renew"] * 2
        for lease in leases:
            step = await control.step(lease)
            assert (step["state"], step["epoch"]) == (("leased", 1) if order[0] == "renew" else ("ready", 2))
        await control.sql("DELETE FROM jobs")


CHUNKS = 8


async def one_turn(control: Control, lease: Lease, *, forgets: bool) -> None:
    """What a new owner does: settle what is there, else move on by one chunk, or end the split."""
    state = await control.store.split(lease)
    if state.prepared:
        await control.store.settle(lease, settlement(state.prepared[0]))
    elif state.sequence == CHUNKS:
        await control.store.finish_split(lease, None)
        return
    else:
        record = chunk(lease, state.sequence + 1)
        await control.store.prepare(lease, record)
        if not forgets:
            await control.store.settle(lease, settlement(record))
    if forgets:
        # As if it had died: its lease, and those of all others of the job, run out.
        await control.run_out(lease.job_id)
    else:
        await control.store.release(lease)


async def test_many_hands_move_many_rows_and_nothing_is_counted_twice(control: Control) -> None:
    """Owners that claim, prepare, settle, forget and end, beside one that frees what they left."""
    job_id = await control.planned(splits=4)

    async def work(owner: str, chance: int) -> int:
        lost = 0
        for turn in range(400):
            step = await control.store.claim(owner, [StepKind.SPLIT], lease_seconds=30)
            if step is None:
                if await control.value("SELECT every(done_at IS NOT NULL) FROM splits"):
                    return lost
                continue
            try:
                await one_turn(control, step.lease, forgets=(turn + chance) % 3 == 0)
            except LeaseLost:
                lost += 1
        return lost

    async def free(over: asyncio.Event) -> None:
        while not over.is_set():
            await control.store.expire()

    over = asyncio.Event()
    freeing = asyncio.create_task(free(over))
    lost = await asyncio.gather(*(work(f"owner-{n}", n) for n in range(4)))
    over.set()
    await freeing
    assert sum(lost) > 0, "nobody ever lost a lease: this proved nothing"
    finish = (await control.claimed(StepKind.FINISH)).lease
    found = [(ordinal, record.sequence) async for ordinal, record in control.store.settled_chunks(finish)]
    assert found == [(ordinal, sequence) for ordinal in range(4) for sequence in range(1, CHUNKS + 1)]
    await control.store.finish_run(finish)
    job, run = await control.row("jobs", job_id), await control.row("runs", job_id)
    assert job["totals_rows_sent"] == run["rows_sent"] == 4 * CHUNKS * 10
    assert (job["state"], run["splits_done"]) == ("successful", 4)


async def test_a_refusal_is_one_of_ours(control: Control) -> None:
    """A prepared chunk keeps a step from being parked, whoever else is at it."""
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.store.prepare(lease, chunk(lease))
    results = await race(control, job_id, control.verb(job_id, Event.STOP), control.store.park(lease))
    assert isinstance(results[1], Conflict)
    assert isinstance(results[1], RowferryError)
    assert await control.state(job_id) == "stopping"
