"""A job that has not changed is not read whole again; one that has, however and by whomever, is seen as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.domain.states import Event
from service.domain.steps import Condition, StepKind
from service.store.secrets import SecretBox
from service.store.store import Store
from tests.contract.store_cases import ACCOUNT, ANA, KEY, StoreCase, case, definition
from tests.contract.test_job_store import replace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from service.domain.records import Job

__all__ = ["case"]  # fixtures


@pytest.fixture
async def reader(case: StoreCase) -> AsyncIterator[Store]:
    """The store of another process."""
    opened = await Store.open(case.dsn, box=SecretBox(KEY), size=2)
    yield opened
    await opened.close()


async def fresh(reader: Store, ref: str) -> Job | None:
    """As who has never read it before reads it."""
    reader.__dict__.pop("_kept", None)
    return await reader.get(ACCOUNT, ref)


class Watched:
    """What another process sees of a job, by id and by name, and whether it is what is there."""

    def __init__(self, case: StoreCase, reader: Store, job: Job) -> None:
        self.case, self.reader, self.job = case, reader, job
        self.seen: Job | None = None

    async def changed(self, what: str, change: Awaitable[object] | None = None) -> Job:
        """The job after the change, which must be another record than before, and the one that is there."""
        before = self.seen
        if change is not None:
            await change
        by_id, by_name = await self.reader.get(ACCOUNT, self.job.id), await self.reader.get(ACCOUNT, self.job.name)
        assert by_id is not None, what
        assert by_id is by_name, f"{what}: read again, nothing has changed meanwhile"
        kept = self.reader._kept
        there = await fresh(self.reader, self.job.id)
        self.reader.__dict__["_kept"] = kept
        assert by_id == there, what
        assert by_id != before, what
        self.seen = by_id
        return by_id

    async def sql(self, what: str, statement: str) -> Job:
        return await self.changed(what, self.case.sql(statement, self.job.id))


async def test_every_change_of_another_process_is_seen_by_the_next_read(case: StoreCase, reader: Store) -> None:
    job = await case.create("orders", labels={"team": "shop"})
    seen = Watched(case, reader, job)
    await seen.changed("new")
    await seen.changed("labels", case.store.patch(ACCOUNT, ANA, job.id, definition("orders", labels={"team": "it"})))
    other = definition("orders", mode="incremental")
    await seen.changed("definition", replace(case, job, other))
    await seen.changed("start", case.start(job))
    assert (await seen.changed("plan", case.plan(job, ("0",), ("50",), ("99",)))).splits
    lease = await case.lease(job, StepKind.SPLIT)
    await seen.changed("leased, or not", case.store.report(lease, Condition(waiting_for="horizon")))
    assert (await seen.changed("counts", case.settle(lease, 1, "10"))).totals.rows_sent == 10
    assert (await seen.changed("position", case.settle(lease, 2, "20", rows=5))).splits[0].last_id == ("20",)
    assert (await seen.changed("split done", case.store.finish_split(lease, ("50",)))).splits[0].done
    second = await case.lease(job, StepKind.SPLIT)
    assert (await seen.changed("error", case.fail(second))).errors
    assert (await seen.changed("start again", case.start(job))).run != job.run
    await seen.changed("stop", case.verb(job, Event.STOP))
    await seen.changed("from the beginning", case.verb(job, Event.START, from_beginning=True))
    await seen.changed("end", case.verb(job, Event.ABORT))
    assert await case.store.remove(ACCOUNT, ANA, job.id)
    assert await reader.get(ACCOUNT, job.id) is None
    assert await reader.get(ACCOUNT, "orders") is None
    again = await case.create("orders")
    assert await reader.get(ACCOUNT, "orders") == again


async def test_every_row_that_an_answer_is_made_of_changes_it(case: StoreCase, reader: Store) -> None:
    job = await case.create("orders")
    await case.start(job)
    await case.plan(job, ("0",), ("50",), ("99",))
    seen = Watched(case, reader, job)
    await seen.changed("new")
    for what, statement in {
        "the run alone": "UPDATE runs SET rows_sent = rows_sent + 1 WHERE job_id = $1",
        "its text": 'UPDATE runs SET labels = \'{"a": "b"}\' WHERE job_id = $1',
        "a split alone": "UPDATE splits SET position = '[\"7\"]' WHERE job_id = $1 AND ordinal = 1",
        "another split": "UPDATE splits SET done_at = now() WHERE job_id = $1 AND ordinal = 0",
        "one split fewer": "DELETE FROM splits WHERE job_id = $1 AND ordinal = 1",
        "the job alone": "UPDATE jobs SET reason = 'because' WHERE id = $1",
        "a schedule": "UPDATE jobs SET next_run_at = now() WHERE id = $1",
        "a condition": "UPDATE jobs SET lag = '{\"seconds\": 3}' WHERE id = $1",
        "another run": "UPDATE jobs SET run_id = NULL WHERE id = $1",
    }.items():
        await seen.sql(what, statement)


async def test_what_the_clock_alone_changes_is_seen(case: StoreCase, reader: Store) -> None:
    job = await case.create("orders")
    await case.start(job)
    lease = await case.lease(job)
    # As if it had been so for longer: the trigger would say that it changed now.
    await case.sql("ALTER TABLE jobs DISABLE TRIGGER jobs_touch")
    await case.sql(
        "UPDATE jobs SET updated_at = t.past, last_progress_at = t.past, state_changed_at = t.past, desired = 'run'"
        " FROM (SELECT now() - interval '59.5 seconds' AS past) t WHERE id = $1",
        job.id,
    )
    first = await reader.get(ACCOUNT, job.id)
    assert first is not None
    assert not first.parked
    await case.sql("UPDATE steps SET state = 'ready', owner = NULL, leased_until = NULL WHERE job_id = $1", job.id)
    parked = await reader.get(ACCOUNT, job.id)
    assert parked is not None
    assert parked.parked, "nobody has it leased any more: no row of its own says so"
    assert lease.job_id == job.id
    while not first.stalled:  # half a second later it has not moved for a minute
        first = await reader.get(ACCOUNT, job.id)
        assert first is not None
    assert first == await fresh(reader, job.id)


async def test_what_has_not_changed_is_the_same_object_until_its_place_is_needed(
    case: StoreCase, reader: Store
) -> None:
    job = await case.create("orders")
    first = await reader.get(ACCOUNT, job.id)
    assert first is not None
    await case.create("another")
    assert await reader.get(ACCOUNT, job.id.upper()) is first
    assert await reader.get(ACCOUNT, "orders") is first
    assert reader._kept.size > 0


async def test_nobody_is_given_what_another_account_has_read(case: StoreCase, reader: Store) -> None:
    job = await case.create("orders")
    assert await reader.get(ACCOUNT, job.id) is not None
    await case.store.ensure_account("other")
    assert await reader.get("other", job.id) is None
    assert await reader.get("other", "orders") is None
    theirs = await case.create("orders", account="other")
    seen = await reader.get("other", "orders")
    assert seen is not None
    assert (seen.id, seen.account) == (theirs.id, "other")
    assert await reader.get(ACCOUNT, theirs.id) is None
