"""What `ScheduleStore` promises: one run a tick whoever asks, by the database's clock, and what becomes of the rest."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import NotFound
from service.domain.records import Actor
from service.domain.states import Event, State
from service.domain.steps import StepKind
from service.engine.ticker import Ticker
from service.lifecycle import Verbs
from service.store.store import Store
from tests.contract.control_jobs import dead
from tests.contract.store_cases import ACCOUNT, ANA, StoreCase, case, definition
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.records import Job
    from service.domain.schedules import DueJob

__all__ = ["case"]  # fixtures

TICKER = Actor("", "host-1")
HOURLY = {"dialect": "unix", "cron": "0 * * * *", "time_zone": "UTC", "enabled": True, "missed": "run_once"}
EVERY_SECOND = {**HOURLY, "dialect": "quartz", "cron": "* * * * * ?"}


async def scheduled(case: StoreCase, name: str = "nightly", *, due_ago: float | None = None, **more: Any) -> Job:
    """A job that its schedule starts, due for so many seconds."""
    job = await case.create(name, mode=more.pop("mode", "full"), schedule={**HOURLY, **more})
    if due_ago is not None:
        await late(case, job, due_ago)
    return await case.get(job.id)


async def late(case: StoreCase, job: Job, seconds: float) -> None:
    await case.sql(
        "UPDATE jobs SET next_run_at = clock_timestamp() - make_interval(secs => $2) WHERE id = $1", job.id, seconds
    )


async def taken(case: StoreCase, by: Actor = TICKER, **more: Any) -> list[Any]:
    return [await case.store.tick(due, by, **more) for due in await case.store.due(10)]


async def told(case: StoreCase, event: str) -> list[Any]:
    rows, _ = await case.store.events(ACCOUNT, {"event": [event]}, limit=100, after=None)
    return list(rows)


async def test_a_job_shows_its_next_run_from_its_making_on(case: StoreCase) -> None:
    before = datetime.now(UTC)
    job = await scheduled(case)
    following = (before + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    assert job.next_run_at == following
    assert job.status_revision == 1
    assert (await case.create("by-hand")).next_run_at is None
    assert await case.store.due(10) == []
    left = await case.store.until_due()
    assert left is not None
    assert 0 < left <= 3600


async def test_nothing_is_due_where_nothing_is_scheduled(case: StoreCase) -> None:
    await case.create()
    assert await case.store.until_due() is None
    assert await case.store.due(10) == []


async def test_a_tick_starts_one_run_and_moves_on(case: StoreCase) -> None:
    job = await scheduled(case, due_ago=5)
    assert [(due.account, due.job_id, due.at) for due in await case.store.due(10)] == [
        (ACCOUNT, job.id, job.next_run_at)
    ]
    left = await case.store.until_due()
    assert left is not None
    assert left < 0
    [tick] = await taken(case)
    assert (tick.outcome, tick.ticks) == ("started", 1)
    after = await case.get(job.id)
    assert after.state is State.QUEUED
    assert after.run is not None
    assert (after.run.trigger, after.run.number) == ("schedule", 1)
    assert after.next_run_at == tick.next_run_at
    assert after.next_run_at is not None
    assert after.next_run_at > datetime.now(UTC)
    assert await case.store.due(10) == []
    [start] = await told(case, "start")
    assert (start.actor, start.origin) == (None, "host-1")
    assert start.details["trigger"] == "schedule"
    assert job.next_run_at is not None
    assert start.details["due_at"] == job.next_run_at.isoformat()


async def test_one_tick_is_one_run_however_many_services_ask_at_once(case: StoreCase) -> None:
    job = await scheduled(case, due_ago=1)
    [due] = await case.store.due(10)
    async with await Store.open(case.dsn, size=6) as other:
        stores = [case.store, other] * 6
        ticks = await asyncio.gather(*(store.tick(due, TICKER) for store in stores))
    assert [tick.outcome for tick in ticks if tick is not None] == ["started"]
    assert (await case.get(job.id)).totals.runs == 1


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.STOPPING, State.ABORTING, State.FAILING])
async def test_a_tick_while_the_job_can_not_start_is_skipped_with_an_event(case: StoreCase, state: State) -> None:
    job = await case.in_state(state, mode="full", schedule=HOURLY)
    await late(case, job, 5)
    [tick] = await taken(case)
    assert tick.outcome == "skipped"
    after = await case.get(job.id)
    assert (after.state, after.totals.runs) == (state, 1)
    assert after.next_run_at == tick.next_run_at
    [event] = await told(case, "schedule_skipped")
    assert (event.job_id, event.details["ticks"], event.details["reason"]) == (job.id, 1, f"the job is {state}")


@pytest.mark.parametrize("state", [State.CREATED, State.STOPPED, State.ABORTED, State.ERROR, State.SUCCESSFUL])
@pytest.mark.parametrize("mode", ["full", "incremental"])
async def test_a_tick_starts_a_job_that_has_ended_in_any_way(case: StoreCase, state: State, mode: str) -> None:
    job = await case.in_state(state, mode=mode, schedule=HOURLY)
    await late(case, job, 5)
    assert [tick.outcome for tick in await taken(case)] == ["started"]
    after = await case.get(job.id)
    # A new generation after a successful one, else the one that was not finished.
    assert after.generation == (2 if state is State.SUCCESSFUL else 1)


async def test_what_blocks_the_job_elsewhere_is_told(case: StoreCase) -> None:
    await scheduled(case, due_ago=5)
    other = await case.create("other")
    await case.sql("""UPDATE jobs SET spec = jsonb_set(spec, '{sink}', '{"kind": "file", "path": "a"}')""")
    await case.start(other)
    assert [tick.outcome for tick in await taken(case)] == ["skipped"]
    [event] = await told(case, "schedule_skipped")
    assert event.details["reason"].startswith("sink.path 'a' of job ")
    assert "is in use by job 'other'" in event.details["reason"]


async def test_a_tick_while_dead_letters_are_sent_again_is_skipped(case: StoreCase) -> None:
    job = await case.create(mode="full", schedule=HOURLY, options={"dead_letters": {"max_rows": 5}})
    await case.start(job)
    await case.plan(job, None, ("99",))
    lease = await case.lease(job, StepKind.SPLIT)
    await case.store.bury(lease, dead("7"), last_key=("7",))
    await case.verb(job, Event.STOP)
    await case.store.park(lease)
    await case.store.retry_dead_letters(ACCOUNT, ANA, job.id, ids=None, origin="source")
    await late(case, job, 5)
    assert [tick.outcome for tick in await taken(case)] == ["skipped"]
    [event] = await told(case, "schedule_skipped")
    assert "are sent again" in event.details["reason"]


async def test_a_run_that_takes_long_fills_no_events(case: StoreCase) -> None:
    job = await scheduled(case, **EVERY_SECOND)
    await case.start(job)
    for _ in range(5):
        await late(case, job, 2.5)
        assert [tick.outcome for tick in await taken(case)] == ["skipped"]
    assert len(await told(case, "schedule_skipped")) == 1
    await case.sql("UPDATE jobs SET tick_told_at = tick_told_at - interval '61 seconds'")
    await late(case, job, 2.5)
    await taken(case)
    first, second = await told(case, "schedule_skipped")
    assert first.details["ticks"] >= 2
    assert second.details["ticks"] >= 10, "those that no event told, and this one"
    await late(case, job, 2.5)
    await taken(case)
    await case.verb(await case.get(job.id), Event.ABORT)
    await late(case, job, 0.5)
    assert [tick.outcome for tick in await taken(case)] == ["started"]
    start = (await told(case, "start"))[-1]
    assert start.details["ticks_skipped"] >= 2
    # The next run's first skipped tick is told at once again.
    await late(case, job, 2.5)
    await taken(case)
    assert len(await told(case, "schedule_skipped")) == 3


async def test_after_a_downtime_one_run_makes_up_for_all(case: StoreCase) -> None:
    job = await scheduled(case, due_ago=10 * 3600)
    [tick] = await taken(case)
    assert (tick.outcome, tick.ticks) == ("started", 11)
    assert (await case.get(job.id)).totals.runs == 1
    assert (await told(case, "start"))[0].details["ticks"] == 11
    assert await case.store.due(10) == []


async def test_after_a_downtime_nothing_is_made_up_for_where_that_is_wanted(case: StoreCase) -> None:
    # The last tick before now must not have been a moment ago: that one is not missed, whatever was before it.
    soon = (datetime.now(UTC) + timedelta(minutes=30)).minute
    job = await scheduled(case, due_ago=10 * 3600, missed="skip", cron=f"{soon} * * * *")
    [tick] = await taken(case)
    assert tick.outcome == "missed"
    after = await case.get(job.id)
    assert (after.state, after.totals.runs, after.next_run_at) == (State.CREATED, 0, tick.next_run_at)
    [event] = await told(case, "schedule_missed")
    assert event.details["ticks"] == tick.ticks >= 10
    assert event.details["next_run_at"] == tick.next_run_at.isoformat()


async def test_a_tick_that_is_only_late_was_not_missed(case: StoreCase) -> None:
    await scheduled(case, due_ago=50, missed="skip")
    assert [tick.outcome for tick in await taken(case)] == ["started"]


async def test_of_many_missed_ticks_the_last_one_that_is_now_is_run(case: StoreCase) -> None:
    await scheduled(case, due_ago=3600, **{**EVERY_SECOND, "missed": "skip"})
    [tick] = await taken(case)
    assert tick.outcome == "started"
    assert tick.ticks >= 3600


async def test_a_schedule_is_changed_paused_and_taken_away_at_once(case: StoreCase) -> None:
    job = await scheduled(case)

    async def patched(schedule: Any) -> Job:
        return await case.store.patch(ACCOUNT, ANA, job.id, {**job.spec, "schedule": schedule})

    yearly = await patched({**HOURLY, "cron": "0 0 1 1 *"})
    assert yearly.next_run_at == datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)
    assert (await patched({**HOURLY, "enabled": False})).next_run_at is None
    assert await case.store.until_due() is None
    assert (await patched(HOURLY)).next_run_at == job.next_run_at
    assert (await patched(None)).next_run_at is None


async def test_a_tick_that_is_due_stays_due_when_something_else_changes(case: StoreCase) -> None:
    job = await scheduled(case, due_ago=5)
    await case.store.patch(ACCOUNT, ANA, job.id, {**job.spec, "labels": {"team": "shop"}})
    assert (await case.get(job.id)).next_run_at == job.next_run_at
    replaced = {**definition("nightly", mode="full", schedule=HOURLY), "options": {}}
    await case.store.replace(
        ACCOUNT, ANA, job.id, replaced, {}, guarantee="counts", guarantee_note="", if_revision=None, position=None,
        target_changed=False,
    )  # fmt: skip
    assert [due.at for due in await case.store.due(10)] == [job.next_run_at]


async def test_a_tick_of_a_schedule_that_was_changed_meanwhile_is_nobodys(case: StoreCase) -> None:
    job = await scheduled(case, due_ago=5)
    [due] = await case.store.due(10)
    await case.store.patch(ACCOUNT, ANA, job.id, {**job.spec, "schedule": {**HOURLY, "enabled": False}})
    assert await case.store.tick(due, TICKER) is None
    assert (await case.get(job.id)).totals.runs == 0


async def test_a_removed_job_has_no_next_run(case: StoreCase) -> None:
    job = await scheduled(case, due_ago=5)
    [due] = await case.store.due(10)
    assert await case.store.remove(ACCOUNT, ANA, job.id)
    assert await case.store.due(10) == []
    assert await case.store.until_due() is None
    with pytest.raises(NotFound):
        await case.store.tick(due, TICKER)


async def test_the_last_tick_of_a_schedule_is_its_end(case: StoreCase) -> None:
    job = await scheduled(case, dialect="quartz", cron="0 0 0 1 1 ? 2099")
    await case.sql("UPDATE jobs SET spec = jsonb_set(spec, '{schedule,cron}', '\"0 0 0 1 1 ? 2020\"')")
    await late(case, job, 5)
    [tick] = await taken(case)
    assert (tick.outcome, tick.next_run_at) == ("started", None)
    assert await case.store.until_due() is None


class Asked:
    """Counts what a ticker asks of the store, which is the real one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.looks = 0

    async def due(self, limit: int) -> Any:
        self.looks += 1
        return await self._store.due(limit)

    async def until_due(self) -> float | None:
        return await self._store.until_due()

    async def tick(self, due: DueJob, by: Actor) -> Any:
        return await self._store.tick(due, by)


