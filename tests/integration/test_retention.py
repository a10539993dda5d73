"""What retention takes and, above all, what it leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.domain.states import Event
from service.domain.steps import OpenRange
from service.store.retention import Retention
from tests.contract.control_jobs import chunk, settlement
from tests.contract.store_cases import ACCOUNT, StoreCase, case

if TYPE_CHECKING:
    from service.domain.records import Job

__all__ = ["case"]  # fixtures

KEEP = Retention(job_log_days=90, log_days=30, event_days=60)


async def age(case: StoreCase, days: int) -> None:
    """Everything that is stored is `days` older than it was."""
    back = f"- interval '{days} days'"
    for statement in (
        f"UPDATE runs SET started_at = started_at {back}, ended_at = ended_at {back}",
        f"UPDATE chunks SET prepared_at = prepared_at {back}, settled_at = settled_at {back}",
        f"UPDATE log SET at = at {back}",
        f"UPDATE events SET at = at {back}",
        f"UPDATE idempotency SET created_at = created_at {back}",
    ):
        await case.sql(statement)


async def count(case: StoreCase, table: str) -> int:
    found: int = (await case.sql(f"SELECT count(*) FROM {table}"))[0][0]
    return found


async def states(case: StoreCase, job: Job, generation: int = 1) -> list[tuple[int, str]]:
    rows = await case.sql(
        "SELECT sequence, state FROM chunks WHERE job_id = $1 AND generation = $2 ORDER BY sequence, attempt",
        *(job.id, generation),
    )
    return [tuple(row) for row in rows]


async def delivering(case: StoreCase) -> tuple[Job, object]:
    """A running job with a chunk dropped, the same one settled, and the next prepared."""
    job = await case.create()
    await case.start(job)
    await case.plan(job, None, ("99",))
    lease = await case.lease(job)
    await case.store.prepare(lease, chunk(lease, 1, last="10"))
    await case.store.drop_prepared(lease)
    record = chunk(lease, 1, attempt=2, last="20")
    await case.store.prepare(lease, record)
    await case.store.settle(lease, settlement(record))
    await case.store.prepare(lease, chunk(lease, 2, last="30"))
    return job, lease


async def test_each_kind_goes_after_its_own_time(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await case.verb(job, Event.STOP)
    await case.store.write([{"event": "x", "account": ACCOUNT}] * 5)
    await case.store.begin_request(ACCOUNT, "k", "print")
    tables = ("runs", "log", "events", "idempotency")
    for days, left in [
        (0, (1, 5, 3, 1)),
        (2, (1, 5, 3, 0)),
        (29, (1, 0, 3, 0)),
        (30, (1, 0, 0, 0)),
        (30, (0, 0, 0, 0)),
    ]:
        await age(case, days)
        await case.store.purge(KEEP, batch=2)
        assert tuple([await count(case, table) for table in tables]) == left
    assert await case.store.get(ACCOUNT, job.id) is not None


async def test_a_run_that_goes_on_stays_whatever_its_age(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await age(case, 1000)
    assert (await case.store.purge(KEEP))["runs"] == 0
    assert (await case.get(job.id)).run is not None


async def test_a_job_is_answered_without_a_run_whose_record_went(case: StoreCase) -> None:
    job = await case.create()
    await case.start(job)
    await case.verb(job, Event.ABORT)
    await age(case, 91)
    assert (await case.store.purge(KEEP))["runs"] == 1
    answered = await case.get(job.id)
    assert (answered.run, answered.totals.runs) == (None, 1)
    again = await case.start(job)
    assert again.run is not None
    assert again.run.number == 2


async def test_no_chunk_of_an_unfinished_generation_goes(case: StoreCase) -> None:
    job, _ = await delivering(case)
    await age(case, 1000)
    await case.store.purge(KEEP)
    assert await states(case, job) == [(1, "dropped"), (1, "settled"), (2, "prepared")]


async def test_a_prepared_chunk_stays_even_where_its_generation_is_closed(case: StoreCase) -> None:
    job, _ = await delivering(case)
    await case.sql("UPDATE generations SET closed_at = clock_timestamp()")
    await age(case, 89)
    await case.store.purge(KEEP)
    assert await states(case, job) == [(1, "dropped"), (1, "settled"), (2, "prepared")]
    await age(case, 2)
    purged = await case.store.purge(KEEP)
    assert (purged["settled_chunks"], purged["dropped_chunks"]) == (1, 1)
    assert await states(case, job) == [(2, "prepared")]


async def test_after_the_finish_step_chunks_go_and_the_position_stays(case: StoreCase) -> None:
    job = await case.create(mode="incremental")
    await case.start(job)
    await case.plan(job, None, ("99",))
    lease = await case.lease(job)
    for sequence, last in enumerate(("20", "40", "60"), start=1):
        await case.settle(lease, sequence, last)
    await case.store.finish_split(lease, ("99",))
    await age(case, 91)
    await case.store.purge(KEEP)
    assert len(await states(case, job)) == 3, "the finish step is still to read them"
    await case.store.finish_run(await case.lease(job))
    await case.store.purge(KEEP)
    assert await states(case, job) == []
    assert (await case.get(job.id)).last_id == ("60",)
    assert await case.store.delivered_ranges(ACCOUNT, job.id) == [OpenRange(None, ("99",))]
    assert (await case.start(job)).generation == 2


async def test_several_processes_purge_at_once(case: StoreCase) -> None:
    await case.store.write([{"event": "x", "account": ACCOUNT}] * 300)
    for number in range(20):
        await case.store.begin_request(ACCOUNT, f"k{number}", "print")
    await age(case, 1000)
    purged = await asyncio.gather(*(case.store.purge(KEEP, batch=7) for _ in range(4)))
    assert sum(each["log"] for each in purged) == 300
    assert sum(each["idempotency"] for each in purged) == 20
    assert await count(case, "log") == await count(case, "idempotency") == 0
