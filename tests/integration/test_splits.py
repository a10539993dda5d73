"""Splits are even whatever the keys look like, with statistics, without them, and with wrong ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from service.domain.spec import JobSpec
from tests.integration.api_cases import ApiCase, definition
from tests.integration.source_cases import connected, datasource, read_keys, source, unheard
from workers import splitting
from workers.sources import splits
from workers.sources.base import Size
from workers.splitting import auto_splits

if TYPE_CHECKING:
    import asyncpg

    from workers.sources.base import Plan
    from workers.sources.postgres import PostgresSource

ROWS = int(os.environ.get("ROWFERRY_TEST_SPLIT_ROWS", "80000"))
"""2000000 is the long form. More than are walked, so that a sample decides."""
ZIPF = f"least(floor(1 / (1 - random())), 1e8)::int, i FROM generate_series(1, {ROWS}) AS i"
"""Of rows in any order, half have the value 1, a sixth the value 2, …"""
TABLES = {
    "Zipf, then id": f"CREATE TABLE t (a int, b int, PRIMARY KEY (a, b)); INSERT INTO t SELECT {ZIPF}",
    "skewed integers": "CREATE TABLE t (id bigint PRIMARY KEY);"
    f"INSERT INTO t SELECT (1e15 * power(random(), 6))::bigint FROM generate_series(1, {ROWS}) ON CONFLICT DO NOTHING",
    "cubes, in order": "CREATE TABLE t (id bigint PRIMARY KEY);"
    f"INSERT INTO t SELECT i::bigint * i * i FROM generate_series(1, {ROWS}) AS i",
    "skewed uuids": "CREATE TABLE t (u uuid PRIMARY KEY);"
    "INSERT INTO t SELECT (lpad(to_hex((200 * power(random(), 5))::int)"
    f", 2, '0') || substr(md5(i::text), 3))::uuid FROM generate_series(1, {ROWS}) AS i",
    "skewed text, rows of every width": "CREATE TABLE t (k text PRIMARY KEY, v text); INSERT INTO t SELECT"
    " repeat(chr(97 + (25 * power(random(), 4))::int), 5) || i, repeat('x', 60 * (i % 5))"
    f" FROM generate_series(1, {ROWS}) AS i",
    "partitions of all sizes": "CREATE TABLE t (d int, id int, PRIMARY KEY (d, id)) PARTITION BY LIST (d);"
    "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);"
    f"CREATE TABLE t3 PARTITION OF t DEFAULT; INSERT INTO t SELECT {ZIPF}",
}


async def _even(connection: asyncpg.Connection, made: PostgresSource, plan: Plan, wanted: int) -> None:
    """All rows, each once, in as many ranges as wanted, none of them a fifth off."""
    definition = await made._current.required()
    ranges = [definition.rows_sql("1", one.lower, one.upper) for one in plan.splits]
    counts = [await connection.fetchval(f"SELECT count(*) FROM ({rows}) AS c") for rows in ranges]
    total = await connection.fetchval("SELECT count(*) FROM t")
    assert sum(counts) == total
    assert len(counts) == wanted
    assert max(counts) < 1.2 * total / wanted, counts
    assert min(counts) > 0.8 * total / wanted, counts


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TABLES)
async def test_splits_are_even_within_a_fifth(database: str, name: str) -> None:
    async with connected(database) as connection:
        await connection.execute(TABLES[name])
        for statement in ("SELECT", "ANALYZE t"):  # without statistics, and with
            await connection.execute(statement)
            async with source(database, "t") as made:
                await _even(connection, made, await made.plan(None, 8, waiting=unheard), 8)


DAYS = (
    "CREATE TABLE t (day int, id int, v text, PRIMARY KEY (day, id)) PARTITION BY LIST (day);"
    + "".join(f"CREATE TABLE t{day} PARTITION OF t FOR VALUES IN ({day});" for day in range(40))
    + "INSERT INTO t SELECT (39 * power(random(), 3))::int AS day, i, repeat('x', (i % 7) * (i % 11))"
    f" FROM generate_series(1, {ROWS}) AS i;"
    "UPDATE t SET v = repeat('y', 900) WHERE day BETWEEN 3 AND 9; CREATE TABLE t40 PARTITION OF t DEFAULT"
)
"""A few days have most of the rows, and seven have few of them in a block."""


async def test_every_partition_counts_by_its_size_however_wide_its_rows_are(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(DAYS)
        for statement in ("SELECT", "ANALYZE t"):
            await connection.execute(statement)
            async with source(database, "t") as made:
                await _even(connection, made, await made.plan(None, 24, waiting=unheard), 24)


async def test_who_may_read_a_tree_of_tables_only_as_one_gets_its_splits_too(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(TABLES["partitions of all sizes"])
        await connection.execute("CREATE ROLE tree_reader LOGIN PASSWORD 'x'; GRANT SELECT ON t TO tree_reader")
        try:
            async with source(database, "t", store=datasource(database, user="tree_reader", password="x")) as made:
                await _even(connection, made, await made.plan(None, 4, waiting=unheard), 4)
        finally:
            await connection.execute("DROP OWNED BY tree_reader; DROP ROLE tree_reader")


async def test_statistics_that_are_stale_are_not_believed(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY) WITH (autovacuum_enabled = off);"
            "INSERT INTO t SELECT i FROM generate_series(1, 2000) AS i; ANALYZE t;"
            f"INSERT INTO t SELECT i FROM generate_series(1000001, 1000000 + {ROWS}) AS i"
        )
        async with source(database, "t") as made:
            await _even(connection, made, await made.plan(None, 8, waiting=unheard), 8)


BIASED = {
    "histogram": ("id bigint PRIMARY KEY", "i", "SELECT id FROM t WHERE id <= 20000 OR id % 10 = 0"),
    "most common values": (
        "a int, b int, PRIMARY KEY (a, b)",
        "i % 4, i",
        "SELECT a, b FROM t WHERE a = 1 OR b % 10 < 4",
    ),
}


@pytest.mark.parametrize("name", BIASED)
async def test_a_sample_is_weighed_by_what_fresh_statistics_say(
    database: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A sample that saw most of the one and little of the other is set right, as far as ANALYZE is believed."""
    columns, values, seen = BIASED[name]
    monkeypatch.setattr(splits, "_FEW", 0)
    monkeypatch.setattr(splits, "_ANALYZED", 10**9)
    monkeypatch.setattr(splits._Sample, "_rows_sql", lambda *_: seen)
    async with connected(database) as connection:
        await connection.execute(
            f"CREATE TABLE t ({columns}) WITH (autovacuum_enabled = off);"
            f"INSERT INTO t SELECT {values} FROM generate_series(1, 40000) AS i"
        )
        async with source(database, "t") as made:
            plan = await made.plan(None, 4, waiting=unheard)
            with pytest.raises(AssertionError):
                await _even(connection, made, plan, 4)
        await connection.execute("ANALYZE t")
        async with source(database, "t") as made:
            await _even(connection, made, await made.plan(None, 4, waiting=unheard), 4)


