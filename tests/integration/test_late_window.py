"""`options.late_window`: rows that commit behind the position arrive once, are counted, and are lost beyond it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.domain.errors import LeaseLost
from service.domain.states import Event, State
from service.domain.steps import OpenRange
from tests.fault.hdfs_target import HdfsTarget
from tests.fault.s3_target import S3Target
from tests.integration.source_cases import connected, source, unheard
from tests.support.reconcile import expected_rows, file_rows, kafka_rows, reconcile
from tests.support.waiting import until
from tests.support.workshop import ACCOUNT, ACTOR, Workshop
from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.domain.records import Job
    from service.domain.steps import Lease
    from tests.support.elasticsearch import SearchServer
    from tests.support.kafka import KafkaServer


@pytest.fixture
async def shop(database: str, control_database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workshop]:
    monkeypatch.setattr("workers.splits.LAG_EVERY_SECONDS", 0.05)  # how often a poll shows itself
    async with Workshop(control_database, database) as workshop:
        yield workshop


def options(window: int = 1000, *, safety: str = "none", **more: Any) -> dict[str, Any]:
    chunk = {"rows": 500, "seconds": 0.05}
    return {"late_window": window, "safety": {"kind": safety}, "poll_seconds": 0.05, "chunk": chunk, **more}


@asynccontextmanager
async def late(shop: Workshop, rows: int = 1, note: str = "late") -> AsyncIterator[None]:
    """Rows are numbered and written now, and commit at the end."""
    writer = await asyncpg.connect(shop.source_dsn)
    try:
        async with writer.transaction():
            await writer.execute(
                "INSERT INTO orders (amount, note) SELECT n, $2 FROM generate_series(1, $1) AS n", rows, note
            )
            yield
    finally:
        await writer.close()


async def arrived(shop: Workshop, job: Job, rows: int, *, of_them_late: int) -> Job:
    found: list[Job] = []

    async def there() -> bool:
        found[:] = [await shop.get(job)]
        return found[0].totals.rows_sent >= rows

    await until(there, 30, f"{rows} rows")
    assert (found[0].totals.rows_sent, found[0].totals.rows_late) == (rows, of_them_late)
    return found[0]


async def looked(shop: Workshop, job: Job) -> None:
    """It has polled, and so looked back, since this was asked."""

    async def progressed() -> object:
        return (await shop.get(job)).last_progress_at

    before = await progressed()

    async def again() -> bool:
        return await progressed() != before

    await until(again, 20, "one more poll")


async def stopped(shop: Workshop, job: Job) -> Job:
    await shop.verb(job, Event.STOP)
    return await shop.state(job, State.STOPPED)


def delivered(shop: Workshop, job: Job) -> Counter[int]:
    return Counter(int(row.key[0]) for row in file_rows(shop.folder / "files" / ACCOUNT / job.name))


async def every_row_once(shop: Workshop, job: Job) -> None:
    found = reconcile(
        file_rows(shop.folder / "files" / ACCOUNT / job.name), await expected_rows(shop.source_dsn, "orders")
    )
    assert not found.missing, found.describe()
    assert not found.doubled, found.describe()


async def remembered(shop: Workshop, job: Job) -> tuple[int, int]:
    """Keys in the store, and the bytes they take."""
    async with shop.store._pool.connection() as connection:
        row = await connection.fetchrow(
            "SELECT coalesce(sum(keys), 0)::int, coalesce(sum(octet_length(packed)), 0)::int FROM window_keys"
            " WHERE job_id = $1",
            job.id,
        )
    return row[0], row[1]


async def test_rows_that_commit_behind_the_position_arrive_once_and_are_counted(shop):
    await shop.engine().start()
    await shop.rows(100)
    job = await shop.job("orders", mode="continuous", options=options())
    await shop.verb(job, Event.START)
    async with late(shop, 3):  # 101 to 103
        await shop.rows(10)
        job = await arrived(shop, job, 110, of_them_late=0)
        assert job.last_id == ("113",)
    job = await arrived(shop, job, 113, of_them_late=3)
    assert job.run is not None
    assert (job.run.rows_read, job.run.rows_late, job.last_id) == (113, 3, ("113",))
    await looked(shop, job)
    await stopped(shop, job)
    await shop.verb(job, Event.START)
    await shop.rows(1)
    await arrived(shop, job, 114, of_them_late=3)
    await looked(shop, job)
    await every_row_once(shop, job)


async def test_a_row_that_commits_beyond_the_window_is_lost_and_one_within_is_not(shop):
    await shop.engine().start()
    await shop.rows(10)
    job = await shop.job("orders", mode="continuous", options=options(20))
    await shop.verb(job, Event.START)
    async with late(shop, note="far behind"):  # 11
        await shop.rows(15)  # to 26
        async with late(shop, note="near"):  # 27
            await shop.rows(15)  # to 42
            await arrived(shop, job, 40, of_them_late=0)
            await looked(shop, job)
        await arrived(shop, job, 41, of_them_late=1)
    await looked(shop, job)
    await looked(shop, job)
    job = await stopped(shop, job)
    assert job.totals.rows_late == 1
    assert set(range(1, 43)) - delivered(shop, job).keys() == {11}


@pytest.mark.parametrize("splits", [1, 4])
async def test_runs_of_an_incremental_job_look_back_behind_those_before(shop, splits):
    await shop.engine().start()
    await shop.rows(5000)
    job = await shop.job("orders", mode="incremental", options=options(splits=splits))
    async with late(shop, 2):  # 5001, 5002
        await shop.rows(8)
        job = await shop.run(job)
        assert (job.totals.rows_sent, job.last_id) == (5008, ("5010",))
        assert len(job.splits) == splits + 1, "the window is a split of its own"
    job = await shop.run(job)
    assert (job.totals.rows_sent, job.totals.rows_late, job.last_id) == (5010, 2, ("5010",))
    assert job.run is not None
    assert (job.run.rows_read, job.run.rows_late) == (2, 2)
    async with late(shop, 1):
        await shop.rows(1500)
        await shop.run(job)
    job = await shop.run(job)
    assert job.totals.rows_late == 2, "1,500 rows are more than the window holds"
    job = await shop.run(job)
    assert job.run is not None
    assert (job.totals.rows_sent, job.run.rows_read) == (6510, 0)
    assert set(range(1, 6512)) - delivered(shop, job).keys() == {5011}
    assert max(delivered(shop, job).values()) == 1


async def test_the_backlog_is_cut_before_the_window_and_late_rows_of_both_are_found(shop):
    await shop.engine().start()
    await shop.rows(4000)
    job = await shop.job("orders", mode="continuous", options=options(500, splits=3))
    async with late(shop, 5):
        await shop.rows(100)
        await shop.verb(job, Event.START)
        job = await arrived(shop, job, 4100, of_them_late=0)
        assert [(split.lower, split.upper) for split in job.splits][-2:] == [
            (job.splits[-2].lower, ("3600",)),
            (("3600",), None),
        ]
        assert len(job.splits) == 4
        keys, _ = await remembered(shop, job)
        assert 500 <= keys <= 3000
    await arrived(shop, job, 4105, of_them_late=5)
    await stopped(shop, job)
    await every_row_once(shop, job)


async def test_what_is_remembered_stays_small_however_much_is_read(shop):
    await shop.engine().start()
    job = await shop.job("orders", mode="continuous", options=options(1000, chunk={"rows": 50_000, "seconds": 0.2}))
    await shop.verb(job, Event.START)
    for rows in (60_000, 120_000):
        await shop.rows(60_000)
        await arrived(shop, job, rows, of_them_late=0)
        await looked(shop, job)

    async def let_go() -> bool:
        return (await remembered(shop, job))[0] <= 3_000

    await until(let_go, 20, "what is behind the window is forgotten")
    keys, size = await remembered(shop, job)
    assert keys >= 1000
    assert size < 5 * keys, "numbers that rise take a few bytes"
    async with late(shop, 2):
        await shop.rows(5)
        await arrived(shop, job, 120_005, of_them_late=0)
    await arrived(shop, job, 120_007, of_them_late=2)


class Dying:
    """Whoever comes to a point while it is `armed` is gone, as after a kill: nothing is told to anybody."""

    def __init__(self, point: Point) -> None:
        self.point, self.armed, self.deaths = point, False, 0

    async def reached(self, point: Point, lease: Lease) -> None:
        if self.armed and point is self.point:
            self.armed = False
            self.deaths += 1
            raise LeaseLost


async def survived(shop: Workshop, dying: Dying, sink: dict[str, Any], read: Callable[[], Counter[int]]) -> Job:
    """A job whose worker dies at the point of the first chunk of late rows, and goes on."""
    await shop.engine(signals=dying).start()
    await shop.rows(50)
    job = await shop.job("orders", mode="continuous", options=options(100), **sink)
    await shop.verb(job, Event.START)
    async with late(shop, 3):
        await shop.rows(10)
        await arrived(shop, job, 60, of_them_late=0)
        await looked(shop, job)
        dying.armed = True
    await until(lambda: dying.deaths == 1, 20, f"it dies at {dying.point}")
    async with late(shop, 2):  # and more of them while nobody is at work
        await shop.rows(5)
    await shop.expire_leases()

    async def all_there() -> bool:
        return len(await asyncio.to_thread(read)) == 70

    await until(all_there, 30, "all rows")
    await looked(shop, job)
    job = await stopped(shop, job)
    assert set(await asyncio.to_thread(read)) == set(range(1, 71))
    assert job.totals.rows_read == 70, "each row is counted once"
    assert 3 <= job.totals.rows_late <= 5
    return job


@pytest.mark.parametrize("point", [Point.COMPLETE, Point.PREPARED, Point.VISIBLE, Point.SETTLED])
async def test_a_kill_at_any_step_neither_loses_nor_doubles_a_late_row_in_files(shop, point):
    folder = shop.folder / "files" / ACCOUNT / "orders"
    job = await survived(shop, Dying(point), {}, lambda: Counter(int(row.key[0]) for row in file_rows(folder)))
    outputs, _ = await shop.store.outputs(ACCOUNT, job.id, limit=500, after=None)
    assert sum(output.rows for output in outputs) == 70
    assert max(Counter(int(row.key[0]) for row in file_rows(folder)).values()) == 1


@pytest.mark.parametrize("point", [Point.PREPARED, Point.VISIBLE])
@pytest.mark.parametrize("kind", ["s3", "hdfs"])
async def test_a_kill_at_any_step_neither_loses_nor_doubles_a_late_row_in_objects_and_folders(
    shop, kind, point, request: pytest.FixtureRequest
):
    target: S3Target | HdfsTarget
    target = {"s3": S3Target, "hdfs": HdfsTarget}[kind](request.getfixturevalue(f"{kind}_server"))

    def read() -> Counter[int]:
        return Counter(int(row.key[0]) for row in target.rows("orders"))

    job = await survived(shop, Dying(point), {"sink": target.sink("orders")}, read)
    assert max(read().values()) == 1
    outputs, _ = await shop.store.outputs(ACCOUNT, job.id, limit=500, after=None)
    assert sum(output.rows for output in outputs) == 70


@pytest.mark.kafka
@pytest.mark.parametrize("point", [Point.PREPARED, Point.VISIBLE])
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_a_kill_at_any_step_loses_no_late_row_in_kafka_and_doubles_only_what_it_says_that_it_may(
    shop, delivery, point, kafka_server: KafkaServer
):
    topic = kafka_server.create_topic()
    sink = {"kind": "kafka", "bootstrap_servers": kafka_server.bootstrap, "topic": topic, "delivery": delivery}

    def read() -> Counter[int]:
        return Counter(int(row.key[0]) for row in kafka_rows(kafka_server.bootstrap, topic))

    job = await survived(shop, Dying(point), {"sink": sink}, read)
    assert job.run is not None
    doubled = read().total() - 70
    assert doubled <= job.run.rows_maybe_doubled
    if delivery == "exactly_once":
        assert (doubled, job.run.rows_maybe_doubled) == (0, 0)
    else:
        assert doubled == 3, "the late rows that were sent before the kill, again"


@pytest.mark.parametrize("point", [Point.PREPARED, Point.VISIBLE])
async def test_a_kill_at_any_step_neither_loses_nor_doubles_a_late_row_in_a_target_without_positions(
    shop, point, opensearch_server: SearchServer
):
    index = opensearch_server.index_name()
    sink = {"kind": "elasticsearch", "url": opensearch_server.url, "index": index}

    def read() -> Counter[int]:
        return Counter(int(json.loads(key)[0]) for key in opensearch_server.documents(index))

    await survived(shop, Dying(point), {"sink": sink}, read)


async def test_a_filter_holds_for_late_rows_and_a_late_match_within_the_window_is_one(shop):
    await shop.engine().start()
    await shop.rows(20)
    source = {"datasource": "shop", "table": "public.orders", "where": "note <> 'draft'"}
    job = await shop.job("orders", mode="continuous", source=source, options=options(100, safety="commit"))
    await shop.source.execute("INSERT INTO orders (note) SELECT 'draft' FROM generate_series(1, 5)")
    await shop.verb(job, Event.START)
    await shop.rows(5)  # 26 to 30
    await arrived(shop, job, 25, of_them_late=0)
    await looked(shop, job)
    assert (await shop.get(job)).totals.rows_read == 25
    await shop.source.execute("UPDATE orders SET note = 'done' WHERE id IN (22, 23)")
    await arrived(shop, job, 27, of_them_late=2)
    await shop.source.execute("UPDATE orders SET note = 'draft' WHERE id = 22")
    await looked(shop, job)
    await shop.source.execute("UPDATE orders SET note = 'done once more' WHERE id = 22")
    await looked(shop, job)
    job = await stopped(shop, job)
    assert job.totals.rows_sent == 27, "a key that was delivered is not delivered again"


async def test_a_row_that_arrived_late_above_the_position_is_not_read_once_more_after_a_kill(
    shop, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("workers.splits.SCAN_EVERY_SECONDS", 3600.0)  # the way over drafts is kept once, at the start
    dying = Dying(Point.SETTLED)
    await shop.engine(signals=dying).start()
    await shop.rows(20)
    source = {"datasource": "shop", "table": "public.orders", "where": "note <> 'draft'"}
    job = await shop.job("orders", mode="continuous", source=source, options=options(100))
    await shop.verb(job, Event.START)
    await arrived(shop, job, 20, of_them_late=0)
    await looked(shop, job)
    for _ in range(2):
        await shop.source.execute("INSERT INTO orders (note) SELECT 'draft' FROM generate_series(1, 5)")
        await looked(shop, job)
        await looked(shop, job)
    assert (await shop.get(job)).last_id == ("20",)
    dying.armed = True
    await shop.source.execute("UPDATE orders SET note = 'done' WHERE id = 28")
    await until(lambda: dying.deaths == 1, 20, "it dies when the late row is settled")
    await shop.expire_leases()
    await shop.rows(1)
    await arrived(shop, job, 22, of_them_late=1)
    await stopped(shop, job)
    assert max(delivered(shop, job).values()) == 1


async def test_keys_that_the_application_makes_are_followed_within_the_window(shop):
    await shop.engine().start()
    await shop.source.execute("CREATE TABLE tickets (region text, number int, PRIMARY KEY (region, number))")
    await shop.source.execute("INSERT INTO tickets SELECT 'a\"\t', n FROM generate_series(1, 30) AS n")
    source = {"datasource": "shop", "table": "public.tickets"}
    job = await shop.job("tickets", mode="continuous", source=source, options=options(100, safety="commit"))
    await shop.verb(job, Event.START)
    await arrived(shop, job, 30, of_them_late=0)
    await shop.source.execute("INSERT INTO tickets VALUES ('a\"\t', 40), ('b', 1)")
    await arrived(shop, job, 32, of_them_late=0)
    await shop.source.execute("INSERT INTO tickets VALUES ('a\"\t', 35), ('a', 7)")
    job = await arrived(shop, job, 34, of_them_late=2)
    assert job.last_id == ("b", "1")
    await stopped(shop, job)
    await shop.verb(job, Event.START)
    await looked(shop, job)
    assert (await stopped(shop, job)).totals.rows_sent == 34


async def test_late_rows_that_can_not_be_delivered_are_dead_letters_once(shop, kafka_server: KafkaServer):
    topic = kafka_server.create_topic(config={"max.message.bytes": "2000"})
    sink = {"kind": "kafka", "bootstrap_servers": kafka_server.bootstrap, "topic": topic}
    await shop.engine().start()
    await shop.rows(10)
    job = await shop.job("orders", mode="continuous", sink=sink, options=options(dead_letters={"max_rows": 10}))
    await shop.verb(job, Event.START)
    writer = await asyncpg.connect(shop.source_dsn)
    async with writer.transaction():  # both at once: one chunk, with one row of it set aside
        await writer.execute("INSERT INTO orders (note) VALUES (repeat('x', 3000)), ('late')")
        await shop.rows(1)
        await arrived(shop, job, 11, of_them_late=0)
    await writer.close()
    await arrived(shop, job, 12, of_them_late=2)
    async with late(shop, 1, "y" * 3000):
        await shop.rows(1)
        await arrived(shop, job, 13, of_them_late=2)

    async def buried() -> bool:
        return (await shop.get(job)).totals.rows_dead == 2

    await until(buried, 20, "a chunk without a row that could be sent")
    await looked(shop, job)
    job = await stopped(shop, job)
    assert (job.totals.rows_sent, job.totals.rows_dead, job.totals.rows_late) == (13, 2, 3)
    assert job.last_id == ("15",)


async def test_a_new_position_begins_with_an_empty_window_and_a_kept_one_goes_on(shop):
    await shop.engine().start()
    await shop.rows(20)
    job = await shop.job("orders", mode="incremental", options=options(100))
    await shop.run(job)
    spec = {**(await shop.get(job)).spec, "options": options(50)}
    await shop.source.execute("DELETE FROM orders WHERE id = 5")
    await shop.run(job)
    await shop.source.execute("INSERT INTO orders (id, note) VALUES (5, 'again'), (-1, 'below')")
    await shop.replace(job, spec, position="keep", changed=False)
    job = await shop.run(job)
    assert (job.totals.rows_sent, job.totals.rows_late) == (21, 1), "5 is remembered, though it was gone"
    await shop.checkpoint(job, [OpenRange(("10",), None)])
    await shop.source.execute("INSERT INTO orders (id, note) VALUES (-2, 'below')")
    job = await shop.run(job)
    assert (job.totals.rows_sent, job.totals.rows_late) == (31, 1), "the rows above the position, and none below"
    assert (await remembered(shop, job))[0] == 10


async def test_a_verification_finds_late_rows_where_they_are(shop):
    await shop.engine().start()
    await shop.rows(40)
    job = await shop.job("orders", mode="continuous", options=options(100))
    await shop.verb(job, Event.START)
    async with late(shop, 3):
        await shop.rows(3)
        await arrived(shop, job, 43, of_them_late=0)
    await arrived(shop, job, 46, of_them_late=3)
    await stopped(shop, job)
    asked = await shop.store.verify(ACCOUNT, ACTOR, job.id, run_id=None, checksums=True)

    async def ended() -> Any:
        found = await shop.store.verification(ACCOUNT, job.id, asked.id)
        return found if found is not None and found.ended_at is not None else None

    found = await until(ended, 20, "the verification's end")
    assert found.state == "successful"
    assert not found.findings.counts, found.findings
    assert any("arrived late" in note for note in found.findings.notes)


async def test_a_window_stands_in_for_the_barrier_where_the_key_alone_is_in_its_way(database: str) -> None:
    async with connected(database) as one:
        await one.execute("CREATE TABLE tickets (number int PRIMARY KEY); INSERT INTO tickets VALUES (1)")
    drawn = {"query": "SELECT n FROM generate_series(1, 3) AS n", "key": ["n"]}
    for what, window, severity in (
        ({"table": "tickets"}, None, "error"),
        ({"table": "tickets"}, 70, "warning"),
        (drawn, 70, "error"),
    ):
        async with source(database, mode="incremental", options={"late_window": window}, **what) as made:
            inspection = await made.inspect()
            (found,) = [one for one in inspection.findings if one.code == "safety_not_provable"]
            assert (found.severity, found.pointer) == (severity, "/options/safety"), what
            assert "late_window" in found.hint
            if severity == "warning":
                said = "rows that commit after more than 70 larger keys were read are lost"
                assert said in found.message
                assert said in inspection.guarantee_note
                assert (await made.plan(None, 1, waiting=unheard)).bound == ("1",)
