"""Every verb in every state, as states.md and native-api.md say it; and pairs of them at once."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.errors import Conflict, NotFound
from service.domain.states import Desired, Event, State
from service.domain.steps import OpenRange, StepKind
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase, case
from tests.support.waiting import until

__all__ = ["case"]  # fixtures


# (state, mode): what start, start?from=beginning, stop and abort lead to. "same" is a 200 that changes nothing, None a
# refusal. Written out from the tables of the design and the API, not from the code.
START, AGAIN, STOP, ABORT = "start", "again", "stop", "abort"
EXPECTED: dict[tuple[str, str], dict[str, str | None]] = {
    ("created", "once"): {START: "queued", AGAIN: "queued", STOP: "same", ABORT: "same"},
    ("queued", "once"): {START: "same", AGAIN: None, STOP: "stopped", ABORT: "aborted"},
    ("running", "once"): {START: "same", AGAIN: None, STOP: "stopping", ABORT: "aborting"},
    ("stopping", "once"): {START: None, AGAIN: None, STOP: "same", ABORT: "aborting"},
    ("stopped", "once"): {START: "queued", AGAIN: "queued", STOP: "same", ABORT: "same"},
    ("aborting", "once"): {START: None, AGAIN: None, STOP: None, ABORT: "same"},
    ("aborted", "once"): {START: "queued", AGAIN: "queued", STOP: "same", ABORT: "same"},
    ("failing", "once"): {START: None, AGAIN: None, STOP: None, ABORT: "aborting"},
    ("error", "once"): {START: "queued", AGAIN: "queued", STOP: "same", ABORT: "same"},
    ("successful", "once"): {START: None, AGAIN: "queued", STOP: "same", ABORT: "same"},
    ("successful", "full"): {START: "queued", AGAIN: "queued", STOP: "same", ABORT: "same"},
    ("successful", "incremental"): {START: "queued", AGAIN: "queued", STOP: "same", ABORT: "same"},
    ("successful", "continuous"): {START: None, AGAIN: "queued", STOP: "same", ABORT: "same"},
}
# What is offered to a client that was refused.
OFFERED = {
    "created": ["start"],
    "queued": ["stop", "abort"],
    "running": ["stop", "abort"],
    "stopping": ["abort"],
    "aborting": [],
    "failing": ["abort"],
    "successful": [],
}
LIVE = {"queued", "running", "stopping", "aborting", "failing"}


@pytest.mark.parametrize(("state", "mode"), sorted(EXPECTED))
async def test_every_verb_does_what_the_table_says(case: StoreCase, state: str, mode: str) -> None:
    for verb, expected in EXPECTED[state, mode].items():
        before = await case.in_state(State(state), mode=mode)
        event = Event.START if verb in {START, AGAIN} else Event(verb)
        if expected is None:
            with pytest.raises(Conflict) as refused:
                await case.verb(before, event, from_beginning=verb == AGAIN)
            assert refused.value.code == "verb_refused", verb
            assert refused.value.facts == {"state": state, "verbs": OFFERED[state]}, verb
            assert await case.get(before.id) == before, verb
            continue
        after, moved = await case.verb(before, event, from_beginning=verb == AGAIN)
        assert after == await case.get(before.id), verb
        if expected == "same":
            assert not moved, verb
            assert after == before, verb
        else:
            assert moved, verb
            assert after.state == expected, verb
            assert after.status_revision > before.status_revision, verb


@pytest.mark.parametrize("state", list(State))
async def test_removal_frees_the_name_unless_the_job_is_live(case: StoreCase, state: State) -> None:
    job = await case.in_state(state)
    assert await case.store.remove(ACCOUNT, ANA, job.id) is (state.value not in LIVE)
    if state.value in LIVE:
        assert await case.get(job.id) == job
    else:
        assert await case.store.get(ACCOUNT, job.id) is None
        again = await case.create(job.name)
        assert again.id != job.id
        with pytest.raises(NotFound):
            await case.store.remove(ACCOUNT, ANA, job.id)
    runs, _ = await case.store.runs(ACCOUNT, {"job_id": job.id}, limit=10, after=None)
    assert len(runs) == (0 if state is State.CREATED else 1)


async def test_a_job_that_delivered_leaves_a_clean_up_step_behind(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await case.plan(job, ("0",), ("99",))
    lease = await case.lease(job)
    await case.settle(lease, 1, "50")
    await case.verb(job, Event.STOP)
    await case.store.park(lease)
    assert await case.store.remove(ACCOUNT, ANA, job.id)
    clean_up = await case.lease(job, StepKind.CLEAN_UP)
    await case.store.cleaned_up(clean_up, "done")
    assert await case.sql("SELECT id FROM jobs") == []
    assert [run.rows_sent for run in (await case.store.runs(ACCOUNT, {}, limit=10, after=None))[0]] == [10]


# Runs and generations


async def test_a_start_makes_a_run_and_says_what_is_wanted(case: StoreCase) -> None:
    created = await case.create(labels={"team": "shop"})
    assert (created.state, created.desired, created.run, created.generation) == (State.CREATED, None, None, 0)
    job = await case.start(created)
    assert (job.desired, job.generation, job.generation_unrun) == (Desired.RUN, 1, False)
    assert job.run is not None
    assert (job.run.number, job.run.state, job.run.trigger, job.run.generation) == (1, State.QUEUED, "api", 1)
    assert (job.run.job_name, job.run.labels, job.totals.runs) == (job.name, {"team": "shop"}, 1)
    assert (await case.lease(job)).kind is StepKind.PLAN


@pytest.mark.parametrize(("event", "final"), [(Event.STOP, State.STOPPED), (Event.ABORT, State.ABORTED)])
async def test_what_ends_a_queued_job_ends_its_run_at_once(case: StoreCase, event: Event, final: State) -> None:
    job, _ = await case.verb(await case.in_state(State.QUEUED), event)
    assert (job.state, job.desired) == (final, None)
    assert job.run is not None
    assert job.run.state is final
    assert job.run.ended_at is not None
    assert await case.store.claim("one", list(StepKind), lease_seconds=60) is None


@pytest.mark.parametrize("end", [State.STOPPED, State.ABORTED, State.ERROR])
async def test_a_start_goes_on_with_the_generation_and_its_unfinished_splits(case: StoreCase, end: State) -> None:
    job = await case.create()
    await case.start(job)
    await case.plan(job, ("0",), ("50",), ("99",))
    first, second = await case.lease(job), await case.lease(job)
    await case.settle(first, 1, "20")
    await case.store.finish_split(second, ("99",))
    if end is State.ERROR:
        await case.fail(first)
    else:
        await case.verb(job, Event.STOP if end is State.STOPPED else Event.ABORT)
        await case.store.release(first)
    ended = await case.get(job.id)
    assert (ended.state, ended.last_id) == (end, ("20",))
    assert ended.run is not None
    again = await case.start(job)
    assert again.run is not None
    assert (again.generation, again.run.number, again.errors, again.last_id) == (1, 2, [], ("20",))
    assert (again.run.splits_done, again.run.splits_total, again.run.rows_sent) == (1, 2, 0)
    lease = await case.lease(job)
    assert (lease.kind, lease.ordinal, lease.epoch) == (StepKind.SPLIT, first.ordinal, first.epoch + 1)
    runs, _ = await case.store.runs(ACCOUNT, {"job_id": job.id}, limit=10, after=None)
    assert [(run.number, run.state) for run in runs] == [(2, State.RUNNING), (1, end)]


@pytest.mark.parametrize(("mode", "begins"), [("full", "beginning"), ("incremental", "keep")])
async def test_after_success_a_start_makes_a_generation_of_its_own(case: StoreCase, mode: str, begins: str) -> None:
    job = await case.create(mode=mode)
    await case.start(job)
    await case.plan(job, ("0",), ("99",))
    await case.settle(split := await case.lease(job), 1, "99")
    await case.store.finish_split(split, ("99",))
    await case.store.finish_run(await case.lease(job))
    again = await case.start(job)
    assert (again.generation, again.splits) == (2, [])
    assert again.last_id == (None if begins == "beginning" else ("99",))
    lease = await case.lease(job)
    assert (lease.kind, lease.generation) == (StepKind.PLAN, 2)
    assert (await case.store.generation(lease, 2)).begins == begins


async def test_from_the_beginning_is_a_new_generation_whose_predecessor_is_left_as_it_was(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await case.plan(job, ("0",), ("50",), ("99",))
    lease = await case.lease(job)
    await case.settle(lease, 1, "20")
    await case.verb(job, Event.STOP)
    await case.store.park(lease)
    again, moved = await case.verb(job, Event.START, from_beginning=True)
    assert moved
    assert (again.generation, again.generation_unrun, again.last_id) == (2, False, None)
    plan = await case.lease(job)
    assert (plan.kind, plan.generation) == (StepKind.PLAN, 2)
    assert await case.store.claim("two", list(StepKind), lease_seconds=60) is None
    before = await case.store.generation(plan, 1)
    assert [(split.position, split.sequence) for split in before.splits] == [(("20",), 1), (None, 0)]
    assert (before.closed, before.planned) == (False, True)


async def test_an_error_is_shown_until_the_next_start(case: StoreCase) -> None:
    job = await case.in_state(State.ERROR)
    assert [cause.code for cause in job.errors] == ["sink_refused", "root"]
    assert job.run is not None
    assert [cause.code for cause in job.run.errors] == ["sink_refused", "root"]
    again = await case.start(job)
    assert again.errors == []


# Checkpoint


async def test_a_checkpoint_is_a_generation_that_the_next_start_runs(case: StoreCase) -> None:
    job = await case.in_state(State.SUCCESSFUL)
    put = await case.store.put_checkpoint(
        ACCOUNT, ANA, job.id, seen_generation=1, ranges=[OpenRange(("40",), None)], reason="mended rows"
    )
    assert (put.state, put.generation, put.generation_unrun, put.last_id) == (State.SUCCESSFUL, 2, True, ("40",))
    started = await case.start(job)
    assert (started.state, started.generation, started.generation_unrun) == (State.QUEUED, 2, False)
    lease = await case.lease(job)
    state = await case.store.generation(lease, 2)
    assert (state.begins, state.ranges) == ("given", [OpenRange(("40",), None)])
    events, _ = await case.store.events(ACCOUNT, {"event": "checkpoint_put"}, limit=10, after=None)
    assert [event.details["reason"] for event in events] == ["mended rows"]
    await case.store.save_plan(lease, [], bound=None, tail=False, estimated_rows=0)
    await case.finish(job)
    with pytest.raises(Conflict, match="start is not possible"):
        await case.start(job)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.STOPPING, State.ABORTING, State.FAILING])
async def test_no_checkpoint_while_anything_runs(case: StoreCase, state: State) -> None:
    job = await case.in_state(state)
    with pytest.raises(Conflict) as refused:
        await case.store.put_checkpoint(ACCOUNT, ANA, job.id, seen_generation=1, ranges=[], reason="")
    assert refused.value.code == "job_running"
    assert await case.get(job.id) == job


async def test_a_checkpoint_for_another_generation_is_refused(case: StoreCase) -> None:
    job = await case.in_state(State.STOPPED)
    with pytest.raises(Conflict) as refused:
        await case.store.put_checkpoint(ACCOUNT, ANA, job.id, seen_generation=0, ranges=[], reason="")
    assert (refused.value.code, refused.value.facts) == ("generation_changed", {"generation": 1})


async def test_what_an_unplanned_generation_was_to_begin_with_is_kept(case: StoreCase) -> None:
    job = await case.in_state(State.SUCCESSFUL, mode="incremental")
    ranges = [OpenRange(("40",), ("60",)), OpenRange(("80",), None)]
    await case.store.put_checkpoint(ACCOUNT, ANA, job.id, seen_generation=1, ranges=ranges, reason="")
    spec = {**job.spec, "mode": "full"}
    kept = await case.store.replace(
        *(ACCOUNT, ANA, job.id, spec, {}),
        guarantee="counts",
        guarantee_note="",
        if_revision=None,
        position="keep",
        target_changed=True,
    )
    assert (kept.generation, kept.generation_unrun) == (3, True)
    await case.start(job)
    lease = await case.lease(job)
    third, second = await case.store.generation(lease, 3), await case.store.generation(lease, 2)
    assert (third.begins, third.ranges) == ("given", ranges)
    assert (second.planned, second.closed) == (False, True)


# At once


@pytest.mark.parametrize("pair", [("start", "start"), ("start", "stop"), ("remove", "start"), ("start", "checkpoint")])
async def test_of_two_at_once_one_finds_what_the_other_did(case: StoreCase, pair: tuple[str, str]) -> None:
    """Both wait for the job's row, held by a third connection, so that they really meet there."""
    job = await case.in_state(State.STOPPED)
    actions = {
        "start": lambda: case.verb(job, Event.START),
        "stop": lambda: case.verb(job, Event.STOP),
        "remove": lambda: case.store.remove(ACCOUNT, ANA, job.id),
        "checkpoint": lambda: case.store.put_checkpoint(
            ACCOUNT, ANA, job.id, seen_generation=1, ranges=[OpenRange(("1",), None)], reason=""
        ),
    }
    async with case.store._pool.transaction() as connection:
        await connection.execute("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE", job.id)
        tasks = [asyncio.create_task(actions[action]()) for action in pair]
        await until(lambda: _waiting(case), 10, "both wait for the job's row")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    after = await case.store.get(ACCOUNT, job.id)
    steps = await case.sql("SELECT count(*) FROM runs WHERE job_id = $1", job.id)
    match pair:
        case ("start", "start"):
            assert sorted(outcome[1] for outcome in outcomes) == [False, True]
            assert steps[0][0] == 2
        case ("start", "stop"):
            assert after is not None
            assert after.state in {State.QUEUED, State.STOPPED}
            assert (after.state is State.STOPPED) == outcomes[1][1]
        case ("remove", "start"):
            removed = outcomes[0] is True
            assert (after is None) == removed
            assert isinstance(outcomes[1], NotFound) == removed
        case _:
            assert after is not None
            assert after.generation == (1 if isinstance(outcomes[1], Conflict) else 2)
            assert (await case.lease(job)).generation == after.generation


