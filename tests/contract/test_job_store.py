"""What `JobStore` promises beside the verbs (test_verbs.py): definitions, lists, the job log, idempotency, waiting."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import Conflict, NotFound, Permanent
from service.domain.states import Event, State
from service.domain.steps import Condition, OpenRange, StepKind
from service.store.jobs import SORTS
from tests.contract.control_jobs import chunk
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase, case, definition
from tests.support.waiting import happened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.domain.records import Job

__all__ = ["case"]  # fixtures


async def replace(case: StoreCase, job: Job, spec: Mapping[str, object], **more: Any) -> Job:
    given: dict[str, Any] = {
        "guarantee": "counts",
        "guarantee_note": "",
        "if_revision": None,
        "position": None,
        "target_changed": False,
    }
    secrets = more.pop("secrets", {})
    return await case.store.replace(ACCOUNT, ANA, job.id, spec, secrets, **{**given, **more})


# Definitions


async def test_a_job_is_answered_as_it_was_given(case: StoreCase) -> None:
    job = await case.create("orders", mode="full", labels={"team": "shop"})
    assert job.spec == definition("orders", mode="full", labels={"team": "shop"})
    assert (job.name, job.account, job.owner, job.labels) == ("orders", ACCOUNT, "ana", {"team": "shop"})
    assert (job.state, job.desired, job.run, job.last_id, job.errors) == (State.CREATED, None, None, None, [])
    assert (job.spec_revision, job.status_revision, job.generation, job.stalled) == (1, 1, 0, False)
    assert job == await case.store.get(ACCOUNT, job.id) == await case.store.get(ACCOUNT, "orders")
    assert await case.store.get(ACCOUNT, "Orders") is None


async def test_a_name_is_taken_once_in_an_account_and_again_in_another(case: StoreCase) -> None:
    await case.create("orders")
    with pytest.raises(Conflict, match="'orders'") as taken:
        await case.create("orders")
    assert taken.value.code == "name_taken"
    await case.store.ensure_account("other")
    other = await case.create("orders", account="other")
    assert await case.store.get(ACCOUNT, other.id) is None
    with pytest.raises(NotFound, match="account 'nobody'"):
        await case.create("orders", account="nobody")


async def test_of_two_that_create_the_same_name_at_once_one_does(case: StoreCase) -> None:
    outcomes = await asyncio.gather(*(case.create("orders") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 4
    assert len(await case.sql("SELECT 1 FROM jobs")) == 1


async def test_secrets_are_stored_encrypted_and_shown_by_place_only(case: StoreCase) -> None:
    secrets = {"/sink/security/password": "hunter2", "/sink/api_key": "key2"}
    job = await case.create("orders", secrets=secrets)
    assert list(job.secret_pointers) == ["/sink/api_key", "/sink/security/password"]
    assert "hunter2" not in repr(job)
    assert await case.store.secrets(ACCOUNT, job.id) == secrets
    dump = await case.sql("SELECT j::text || coalesce((SELECT string_agg(e::text, '') FROM events e), '') FROM jobs j")
    assert "hunter2" not in dump[0][0]
    await case.store.ensure_account("other")
    assert await case.store.secrets("other", job.id) == {}
    assert await case.store.secrets(ACCOUNT, (await case.create()).id) == {}


async def test_a_secret_without_a_key_stores_nothing(control_database: str) -> None:
    case = await StoreCase.open(control_database, key="")
    try:
        with pytest.raises(Permanent) as refused:
            await case.create("orders", secrets={"/sink/password": "hunter2"})
        assert refused.value.code == "secret_key_required"
        assert await case.sql("SELECT 1 FROM jobs") == []
        await case.create("orders")
    finally:
        await case.store.close()


async def test_a_replaced_definition_has_the_next_revision(case: StoreCase) -> None:
    job = await case.create("orders", secrets={"/sink/password": "old"})
    spec = definition("orders", labels={"team": "new"})
    after = await replace(case, job, spec, secrets={"/sink/password": "new"}, if_revision=1, guarantee="exactly_once")
    assert (after.spec, after.spec_revision, after.guarantee, after.labels) == (
        spec,
        2,
        "exactly_once",
        {"team": "new"},
    )
    assert after.status_revision > job.status_revision
    assert await case.store.secrets(ACCOUNT, job.id) == {"/sink/password": "new"}
    with pytest.raises(Conflict) as stale:
        await replace(case, job, spec, if_revision=1)
    assert (stale.value.code, stale.value.facts) == ("revision_changed", {"revision": 2})


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.STOPPING, State.ABORTING, State.FAILING])
async def test_nothing_is_replaced_while_the_job_runs(case: StoreCase, state: State) -> None:
    job = await case.in_state(state)
    with pytest.raises(Conflict) as refused:
        await replace(case, job, definition(job.name, labels={"a": "b"}))
    assert refused.value.code == "job_running"
    assert await case.get(job.id) == job


async def with_position(case: StoreCase) -> Job:
    job = await case.create(secrets={"/sink/password": "old"})
    await case.start(job)
    await case.plan(job, None, ("50",), ("99",))
    lease = await case.lease(job)
    await case.settle(lease, 1, "20")
    await case.verb(job, Event.STOP)
    await case.store.park(lease)
    return await case.get(job.id)


async def test_a_changed_target_on_a_job_with_a_position_needs_a_word(case: StoreCase) -> None:
    job = await with_position(case)
    spec = definition(job.name, sink="file")
    with pytest.raises(Conflict) as refused:
        await replace(case, job, spec, target_changed=True)
    assert refused.value.code == "position_incompatible"
    assert "reset" in refused.value.hint
    assert await case.get(job.id) == job
    with pytest.raises(ValueError, match="position 'forget'"):
        await replace(case, job, spec, target_changed=True, position="forget")


@pytest.mark.parametrize(("position", "last_id"), [("keep", ("20",)), ("reset", None)])
async def test_keep_and_reset_make_a_generation_and_leave_the_old_definition_to_the_old_one(
    case: StoreCase, position: str, last_id: tuple[str, ...] | None
) -> None:
    job = await with_position(case)
    after = await replace(
        *(case, job, definition(job.name, sink="file")),
        position=position,
        target_changed=True,
        secrets={"/sink/password": "new"},
    )
    assert (after.generation, after.generation_unrun, after.last_id) == (2, True, last_id)
    await case.start(job)
    lease = await case.lease(job)
    old, new = await case.store.generation(lease, 1), await case.store.generation(lease, 2)
    assert (old.spec["sink"], old.secrets) == ({"kind": "donothing"}, {"/sink/password": "old"})
    assert (new.spec["sink"], new.secrets) == ({"kind": "file"}, {"/sink/password": "new"})
    assert new.begins == ("keep" if position == "keep" else "beginning")
    assert not old.closed


async def test_the_same_target_goes_on_with_the_new_definition_in_its_generation(case: StoreCase) -> None:
    job = await with_position(case)
    after = await replace(case, job, definition(job.name, labels={"a": "b"}), secrets={"/sink/password": "new"})
    assert (after.generation, after.generation_unrun, after.last_id) == (1, False, ("20",))
    await case.start(job)
    step = await case.store.claim("one", [StepKind.SPLIT], lease_seconds=60)
    assert step is not None
    assert step.spec["labels"] == {"a": "b"}
    assert step.secrets == {"/sink/password": "new"}


async def test_a_job_that_failed_before_it_was_planned_is_mended_without_a_word(case: StoreCase) -> None:
    job = await case.in_state(State.ERROR)
    spec = definition(job.name, source={"datasource": "shop", "table": "public.right"})
    after = await replace(case, job, spec, target_changed=True)
    assert (after.generation, after.generation_unrun) == (1, False)
    await case.start(job)
    step = await case.store.claim("one", [StepKind.PLAN], lease_seconds=60)
    assert step is not None
    assert step.spec == spec


async def test_a_target_that_may_have_been_opened_is_left_to_a_successor_to_close(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await case.plan(job, None, ("99",))
    await case.verb(job, Event.STOP)
    after = await replace(case, job, definition(job.name, sink="file"), target_changed=True)
    assert (after.generation, after.generation_unrun, after.last_id) == (2, True, None)


async def test_a_patch_changes_the_live_parts_alone_and_reaches_the_running_generation(case: StoreCase) -> None:
    job = await case.in_state(State.RUNNING)
    options = {"rate": {"rows_per_second": 5.0}, "retry": {"max_without_progress_seconds": 7}, "splits": 9}
    given = {
        **job.spec,
        "mode": "full",
        "labels": {"team": "new"},
        "options": {**options, "dead_letters": {"max_rows": 3}},
    }
    after = await case.store.patch(ACCOUNT, ANA, job.id, given, if_revision=1)
    assert (after.state, after.spec_revision, after.labels) == (State.RUNNING, 2, {"team": "new"})
    assert after.spec == {
        **job.spec,
        "labels": {"team": "new"},
        "options": {
            "stop_timeout_seconds": 30,
            "rate": {"rows_per_second": 5.0},
            "retry": {"max_without_progress_seconds": 7},
            "dead_letters": {"max_rows": 3},
        },
    }
    stored = await case.sql("SELECT spec FROM generations WHERE job_id = $1", job.id)
    assert stored[0][0] == after.spec
    with pytest.raises(Conflict) as stale:
        await case.store.patch(ACCOUNT, ANA, job.id, given, if_revision=1)
    assert stale.value.code == "revision_changed"


# Lists


async def names(case: StoreCase, filters: Mapping[str, Any], **more: Any) -> list[str]:
    page, _ = await case.store.list(ACCOUNT, filters, **{"sort": "name", "limit": 50, "after": None, **more})
    return [job.name for job in page]


async def test_filters(case: StoreCase) -> None:
    await case.create("alpha", labels={"team": "shop", "tier": "1"})
    beta = await case.in_state(State.ERROR, name="beta_x", sink="kafka", mode="full", labels={"team": "shop"})
    source = {"datasource": "hr", "table": "t"}
    gamma = await case.in_state(State.RUNNING, name="Gamma%", mode="continuous", source=source)
    await case.store.remove(ACCOUNT, ANA, (await case.create("removed")).id)
    await case.store.ensure_account("other")
    await case.create("elsewhere", account="other")
    everything = ["Gamma%", "alpha", "beta_x"]
    assert sorted(await names(case, {})) == everything
    assert await names(case, {"state": ["error", State.RUNNING]}) == await names(
        case, {"q": "a", "created_from": beta.created_at}
    )
    for filters, expected in [
        ({"state": [State.CREATED]}, ["alpha"]),
        ({"sink": "kafka"}, ["beta_x"]),
        ({"mode": "continuous"}, ["Gamma%"]),
        ({"datasource": "hr"}, ["Gamma%"]),
        ({"label": [("team", "shop")]}, ["alpha", "beta_x"]),
        ({"label": [("team", "shop"), ("tier", "1")]}, ["alpha"]),
        ({"label": [("tier", "1"), ("tier", "2")]}, []),
        ({"q": "BETA"}, ["beta_x"]),
        ({"q": "%"}, ["Gamma%"]),
        ({"q": "_"}, ["beta_x"]),
        ({"q": "\\"}, []),
        ({"error_code": "sink_refused"}, ["beta_x"]),
        ({"error_code": "root"}, ["beta_x"]),
        ({"error_code": "refused"}, []),
        ({"created_from": gamma.created_at}, ["Gamma%"]),
        ({"created_to": beta.created_at}, ["alpha"]),
        ({"stalled": True}, []),
        ({"sink": "kafka", "mode": "once"}, []),
    ]:
        assert await names(case, filters) == expected, filters
    assert sorted(await names(case, {"stalled": False, "q": None})) == everything


@pytest.mark.parametrize(
    ("filters", "sort", "after", "message"),
    [
        ({"colour": "red"}, "name", None, "^colour"),
        ({"q": "a\0b"}, "name", None, "^q "),
        ({"created_from": "yesterday"}, "name", None, "^created_from"),
        ({}, "updated_at", None, "^sort 'updated_at'"),
        ({}, "name", "", "^after"),
        ({}, "name", "äöü", "^after"),
        ({}, "name", "W10", "^after"),
        ({}, "name", "WyItbmFtZSIsImEiLCJiIl0", "^after"),
        ({}, "name", "WyJuYW1lIiwiYSIsIm5vLWlkIl0", "^after"),
        (
            {},
            "created_at",
            "WyJjcmVhdGVkX2F0IiwiMjAyNi0wMS0wMSIsIjAxOTlhMWIyLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMCJd",
            "^after",
        ),
    ],
)
async def test_a_wrong_parameter_is_named(
    case: StoreCase, filters: dict[str, Any], sort: str, after: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await case.store.list(ACCOUNT, filters, sort=sort, limit=5, after=after)


@pytest.mark.parametrize("sort", SORTS)
async def test_pages_neither_repeat_nor_leave_out_while_jobs_come_and_go(case: StoreCase, sort: str) -> None:
    jobs = [await case.create(f"n{number:02}") for number in range(9)]
    # Two of one moment: the id decides.
    await case.sql("UPDATE jobs SET created_at = (SELECT min(created_at) FROM jobs) WHERE name IN ('n04', 'n05')")
    whole = await names(case, {}, sort=sort)
    assert sorted(whole) == [job.name for job in jobs]
    if sort.endswith("name"):
        assert whole == sorted(whole, reverse=sort.startswith("-"))
    seen, after, page = [], None, 0
    while True:
        found, after = await case.store.list(ACCOUNT, {}, sort=sort, limit=2, after=after)
        assert len(found) <= 2
        seen += [job.name for job in found]
        if after is None:
            break
        page += 1
        if page == 2:
            # One that was seen goes, and one comes at either end.
            gone = next(job for job in jobs if job.name == seen[0])
            await case.store.remove(ACCOUNT, ANA, gone.id)
            await case.create("a-new-one")
            await case.create("z-new-one")
    assert [name for name in seen if "new" not in name] == whole
    assert len(seen) == len(set(seen))


async def test_stalled_is_the_same_in_the_answer_and_in_the_filter(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await case.plan(job, None, ("99",))
    lease = await case.lease(job)
    old = "UPDATE jobs SET {} = clock_timestamp() - interval '61 s' WHERE id = $1"

    async def seen() -> bool:
        stalled = (await case.get(job.id)).stalled
        assert await names(case, {"stalled": True}) == ([job.name] if stalled else [])
        assert await names(case, {"stalled": False}) == ([] if stalled else [job.name])
        return stalled

    assert not await seen()
    await case.sql(old.format("last_progress_at"), job.id)
    assert not await seen(), "its state changed a moment ago"
    await case.sql(old.format("state_changed_at"), job.id)
    assert await seen()
    await case.store.report(lease, Condition(waiting_for="horizon"))
    assert not await seen()
    await case.store.report(lease, Condition(retrying={"attempt": 2, "next_at": None, "cause": {}}))
    assert await seen()
    await case.store.report(lease, Condition(progressed=True))
    assert not await seen(), "an idle poll is progress"
    await case.sql(old.format("last_progress_at"), job.id)
    await case.verb(job, Event.STOP)
    await case.store.park(lease)
    await case.sql(old.format("state_changed_at"), job.id)
    assert not await seen(), "nothing runs"


# The job log


async def test_runs_newest_first_by_pages_and_filters(case: StoreCase) -> None:
    job = await case.create("orders", sink="kafka")
    for _ in range(4):
        await case.start(job)
        await case.verb(job, Event.STOP)
    await case.start(job)
    await case.fail(await case.lease(job))
    other = await case.in_state(State.RUNNING, name="other")
    await case.store.remove(ACCOUNT, ANA, job.id)

    async def numbers(filters: Mapping[str, Any]) -> list[tuple[str, int]]:
        found, _ = await case.store.runs(ACCOUNT, filters, limit=50, after=None)
        return [(run.job_name, run.number) for run in found]

    mine = [("orders", number) for number in (5, 4, 3, 2, 1)]
    assert await numbers({}) == [("other", 1), *mine]
    assert (
        await numbers({"job": "orders"})
        == await numbers({"job_id": job.id})
        == await numbers({"sink": "kafka"})
        == mine
    )
    assert await numbers({"state": [State.ERROR]}) == await numbers({"error": "root"}) == mine[:1]
    assert await numbers({"trigger": "schedule"}) == await numbers({"job_id": "no-uuid"}) == []
    runs, _ = await case.store.runs(ACCOUNT, {"job": "orders"}, limit=50, after=None)
    third = runs[2].started_at
    assert await numbers({"started_from": third, "job": "orders"}) == mine[:3]
    assert await numbers({"started_to": third}) == mine[3:]
    assert await case.store.run(ACCOUNT, runs[0].id) == runs[0]
    assert await case.store.run("other", runs[0].id) is None
    assert await case.store.run(ACCOUNT, "no-uuid") is None
    seen, after = [], None
    while True:
        page, after = await case.store.runs(ACCOUNT, {"job": "orders"}, limit=2, after=after)
        seen += [run.number for run in page]
        await case.start(other)
        if after is None:
            break
    assert seen == [5, 4, 3, 2, 1]
    with pytest.raises(ValueError, match=r"^after"):
        await case.store.runs(ACCOUNT, {}, limit=2, after="nonsense")


async def test_outputs_are_what_is_visible_in_the_order_of_its_settling(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await case.plan(job, None, ("50",), ("99",))
    first, second = await case.lease(job), await case.lease(job)
    for lease, sequence, last in [(second, 1, "60"), (first, 1, "10"), (second, 2, "70"), (first, 2, "20")]:
        await case.settle(lease, sequence, last)
    await case.store.prepare(first, chunk(first, 3, last="30"))
    seen, after = [], None
    while True:
        page, after = await case.store.outputs(ACCOUNT, job.id, limit=3, after=after)
        seen += [(output.split, output.sequence, output.last_id, output.rows, output.target) for output in page]
        if after is None:
            break
    assert seen == [
        (1, 1, ("60",), 10, "part-1"),
        (0, 1, ("10",), 10, "part-1"),
        (1, 2, ("70",), 10, "part-2"),
        (0, 2, ("20",), 10, "part-2"),
    ]
    for account, job_id in [("other", job.id), (ACCOUNT, "no-uuid")]:
        assert await case.store.outputs(account, job_id, limit=3, after=None) == ([], None)


async def test_delivered_ranges_are_those_of_every_generation_that_the_current_one_goes_on_from(
    case: StoreCase,
) -> None:
    job = await case.create(mode="incremental")
    await case.start(job)
    await case.plan(job, ("0",), ("50",), ("99",))
    first, second = await case.lease(job), await case.lease(job)
    await case.settle(second, 1, "70")
    assert await delivered(case, job) == [OpenRange(("50",), ("70",))]
    await case.settle(first, 1, "20")
    await case.store.finish_split(first, ("50",))
    assert await delivered(case, job) == [OpenRange(("0",), ("70",))]
    await case.store.finish_split(second, ("99",))
    await case.store.finish_run(await case.lease(job))
    assert await delivered(case, job) == [OpenRange(("0",), ("99",))]
    await case.start(job)
    await case.plan(job, ("99",), ("120",))
    await case.settle(third := await case.lease(job), 1, "110")
    assert await delivered(case, job) == [OpenRange(("0",), ("110",))]
    await case.verb(job, Event.ABORT)
    await case.store.release(third)
    await case.verb(job, Event.START, from_beginning=True)
    assert await delivered(case, job) == []
    assert await case.store.delivered_ranges("other", job.id) == []


async def test_a_prepared_chunk_may_be_visible_and_counts_as_delivered(case: StoreCase) -> None:
    job = await case.create(mode="incremental")
    await case.start(job)
    await case.plan(job, ("0",), ("50",))
    lease = await case.lease(job)
    await case.store.prepare(lease, chunk(lease, 1, last="20"))
    assert await delivered(case, job) == [OpenRange(("0",), ("20",))]
    await case.store.drop_prepared(lease)
    assert await delivered(case, job) == []


async def delivered(case: StoreCase, job: Job) -> list[OpenRange]:
    return list(await case.store.delivered_ranges(ACCOUNT, job.id))


# Log and events


async def test_log_lines_are_kept_with_what_is_known_and_read_back_by_seq(case: StoreCase) -> None:
    job = await case.in_state(State.RUNNING)
    assert job.run is not None
    now = job.created_at
    await case.store.write(
        [
            {"level": "info", "event": "chunk_settled", "message": "settled 10%", "account": ACCOUNT, "job_id": job.id,
             "run_id": job.run.id, "split": 3, "epoch": 2**40, "request_id": "r", "fields": {"rows": 10}, "at": now},
            {"level": "error", "event": "sink_away", "job_id": job.id, "fields": {}},
            {"level": "debug", "event": "looked", "account": ACCOUNT, "job_id": "0199a1b2-0000-7000-8000-000000000000"},
        ]
    )  # fmt: skip
    lines, following = await case.store.log_lines(ACCOUNT, {}, limit=10, after=None)
    assert following is None
    first, second, third = lines
    assert (first.level, first.event, first.message, first.account) == ("info", "chunk_settled", "settled 10%", ACCOUNT)
    assert (first.job_id, first.run_id, first.split, first.epoch) == (job.id, job.run.id, 3, 2**40)
    assert (first.request_id, first.fields, first.at) == ("r", {"rows": 10}, now)
    # The account follows from the job; the message is the event where there is none.
    assert (second.message, second.account, second.job_id, second.run_id) == ("sink_away", ACCOUNT, job.id, None)
    assert third.job_id is None
    page, following = await case.store.log_lines(ACCOUNT, {}, limit=2, after=None)
    assert [line.seq for line in page] == [first.seq, second.seq]
    assert following == second.seq
    assert await case.store.log_lines(ACCOUNT, {}, limit=2, after=following) == ([third], None)
    for filters, expected in [
        ({"level": "info"}, [first, second]),
        ({"level": "critical"}, []),
        ({"job_id": job.id}, [first, second]),
        ({"run_id": job.run.id}, [first]),
        ({"q": "10%"}, [first]),
        ({"q": "SINK_"}, [second]),
        ({"until": now + timedelta(microseconds=1)}, [first]),
        ({"since": now + timedelta(microseconds=1)}, [second, third]),
        ({"job_id": "no-uuid"}, []),
    ]:
        assert (await case.store.log_lines(ACCOUNT, filters, limit=10, after=None))[0] == expected, filters
    assert (await case.store.log_lines("other", {}, limit=10, after=None))[0] == []
    with pytest.raises(ValueError, match=r"^level 'loud'"):
        await case.store.log_lines(ACCOUNT, {"level": "loud"}, limit=10, after=None)


async def test_no_line_is_lost_for_what_it_holds(case: StoreCase) -> None:
    fields = {
        "nul": "a\0b",
        "surrogate": "\ud800",
        "nan": float("nan"),
        "big": 2**80,
        "bytes": b"x",
        "deep": [{"a": {1}}],
    }
    await case.store.write(
        [
            {"level": "info", "event": "odd", "message": "a\0b", "account": ACCOUNT, "fields": fields, "split": 2**40},
            {"event": "bare", "account": ACCOUNT, "job_id": "nonsense", "at": "no time"},
        ]
    )
    lines, _ = await case.store.log_lines(ACCOUNT, {}, limit=10, after=None)
    assert [line.event for line in lines] == ["odd", "bare"]
    assert lines[0].message == "a\ufffdb"
    assert lines[0].fields == {
        "nul": "a\ufffdb", "surrogate": "?", "nan": "nan", "big": str(2**80), "bytes": "b'x'", "deep": [{"a": [1]}],
    }  # fmt: skip


async def test_a_follower_passes_over_no_line_and_no_event(case: StoreCase) -> None:
    """Two writers are under way at once and the one that began first commits last."""
    job = await case.create()
    follow = (await case.store.events(ACCOUNT, {}, limit=100, after=None))[0][-1].seq
    pool = case.store._pool
    insert = "INSERT INTO events (account_id, event) SELECT id, $1 FROM accounts WHERE name = 'default'"
    async with pool.connection() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(insert, "slow")
        async with pool.transaction() as quick:
            await quick.execute(insert, "quick")
        seen, _ = await case.store.events(ACCOUNT, {}, limit=100, after=follow)
        follow = seen[-1].seq
        await transaction.commit()
    later, _ = await case.store.events(ACCOUNT, {}, limit=100, after=follow)
    assert [event.event for event in (*seen, *later)] == ["quick", "slow"]
    await asyncio.gather(*(case.store.write([{"event": "x", "account": ACCOUNT}] * 20) for _ in range(5)))
    lines, _ = await case.store.log_lines(ACCOUNT, {}, limit=200, after=None)
    assert len(lines) == 100
    assert (await case.store.last_seq())[0] == lines[-1].seq
    assert job.id


async def test_events_say_who_did_what_from_where(case: StoreCase) -> None:
    job = await case.create("orders")
    await case.start(job)
    await case.verb(job, Event.ABORT)
    await case.store.remove(ACCOUNT, ANA, job.id)
    events, _ = await case.store.events(ACCOUNT, {"job_id": job.id}, limit=10, after=None)
    assert [(event.event, event.state_from, event.state_to) for event in events] == [
        ("create", None, "created"),
        ("start", "created", "queued"),
        ("abort", "queued", "aborted"),
        ("remove", "aborted", None),
    ]
    assert {(event.actor, event.origin, event.job_name) for event in events} == {("ana", "127.0.0.1", "orders")}
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    starts, _ = await case.store.events(ACCOUNT, {"event": ["start", "stop"], "job": "orders"}, limit=10, after=None)
    assert [event.event for event in starts] == ["start"]
    assert (await case.store.events("other", {}, limit=10, after=None))[0] == []


# Idempotency


async def test_a_repeated_request_gets_the_first_answer(case: StoreCase) -> None:
    assert await case.store.begin_request(ACCOUNT, "k", "print") is None
    with pytest.raises(Conflict) as busy:
        await case.store.begin_request(ACCOUNT, "k", "print")
    assert busy.value.code == "request_in_progress"
    await case.store.end_request(
        ACCOUNT, "k", status=201, headers={"Location": "/v1/jobs/x"}, body=b"\x00{}", keep=True
    )
    stored = {"status": 201, "headers": {"Location": "/v1/jobs/x"}, "body": b"\x00{}"}
    assert await case.store.begin_request(ACCOUNT, "k", "print") == stored
    with pytest.raises(Conflict) as reused:
        await case.store.begin_request(ACCOUNT, "k", "another print")
    assert reused.value.code == "idempotency_key_reused"
    await case.store.ensure_account("other")
    assert await case.store.begin_request("other", "k", "another print") is None


async def test_a_key_is_free_after_a_day_or_when_its_request_died_or_is_not_kept(case: StoreCase) -> None:
    for key, age, keep in [("old", "25 hours", True), ("dead", "6 minutes", None), ("failed", "0 s", False)]:
        assert await case.store.begin_request(ACCOUNT, key, "print") is None
        if keep is not None:
            await case.store.end_request(ACCOUNT, key, status=500, headers={}, body=b"", keep=keep)
        await case.sql("UPDATE idempotency SET created_at = created_at - $2::text::interval WHERE key = $1", key, age)
        assert await case.store.begin_request(ACCOUNT, key, "another print") is None, key
        with pytest.raises(Conflict):
            await case.store.begin_request(ACCOUNT, key, "another print")


async def test_of_ten_at_once_one_goes_on(case: StoreCase) -> None:
    outcomes = await asyncio.gather(
        *(case.store.begin_request(ACCOUNT, "k", "print") for _ in range(10)), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    assert {outcome.code for outcome in outcomes if isinstance(outcome, Conflict)} == {"request_in_progress"}


# Waiting


async def test_who_waits_wakes_when_any_job_changes(case: StoreCase) -> None:
    notifications = case.store.notifications
    await happened(notifications.listening, 10, "the store listens")
    seen = notifications.changes
    with notifications.subscribe() as changed:
        waits = [asyncio.create_task(notifications.wait_changed(30, since=seen)) for _ in range(3)]
        job = await case.create()
        async with asyncio.timeout(10):
            await asyncio.gather(*waits)
            assert await anext(changed) == job.id
            await case.start(job)
            await case.start(await case.create())
            assert await anext(changed) == job.id
    async with asyncio.timeout(5):
        await notifications.wait_changed(60, since=seen)


async def test_a_wait_ends_with_its_time(case: StoreCase) -> None:
    notifications = case.store.notifications
    await happened(notifications.listening, 10, "the store listens")
    async with asyncio.timeout(5):
        await notifications.wait_changed(0.05, since=notifications.changes)
        await case.store.wait_changed(0.05)
        # Without a mark a change before the call would be missed: it looks again after a second.
        await case.store.wait_changed(60)


async def test_a_cut_connection_is_made_again_and_wakes_everybody(case: StoreCase) -> None:
    notifications = case.store.notifications
    await happened(notifications.listening, 10, "the store listens")
    with notifications.subscribe() as changed:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowferry listen'"
        assert await case.sql(cut)
        async with asyncio.timeout(20):
            assert await anext(changed) is None, "whatever changed meanwhile was not heard of"
        job = await case.create()
        async with asyncio.timeout(10):
            assert await anext(changed) == job.id


async def test_the_store_closes_twice_and_says_whether_it_answers(control_database: str) -> None:
    case = await StoreCase.open(control_database)
    await case.store.ping()
    await case.store.close()
    await case.store.close()
    with pytest.raises(Exception, match="control database") as gone:
        await case.store.ping()
    assert getattr(gone.value, "code", None) == "store_unreachable"
    assert not case.store.notifications.listening.is_set()