async def test_a_short_range_at_the_end_of_a_large_table_is_cut_evenly_too(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, v text);"
            f"INSERT INTO t SELECT i, repeat('x', 50) FROM generate_series(1, {ROWS}) AS i; ANALYZE t"
        )
    async with source(database, "t") as made:
        plan = await made.plan((str(ROWS - 400),), 4, waiting=unheard)
        assert [len(await read_keys(made, one.lower, one.upper)) for one in plan.splits] == [100] * 4


async def test_auto_asks_for_as_many_splits_as_the_rows_are_worth(database: str) -> None:
    asked: list[Size] = []

    def three(size: Size) -> int:
        asked.append(size)
        return 3

    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;"
            "INSERT INTO t SELECT i, repeat('x', 20000) FROM generate_series(1, 300) AS i; ANALYZE t"
        )
    async with source(database, "t", where="id % 100 = 0") as made:
        plan = await made.plan(None, three, waiting=unheard)
    assert [len(asked), len(plan.splits)] == [1, 3]
    assert asked[0].rows == 300, "rows that `where` leaves out have to be looked at too"
    assert asked[0].bytes is not None
    assert 6_000_000 < asked[0].bytes < 9_000_000, "with what is stored apart from the rows"
    assert asked[0].connections == 8


@pytest.mark.parametrize(
    ("rows", "size", "cores", "changes", "expected"),
    [
        (100, 10_000, 8, {}, 1),
        (2_000_000, 100_000_000, 8, {}, 4),
        (1_000, 1024**3, 8, {}, 8),
        (10**9, 10**12, 8, {}, 16),
        (10**9, 10**12, 1, {}, 2),
        (10**9, 10**12, 8, {"sink": {"kind": "elasticsearch"}}, 4),
        (10**9, 10**12, 8, {"sink": {"kind": "s3", "name": "one.csv"}}, 1),
        (10**9, 10**12, 8, {"source": {"datasource": "d", "table": "t", "limit": 5}}, 1),
    ],
)
def test_auto_follows_size_cores_and_sink(
    rows: int, size: int, cores: int, changes: dict[str, object], expected: int
) -> None:
    given = {"name": "j", "source": {"datasource": "d", "table": "t"}, "sink": {"kind": "kafka"}} | changes
    spec = JobSpec.model_validate(given | {"options": {"splits": "auto"}})
    assert auto_splits(spec, Size(rows, size), cores=cores) == expected
    assert auto_splits(spec, Size(rows, size, connections=2), cores=cores) == min(expected, 2)


async def test_a_job_with_auto_shows_the_bounds_of_each_split(
    control_database: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "ROWS_A_SPLIT", 400)
    async with ApiCase(control_database, database) as api:
        await api.shop()
        await api.rows(1000)
        await api.source.execute("ANALYZE orders")
        await api.engine.start()
        given = definition(sink={"kind": "donothing"}, options={"splits": "auto"})
        assert (await api.ok("POST", "/v1/jobs?start=true", given, 201))["spec"]["options"]["splits"] == "auto"
        ended = await api.until_state("j", "successful", "error")
    assert ended["state"] == "successful", ended["errors"]
    shown = ended["position"]["splits"]
    assert len(shown) == min(3, 2 * splitting.usable_cores())
    assert [one["lower"] for one in shown] == [None, *(one["upper"] for one in shown[:-1])]
    assert shown[-1]["upper"] == "1000"
    assert all(int(one["upper"]) - int(one["lower"] or 0) in range(330, 336) for one in shown) or len(shown) != 3
