"""Days of continuous jobs: which are told, what is listed of them, what may go after that. Days pass by moving what is
stored into the past; the clock is the database's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import LeaseLost
from service.domain.states import Event, State
from service.store import days
from service.store.retention import Retention
from tests.contract.control_jobs import chunk, settlement
from tests.contract.store_cases import StoreCase, case
from tests.support.waiting import until
from tests.support.workshop import ACCOUNT, Workshop
from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import date

    from service.domain.records import Job
    from service.domain.steps import Lease

__all__ = ["case"]  # fixtures

DAY = timedelta(days=1)


# -- the store --------------------------------------------------------------------------------------------------------


async def now(case: StoreCase) -> datetime:
    at: datetime = (await case.sql("SELECT clock_timestamp()"))[0][0]
    return at


async def delivered(case: StoreCase, *ages: int) -> tuple[Job, Lease, date]:
    """A running job that settled one chunk so many days ago each; its lease, and today."""
    job = await case.create(mode="continuous")
    await case.start(job)
    await case.plan(job, None, None, tail=True)
    lease = await case.lease(job)
    for sequence, age in enumerate(ages, start=1):
        await case.settle(lease, sequence, str(sequence))
        await case.sql(
            "UPDATE chunks SET settled_at = settled_at - $2 * interval '1 day' WHERE job_id = $1 AND sequence = $3",
            *(job.id, age, sequence),
        )
    return job, lease, (await now(case)).astimezone(UTC).date()


async def sequences(case: StoreCase, lease: Lease, day: date) -> list[int]:
    return [chunk.sequence async for chunk in case.store.chunks_of_day(lease, 1, day)]


async def test_days_that_are_over_are_told_oldest_first_and_today_is_not(case: StoreCase) -> None:
    _, lease, today = await delivered(case, 3, 3, 1, 0)
    told = []
    while (day := await case.store.day_to_list(lease, 1)) is not None:
        told.append((day, await sequences(case, lease, day)))
        await case.store.day_listed(lease, 1, day)
    assert told == [(today - 3 * DAY, [1, 2]), (today - DAY, [3])]
    assert await case.store.day_to_list(lease, 1, today=True) == today
    await case.store.day_listed(lease, 1, today)
    assert await case.store.day_to_list(lease, 1, today=True) is None


async def test_a_day_begins_at_midnight_utc(case: StoreCase) -> None:
    job, lease, today = await delivered(case, 1, 1, 1, 1)
    midnight = datetime.combine(today - DAY, datetime.min.time(), UTC)
    moments = (midnight - timedelta(microseconds=1), midnight, midnight + DAY - timedelta(microseconds=1))
    for sequence, moment in enumerate(moments, start=1):
        statement = "UPDATE chunks SET settled_at = $2 WHERE job_id = $1 AND sequence = $3"
        await case.sql(statement, job.id, moment, sequence)
    assert await sequences(case, lease, today - 2 * DAY) == [1]
    assert {2, 3} <= set(await sequences(case, lease, today - DAY)) <= {2, 3, 4}
    assert not {2, 3} & set(await sequences(case, lease, today))


async def test_a_day_of_many_chunks_is_read_in_pages_without_a_gap(
    case: StoreCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(days, "_PAGE", 3)
    _, lease, today = await delivered(case, *[2] * 10)
    assert await sequences(case, lease, today - 2 * DAY) == list(range(1, 11))


async def test_chunks_settled_in_the_same_moment_are_all_read(case: StoreCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(days, "_PAGE", 2)
    job, lease, today = await delivered(case, *[2] * 5)
    await case.sql("UPDATE chunks SET settled_at = $2 WHERE job_id = $1", job.id, (await now(case)) - 2 * DAY)
    assert await sequences(case, lease, today - 2 * DAY) == [1, 2, 3, 4, 5]


async def test_what_is_settled_after_its_day_was_listed_belongs_to_the_next(case: StoreCase) -> None:
    """A clock that was set back over midnight."""
    _, lease, today = await delivered(case, 1)
    await case.store.day_listed(lease, 1, today)
    await case.settle(lease, 2, "2")
    assert await sequences(case, lease, today) == []
    assert await sequences(case, lease, today + DAY) == [2]


async def test_of_several_splits_the_first_that_is_worked_on_is_told(case: StoreCase) -> None:
    job = await case.create(mode="continuous")
    await case.start(job)
    await case.plan(job, None, ("10",), ("20",), None, tail=True)
    first, second = await case.lease(job), await case.lease(job)
    await case.settle(second, 1, "15")
    await case.sql("UPDATE chunks SET settled_at = settled_at - interval '1 day'")
    assert await case.store.day_to_list(second, 1) is None
    assert await case.store.day_to_list(first, 1) is not None
    await case.store.park(first)
    assert await case.store.day_to_list(second, 1) is not None


async def test_a_lost_lease_lists_nothing(case: StoreCase) -> None:
    _, lease, today = await delivered(case, 1)
    await case.sql("UPDATE steps SET epoch = epoch + 1")
    with pytest.raises(LeaseLost):
        await case.store.day_to_list(lease, 1)
    with pytest.raises(LeaseLost):
        await case.store.day_listed(lease, 1, today - DAY)
    with pytest.raises(LeaseLost):
        await sequences(case, lease, today - DAY)


async def test_retention_takes_the_records_of_listed_days_and_no_others(case: StoreCase) -> None:
    job, lease, today = await delivered(case, 100, 95, 94, 1)
    record = chunk(lease, 5, last="9")
    await case.store.prepare(lease, record)
    await case.sql("UPDATE chunks SET prepared_at = prepared_at - interval '200 days'")

    async def left() -> list[int]:
        await case.store.purge(Retention(job_log_days=90))
        rows = await case.sql("SELECT sequence FROM chunks WHERE job_id = $1 ORDER BY sequence", job.id)
        return [row[0] for row in rows]

    assert await left() == [1, 2, 3, 4, 5], "nothing is listed"
    await case.store.day_listed(lease, 1, today - 95 * DAY)
    assert await left() == [3, 4, 5]
    await case.store.day_listed(lease, 1, today)
    assert await left() == [4, 5], "of yesterday, and prepared"
    await case.store.settle(lease, settlement(record))
    assert (await case.get(job.id)).last_id == ("9",), "the position needs none of them"


# -- whole jobs -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        yield workshop


OPTIONS = {"poll_seconds": 0.1, "chunk": {"rows": 100, "seconds": 0.2}}


async def following(shop: Workshop) -> Job:
    """A continuous job that has delivered 250 rows and stands."""
    await shop.rows(250)
    job = await shop.job("orders", mode="continuous", options=OPTIONS)
    await shop.verb(job, Event.START)
    await sent(shop, job, 250)
    return await stopped(shop, job)


async def stopped(shop: Workshop, job: Job) -> Job:
    await shop.verb(job, Event.STOP)
    return await shop.state(job, State.STOPPED)


async def sent(shop: Workshop, job: Job, rows: int) -> None:
    async def all_sent() -> bool:
        return (await shop.get(job)).totals.rows_sent == rows

    await until(all_sent, 20, f"{rows} rows")


async def age(shop: Workshop, days_: int) -> None:
    """Everything settled so far was settled so many days earlier."""
    async with shop.store._pool.connection() as connection:
        await connection.execute("UPDATE chunks SET settled_at = settled_at - $1 * interval '1 day'", days_)


def manifests(shop: Workshop) -> dict[str, Any]:
    folder = shop.folder / "files" / ACCOUNT / "orders"
    return {file.name.split("-g0001")[1]: json.loads(file.read_bytes()) for file in folder.glob("_manifest-*")}


async def listed(shop: Workshop, count: int) -> dict[str, Any]:
    async def there() -> bool:
        return len(manifests(shop)) == count

    await until(there, 20, f"{count} manifests")
    return manifests(shop)


async def test_days_that_passed_without_anybody_at_work_are_listed_by_the_next_start(shop: Workshop):
    await shop.engine().start()
    job = await following(shop)
    await age(shop, 2)
    await shop.rows(100)
    await shop.verb(job, Event.START)
    await sent(shop, job, 350)
    found = await listed(shop, 1)
    await stopped(shop, job)
    await age(shop, 1)
    await shop.verb(job, Event.START)
    found = await listed(shop, 2)
    today = datetime.now(UTC).date()
    assert sorted(found) == [f"-{today - 2 * DAY}.json", f"-{today - DAY}.json"]
    older, newer = (found[name] for name in sorted(found))
    assert (older["rows"], newer["rows"]) == (250, 100)
    assert (older["files"][0]["first_key"], newer["files"][-1]["last_key"]) == (["1"], ["350"])
    folder = shop.folder / "files" / ACCOUNT / "orders"
    names = [entry["file"] for part in (older, newer) for entry in part["files"]]
    assert sorted(names) == sorted(file.name for file in folder.glob("*.jsonl"))


async def test_a_day_that_ends_while_rows_flow_is_listed_beside_them(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.days.LOOK_EVERY_SECONDS", 0.1)
    await shop.engine().start()
    await shop.rows(100)
    job = await shop.job("orders", mode="continuous", options=OPTIONS)
    await shop.verb(job, Event.START)
    await sent(shop, job, 100)
    assert manifests(shop) == {}
    await age(shop, 1)
    await listed(shop, 1)
    await shop.rows(50)
    await sent(shop, job, 150)
    assert len(manifests(shop)) == 1, "today's is not over"


class Dying:
    """Cancels whoever comes to a point for the first time, as a kill does: nothing is told to anybody."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.deaths = 0

    async def reached(self, point: Point, lease: Lease) -> None:
        if point is self.point and not self.deaths:
            self.deaths += 1
            raise LeaseLost