@pytest.fixture
async def ticking(case: StoreCase) -> AsyncIterator[Asked]:
    asked = Asked(case.store)

    async def wake(_job_id: str) -> None:
        return

    news = case.store.notifications.rescheduled
    await until(case.store.notifications.listening.is_set, 10, "listening")
    task = asyncio.create_task(Ticker(asked, Verbs(case.store, asked, wake), news, owner="one").run())
    await until(lambda: asked.looks, 10, "the first look")
    yield asked
    task.cancel()
    await asyncio.wait({task})


async def runs(case: StoreCase, job: Job) -> int:
    return (await case.get(job.id)).totals.runs


async def test_the_ticker_is_woken_by_a_schedule_that_was_made_elsewhere(case: StoreCase, ticking: Asked) -> None:
    async with await Store.open(case.dsn) as elsewhere:
        spec = definition("far", mode="full", schedule=EVERY_SECOND)
        job = await elsewhere.create(ACCOUNT, ANA, spec, {}, guarantee="counts", guarantee_note="")
    await until(lambda: runs(case, job), 10, "its run")
    assert await runs(case, job) == 1, "no second one while the first is queued"


async def test_the_ticker_sleeps_until_something_is_due(case: StoreCase, ticking: Asked) -> None:
    job = await scheduled(case)
    await until(lambda: ticking.looks > 1, 10, "it heard of the schedule")
    looked = ticking.looks
    # Changes of a job that are none of its next run: nobody looks for what is due.
    for _ in range(20):
        await case.store.patch(ACCOUNT, ANA, job.id, job.spec)
    await case.start(job)
    assert ticking.looks <= looked + 1
    await late(case, job, -1.0)  # due in a second: hears of it, sleeps, and takes it
    await until(lambda: told(case, "schedule_skipped"), 10, "the tick")
    assert ticking.looks <= looked + 6


