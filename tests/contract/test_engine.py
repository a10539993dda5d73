"""What every Engine promises, on every implementation (`ENGINES`), with real Postgres on both sides."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.states import Event, State
from service.domain.steps import OpenRange
from tests.support.holding import Holding
from tests.support.reconcile import expected_rows, file_rows, reconcile
from tests.support.waiting import happened, until
from tests.support.workshop import ACCOUNT, Workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.records import Job
    from service.store.store import Store


@pytest.fixture(params=["local"])
def engine_kind(request) -> str:
    return request.param


@pytest.fixture
async def shop(engine_kind, database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        yield workshop


async def every_row_once(shop: Workshop, job: Job, times: int = 1) -> None:
    expected = await expected_rows(shop.source_dsn, "orders")
    found = reconcile(file_rows(shop.folder / "files" / ACCOUNT / job.name), expected, times=times)
    assert found.exact, found.describe()


async def test_a_started_job_runs_to_its_end_by_itself(shop):
    await shop.rows(5000)
    job = await shop.job("orders", options={"splits": 2, "chunk": {"rows": 700}})
    await shop.engine().start()
    job = await shop.run(job)
    assert (job.state, job.desired, job.totals.rows_sent, job.last_id) == (State.SUCCESSFUL, None, 5000, ("5000",))
    assert job.run is not None
    assert (job.run.splits_done, job.run.splits_total, job.run.rows_read) == (2, 2, 5000)
    await every_row_once(shop, job)


async def test_an_empty_table_is_successful_without_a_row(shop):
    job = await shop.job("orders")
    await shop.engine().start()
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, job.last_id) == (State.SUCCESSFUL, 0, None)


async def test_a_job_that_was_started_while_no_engine_ran_is_taken_up_at_start(shop):
    await shop.rows(100)
    job = await shop.job("orders")
    await shop.verb(job, Event.START)
    assert (await shop.get(job)).state is State.QUEUED
    await shop.engine().start()
    assert (await shop.state(job)).state is State.SUCCESSFUL


async def test_a_stop_settles_what_is_in_flight_and_start_goes_on(shop):
    await shop.rows(20_000)
    holding = Holding("settled")
    engine = shop.engine(signals=holding)
    await engine.start()
    job = await shop.job("orders")
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, "a first chunk settled")
    await shop.verb(job, Event.STOP)
    holding.go.set()
    job = await shop.state(job, State.STOPPED, timeout=5)
    assert 0 < job.totals.rows_sent < 20_000
    assert job.last_id == (str(job.totals.rows_sent),)
    assert job.reason is None
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, job.totals.runs) == (State.SUCCESSFUL, 20_000, 2)
    assert job.generation == 1
    await every_row_once(shop, job)


async def test_an_abort_takes_a_second_at_most_and_keeps_the_position(shop):
    await shop.rows(20_000)
    holding = Holding("staged")
    await shop.engine(signals=holding).start()
    job = await shop.job("orders")
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, "rows staged")
    begun = time.monotonic()
    await shop.verb(job, Event.ABORT)
    job = await shop.state(job, State.ABORTED, timeout=5)
    assert time.monotonic() - begun < 1.5
    holding.go.set()
    assert job.totals.rows_sent == 0
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, 20_000)
    await every_row_once(shop, job)


@pytest.mark.parametrize(
    "point",
    ["leased", "bounded", "planned", "opened", "complete", "prepared", "visible", "settled", "split_done", "checked"],
)
async def test_an_abort_at_every_step_loses_and_doubles_nothing(shop, point):
    await shop.rows(3000)
    holding = Holding(point)
    await shop.engine(signals=holding).start()
    job = await shop.job("orders")
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, f"{point} reached")
    await shop.verb(job, Event.ABORT)
    job = await shop.state(job, State.ABORTED, timeout=12)
    holding.go.set()
    job = await shop.run(job)
    assert job.state is State.SUCCESSFUL, job.errors
    assert job.totals.rows_sent == 3000
    await every_row_once(shop, job)


async def test_stopping_an_engine_parks_its_steps_and_another_goes_on(shop):
    await shop.rows(20_000)
    holding = Holding("settled")
    first = shop.engine("first", signals=holding)
    await first.start()
    job = await shop.job("orders")
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, "a first chunk settled")
    holding.go.set()
    await first.stop(5.0)
    assert first.steps == 0
    now = await shop.get(job)
    assert now.state is State.RUNNING
    assert now.desired == "run"
    await shop.engine("second").start()
    job = await shop.state(job)
    assert (job.state, job.totals.rows_sent, job.totals.runs) == (State.SUCCESSFUL, 20_000, 1)
    await every_row_once(shop, job)


async def test_stop_is_idempotent_and_safe_before_start(shop):
    engine = shop.engine()
    await engine.stop(1.0)
    await engine.start()
    await engine.stop(1.0)
    await engine.stop(1.0)


async def test_two_engines_share_the_splits_of_a_job(shop):
    await shop.rows(8000)
    holding = Holding("opened")
    first, second = (
        shop.engine("first", signals=holding, max_splits=1),
        shop.engine("second", signals=holding, max_splits=1),
    )
    await first.start()
    await second.start()
    job = await shop.job("orders", options={"splits": 4, "chunk": {"rows": 500}})
    await shop.verb(job, Event.START)
    await until(lambda: len({lease.owner for lease in holding.leases}) == 2, 20, "both engines at work")
    holding.go.set()
    job = await shop.state(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, 8000)
    await every_row_once(shop, job)


async def test_a_lease_that_has_run_out_is_taken_up_while_the_engine_runs(shop):
    await shop.rows(5000)
    holding = Holding("prepared")
    dead = shop.engine("dead", signals=holding)
    await dead.start()
    job = await shop.job("orders")
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, "a chunk prepared")
    for loop in dead._loops:
        loop.cancel()
    living = shop.engine("living")
    await living.start()
    await shop.expire_leases()
    job = await shop.state(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, 5000)
    holding.go.set()
    await every_row_once(shop, job)


class SlowClaims:
    """The store, but from some moment on a claim takes as long as the test wants."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.slow = False
        self.claiming = asyncio.Event()
        self.renewals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim(self, *arguments: Any, **options: Any) -> Any:
        if self.slow:
            self.claiming.set()
            await asyncio.Event().wait()
        return await self._store.claim(*arguments, **options)

    async def renew(self, *arguments: Any, **options: Any) -> Any:
        self.renewals += self.claiming.is_set()
        return await self._store.renew(*arguments, **options)