async def test_a_manifest_that_was_written_and_not_noted_is_adopted(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    dying = Dying(Point.DAY_WRITTEN)
    await shop.engine(signals=dying).start()
    job = await following(shop)
    await age(shop, 1)
    await shop.verb(job, Event.START)
    await listed(shop, 1)
    (file,) = (shop.folder / "files" / ACCOUNT / "orders").glob("_manifest-*")
    before = file.stat()

    async def died() -> bool:
        return dying.deaths == 1

    await until(died, 10, "it dies between file and note")
    await stopped(shop, job)
    assert await noted(shop) is None
    await shop.verb(job, Event.START)

    async def is_noted() -> bool:
        return await noted(shop) is not None

    await until(is_noted, 10, "the day is noted")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def noted(shop: Workshop) -> object:
    async with shop.store._pool.connection() as connection:
        return await connection.fetchval("SELECT max(listed_through) FROM generations")


async def test_a_target_that_refuses_the_manifest_holds_no_row_back(shop: Workshop):
    await shop.engine().start()
    job = await following(shop)
    await age(shop, 1)
    yesterday = datetime.now(UTC).date() - DAY
    in_its_way = shop.folder / "files" / ACCOUNT / "orders" / f"_manifest-{job.id}-g0001-{yesterday}.json"
    (in_its_way / "folder").mkdir(parents=True)
    await shop.verb(job, Event.START)
    await shop.rows(70)
    await sent(shop, job, 320)
    assert await noted(shop) is None
    assert (await stopped(shop, job)).state is State.STOPPED


async def test_the_end_of_a_continuous_job_lists_the_day_it_ends_on(shop: Workshop):
    await shop.engine().start()
    await shop.rows(30)
    end = datetime.now(UTC) + timedelta(seconds=1)
    await shop.source.execute("ALTER TABLE orders ADD COLUMN at timestamptz NOT NULL DEFAULT '2020-01-01'")
    source = {"datasource": "shop", "table": "public.orders", "time": {"column": "at", "to": end.isoformat()}}
    job = await shop.job("orders", mode="continuous", options=OPTIONS, source=source)
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, 30)
    (name,) = manifests(shop)
    assert name == f"-{datetime.now(UTC).date()}.json"
    assert manifests(shop)[name]["rows"] == 30


async def test_a_new_generation_lists_the_rest_of_the_one_before(shop: Workshop):
    await shop.engine().start()
    job = await following(shop)
    await shop.verb(job, Event.START, from_beginning=True)
    await sent(shop, job, 500)
    found = manifests(shop)
    assert list(found) == [f"-{datetime.now(UTC).date()}.json"]
    assert next(iter(found.values()))["rows"] == 250
    await stopped(shop, job)


async def test_days_of_a_job_without_manifests_are_noted_all_the_same(shop: Workshop):
    await shop.engine().start()
    await shop.rows(10)
    job = await shop.job("orders", mode="continuous", options=OPTIONS, sink={"kind": "donothing"})
    await shop.verb(job, Event.START)
    await sent(shop, job, 10)
    await stopped(shop, job)
    await age(shop, 1)
    await shop.verb(job, Event.START)

    async def is_noted() -> bool:
        return await noted(shop) == datetime.now(UTC).date() - DAY

    await until(is_noted, 10, "its chunk records may go")
    await stopped(shop, job)
