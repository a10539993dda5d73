"""What `StepStore` promises, on a real Postgres. Leases run out by SQL, not by waiting."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import Aborted, Cause, Conflict, LeaseLost, Stopped, Transient
from service.domain.states import Event, State
from service.domain.steps import Condition, OpenRange, StepKind
from service.domain.verification import Difference, DifferenceKind, Findings, VerifyProgress
from service.domain.window import SeenKeys, WindowState
from service.store.held import SQL
from service.store.ids import uuid7
from service.store.pool import Pool
from service.store.steps import PostgresStepStore
from service.store.transitions import NewRun, transition
from tests.contract.control_jobs import (
    ANA,
    LEASE_SECONDS,
    LIMIT,
    RUN_KINDS,
    Control,
    PlainBox,
    causes,
    chunk,
    control,
    control_dsn,
    dead,
    settlement,
)
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.domain.ports import StepStore
    from service.domain.steps import Lease, Step


__all__ = ["control", "control_dsn"]  # fixtures

# Claim


async def test_nothing_to_claim_is_none(control: Control) -> None:
    await control.job()
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS) is None


async def test_the_first_claim_makes_a_queued_job_running_with_one_event(control: Control) -> None:
    job_id = await control.job(secrets={"/sink/password": "s3cret"})
    await control.verb(job_id, Event.START)
    await control.sql('UPDATE jobs SET spec = spec || \'{"mode": "full"}\', secrets = NULL WHERE id = $1', job_id)
    step = await control.claimed()
    assert (step.lease.kind, step.lease.ordinal, step.lease.epoch, step.lease.owner) == (StepKind.PLAN, 0, 1, "one")
    assert (step.account, step.run_number, step.lease_seconds) == ("default", 1, LEASE_SECONDS)
    # The generation's snapshot, not what the job says now.
    assert "mode" not in step.spec
    assert step.secrets == {"/sink/password": "s3cret"}
    assert "s3cret" not in repr(step)
    run = await control.row("runs", job_id)
    assert (run["id"], run["state"], run["number"], run["trigger"]) == (step.lease.run_id, "running", 1, "api")
    assert await control.moves(job_id) == [("created", "start", "queued"), ("queued", "leased", "running")]
    events = await control.sql("SELECT actor, origin, request_id FROM events WHERE job_id = $1 ORDER BY seq", job_id)
    assert [tuple(e) for e in events] == [("ana", "127.0.0.1", "request-1"), (None, "one", None)]


async def test_steps_are_claimed_in_the_order_of_their_starts(control: Control) -> None:
    jobs = [await control.job() for _ in range(3)]
    for job_id in reversed(jobs):
        await control.verb(job_id, Event.START)
    assert [(await control.claimed()).lease.job_id for _ in jobs] == list(reversed(jobs))


async def test_only_the_kinds_asked_for_are_claimed(control: Control) -> None:
    await control.planned(splits=1)
    for kinds in ([StepKind.PLAN, StepKind.FINISH, StepKind.CLEAN_UP], []):
        assert await control.store.claim("one", kinds, lease_seconds=LEASE_SECONDS) is None
    assert (await control.claimed(StepKind.SPLIT)).lease.ordinal == 0


async def test_a_claim_can_be_limited_to_jobs_but_for_clean_ups(control: Control) -> None:
    removed = await clean_up(control)
    await control.store.release(removed)
    one, two = await control.job(), await control.job()
    for job_id in (one, two):
        await control.verb(job_id, Event.START)
    step = await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS, only_jobs=[two])
    assert step is not None
    assert step.lease.job_id == two
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS, only_jobs=[two]) is None
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS, only_jobs=[]) is None
    step = await control.store.claim("one", list(StepKind), lease_seconds=LEASE_SECONDS, only_jobs=[])
    assert step is not None
    assert step.lease.job_id == removed.job_id


@pytest.mark.parametrize("event", [Event.STOP, Event.ABORT])
async def test_a_job_that_does_not_want_to_run_is_not_claimed(control: Control, event: Event) -> None:
    job_id = await control.planned(splits=2)
    await control.leases(1)
    await control.verb(job_id, event)
    assert await control.store.claim("two", RUN_KINDS, lease_seconds=LEASE_SECONDS) is None


async def test_steps_of_an_older_generation_are_not_claimed(control: Control) -> None:
    job_id = await control.planned(splits=2)
    await control.verb(job_id, Event.STOP)
    await control.generation(job_id, 2, "keep")
    await control.verb(job_id, Event.START)
    step = await control.claimed()
    assert (step.lease.kind, step.lease.generation) == (StepKind.PLAN, 2)
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS) is None


async def test_a_step_that_grew_old_while_its_claim_waited_is_not_claimed(control: Control) -> None:
    job_id = await control.planned(splits=1)
    async with control.pool.transaction() as connection:
        await connection.fetchrow("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        claiming = asyncio.create_task(control.claimed())
        await until(lambda: lock_waits(control, 1), 10, "the claim has found the split and waits for its job")
        await transition(connection, job_id, Event.STOP, ANA)
        await connection.execute(
            "INSERT INTO generations (job_id, number, begins, spec) SELECT id, 2, 'keep', spec FROM jobs WHERE id = $1",
            job_id,
        )
        await connection.execute(
            "INSERT INTO steps (job_id, generation, kind, state) VALUES ($1, 2, 'plan', 'ready')", job_id
        )
        await connection.execute("UPDATE jobs SET generation = 2 WHERE id = $1", job_id)
        await transition(connection, job_id, Event.START, ANA, run=NewRun(uuid7(), "api"))
    lease = (await claiming).lease
    assert (lease.kind, lease.generation) == (StepKind.PLAN, 2)
    assert (await control.value("SELECT sum(epoch) FROM steps WHERE kind = 'split'")) == 0


async def test_a_step_taken_again_has_a_higher_epoch_and_a_new_run_its_number(control: Control) -> None:
    job_id = await control.job()
    await control.verb(job_id, Event.START)
    first = await control.claimed()
    await control.store.release(first.lease)
    again = await control.claimed()
    assert (first.lease.epoch, again.lease.epoch) == (1, 2)
    await control.store.save_plan(again.lease, [OpenRange(None, None)], bound=None, tail=False, estimated_rows=None)
    await control.verb(job_id, Event.STOP)
    await control.verb(job_id, Event.START)
    step = await control.claimed()
    assert (step.lease.epoch, step.run_number) == (1, 2)


async def test_claims_at_once_never_share_a_step(control: Control) -> None:
    for _ in range(3):
        await control.planned(splits=4)
    steps = await asyncio.gather(
        *(control.store.claim(f"p{n}", RUN_KINDS, lease_seconds=LEASE_SECONDS) for n in range(16))
    )
    taken = [(s.lease.job_id, s.lease.ordinal) for s in steps if s is not None]
    assert len(taken) == len(set(taken)) == 12


async def test_a_busy_job_is_passed_over_and_waited_for_only_when_it_is_the_last(control: Control) -> None:
    busy, idle = await control.job(), await control.job()
    for job_id in (busy, idle):
        await control.verb(job_id, Event.START)
    async with control.pool.transaction() as connection:
        await connection.fetchrow("SELECT FROM jobs WHERE id = $1 FOR UPDATE", busy)
        assert (await control.claimed()).lease.job_id == idle
        waiting = asyncio.create_task(control.claimed())
        await until(lambda: lock_waits(control, 1), 10, "the claim waits for the busy job")
    assert (await waiting).lease.job_id == busy


async def lock_waits(control: Control, count: int) -> bool:
    waits = await control.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(waits == count)


async def test_a_job_whose_secrets_no_key_opens_fails_and_does_not_stop_the_others(control: Control) -> None:
    broken, sound = await control.job(), await control.job()
    await control.sql("UPDATE generations SET secrets = 'lost' WHERE job_id = $1", broken)
    for job_id in (broken, sound):
        await control.verb(job_id, Event.START)
    assert (await control.claimed()).lease.job_id == sound
    job = await control.row("jobs", broken)
    assert (job["state"], job["errors"][0]["code"]) == ("error", "secret_key_wrong")


# Renew


async def test_renewing_extends_by_the_clock_of_the_database_and_brings_the_state(control: Control) -> None:
    job_id = await control.planned(splits=2)
    leases = await control.leases(2)
    await control.run_out(job_id)
    await control.verb(job_id, Event.STOP)
    before = await control.now()
    directives = await control.store.renew(list(reversed(leases)), lease_seconds=60)
    assert [d.lease for d in directives] == list(reversed(leases))
    assert {(d.valid, d.state) for d in directives} == {(True, State.STOPPING)}
    assert all(29 < (d.stop_in_seconds or 0) <= 30 for d in directives)
    assert (await control.step(leases[0]))["leased_until"].timestamp() == pytest.approx(before.timestamp() + 60, abs=5)
    assert await control.store.renew([], lease_seconds=60) == []


async def test_options_come_from_the_job_as_it_is_now_and_are_shared_by_the_owners_of_its_splits(
    control: Control,
) -> None:
    job_id = await control.planned(splits=3, options={"rate": {"rows_per_second": 5}})
    leases = [*await control.leases(2), *await control.leases(1, owner="two")]
    live = {"rate": {"rows_per_second": 90, "bytes_per_second": 900}, "retry": {"max_without_progress_seconds": 7}}
    await control.sql("UPDATE jobs SET spec = jsonb_set(spec, '{options}', $2) WHERE id = $1", job_id, live)
    directives = await control.store.renew(leases, lease_seconds=60)
    # What the two splits of the first owner may move together, and the one of the second.
    assert [d.rows_per_second for d in directives] == pytest.approx([60, 60, 30])
    assert [d.bytes_per_second for d in directives] == pytest.approx([600, 600, 300])
    assert {(d.max_without_progress_seconds, d.state, d.stop_in_seconds) for d in directives} == {
        (7, State.RUNNING, None)
    }
    settled = await control.store.prepare_and_settle(leases[2], settlement(chunk(leases[2])))
    assert (settled.rows_per_second, settled.bytes_per_second) == pytest.approx((30, 300))
    await control.store.finish_split(leases[2], None)
    first, _, lost = await control.store.renew(leases, lease_seconds=60)
    assert (first.rows_per_second, lost.valid) == (90, False)


async def test_without_options_there_is_no_limit_and_the_default_patience(control: Control) -> None:
    await control.planned(splits=1)
    (directive,) = await control.store.renew(await control.leases(1), lease_seconds=60)
    assert (directive.rows_per_second, directive.bytes_per_second) == (None, None)
    assert directive.max_without_progress_seconds == 900


async def test_renewing_does_not_wait_for_the_row_of_the_job(control: Control) -> None:
    job_id = await control.planned(splits=1)
    leases = await control.leases(1)
    async with control.pool.transaction() as connection, asyncio.timeout(5):
        await connection.fetchrow("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        (directive,) = await control.store.renew(leases, lease_seconds=60)
    assert directive.valid


@pytest.mark.parametrize("change", [{"epoch": 7}, {"owner": "somebody else"}, {"generation": 2}, {"ordinal": 9}])
async def test_renewing_what_is_not_held_is_answered_and_changes_nothing(
    control: Control, change: dict[str, Any]
) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    before = await control.step(lease)
    (directive,) = await control.store.renew([replace(lease, **change)], lease_seconds=600)
    assert (directive.valid, directive.state) == (False, None)
    assert await control.step(lease) == before


# Every write names job, step and epoch

WRITES: dict[str, Callable[[StepStore, Lease], Awaitable[Any]]] = {
    "park": lambda store, lease: store.park(lease),
    "release": lambda store, lease: store.release(lease, "because"),
    "fail": lambda store, lease: store.fail(lease, [FAILURE]),
    "report": lambda store, lease: store.report(lease, Condition(waiting_for="rate", progressed=True)),
    "generation": lambda store, lease: store.generation(lease, 1),
    "settle_closed": lambda store, lease: store.settle_closed(lease, 1, 0, settlement(chunk(lease))),
    "drop_closed": lambda store, lease: store.drop_closed(lease, 1, 0),
    "prepare_closed": lambda store, lease: store.prepare_closed(lease, 1, 0, chunk(lease)),
    "fence_epoch": lambda store, lease: store.fence_epoch(lease, 1, 0),
    "close_generation": lambda store, lease: store.close_generation(lease, 1, fenced=False),
    "save_plan": lambda store, lease: store.save_plan(
        lease, [OpenRange(None, None)], bound=None, tail=False, estimated_rows=None
    ),
    "keep_of_source": lambda store, lease: store.keep_of_source(lease, {"source_columns": "seen"}),
    "end_plan": lambda store, lease: store.end_plan(lease),
    "split_leased": lambda store, lease: store.split_leased(lease),
    "split": lambda store, lease: store.split(lease),
    "anchored": lambda store, lease: store.anchored(lease),
    "draw_number": lambda store, lease: store.draw_number(lease, 1),
    "draw_version": lambda store, lease: store.draw_version(lease),
    "prepare": lambda store, lease: store.prepare(lease, chunk(lease)),
    "settle": lambda store, lease: store.settle(lease, settlement(chunk(lease))),
    "prepare_and_settle": lambda store, lease: store.prepare_and_settle(lease, settlement(chunk(lease))),
    "drop_prepared": lambda store, lease: store.drop_prepared(lease, maybe_doubled=3),
    "scan": lambda store, lease: store.scan(lease, ("7",), rows_read=7),
    "move_window": lambda store, lease: store.move_window(lease, ("7",), [1]),
    "finish_split": lambda store, lease: store.finish_split(lease, ("7",)),
    "check_dead_letters": lambda store, lease: store.check_dead_letters(lease, dead=1, read=1),
    "bury": lambda store, lease: store.bury(lease, dead("7"), last_key=("7",)),
    "retry_origin": lambda store, lease: store.retry_origin(lease),
    "letters": lambda store, lease: store.letters(lease, limit=1, most_bytes=1000),
    "keep": lambda store, lease: store.keep(lease, []),
    "finish_retry": lambda store, lease: store.finish_retry(lease),
    "give_up_retry": lambda store, lease: store.give_up_retry(lease, FAILURE),
    "settled_chunks": lambda store, lease: anext(store.settled_chunks(lease)),
    "day_to_list": lambda store, lease: store.day_to_list(lease, 1),
    "chunks_of_day": lambda store, lease: anext(store.chunks_of_day(lease, 1, DAY)),
    "day_listed": lambda store, lease: store.day_listed(lease, 1, DAY),
    "finish_run": lambda store, lease: store.finish_run(lease),
    "cleaned_up": lambda store, lease: store.cleaned_up(lease, "done"),
    "postpone": lambda store, lease: store.postpone(lease, 5, FAILURE),
    "verify_task": lambda store, lease: store.verify_task(lease),
    "verify_chunks": lambda store, lease: anext(store.verify_chunks(lease, 0, 0)),
    "verify_dead": lambda store, lease: store.verify_dead(lease, 0, 1),
    "verify_late": lambda store, lease: store.verify_late(lease, 0),
    "verify_progress": lambda store, lease: store.verify_progress(lease, PROGRESS),
    "verify_ended": lambda store, lease: store.verify_ended(lease, PROGRESS),
    "verify_failed": lambda store, lease: store.verify_failed(lease, [FAILURE]),
}
PROGRESS = VerifyProgress((0, 1), 1, 10, Findings())
DAY = date(2026, 3, 29)
FAILURE = Cause("broken", "it broke", at=None, retryable=False)  # type: ignore[arg-type]
OF_PLAN = {"settle_closed", "drop_closed", "prepare_closed", "fence_epoch", "close_generation", "save_plan", "end_plan"}
OF_PLAN_AND_SPLIT = {"fail", "keep_of_source"}
OF_EVERY_STEP = {
    *("park", "release", "report", "generation", "settled_chunks", "split_leased"),
    *("day_to_list", "chunks_of_day", "day_listed"),
}
OF_CLEAN_UP = {"cleaned_up", "postpone"}
OF_RETRY = {"retry_origin", "letters", "keep", "finish_retry", "give_up_retry"}
TABLES = (
    "jobs",
    "generations",
    "splits",
    "steps",
    "chunks",
    "runs",
    "events",
    "dead_letters",
    "retries",
    "verifications",
    "window_keys",
)
OF_VERIFY = {name for name in WRITES if name.startswith("verify_")}


def test_every_method_that_names_a_lease_is_in_the_table() -> None:
    methods = {name for name in dir(PostgresStepStore) if not name.startswith("_")}
    assert methods - set(WRITES) == {"claim", "renew", "expire"}


async def everything(control: Control) -> str:
    tables = {t: await control.sql(f"SELECT to_jsonb(t)::text AS row FROM {t} t ORDER BY 1") for t in TABLES}
    return json.dumps({table: [row["row"] for row in rows] for table, rows in tables.items()})


async def verifying(control: Control) -> Step:
    """The leased verify step of a job that is not running."""
    job_id = await control.job()
    await control.sql(
        "INSERT INTO verifications (id, account_id, job_id, job_name, generation, checksums, chunks_total, rows_total)"
        " VALUES ($1, $2, $3, 'j', 1, false, 1, 10)",
        *(uuid7(), control.account, job_id),
    )
    await control.sql("INSERT INTO steps (job_id, generation, kind, state) VALUES ($1, 1, 'verify', 'ready')", job_id)
    return await control.claimed(StepKind.VERIFY)


async def test_every_kind_of_step_can_be_stored(control: Control) -> None:
    job_id = await control.job()
    for kind in StepKind:
        await control.sql(
            "INSERT INTO steps (job_id, generation, kind, ordinal, state) VALUES ($1, 1, $2, 9, 'waiting')",
            *(job_id, kind.value),
        )
    assert len(await control.sql("SELECT FROM steps WHERE job_id = $1 AND ordinal = 9", job_id)) == len(StepKind)


async def test_a_verification_is_no_part_of_the_run_beside_it(control: Control) -> None:
    step = await verifying(control)
    job_id = step.lease.job_id
    assert step.lease.run_id is None
    assert (await control.row("verifications", job_id))["state"] == "running"
    await control.verb(job_id, Event.START)
    plan = (await control.claimed(StepKind.PLAN)).lease
    await control.verb(job_id, Event.STOP)
    await control.store.park(plan)
    assert (await control.row("jobs", job_id))["state"] == "stopped"
    (directive,) = await control.store.renew([step.lease], lease_seconds=60)
    assert (directive.valid, directive.state) == (True, None)
    await control.store.report(step.lease, Condition(waiting_for="rate"))
    assert (await control.row("jobs", job_id))["waiting_for"] is None
    await control.store.verify_failed(step.lease, [replace(FAILURE, at=datetime.now(UTC))])
    assert (await control.row("jobs", job_id))["state"] == "stopped"
    assert (await control.row("verifications", job_id))["state"] == "error"
    assert await control.store.claim("one", list(StepKind), lease_seconds=60) is None


async def test_whoever_leases_a_verification_next_finds_how_far_it_came(control: Control) -> None:
    lease = (await verifying(control)).lease
    found = Findings()
    found.add([Difference(DifferenceKind.GONE, 0, 3, target="t")])
    await control.store.verify_progress(lease, VerifyProgress((0, 3), 3, 30, found))
    await control.run_out(lease.job_id)
    assert await control.store.expire() == 1
    task = await control.store.verify_task((await control.claimed(StepKind.VERIFY)).lease)
    assert (task.position, task.chunks_done, task.rows_done) == ((0, 3), 3, 30)
    assert (task.findings.differences, task.findings.counts) == (found.differences, found.counts)


async def lease_for(control: Control, method: str) -> Lease:
    if method in OF_PLAN:
        job_id = await control.planned(splits=1)
        await control.verb(job_id, Event.STOP)
        await control.generation(job_id, 2, "keep")
        await control.verb(job_id, Event.START)
        return (await control.claimed(StepKind.PLAN)).lease
    if method in OF_CLEAN_UP:
        return await clean_up(control)
    if method in OF_RETRY:
        return await control.retrying()
    if method in OF_VERIFY:
        return (await verifying(control)).lease
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    if method == "finish_run":
        await control.store.finish_split(lease, None)
        lease = (await control.claimed(StepKind.FINISH)).lease
    if method in {"settle", "drop_prepared"}:
        await control.store.prepare(lease, chunk(lease))
    return lease


@pytest.mark.parametrize("method", WRITES)
async def test_who_does_not_hold_the_step_writes_nothing(control: Control, method: str) -> None:
    for stale in ("epoch", "owner", "freed", "gone"):
        lease = await lease_for(control, method)
        if stale == "epoch":
            # The same process has leased it anew.
            await control.run_out(lease.job_id)
            assert await control.store.expire() == 1
            again = (await control.claimed(*StepKind)).lease
            assert (again.kind, again.owner) == (lease.kind, lease.owner)
            assert again.epoch > lease.epoch
        elif stale == "owner":
            lease = replace(lease, owner="two")
        elif stale == "freed":
            await control.store.release(lease)
        else:
            await control.sql("DELETE FROM jobs WHERE id = $1", lease.job_id)
        before = await everything(control)
        with pytest.raises(LeaseLost):
            await WRITES[method](control.store, lease)
        assert await everything(control) == before, stale
        await control.sql("DELETE FROM jobs")


@pytest.mark.parametrize("method", sorted(set(WRITES) - OF_EVERY_STEP))
async def test_a_step_of_another_kind_can_not_do_it(control: Control, method: str) -> None:
    other = "cleaned_up" if method in OF_PLAN_AND_SPLIT else "split" if method in OF_PLAN else "save_plan"
    lease = await lease_for(control, other)
    before = await everything(control)
    with pytest.raises(Conflict) as refused:
        await WRITES[method](control.store, lease)
    assert refused.value.code == "wrong_step"
    assert await everything(control) == before


# Plan


async def test_a_plan_makes_splits_and_readies_them(control: Control) -> None:
    job_id = await control.planned(splits=3)
    leases = await control.leases(3)
    splits = [await control.store.split(lease) for lease in leases]
    assert [(s.ordinal, s.lower, s.upper, s.tail) for s in splits] == [
        (0, None, ("100",), False),
        (1, ("100",), ("200",), False),
        (2, ("200",), ("999",), False),
    ]
    assert {(s.position, s.scanned_to, s.sequence, s.rows_read, s.anchored_at, s.prepared) for s in splits} == {
        (None, None, 0, 0, None, ())
    }
    run = await control.row("runs", job_id)
    assert (run["splits_done"], run["splits_total"], run["estimated_rows"]) == (0, 3, 42)
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS) is None


async def test_a_plan_without_splits_readies_the_finish_step(control: Control) -> None:
    job_id = await control.planned(splits=0)
    finish = (await control.claimed()).lease
    assert finish.kind is StepKind.FINISH
    await control.store.finish_run(finish)
    job = await control.row("jobs", job_id)
    assert (job["state"], job["desired"], job["last_id"]) == ("successful", None, None)


async def test_a_tail_waits_for_the_backlog_and_the_finish_for_the_tail(control: Control) -> None:
    job_id = await control.planned(splits=3, tail=True)
    first, second = await control.leases(2)
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS) is None
    await control.store.finish_split(second, ("200",))
    assert await control.store.claim("one", RUN_KINDS, lease_seconds=LEASE_SECONDS) is None
    await control.store.finish_split(first, ("100",))
    tail = (await control.claimed()).lease
    state = await control.store.split(tail)
    assert (state.ordinal, state.tail, state.lower, state.upper) == (2, True, ("200",), None)
    await control.store.finish_split(tail, None)
    assert (await control.claimed()).lease.kind is StepKind.FINISH
    assert (await control.row("runs", job_id))["splits_done"] == 3


async def test_a_tail_alone_is_ready_at_once(control: Control) -> None:
    await control.planned(splits=1, tail=True)
    (lease,) = await control.leases(1)
    assert (await control.store.split(lease)).tail


async def test_a_plan_that_ends_while_stopping_ends_the_run_and_is_kept(control: Control) -> None:
    job_id = await control.job()
    await control.verb(job_id, Event.START)
    lease = (await control.claimed()).lease
    await control.verb(job_id, Event.STOP)
    await control.store.save_plan(lease, [OpenRange(None, ("9",))], bound=("9",), tail=False, estimated_rows=1)
    assert await control.state(job_id) == "stopped"
    await control.verb(job_id, Event.START)
    assert (await control.claimed()).lease.kind is StepKind.SPLIT


# Chunks


async def test_a_settled_chunk_is_counted_everywhere_once(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    record = chunk(lease, rows=10, last="50", first_key=("1",))
    await control.sql(LIMIT, job_id, {"max_rows": 2})
    await control.store.prepare(lease, record, dead("7", "8"))
    assert (await control.store.split(lease)).prepared == (record,)
    job = await control.row("jobs", job_id)
    assert (job["totals_rows_read"], job["last_id"]) == (0, None)
    directive = await control.store.settle(
        lease, settlement(record, partition=3, first_offset=5, last_offset=14, etag="e")
    )
    assert (directive.valid, directive.state, directive.lease) == (True, State.RUNNING, lease)
    split = await control.store.split(lease)
    assert (split.position, split.scanned_to, split.sequence, split.rows_read) == (("50",), ("50",), 1, 12)
    assert (split.prepared, split.anchored_at) == ((), None)
    job, run = await control.row("jobs", job_id), await control.row("runs", job_id)
    assert [job[f"totals_{c}"] for c in ("rows_read", "rows_sent", "rows_dead", "bytes_sent", "runs")] == [
        *(12, 10, 2, 100, 1)
    ]
    assert [run[c] for c in ("rows_read", "rows_sent", "rows_dead", "bytes_sent", "rows_maybe_doubled")] == [
        *(12, 10, 2, 100, 0)
    ]
    assert job["last_id"] == run["last_id"] == ["50"]
    stored = await control.row("chunks", job_id)
    assert (stored["state"], stored["partition"], stored["first_offset"], stored["etag"]) == ("settled", 3, 5, "e")
    before = await everything(control)
    with pytest.raises(Conflict) as again:
        await control.store.settle(lease, settlement(record))
    assert again.value.code == "chunk_not_prepared"
    assert await everything(control) == before


async def test_settling_takes_the_values_of_the_stored_try(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    record = chunk(lease, rows=10, last="50")
    await control.store.prepare(lease, record)
    wrong = replace(record, rows=99, bytes=1, last_key=("999",), target="elsewhere")
    await control.store.settle(lease, settlement(wrong, scanned_to=("60",)))
    split = await control.store.split(lease)
    assert (split.position, split.scanned_to) == (("50",), ("60",))
    assert (await control.row("jobs", job_id))["totals_rows_sent"] == 10
    assert [pair async for pair in control.store.settled_chunks(lease)] == [(0, record)]


async def test_the_next_owner_adopts_one_try_and_the_others_are_dropped(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (old,) = await control.leases(1)
    first = chunk(old, rows=10)
    await control.store.prepare(old, first)
    await control.run_out(job_id)
    await control.store.expire()
    (new,) = await control.leases(1, owner="two")
    second = chunk(new, rows=11)
    await control.store.prepare(new, second)
    third = chunk(new, rows=9, attempt=2)
    await control.store.prepare(new, third)
    assert (await control.store.split(new)).prepared == (first, second, third)
    await control.store.settle(new, settlement(first))
    rows = await control.sql("SELECT epoch, attempt, state FROM chunks ORDER BY epoch, attempt")
    assert [tuple(row) for row in rows] == [
        (old.epoch, 1, "settled"),
        (new.epoch, 1, "dropped"),
        (new.epoch, 2, "dropped"),
    ]
    assert (await control.row("jobs", job_id))["totals_rows_sent"] == 10
    for late in (second, third):
        with pytest.raises(Conflict):
            await control.store.settle(new, settlement(late))


@pytest.mark.parametrize("change", [{"sequence": 2}, {"sequence": 0}, {"epoch": 5}])
async def test_only_the_next_chunk_of_this_epoch_can_be_prepared(control: Control, change: dict[str, Any]) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    for write in (
        lambda record: control.store.prepare(lease, record),
        lambda record: control.store.prepare_and_settle(lease, settlement(record)),
    ):
        with pytest.raises(Conflict) as refused:
            await write(replace(chunk(lease), **change))
        assert refused.value.code == "out_of_sequence"
    assert await control.sql("SELECT FROM chunks") == []


async def test_a_prepare_whose_answer_was_lost_can_be_repeated_but_not_changed(control: Control) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    record = chunk(lease)
    await control.store.prepare(lease, record)
    await control.store.prepare(lease, record)
    assert (await control.store.split(lease)).prepared == (record,)
    with pytest.raises(Conflict) as refused:
        await control.store.prepare(lease, replace(record, target="elsewhere"))
    assert refused.value.code == "try_exists"
    await control.store.drop_prepared(lease)
    with pytest.raises(Conflict):
        await control.store.prepare(lease, record)
    await control.store.prepare(lease, replace(record, attempt=2))


async def test_prepare_and_settle_is_both_at_once(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    for sequence in (1, 2, 3):
        record = chunk(lease, sequence, last=str(10 * sequence))
        directive = await control.store.prepare_and_settle(lease, settlement(record))
        assert directive.valid
    assert (await control.store.split(lease)).sequence == 3
    assert (await control.row("jobs", job_id))["totals_rows_sent"] == 30


async def test_dropping_counts_what_may_be_doubled_once(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.store.drop_prepared(lease, maybe_doubled=5)
    await control.store.prepare(lease, chunk(lease))
    await control.store.drop_prepared(lease, maybe_doubled=10)
    await control.store.drop_prepared(lease, maybe_doubled=10)
    run = await control.row("runs", job_id)
    assert (run["rows_maybe_doubled"], run["rows_sent"]) == (10, 0)
    assert (await control.store.split(lease)).prepared == ()


async def test_numbers_count_over_the_whole_job_and_stay_with_their_chunk(control: Control) -> None:
    await control.planned(splits=2)
    other = await control.planned(splits=1)
    one, two, three = await control.leases(3)
    drawn = [await control.store.draw_number(lease, sequence) for lease, sequence in ((one, 1), (two, 1), (one, 2))]
    assert drawn == [1, 2, 3]
    assert await control.store.draw_number(three, 1) == 1
    many = await asyncio.gather(*(control.store.draw_number(lease, 3) for lease in (one, two, one, two)))
    assert sorted(set(many)) == [4, 5]
    await control.run_out(other)
    await control.store.expire()
    (again,) = await control.leases(1, owner="two")
    assert [await control.store.draw_number(again, sequence) for sequence in (1, 2)] == [1, 2]
    with pytest.raises(LeaseLost):
        await control.store.draw_number(three, 2)


async def test_versions_only_grow_over_jobs_splits_and_owners(control: Control) -> None:
    await control.planned(splits=2)
    other = await control.planned(splits=1)
    one, two, three = await control.leases(3)
    drawn = [await control.store.draw_version(lease) for lease in (one, two, three, two, one)]
    many = await asyncio.gather(*(control.store.draw_version(lease) for lease in (one, two, three) * 5))
    assert drawn == sorted(set(drawn))
    assert len(set(many)) == 15
    assert min(many) > drawn[-1]
    # The next owner of a split draws above all that its predecessor, frozen since, ever drew.
    await control.run_out(other)
    await control.store.expire()
    (again,) = await control.leases(1, owner="two")
    assert again.job_id == other
    assert await control.store.draw_version(again) > max(many)
    with pytest.raises(LeaseLost):
        await control.store.draw_version(three)


async def test_a_control_database_made_anew_goes_on_above_the_versions_of_the_one_before(control: Control) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    version = await control.store.draw_version(lease)
    now = await control.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    begun = await control.value("SELECT start_value FROM pg_sequences WHERE sequencename = 'chunk_versions'")
    assert now - 24 * 3600 * 10**6 < begun <= version < now


async def test_a_prepared_chunk_blocks_scan_park_and_end(control: Control) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.store.prepare(lease, chunk(lease))
    for write in (
        lambda: control.store.scan(lease, ("7",)),
        lambda: control.store.park(lease),
        lambda: control.store.finish_split(lease, ("7",)),
    ):
        with pytest.raises(Conflict) as refused:
            await write()
        assert refused.value.code == "chunk_unsettled"
    await control.store.release(lease)
    (again,) = await control.leases(1)
    assert [record.epoch for record in (await control.store.split(again)).prepared] == [lease.epoch]


async def test_scanning_moves_without_a_sequence(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.store.scan(lease, ("7",), rows_read=3)
    split = await control.store.split(lease)
    assert (split.position, split.scanned_to, split.sequence, split.rows_read) == (None, ("7",), 0, 3)
    job, run = await control.row("jobs", job_id), await control.row("runs", job_id)
    assert (job["totals_rows_read"], run["rows_read"], job["last_id"]) == (3, 3, None)


async def test_scanning_over_nothing_is_progress(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.sql("UPDATE jobs SET last_progress_at = 'epoch' WHERE id = $1", job_id)
    await control.store.scan(lease, ("7",))
    assert (await control.row("jobs", job_id))["last_progress_at"].year > 2000


async def test_the_anchor_is_noted_and_renewed_by_chunks(control: Control) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.store.anchored(lease)
    noted = (await control.store.split(lease)).anchored_at
    await control.store.prepare_and_settle(lease, settlement(chunk(lease)))
    renewed = (await control.store.split(lease)).anchored_at
    assert noted is not None
    assert renewed is not None
    assert renewed > noted


async def test_last_id_is_how_far_everything_is_durable(control: Control) -> None:
    job_id = await control.planned(splits=3)
    first, second, third = await control.leases(3)

    async def shown() -> Any:
        return (await control.row("jobs", job_id))["last_id"], (await control.row("runs", job_id))["last_id"]

    await control.store.prepare_and_settle(third, settlement(chunk(third, last="250")))
    assert await shown() == (None, None)
    await control.store.prepare_and_settle(first, settlement(chunk(first, last="70")))
    assert await shown() == (["70"], ["70"])
    await control.store.finish_split(first, ("100",))
    assert await shown() == (["100"], ["100"])
    await control.store.prepare_and_settle(second, settlement(chunk(second, last="130")))
    assert await shown() == (["130"], ["130"])
    await control.store.finish_split(second, None)
    assert await shown() == (["250"], ["250"])
    await control.store.finish_split(third, None)
    assert await shown() == (["250"], ["250"])


async def test_a_run_that_delivers_nothing_has_no_last_id(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.store.prepare_and_settle(lease, settlement(chunk(lease)))
    await control.store.park(lease)
    await control.verb(job_id, Event.STOP)
    await control.verb(job_id, Event.START)
    (lease,) = await control.leases(1)
    await control.store.finish_split(lease, None)
    runs = await control.sql("SELECT last_id, splits_done, splits_total FROM runs ORDER BY number")
    assert [tuple(run) for run in runs] == [(["50"], 0, 1), (None, 1, 1)]
    assert (await control.row("jobs", job_id))["last_id"] == ["50"]


async def test_settled_chunks_come_in_order_over_pages(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.chunks._PAGE", 2)
    await control.planned(splits=2)
    first, second = await control.leases(2)
    for lease, count in ((second, 2), (first, 3)):
        for sequence in range(1, count + 1):
            await control.store.prepare_and_settle(lease, settlement(chunk(lease, sequence)))
        await control.store.prepare(lease, chunk(lease, count + 1))
    found = [(ordinal, record.sequence) async for ordinal, record in control.store.settled_chunks(first)]
    assert found == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]


async def test_the_last_two_splits_that_end_at_once_ready_the_finish_step_once(control: Control) -> None:
    job_id = await control.planned(splits=2)
    first, second = await control.leases(2)
    async with control.pool.transaction() as connection:
        await connection.fetchrow("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        ends = [asyncio.create_task(control.store.finish_split(lease, None)) for lease in (first, second)]
        await until(lambda: lock_waits(control, 2), 10, "both wait for the job's row")
    await asyncio.gather(*ends)
    finish = (await control.claimed()).lease
    assert (finish.kind, finish.epoch) == (StepKind.FINISH, 1)
    assert await control.store.claim("two", RUN_KINDS, lease_seconds=LEASE_SECONDS) is None
    assert (await control.row("runs", job_id))["splits_done"] == 2


# Ends


async def test_the_finish_step_ends_the_run(control: Control) -> None:
    job_id = await control.planned(splits=0)
    finish = (await control.claimed()).lease
    await control.store.finish_run(finish)
    job, run = await control.row("jobs", job_id), await control.row("runs", job_id)
    assert (job["state"], run["state"], run["ended_at"] is None) == ("successful", "successful", False)
    assert (await control.row("generations", job_id))["finished_at"] is not None
    assert (await control.step(finish))["state"] == "done"


@pytest.mark.parametrize(("event", "raised"), [(Event.ABORT, Aborted), (Event.FAILED, Stopped)])
async def test_a_finish_that_comes_too_late_writes_nothing(
    control: Control, event: Event, raised: type[Exception]
) -> None:
    job_id = await control.planned(splits=0)
    finish = (await control.claimed()).lease
    async with control.pool.transaction() as connection:
        await transition(connection, job_id, event, ANA, errors=causes("broken", await control.now()))
    before = await everything(control)
    with pytest.raises(raised):
        await control.store.finish_run(finish)
    assert await everything(control) == before


async def test_finishing_while_stopping_is_successful(control: Control) -> None:
    job_id = await control.planned(splits=0)
    finish = (await control.claimed()).lease
    await control.verb(job_id, Event.STOP)
    await control.store.finish_run(finish)
    assert await control.state(job_id) == "successful"


@pytest.mark.parametrize(
    ("event", "over", "end"), [(Event.STOP, "stopping", "stopped"), (Event.ABORT, "aborting", "aborted")]
)
async def test_a_job_ends_with_its_last_leased_step(control: Control, event: Event, over: str, end: str) -> None:
    job_id = await control.planned(splits=3)
    parked, ended, released = await control.leases(3)
    await control.verb(job_id, event)
    await control.store.park(parked)
    await control.store.finish_split(ended, None)
    assert await control.state(job_id) == over
    await control.store.release(released, "the last chunk may still become visible")
    job, run = await control.row("jobs", job_id), await control.row("runs", job_id)
    assert (job["state"], job["desired"], job["stop_deadline"]) == (end, None, None)
    assert job["reason"] == "the last chunk may still become visible"
    assert (run["state"], run["ended_at"] is None) == (end, False)
    await control.verb(job_id, Event.START)
    assert (await control.row("jobs", job_id))["reason"] is None
    assert [lease.ordinal for lease in await control.leases(2)] == [0, 2]


async def test_a_stop_with_nothing_leased_ends_at_once(control: Control) -> None:
    job_id = await control.planned(splits=1)
    moved = await control.verb(job_id, Event.STOP)
    assert moved is not None
    assert (moved.before, moved.after) == (State.RUNNING, State.STOPPED)
    assert (await control.moves(job_id))[-2:] == [
        ("running", "stop", "stopping"),
        ("stopping", "parked", "stopped"),
    ]


async def test_the_first_error_is_kept_and_the_others_park(control: Control) -> None:
    job_id = await control.planned(splits=3)
    first, second, third = await control.leases(3)
    at = await control.now()
    await control.store.fail(first, causes("sink_refused", at))
    job = await control.row("jobs", job_id)
    assert (job["state"], job["desired"]) == ("failing", "stop")
    (directive,) = await control.store.renew([second], lease_seconds=60)
    assert directive.state is State.FAILING
    await control.store.fail(second, causes("something_else", at))
    await control.store.park(third)
    job, run = await control.row("jobs", job_id), await control.row("runs", job_id)
    assert (job["state"], run["state"], job["desired"]) == ("error", "error", None)
    chain = [
        {"code": "sink_refused", "message": "it was sink_refused", "at": at.isoformat(), "retryable": False},
        {"code": "root", "message": "the reason", "at": at.isoformat(), "retryable": False},
    ]
    assert job["errors"] == run["errors"] == chain
    await control.verb(job_id, Event.START)
    assert (await control.row("jobs", job_id))["errors"] == []
    runs = await control.sql("SELECT errors FROM runs ORDER BY number")
    assert [len(row["errors"]) for row in runs] == [2, 0]


async def test_a_failure_needs_a_cause(control: Control) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    with pytest.raises(ValueError, match="cause"):
        await control.store.fail(lease, [])


# Expire


async def test_nothing_due_is_nothing_done(control: Control) -> None:
    job_id = await control.planned(splits=1)
    await control.leases(1)
    before = await everything(control)
    assert await control.store.expire() == 0
    assert await everything(control) == before
    assert await control.state(job_id) == "running"


async def test_a_lease_that_has_run_out_is_freed_and_the_run_goes_on(control: Control) -> None:
    job_id = await control.planned(splits=2)
    leases = await control.leases(2)
    await control.sql(
        "UPDATE steps SET leased_until = clock_timestamp() - interval '1 s' WHERE kind = 'split' AND ordinal = 0"
    )
    assert await control.store.expire() == 1
    lost, held = await control.store.renew(leases, lease_seconds=60)
    assert (lost.valid, held.valid) == (False, True)
    assert await control.state(job_id) == "running"
    again = (await control.claimed(owner="two")).lease
    assert again.ordinal == 0
    assert again.epoch > leases[0].epoch
    (event,) = await control.sql("SELECT details FROM events WHERE event = 'lease_expired'")
    assert event["details"] == {"generation": 1, "kind": "split", "ordinal": 0, "owner": "one", "epoch": 1}


async def test_what_outstays_the_stop_is_released_and_said(control: Control) -> None:
    job_id = await control.planned(splits=2, options={"stop_timeout_seconds": 5})
    leases = await control.leases(2)
    await control.verb(job_id, Event.STOP)
    await control.store.prepare(leases[0], chunk(leases[0]))
    assert await control.store.expire() == 0
    await control.sql("UPDATE jobs SET stop_deadline = clock_timestamp() - interval '1 s'")
    assert await control.store.expire() == 3
    job = await control.row("jobs", job_id)
    assert job["state"] == "stopped"
    assert "stop_timeout_seconds of 5" in job["reason"]
    assert [(await control.step(lease))["epoch"] for lease in leases] == [2, 2]
    with pytest.raises(LeaseLost):
        await control.store.settle(leases[0], settlement(chunk(leases[0])))


async def test_an_abort_waits_for_leases_however_long_the_stop_time_out(control: Control) -> None:
    job_id = await control.planned(splits=1)
    await control.leases(1)
    await control.verb(job_id, Event.STOP)
    await control.verb(job_id, Event.ABORT)
    assert (await control.row("jobs", job_id))["stop_deadline"] is None
    assert await control.store.expire() == 0
    await control.run_out(job_id)
    assert await control.store.expire() == 2
    assert await control.state(job_id) == "aborted"


@pytest.mark.parametrize(("event", "end"), [(Event.STOP, "stopped"), (Event.ABORT, "aborted"), (Event.FAILED, "error")])
async def test_jobs_whose_processes_died_come_to_their_end(control: Control, event: Event, end: str) -> None:
    job_id = await control.planned(splits=2)
    await control.leases(2)
    async with control.pool.transaction() as connection:
        errors = causes("broken", await control.now()) if event is Event.FAILED else None
        await transition(connection, job_id, event, ANA, errors=errors)
    await control.run_out(job_id)
    changed = await asyncio.gather(*(control.store.expire() for _ in range(4)))
    assert sum(changed) == 3
    assert await control.state(job_id) == end


async def test_a_run_beyond_its_time_fails_with_run_timeout(control: Control) -> None:
    job_id = await control.planned(splits=1, options={"timeout_seconds": 60})
    (lease,) = await control.leases(1)
    deadline = await control.value("SELECT run_deadline - clock_timestamp() FROM jobs")
    assert 50 < deadline.total_seconds() <= 60
    await control.sql("UPDATE jobs SET run_deadline = clock_timestamp() - interval '1 s'")
    assert await control.store.expire() == 1
    assert await control.state(job_id) == "failing"
    await control.store.park(lease)
    job, run = await control.row("jobs", job_id), await control.row("runs", job_id)
    assert (job["state"], job["errors"][0]["code"], run["errors"][0]["code"]) == ("error", "run_timeout", "run_timeout")
    assert job["run_deadline"] is None


async def test_looking_for_what_is_due_reads_indexes_however_many_jobs_there_are(control: Control) -> None:
    job_id = await control.planned(splits=1)
    await control.verb(job_id, Event.STOP)
    await control.sql(
        """WITH copied AS (
               INSERT INTO jobs (id, account_id, name, owner, spec, guarantee, guarantee_note, state, generation)
               SELECT gen_random_uuid(), account_id, name || n, owner, spec, guarantee, '', 'stopped', 1
               FROM jobs, generate_series(1, 3000) n RETURNING id
           ), generated AS (
               INSERT INTO generations (job_id, number, begins, spec) SELECT id, 1, 'beginning', '{}' FROM copied
           ) SELECT count(*) FROM copied"""
    )
    await control.sql(
        "INSERT INTO steps (job_id, generation, kind, state)"
        " SELECT job_id, 1, 'finish', 'ready' FROM generations WHERE job_id <> $1",
        job_id,
    )
    await control.sql("ANALYZE")
    for query, arguments in (("due", ()), ("candidates", (["plan", "split", "finish", "clean_up"], 16, None))):
        plan = await control.value(f"EXPLAIN (FORMAT JSON) {SQL[query]}", *arguments)
        assert "Seq Scan" not in str(plan), plan
        assert "Index" in str(plan)


# Beside the state


async def test_the_job_shows_the_worst_of_its_steps(control: Control) -> None:
    job_id = await control.planned(splits=3)
    first, second, third = await control.leases(3)
    retrying = {"attempt": 2, "next_at": "2026-01-01T00:00:00Z", "cause": {"code": "sink_unreachable", "message": "m"}}

    async def shown() -> dict[str, Any]:
        job = await control.row("jobs", job_id)
        return {name: job[name] for name in ("waiting_for", "retrying", "horizon", "lag") if job[name] is not None}

    await control.store.report(first, Condition(waiting_for="rate", lag={"rows": 5, "seconds": 1.0}))
    await control.store.report(second, Condition(waiting_for="memory", lag={"rows": 50, "seconds": 0.5}))
    assert await shown() == {"waiting_for": "memory", "lag": {"rows": 50, "seconds": 0.5}}
    await control.store.report(
        third, Condition(retrying={**retrying, "attempt": 1}, horizon={"bound": "9", "held_by": []})
    )
    await control.store.report(second, Condition(retrying=retrying))
    assert await shown() == {
        "retrying": retrying,
        "horizon": {"bound": "9", "held_by": []},
        "lag": {"rows": 5, "seconds": 1.0},
    }
    await control.store.prepare_and_settle(second, settlement(chunk(second)))
    assert (await shown())["retrying"]["attempt"] == 1
    await control.store.park(third)
    assert await shown() == {"waiting_for": "rate", "lag": {"rows": 5, "seconds": 1.0}}
    await control.store.prepare_and_settle(first, settlement(chunk(first)))
    assert await shown() == {"lag": {"rows": 5, "seconds": 1.0}}
    await control.run_out(job_id)
    await control.store.expire()
    assert await shown() == {}


async def test_a_report_that_says_nothing_new_wakes_nobody(control: Control) -> None:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.store.report(lease, Condition(waiting_for="rate"))
    before = (await control.row("jobs", job_id))["status_revision"]
    await control.store.report(lease, Condition(waiting_for="rate", progressed=True))
    assert (await control.row("jobs", job_id))["status_revision"] == before
    await control.sql("UPDATE jobs SET last_progress_at = 'epoch'")
    await control.store.report(lease, Condition(waiting_for="rate", progressed=True))
    assert (await control.row("jobs", job_id))["last_progress_at"].year > 2000


async def test_every_change_of_a_job_is_told_and_numbered(control: Control) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    job_id = await control.job()
    async with control.pool.connection() as connection:
        await connection.add_listener("rowferry_jobs", lambda *args: heard.put_nowait(args[3]))
        before = await control.row("jobs", job_id)
        await control.verb(job_id, Event.START)
        async with asyncio.timeout(10):
            assert await heard.get() == job_id
        after = await control.row("jobs", job_id)
        assert after["status_revision"] > before["status_revision"]
        assert after["spec_revision"] == before["spec_revision"]
        assert after["updated_at"] > before["updated_at"]
        assert after["state_changed_at"] > before["state_changed_at"]
        await connection.reset()


# Closing older generations


async def closing(control: Control, *, begins: str = "keep") -> tuple[str, Lease, Lease]:
    """A job whose first generation has a prepared chunk in its only split, and the plan step of its second."""
    job_id = await control.planned(splits=1)
    (old,) = await control.leases(1)
    await control.store.prepare_and_settle(old, settlement(chunk(old, last="40")))
    await control.store.prepare(old, chunk(old, 2, last="60"))
    await control.store.release(old)
    await control.verb(job_id, Event.STOP)
    await control.generation(job_id, 2, begins)
    await control.verb(job_id, Event.START)
    return job_id, old, (await control.claimed(StepKind.PLAN)).lease


async def test_a_successor_sees_its_predecessor_whole(control: Control) -> None:
    _, old, plan = await closing(control)
    seen = await control.store.generation(plan, 1)
    assert (seen.number, seen.begins, seen.bound, seen.planned, seen.closed) == (1, "beginning", ("999",), True, False)
    assert seen.epochs == {0: old.epoch}
    (split,) = seen.splits
    assert (split.position, split.sequence) == (("40",), 1)
    assert [record.sequence for record in split.prepared] == [2]
    mine = await control.store.generation(plan, 2)
    assert (mine.begins, mine.planned, mine.splits, mine.ranges) == ("keep", False, [], None)


async def test_a_successor_fences_and_settles_what_turned_out_visible(control: Control) -> None:
    job_id, old, plan = await closing(control)
    assert await control.store.fence_epoch(plan, 1, 0) == old.epoch + 1
    (prepared,) = (await control.store.generation(plan, 1)).splits[0].prepared
    await control.store.settle_closed(plan, 1, 0, settlement(prepared))
    seen = await control.store.generation(plan, 1)
    assert (seen.splits[0].position, seen.splits[0].sequence, seen.splits[0].prepared) == (("60",), 2, ())
    job = await control.row("jobs", job_id)
    assert (job["totals_rows_sent"], job["last_id"]) == (20, ["60"])
    runs = await control.sql("SELECT rows_sent, last_id FROM runs ORDER BY number")
    assert [tuple(run) for run in runs] == [(10, ["40"]), (10, ["60"])]
    await control.store.close_generation(plan, 1, fenced=True)
    assert (await control.store.generation(plan, 1)).closed
    assert await control.sql("SELECT FROM events WHERE event = 'old_generation_not_fenced'") == []


async def test_a_generation_from_the_beginning_does_not_take_its_predecessors_position(control: Control) -> None:
    job_id, _, plan = await closing(control, begins="beginning")
    await control.sql("UPDATE jobs SET last_id = NULL")
    (prepared,) = (await control.store.generation(plan, 1)).splits[0].prepared
    await control.store.settle_closed(plan, 1, 0, settlement(prepared))
    job = await control.row("jobs", job_id)
    assert (job["totals_rows_sent"], job["last_id"]) == (20, None)


async def test_a_successor_repeats_or_drops_what_is_not_visible(control: Control) -> None:
    _, old, plan = await closing(control)
    epoch = await control.store.fence_epoch(plan, 1, 0)
    with pytest.raises(Conflict):
        await control.store.prepare_closed(plan, 1, 0, chunk(old, 2, attempt=2))
    repeated = chunk(plan, 2, epoch=epoch)
    await control.store.prepare_closed(plan, 1, 0, repeated)
    tries = (await control.store.generation(plan, 1)).splits[0].prepared
    assert [record.epoch for record in tries] == [old.epoch, epoch]
    await control.store.drop_closed(plan, 1, 0)
    await control.store.drop_closed(plan, 1, 0)
    assert (await control.store.generation(plan, 1)).splits[0].prepared == ()


async def test_a_generation_that_could_not_be_fenced_is_said_once(control: Control) -> None:
    _, _, plan = await closing(control)
    for _ in range(2):
        await control.store.close_generation(plan, 1, fenced=False)
    (event,) = await control.sql("SELECT details FROM events WHERE event = 'old_generation_not_fenced'")
    assert event["details"] == {"generation": 1}


async def test_a_plan_step_closes_only_generations_before_its_own(control: Control) -> None:
    _, _, plan = await closing(control)
    with pytest.raises(Conflict) as refused:
        await control.store.close_generation(plan, 2, fenced=True)
    assert refused.value.code == "wrong_generation"


# Removal


async def clean_up(control: Control) -> Lease:
    job_id = await control.planned(splits=1)
    (lease,) = await control.leases(1)
    await control.sql("UPDATE jobs SET remove_when_ended = true WHERE id = $1", job_id)
    await control.verb(job_id, Event.ABORT)
    await control.store.release(lease)
    return (await control.claimed(StepKind.CLEAN_UP)).lease


async def test_a_job_to_be_removed_goes_when_its_abort_ends_and_its_run_stays(control: Control) -> None:
    lease = await clean_up(control)
    assert lease.run_id is None
    job = await control.row("jobs", lease.job_id)
    assert (job["state"], job["desired"], job["removed_at"] is None) == ("aborted", None, False)
    seen = await control.store.generation(lease, 1)
    assert seen.epochs == {0: 1}
    assert await control.store.fence_epoch(lease, 1, 0) == 2
    await control.store.close_generation(lease, 1, fenced=True)
    await control.store.cleaned_up(lease, "done")
    for table in ("jobs", "generations", "splits", "steps", "chunks"):
        assert await control.sql(f"SELECT FROM {table}") == []
    run = await control.row("runs", lease.job_id)
    assert (run["state"], run["job_id"]) == ("aborted", lease.job_id)
    events = await control.sql(
        "SELECT event, job_name, details FROM events WHERE job_id = $1 ORDER BY seq", lease.job_id
    )
    assert [e["event"] for e in events][-4:] == ["abort", "released", "remove", "cleaned_up"]
    assert events[-1]["details"] == {"generation": 1, "outcome": "done"}


async def test_a_removed_job_can_not_be_started_and_its_name_is_free(control: Control) -> None:
    lease = await clean_up(control)
    assert await control.verb(lease.job_id, Event.START) is None
    await control.sql(
        "INSERT INTO jobs (id, account_id, name, owner, spec, guarantee, guarantee_note)"
        " SELECT gen_random_uuid(), account_id, name, owner, spec, guarantee, '' FROM jobs"
    )


async def test_a_clean_up_given_back_waits_its_time(control: Control) -> None:
    lease = await clean_up(control)
    cause = Cause("sink_unreachable", "refused", await control.now(), retryable=True)
    await control.store.postpone(lease, 60, cause)
    assert await control.store.claim("one", [StepKind.CLEAN_UP], lease_seconds=LEASE_SECONDS) is None
    await control.sql("UPDATE steps SET not_before = clock_timestamp()")
    again = (await control.claimed(StepKind.CLEAN_UP)).lease
    assert again.epoch == lease.epoch + 1
    (event,) = await control.sql("SELECT details FROM events WHERE event = 'clean_up_postponed'")
    assert event["details"]["code"] == "sink_unreachable"


async def test_a_clean_up_is_given_up_after_a_day(control: Control) -> None:
    lease = await clean_up(control)
    await control.sql("UPDATE jobs SET removed_at = clock_timestamp() - interval '25 hours'")
    await control.store.postpone(lease, 60, Cause("sink_unreachable", "refused", await control.now(), retryable=True))
    assert await control.sql("SELECT FROM jobs") == []
    (event,) = await control.sql("SELECT details FROM events WHERE event = 'cleaned_up'")
    assert "sink_unreachable" in event["details"]["outcome"]


async def test_a_clean_up_whose_secrets_no_key_opens_waits_for_the_key(control: Control) -> None:
    lease = await clean_up(control)
    await control.sql("UPDATE generations SET secrets = 'lost'")
    await control.store.release(lease)
    assert await control.store.claim("one", [StepKind.CLEAN_UP], lease_seconds=LEASE_SECONDS) is None
    assert (await control.step(lease))["not_before"] > await control.now()


# The control database is away


async def test_a_control_database_that_is_away_is_said_and_nothing_is_retried(
    control: Control, control_dsn: str, postgres_proxy: Any
) -> None:
    await control.planned(splits=1)
    (lease,) = await control.leases(1)
    host, name = control_dsn.rsplit("/", 1)
    through = f"{host.rsplit(':', 1)[0]}:{postgres_proxy.port}/{name}"
    pool = await Pool.open(through, size=2)
    store = PostgresStepStore(pool, PlainBox())
    try:
        assert (await store.split(lease)).sequence == 0
        await postgres_proxy.refuse()
        postgres_proxy.cut()
        for call in (
            lambda: store.claim("one", RUN_KINDS, lease_seconds=1),
            lambda: store.renew([lease], lease_seconds=1),
            store.expire,
            lambda: store.split(lease),
        ):
            with pytest.raises(Transient) as away:
                await call()
            assert away.value.code == "store_unreachable"
        await postgres_proxy.accept_again()
        assert (await store.split(lease)).sequence == 0
    finally:
        await pool.close()


# Late window


def part(number: int, last: str = "50", keys: int = 10) -> SeenKeys:
    return SeenKeys(number, (last,), keys, b"packed %d" % number)


async def windowed(control: Control, *bounds: str) -> Lease:
    """The one split of a job that looks back from its first bound on."""
    job_id = await control.job(options={"dead_letters": {"max_rows": 5}})
    await control.verb(job_id, Event.START)
    lease = (await control.claimed(StepKind.PLAN)).lease
    ranges = [OpenRange((low,), (high,)) for low, high in pairwise(bounds)]
    await control.store.save_plan(
        lease, ranges, bound=(bounds[-1],), tail=False, estimated_rows=None, window=True, window_of=None
    )
    while (lease := (await control.claimed(StepKind.SPLIT)).lease).ordinal < len(ranges) - 1:
        assert (await control.store.split(lease)).window is None, "only the last one looks back"
    return lease


async def test_what_a_split_has_seen_is_kept_with_a_try_and_final_with_its_settle(control: Control) -> None:
    lease = await windowed(control, "0", "10", "99")
    assert (await control.store.split(lease)).window == WindowState(("10",), (), 1)
    first = chunk(lease, seen=[part(1)])
    other = chunk(lease, attempt=2, seen=[part(2), part(3)])
    await control.store.prepare(lease, first)
    await control.store.prepare(lease, first)
    await control.store.prepare(lease, other)
    split = await control.store.split(lease)
    assert split.window == WindowState(("10",), (), 4)
    assert [list(one.seen) for one in split.prepared] == [[part(1)], [part(2), part(3)]]
    with pytest.raises(Conflict) as refused:
        await control.store.move_window(lease, ("20",), [1])
    assert refused.value.code == "chunk_unsettled"
    await control.store.settle(lease, settlement(other))
    assert (await control.store.split(lease)).window == WindowState(("10",), (part(2), part(3)), 4)
    await control.store.prepare(lease, chunk(lease, 2, seen=[part(4)]))
    await control.store.drop_prepared(lease)
    await control.store.bury(lease, dead("60"), last_key=("60",), seen=[part(5, "60", 1)])
    await control.store.move_window(lease, ("40",), [2])
    assert (await control.store.split(lease)).window == WindowState(("40",), (part(3), part(5, "60", 1)), 6)


async def test_late_rows_move_nothing_and_are_counted_once(control: Control) -> None:
    lease = await windowed(control, "0", "99")
    await control.store.prepare_and_settle(lease, settlement(chunk(lease), scanned_to=("70",)))
    late = chunk(lease, 2, rows=3, last="7", late=True, seen=[part(1, "7", 3)])
    await control.store.prepare(lease, late)
    (prepared,) = (await control.store.split(lease)).prepared
    assert prepared.late
    await control.store.settle(lease, settlement(late))
    with pytest.raises(Conflict):
        await control.store.settle(lease, settlement(late))
    await control.store.bury(lease, dead("8"), last_key=("8",), seen=[part(2, "8", 1)], late=True)
    split = await control.store.split(lease)
    assert (split.position, split.scanned_to, split.sequence, split.rows_read) == (("50",), ("70",), 2, 14)
    (row,) = await control.sql(
        "SELECT totals_rows_read, totals_rows_sent, totals_rows_dead, totals_rows_late, last_id FROM jobs"
    )
    assert tuple(row) == (14, 13, 1, 4, ["50"])
    assert await control.value("SELECT rows_late FROM runs") == 4


async def test_what_was_seen_goes_on_with_the_next_generation_or_is_forgotten(control: Control) -> None:
    lease = await windowed(control, "0", "99")
    await control.store.prepare_and_settle(lease, settlement(chunk(lease, seen=[part(1)])))
    await control.store.move_window(lease, ("20",), [])
    await control.store.finish_split(lease, ("99",))
    await control.store.finish_run((await control.claimed(StepKind.FINISH)).lease)
    for number, of in ((2, 1), (3, None)):
        await control.generation(lease.job_id, number, "keep")
        await control.verb(lease.job_id, Event.START)
        plan = (await control.claimed(StepKind.PLAN)).lease
        assert (await control.store.generation(plan, 1)).splits[0].window is not None
        given = [OpenRange(("99",), ("99",))]
        await control.store.save_plan(
            plan, given, bound=("99",), tail=False, estimated_rows=0, window=True, window_of=of
        )
        lease = (await control.claimed(StepKind.SPLIT)).lease
        window = (await control.store.split(lease)).window
        assert window == (WindowState(("20",), (part(1),), 2) if of else WindowState(("99",), (), 1))
        assert await control.value("SELECT count(*) FROM window_keys WHERE generation <> $1", number) == 0
        await control.store.finish_split(lease, ("99",))
        await control.store.finish_run((await control.claimed(StepKind.FINISH)).lease)