async def _waiting(case: StoreCase) -> bool:
    rows = await case.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return bool(rows[0][0] == 2)


@pytest.mark.parametrize("state", list(State))
async def test_removal_that_aborts_first(case: StoreCase, state: State) -> None:
    job = await case.in_state(state)
    await case.store.remove_when_aborted(ACCOUNT, ANA, job.id)
    if state in {State.RUNNING, State.STOPPING, State.ABORTING, State.FAILING}:
        assert (await case.get(job.id)).state is State.ABORTING
        leased = "SELECT count(*) FROM steps WHERE job_id = $1 AND state = 'leased'"
        assert (await case.sql(leased, job.id))[0][0] == 1
        await case.sql(
            "UPDATE steps SET leased_until = clock_timestamp() - interval '1 s' WHERE job_id = $1 AND state = 'leased'",
            job.id,
        )
        await case.store.expire()
    assert await case.store.get(ACCOUNT, job.id) is None
    assert (await case.create(job.name)).state is State.CREATED


async def test_a_verb_of_another_account_finds_nothing(case: StoreCase) -> None:
    job = await case.in_state(State.STOPPED)
    await case.store.ensure_account("other")
    for account in ("other", "nobody"):
        with pytest.raises(NotFound):
            await case.store.verb(account, ANA, job.id, Event.START, trigger="api")
        with pytest.raises(NotFound):
            await case.store.remove(account, ANA, job.id)
    with pytest.raises(NotFound):
        await case.store.verb(ACCOUNT, ANA, "no-uuid", Event.START, trigger="api")
