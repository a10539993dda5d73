"""One moment of a source: what every session that enters it sees, what ends it, and that nobody enters another."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.errors import Permanent
from tests.integration.source_cases import connected, datasource, pages, read_all, read_keys, source, unheard
from workers.sources import snapshot
from workers.sources.budget import ConnectionBudget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from workers.sources.snapshot import HeldSnapshot

ROWS = 400
TABLE = f"CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'then' FROM generate_series(1, {ROWS}) i"
ONE_MOMENT: dict[str, Any] = {"options": {"snapshot": True}}


@asynccontextmanager
async def held(dsn: str, *, seconds: float = 60, connections: ConnectionBudget | None = None, **how: Any):
    made = await snapshot.hold(
        datasource(dsn, **how),
        what="t",
        seconds=seconds,
        application_name="rowferry test",
        connections=connections or ConnectionBudget(),
    )
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def filled(database_of_each_major: str) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    async with connected(database_of_each_major) as writer:
        await writer.execute(TABLE)
        yield database_of_each_major, writer


async def ended(made: HeldSnapshot, seconds: float = 10) -> Permanent:
    async with asyncio.timeout(seconds):
        error = await made.over()
    assert isinstance(error, Permanent)
    return error


async def test_every_session_sees_the_rows_of_the_moment_whatever_becomes_of_them(filled) -> None:
    dsn, writer = filled
    async with held(dsn) as moment, source(dsn, "t", cut=moment.cut, **ONE_MOMENT) as one:
        await writer.execute("UPDATE t SET v = 'now' WHERE id % 2 = 0; DELETE FROM t WHERE id % 5 = 0")
        await writer.execute("INSERT INTO t VALUES (0, 'now'), (150000, 'now')")
        plan = await one.plan(None, 4, waiting=unheard)
        assert plan.bound == (str(ROWS),), "150000 was not there"
        assert len(plan.splits) == 4
        seen: list[bytes] = []
        for part in plan.splits:
            async with source(dsn, "t", cut=moment.cut, where="v <> ''", **ONE_MOMENT) as other:
                seen += await read_all(other, part.lower, part.upper)
            await writer.execute("UPDATE t SET v = v || '!'")
        assert [b'"then"' in value for value in seen] == [True] * ROWS
    async with source(dsn, "t") as after:
        assert len(await read_keys(after)) == ROWS - ROWS // 5 + 2


async def test_who_was_writing_then_is_not_waited_for_and_does_not_count(filled) -> None:
    dsn, writer = filled
    async with writer.transaction():
        await writer.execute(f"INSERT INTO t VALUES ({ROWS - 1} + 100, 'open')")
        async with connected(dsn) as two:
            await two.execute(f"INSERT INTO t VALUES ({ROWS} + 100, 'done')")
        async with held(dsn) as moment, source(dsn, "t", cut=moment.cut, **ONE_MOMENT) as made:
            async with asyncio.timeout(5):
                plan = await made.plan(None, 1, waiting=unheard)
            assert plan.bound == (str(ROWS + 100),)
            assert (await read_keys(made, None, plan.bound))[-2:] == [(str(ROWS),), (str(ROWS + 100),)]


async def test_pages_that_are_cut_go_on_in_the_same_moment(filled) -> None:
    dsn, writer = filled
    await writer.execute(f"INSERT INTO t SELECT {ROWS} + i, repeat('x', 3000) FROM generate_series(1, 200) i")
    options = {"snapshot": True, "page_bytes": 65536, "max_row_bytes": 5000}
    async with held(dsn) as moment, source(dsn, "t", cut=moment.cut, options=options) as made:
        reader = made.reader()
        first = await reader.read(None, None)
        await writer.execute("DELETE FROM t")
        rest = [page async for page in pages(reader, first.scanned_to)]
        assert len(rest) > 5, "pages were cut"
        assert len(first.values) + sum(len(page.values) for page in rest) == ROWS + 200


async def test_a_page_that_takes_too_long_becomes_smaller_and_a_row_gets_its_time_in_the_moment(filled) -> None:
    dsn, writer = filled
    await writer.execute("CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1), (2)")
    await writer.execute(
        "CREATE FUNCTION sleepy(id int) RETURNS bool STABLE LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(CASE WHEN id = 1 THEN 1.1 ELSE 0 END); RETURN true; END $$"
    )
    async with held(dsn) as moment, source(dsn, "slow", where="sleepy(id)", cut=moment.cut, **ONE_MOMENT) as made:
        reader = made.reader()
        assert [page.key(0) async for page in pages(reader) if page.values] == [("1",), ("2",)]
        assert reader.long_rows == 1
        assert await made._session.fetchval("SHOW statement_timeout") == "900ms"


REACHES_INTO_THE_PAST = {
    "emptied": "TRUNCATE t",
    "written anew": "ALTER TABLE t ALTER v TYPE int USING 7",
    "made again": "DROP TABLE t CASCADE; CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW seen AS SELECT id FROM t",
    "another view": "CREATE OR REPLACE VIEW seen AS SELECT id FROM high",
    "taken apart": "ALTER TABLE parts DETACH PARTITION low",
    "a partition emptied": "TRUNCATE high",
    "put together": "CREATE TABLE last PARTITION OF parts FOR VALUES FROM (900) TO (999)",
}
PARTS = """
    CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (300);
    CREATE TABLE high PARTITION OF parts FOR VALUES FROM (300) TO (900);
    INSERT INTO parts SELECT * FROM t
