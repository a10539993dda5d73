"""Jobs that read one moment: every split of it, wherever it runs, and the truth when the moment is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.states import Event, State
from service.domain.steps import OpenRange
from tests.support.postgres import PostgresServer
from tests.support.reconcile import Expected, expected_rows, file_rows, reconcile
from tests.support.waiting import happened, until
from tests.support.workshop import ACCOUNT, ACTOR, Workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.domain.records import Job
    from service.domain.steps import Lease
    from workers.signals import Point

ROWS = 4000
ONE_MOMENT: dict[str, Any] = {"snapshot": True, "splits": 4, "page_bytes": 65536, "chunk": {"rows": 100}}
ALL_CHANGED = """
    UPDATE orders SET note = 'later', amount = 0 WHERE id % 3 = 0;
    DELETE FROM orders WHERE id % 3 = 1;
    INSERT INTO orders (id, note) SELECT i, 'late' FROM generate_series(-50, 0) AS i;
    INSERT INTO orders (note) SELECT 'later' FROM generate_series(1, 500)
"""


class Crowd:
    """Holds every split at its first `settled`, until told to let go."""

    def __init__(self, splits: int = 4) -> None:
        self._splits = splits
        self.held: set[int] = set()
        self.all_held = asyncio.Event()
        self.go = asyncio.Event()

    async def reached(self, point: Point, lease: Lease) -> None:
        if point.value == "settled" and lease.kind.value == "split" and lease.epoch == 1:
            self.held.add(lease.ordinal)
            if len(self.held) == self._splits:
                self.all_held.set()
            await self.go.wait()


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        await workshop.rows(ROWS)
        yield workshop


async def begun(shop: Workshop, crowd: Crowd, *, engines: int = 1, **options: Any) -> tuple[Job, Expected]:
    """A job of which each split has delivered its first chunk and waits, and what there was when it was planned."""
    expected = await expected_rows(shop.source_dsn, "orders", values=True)
    job = await shop.job("orders", options=ONE_MOMENT | options)
    for number in range(engines):
        await shop.engine(str(number), signals=crowd, max_splits=4 // engines).start()
    await shop.verb(job, Event.START)
    await happened(crowd.all_held, 30, "every split has delivered something")
    return job, expected


async def holders(shop: Workshop) -> list[int]:
    rows = await shop.source.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'rowferry % snapshot'"
        " AND datname = current_database() AND xact_start IS NOT NULL"
    )
    return [row["pid"] for row in rows]


async def none_held(shop: Workshop) -> None:
    async def gone() -> bool:
        return not await holders(shop)

    await until(gone, 10, "nobody holds a snapshot")


@pytest.mark.parametrize("engines", [1, 2])
async def test_all_splits_show_the_rows_of_the_moment_of_the_plan(shop: Workshop, engines: int) -> None:
    crowd = Crowd()
    job, expected = await begun(shop, crowd, engines=engines)
    await shop.source.execute(ALL_CHANGED)
    now = await shop.get(job)
    assert now.snapshot is not None
    assert now.snapshot["held"]
    assert await holders(shop) == [now.snapshot["pid"]]
    crowd.go.set()
    job = await shop.state(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, ROWS), job.errors
    found = reconcile(file_rows(shop.folder / "files" / ACCOUNT / "orders"), expected)
    assert (found.missing, found.doubled, found.unknown, found.wrong_values) == ([], {}, [], [])
    assert job.snapshot is not None
    assert job.snapshot["held"] is False
    await none_held(shop)
    lines, _ = await shop.store.events(ACCOUNT, {"job_id": job.id}, limit=100, after=None)
    assert not [line for line in lines if line.event in {"lease_expired", "stop_timeout"}]


async def test_the_next_full_run_takes_another_moment(shop: Workshop) -> None:
    await shop.engine().start()
    job = await shop.run(await shop.job("orders", mode="full", options=ONE_MOMENT))
    first = job.snapshot
    await shop.source.execute("UPDATE orders SET note = 'second'")
    job = await shop.run(job)
    assert (job.state, job.generation, job.totals.rows_sent) == (State.SUCCESSFUL, 2, 2 * ROWS)
    assert first is not None
    assert job.snapshot is not None
    assert str(job.snapshot["taken_at"]) > str(first["taken_at"])
    notes = [b"second" in row.value for row in file_rows(shop.folder / "files" / ACCOUNT / "orders")]
    assert notes.count(True) == ROWS


async def test_an_empty_table_is_successful_and_holds_nothing(shop: Workshop) -> None:
    await shop.source.execute("DELETE FROM orders")
    await shop.engine().start()
    job = await shop.run(await shop.job("orders", options=ONE_MOMENT))
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, 0)
    await none_held(shop)


async def test_a_stop_gives_the_moment_back_and_a_start_does_not_go_on_in_another(shop: Workshop) -> None:
    crowd = Crowd()
    job, _ = await begun(shop, crowd)
    await shop.verb(job, Event.STOP)
    crowd.go.set()
    job = await shop.state(job, State.STOPPED)
    assert job.reason is not None
    assert "from=beginning" in job.reason
    assert not await holders(shop)
    sent = job.totals.rows_sent
    assert 0 < sent < ROWS
    await shop.source.execute(ALL_CHANGED)
    job = await shop.run(job)
    assert (job.state, job.errors[0].code, job.totals.rows_sent) == (State.ERROR, "snapshot_lost", sent)
    assert "from=beginning" in job.errors[0].message
    expected = await expected_rows(shop.source_dsn, "orders", values=True)
    job = await shop.run(job, from_beginning=True)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, sent + len(expected.ranks))


async def test_who_sets_the_option_to_false_goes_on_with_rows_as_they_are(shop: Workshop) -> None:
    crowd = Crowd()
    job, _ = await begun(shop, crowd)
    await shop.verb(job, Event.STOP)
    crowd.go.set()
    job = await shop.state(job, State.STOPPED)
    spec = {**job.spec, "options": {**ONE_MOMENT, "snapshot": False}}
    job = await shop.run(await shop.replace(job, spec, position=None, changed=False))
    assert (job.state, job.totals.rows_sent, job.snapshot) == (State.SUCCESSFUL, ROWS, None)


async def test_a_generation_without_a_moment_does_not_get_one_later(shop: Workshop) -> None:
    crowd = Crowd()
    job, _ = await begun(shop, crowd, snapshot=False)
    await shop.verb(job, Event.STOP)
    crowd.go.set()
    job = await shop.state(job, State.STOPPED)
    spec = {**job.spec, "options": ONE_MOMENT}
    job = await shop.run(await shop.replace(job, spec, position=None, changed=False))
    assert (job.state, job.errors[0].code) == (State.ERROR, "snapshot_lost")


async def test_a_stop_before_the_plan_loses_nothing(shop: Workshop) -> None:
    signals = Planning()
    await shop.engine(signals=signals).start()
    job = await shop.job("orders", options=ONE_MOMENT)
    await shop.verb(job, Event.START)
    await happened(signals.there, 20, "the plan is made and not saved")
    await shop.verb(job, Event.ABORT)
    job = await shop.state(job, State.ABORTED)
    await none_held(shop)
    signals.go.set()
    await shop.source.execute(ALL_CHANGED)
    expected = await expected_rows(shop.source_dsn, "orders", values=True)
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, len(expected.ranks))


class Planning:
    """Holds the plan step before its plan is saved."""

    def __init__(self) -> None:
        self.there, self.go = asyncio.Event(), asyncio.Event()

    async def reached(self, point: Point, lease: Lease) -> None:
        if point.value == "bounded":
            self.there.set()
            await self.go.wait()


async def test_an_abort_gives_the_moment_back_at_once(shop: Workshop) -> None:
    crowd = Crowd()
    job, _ = await begun(shop, crowd)
    await shop.verb(job, Event.ABORT)
    job = await shop.state(job, State.ABORTED, timeout=5)
    await none_held(shop)
    crowd.go.set()


async def test_a_moment_that_is_cut_off_ends_the_run_in_error(shop: Workshop) -> None:
    crowd = Crowd()
    job, _ = await begun(shop, crowd, engines=2)
    await shop.source.execute("SELECT pg_terminate_backend($1)", (await holders(shop))[0])
    crowd.go.set()
    job = await shop.state(job)
    assert (job.state, job.errors[0].code) == (State.ERROR, "snapshot_lost")
    assert 0 < job.totals.rows_sent < ROWS


async def test_a_run_that_takes_longer_than_the_moment_may_ends_in_error(shop: Workshop) -> None:
    crowd = Crowd()
    job, _ = await begun(shop, crowd, snapshot_max_age_seconds=3)
    await none_held(shop)
    crowd.go.set()
    job = await shop.state(job)
    assert (job.state, job.errors[0].code) == (State.ERROR, "snapshot_expired")
    assert "3 s" in job.errors[0].message


async def test_a_restart_of_the_source_ends_the_run_in_error(control_database: str) -> None:
    server = PostgresServer()
    async with server, Workshop(control_database, await server.create_database()) as shop:
        await shop.rows(ROWS)
        crowd = Crowd()
        job, _ = await begun(shop, crowd)
        server.kill()
        await server.start_async()
        crowd.go.set()
        job = await shop.state(job)
        assert (job.state, job.errors[0].code) == (State.ERROR, "snapshot_lost")


async def test_a_checkpoint_begins_in_a_moment_of_its_own(shop: Workshop) -> None:
    await shop.engine().start()
    job = await shop.run(await shop.job("orders", options=ONE_MOMENT))
    await shop.source.execute("UPDATE orders SET note = 'again'")
    await shop.checkpoint(job, [OpenRange((str(ROWS - 10),), None)])
    job = await shop.run(job)
    assert (job.state, job.totals.rows_sent) == (State.SUCCESSFUL, ROWS + 10)


async def test_a_datasource_of_one_connection_is_refused(shop: Workshop) -> None:
    stored = await shop.store.datasource(ACCOUNT, "shop")
    assert stored is not None
    definition = {**stored.definition, "max_connections": 1}
    await shop.store.put_datasource(ACCOUNT, ACTOR, "shop", definition, None)
    await shop.engine().start()
    job = await shop.run(await shop.job("orders", options=ONE_MOMENT))
    assert (job.state, job.errors[0].code) == (State.ERROR, "snapshot_needs_connections")