async def test_leases_are_renewed_while_claims_are_slow(shop):
    await shop.rows(3000)
    holding = Holding("staged")
    slow = SlowClaims(shop.store)
    await shop.engine(signals=holding, steps=slow).start()
    job = await shop.job("orders")
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, "rows staged")
    slow.slow = True
    await happened(slow.claiming, 20, "a claim that hangs")
    await until(lambda: slow.renewals >= 3, 3.5, "leases renewed within the time of one claim")
    holding.go.set()
    assert (await shop.state(job, State.SUCCESSFUL, State.RUNNING)).errors == []


async def test_no_more_runs_and_splits_at_once_than_allowed(shop):
    await shop.rows(4000)
    holding = Holding("opened")
    await shop.engine(signals=holding, max_splits=2, max_runs=1).start()
    first = await shop.job("first", options={"splits": 4})
    second = await shop.job("second")
    await shop.verb(first, Event.START)
    await happened(holding.reached_it, 20, "first split open")
    await shop.verb(second, Event.START)
    await until(lambda: len(holding.leases) == 2, 20, "two splits open")
    assert (await shop.get(second)).state is State.QUEUED
    assert {lease.job_id for lease in holding.leases} == {first.id}
    holding.go.set()
    assert (await shop.state(first)).state is State.SUCCESSFUL
    assert (await shop.state(second)).state is State.SUCCESSFUL


async def test_a_permanent_error_ends_in_error_with_its_causes_and_start_finishes_after_mending(shop):
    await shop.rows(3000)
    job = await shop.job("orders", source={"datasource": "shop", "table": "public.orders", "where": "amount > 0"})
    await shop.engine().start()
    await shop.source.execute("ALTER TABLE orders RENAME COLUMN amount TO total")
    job = await shop.run(job)
    assert job.state is State.ERROR
    assert "amount" in job.errors[0].message
    assert job.run is not None
    assert job.run.errors == job.errors
    await shop.source.execute("ALTER TABLE orders RENAME COLUMN total TO amount")
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, job.errors) == (State.SUCCESSFUL, 3000, [])
    await every_row_once(shop, job)


async def test_from_the_beginning_delivers_every_row_a_second_time(shop):
    await shop.rows(2500)
    await shop.engine().start()
    job = await shop.run(await shop.job("orders"))
    job = await shop.run(job, from_beginning=True)
    assert (job.state, job.generation, job.totals.rows_sent) == (State.SUCCESSFUL, 2, 5000)
    await every_row_once(shop, job, times=2)