async def test_what_is_wrong_with_one_job_is_nothing_to_the_others(case: StoreCase, ticking: Asked) -> None:
    broken = await scheduled(case, "broken", cron="0 0 1 1 *")
    await case.sql("UPDATE jobs SET spec = jsonb_set(spec, '{schedule,time_zone}', '\"Nowhere/Atlantis\"')")
    await late(case, broken, 100)
    job = await scheduled(case, "whole", due_ago=5)
    await until(lambda: runs(case, job), 10, "the run of the other job")
    assert await runs(case, broken) == 0


async def test_a_file_path_in_use_keeps_a_tick_from_starting_a_second_writer(case: StoreCase, ticking: Asked) -> None:
    sink = {"kind": "file", "path": "a"}
    spec = {**definition("first", mode="full"), "sink": sink}
    first = await case.store.create(ACCOUNT, ANA, spec, {}, guarantee="counts", guarantee_note="")
    await case.start(first)
    second = {**definition("second", mode="full", schedule=EVERY_SECOND), "sink": {"kind": "file", "path": "a/b"}}
    job = await case.store.create(ACCOUNT, ANA, second, {}, guarantee="counts", guarantee_note="")
    [event] = await until(lambda: told(case, "schedule_skipped"), 10, "the skipped tick")
    assert "in use by job 'first'" in event.details["reason"]
    assert await runs(case, job) == 0