"""


@pytest.mark.parametrize("what", ["table", "view", "query"])
@pytest.mark.parametrize("change", REACHES_INTO_THE_PAST)
async def test_a_table_that_can_not_show_the_moment_any_more_is_never_taken_for_an_empty_one(
    database: str, change: str, what: str
) -> None:
    name = "parts" if "part" in change or change == "put together" else "t"
    if change == "another view" and what != "view":
        pytest.skip("it reads no view")
    async with connected(database) as writer:
        await writer.execute(f"{TABLE}; {PARTS}; CREATE VIEW seen AS SELECT id FROM {name}")
        given: dict[str, Any] = {
            "table": {"table": name},
            "view": {"table": "seen", "key": ["id"]},
            "query": {"query": f"SELECT id FROM {name}", "key": ["id"]},
        }[what]
        if what == "view":
            given["options"] = {"snapshot": True, "key_is_unique": True}
        async with held(database) as moment, source(database, cut=moment.cut, **(ONE_MOMENT | given)) as made:
            reader = made.reader()
            first = await reader.read(None, None, max_rows=100)
            assert len(first.values) == 100
            await writer.execute(REACHES_INTO_THE_PAST[change])
            with pytest.raises(Permanent) as caught:
                await reader.read(first.scanned_to, (str(ROWS),))
            assert caught.value.code == "snapshot_lost", caught.value.message
            assert "from=beginning" in caught.value.hint
            async with source(database, cut=moment.cut, **(ONE_MOMENT | given)) as another:
                with pytest.raises(Permanent):
                    await another.plan(None, 1, waiting=unheard)


async def test_a_column_that_comes_later_is_no_part_of_the_moment(filled) -> None:
    dsn, writer = filled
    async with held(dsn) as moment:
        await writer.execute("ALTER TABLE t ADD COLUMN later int DEFAULT 7")
        async with source(dsn, "t", cut=moment.cut, **ONE_MOMENT) as made:
            assert (await read_all(made))[0] == b'{"id":1,"v":"then"}'


async def test_a_moment_that_nobody_holds_any_more_is_lost(filled) -> None:
    dsn, writer = filled
    async with held(dsn) as moment, source(dsn, "t", cut=moment.cut, **ONE_MOMENT) as made:
        first = await made.reader().read(None, None, max_rows=10)
        await writer.execute("SELECT pg_terminate_backend($1)", moment.cut.pid)
        error = await ended(moment)
        assert (error.code, "from=beginning" in error.hint) == ("snapshot_lost", True)
        with pytest.raises(Permanent) as caught:
            await made.reader().read(first.scanned_to, None)
        assert caught.value.code == "snapshot_lost"
        assert await made._session.fetchval_now("SELECT 1") == 1, "the connection stays usable"


async def test_somebody_elses_snapshot_of_the_same_name_is_not_entered(filled) -> None:
    dsn, _ = filled
    async with held(dsn) as moment:
        for imposter in (
            replace(moment.cut, backend_start="2026-01-01 00:00:00+00"),
            replace(moment.cut, pid=1),
        ):
            async with source(dsn, "t", cut=imposter, **ONE_MOMENT) as made:
                with pytest.raises(Permanent) as caught:
                    await read_keys(made)
                assert caught.value.code == "snapshot_lost"


async def test_a_moment_becomes_no_older_than_it_may(filled) -> None:
    dsn, writer = filled
    async with held(dsn, seconds=1) as moment, source(dsn, "t", cut=moment.cut, **ONE_MOMENT) as made:
        first = await made.reader().read(None, None, max_rows=10)
        error = await ended(moment)
        assert (error.code, "snapshot_max_age_seconds (1 s)" in error.message) == ("snapshot_expired", True)
        with pytest.raises(Permanent) as caught:  # whether its holder has let go of it or not
            await made.reader().read(first.scanned_to, None)
        assert caught.value.code == "snapshot_expired"
        await moment.close()
        assert not await writer.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", moment.cut.pid)
        with pytest.raises(Permanent) as caught:
            await read_keys(made)
        assert caught.value.code == "snapshot_expired"


async def test_the_server_itself_ends_a_moment_whose_holder_is_not_heard_of(
    filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, _ = filled
    monkeypatch.setattr(snapshot, "IDLE_SECONDS", 1)
    async with held(dsn) as moment:  # which says only every five seconds that it is there
        assert (await ended(moment, 4)).code == "snapshot_lost"


async def test_between_two_pages_nothing_but_the_holder_has_a_transaction(filled) -> None:
    dsn, writer = filled
    async with held(dsn) as moment, source(dsn, "t", cut=moment.cut, **ONE_MOMENT) as made:
        await made.reader().read(None, None, max_rows=10)
        open_ones = await writer.fetch(
            "SELECT pid, application_name FROM pg_stat_activity"
            " WHERE xact_start IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert [tuple(row) for row in open_ones] == [(moment.cut.pid, "rowferry test snapshot")]


async def test_holders_leave_a_connection_to_those_who_read(filled) -> None:
    dsn, _ = filled
    budget, told = ConnectionBudget(2), list[bool]()
    async with held(dsn, connections=budget) as moment:
        waits = asyncio.create_task(
            snapshot.hold(
                datasource(dsn), what="t", seconds=9, application_name="x", connections=budget, waiting=told.append
            )
        )
        async with source(dsn, "t", cut=moment.cut, connections=budget, **ONE_MOMENT) as made:
            assert len(await read_keys(made)) == ROWS
        assert (waits.done(), told, budget.held(datasource(dsn))) == (False, [True], 1)
    async with asyncio.timeout(5):
        await (await waits).close()
    assert (told, budget.held(datasource(dsn))) == ([True, False], 0)
    with pytest.raises(Permanent) as caught:
        async with held(dsn, max_connections=1):
            pass
    assert (caught.value.code, "max_connections" in caught.value.hint) == ("snapshot_needs_connections", True)


async def test_what_a_snapshot_means_is_said_before_it_is_taken(filled) -> None:
    dsn, writer = filled
    await writer.execute("CREATE TABLE moves (at timestamptz PRIMARY KEY)")

    async def findings(table: str, options: dict[str, Any], **more: Any) -> dict[str, str]:
        async with source(dsn, table, options=options, **more) as made:
            return {one.code: one.severity for one in (await made.inspect()).findings if "power" not in one.code}

    assert "key_moves" in await findings("moves", {})
    assert await findings("moves", {"snapshot": True}) == {"snapshot_held_open": "info"}
    one_alone = datasource(dsn, max_connections=1)
    assert (await findings("t", {"snapshot": True}, store=one_alone))["snapshot_needs_connections"] == "error"