@pytest.mark.parametrize("splits", [(4, 2), (1, 3)])
async def test_unfinished_splits_of_a_generation_go_on_whatever_splits_says_now(shop, splits):
    await shop.rows(8000)
    holding = Holding("settled")
    await shop.engine(signals=holding, max_splits=2).start()
    before, after = splits
    job = await shop.job("orders", options={"splits": before, "chunk": {"rows": 300}})
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, "a chunk settled")
    await shop.verb(job, Event.STOP)
    holding.go.set()
    job = await shop.state(job, State.STOPPED)
    ranges = [(split.lower, split.upper) for split in job.splits]
    spec = {**job.spec, "options": {"splits": after, "chunk": {"rows": 300}}}
    await shop.replace(job, spec, position=None, changed=False)
    job = await shop.run(job)
    assert (job.state, job.generation) == (State.SUCCESSFUL, 1)
    assert [(split.lower, split.upper) for split in job.splits] == ranges
    await every_row_once(shop, job)


async def test_a_checkpoint_begins_a_new_generation_where_it_says(shop):
    await shop.rows(1000)
    await shop.engine().start()
    job = await shop.run(await shop.job("orders"))
    job = await shop.checkpoint(job, [OpenRange(("900",), None)])
    assert job.generation == 2
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, job.last_id) == (State.SUCCESSFUL, 1100, ("1000",))


async def test_incremental_runs_take_up_where_the_last_one_ended(shop):
    await shop.rows(1000)
    await shop.engine().start()
    job = await shop.run(await shop.job("orders", mode="incremental"))
    assert (job.state, job.last_id) == (State.SUCCESSFUL, ("1000",))
    job = await shop.run(job)
    assert job.run is not None
    assert (job.state, job.run.rows_sent, job.run.last_id) == (State.SUCCESSFUL, 0, None)
    await shop.rows(500)
    job = await shop.run(job)
    assert job.run is not None
    assert (job.state, job.run.rows_sent, job.last_id) == (State.SUCCESSFUL, 500, ("1500",))
    # What the generations before have read to the end is not a split of this one.
    assert [(split.lower, split.upper) for split in job.splits] == [(("1000",), ("1500",))]
    await every_row_once(shop, job)


async def test_a_continuous_job_follows_the_table_until_it_is_stopped(shop):
    await shop.rows(1000)
    await shop.engine().start()
    job = await shop.job(
        "orders", mode="continuous", options={"poll_seconds": 0.1, "splits": 2, "chunk": {"rows": 400, "seconds": 0.2}}
    )
    await shop.verb(job, Event.START)
    await shop.rows(700)

    async def sent() -> int:
        return (await shop.get(job)).totals.rows_sent

    async def all_sent() -> bool:
        return await sent() == 1700

    await until(all_sent, 20, "1700 rows")
    await shop.verb(job, Event.STOP)
    job = await shop.state(job, State.STOPPED, timeout=5)
    await shop.rows(300)
    await shop.verb(job, Event.START)

    async def rest_sent() -> bool:
        return await sent() == 2000

    await until(rest_sent, 20, "2000 rows")
    await shop.verb(job, Event.ABORT)
    job = await shop.state(job, State.ABORTED, timeout=5)
    assert job.last_id == ("2000",)
    await every_row_once(shop, job)


async def test_a_limit_ends_the_run_after_that_many_rows_over_stops(shop):
    await shop.rows(5000)
    holding = Holding("settled")
    await shop.engine(signals=holding).start()
    job = await shop.job("orders", source={"datasource": "shop", "table": "public.orders", "limit": 2500})
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, "a chunk settled")
    await shop.verb(job, Event.STOP)
    holding.go.set()
    await shop.state(job, State.STOPPED)
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, job.last_id) == (State.SUCCESSFUL, 2500, ("2500",))


async def test_a_rate_is_kept_and_shown_and_a_stop_does_not_wait_for_it(shop):
    await shop.rows(5000)
    await shop.engine().start()
    job = await shop.job("orders", options={"rate": {"rows_per_second": 100}, "chunk": {"seconds": 0.2}})
    await shop.verb(job, Event.START)

    async def some() -> bool:
        return (await shop.get(job)).totals.rows_sent > 20

    await until(some, 20, "rows flow")
    begun = time.monotonic()
    await shop.verb(job, Event.STOP)
    job = await shop.state(job, State.STOPPED, timeout=5)
    assert time.monotonic() - begun < 2
    assert job.totals.rows_sent < 2000


async def test_a_removed_job_leaves_its_runs_and_its_delivered_files(shop):
    await shop.rows(100)
    await shop.engine().start()
    job = await shop.run(await shop.job("orders"))
    assert await shop.remove(job)

    async def cleaned() -> bool:
        return "cleaned_up" in await shop.events_of(job)

    await until(cleaned, 20, "clean-up ended")
    runs, _ = await shop.store.runs(ACCOUNT, {"job_id": job.id}, limit=10, after=None)
    assert [run.state for run in runs] == [State.SUCCESSFUL]
    await every_row_once(shop, job)
