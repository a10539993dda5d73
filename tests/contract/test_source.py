"""What every source promises, on every kind of thing that can be read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.domain.errors import Permanent
from tests.integration.source_cases import connected, pages, read_keys, source, unheard

ROWS = 3000


@dataclass(frozen=True)
class Case:
    """A thing to read, with ROWS rows."""

    setup: str
    spec: dict[str, Any]
    order: str
    """The oracle: keys in order, asked of Postgres. Qualified, or it would sort the texts instead of the keys."""
    splits: int = 4
    """At least so many of 4 asked for."""
    invalid: tuple[str, ...] = ("x",)
    options: dict[str, Any] = field(default_factory=dict)


SERIES = f"generate_series(1, {ROWS}) AS i"
CASES = {
    "bigint": Case(
        f"CREATE TABLE t (id bigint PRIMARY KEY, v text); INSERT INTO t SELECT i * 3, 'v' || i FROM {SERIES}",
        {"table": "t"},
        "SELECT id::text FROM t ORDER BY t.id",
    ),
    "text, any collation": Case(
        'CREATE TABLE "T t" ("k""K" text COLLATE "und-x-icu" PRIMARY KEY, v text);'
        f" INSERT INTO \"T t\" SELECT chr(64 + i % 58) || E'\\t\\\\n' || i, 'ä' FROM {SERIES}",
        {"table": '"T t"', "key": ['k"K']},
        'SELECT "k""K" FROM "T t" ORDER BY 1',
        invalid=(),
    ),
    "uuid": Case(
        f"CREATE TABLE t (u uuid PRIMARY KEY); INSERT INTO t SELECT gen_random_uuid() FROM {SERIES}",
        {"table": "t"},
        "SELECT u::text FROM t ORDER BY t.u",
    ),
    "numeric": Case(
        f"CREATE TABLE t (n numeric PRIMARY KEY, v text); INSERT INTO t SELECT i / 7.0, 'v' FROM {SERIES};"
        " UPDATE t SET n = 'NaN' WHERE n = (SELECT min(n) FROM t)",
        {"table": "t"},
        "SELECT n::text FROM t ORDER BY t.n",
    ),
    "composite": Case(
        "CREATE TABLE t (a text, b timestamptz, c char(4), v int, UNIQUE (a, b, c));"
        " ALTER TABLE t ALTER a SET NOT NULL, ALTER b SET NOT NULL, ALTER c SET NOT NULL;"
        " INSERT INTO t SELECT 'a' || i % 3, '2026-01-01 00:00+00'::timestamptz + i % 700 * '1.5 s'::interval,"
        f" i % 71, i FROM {SERIES} ON CONFLICT DO NOTHING;"
        " INSERT INTO t SELECT 'z', now(), i, i FROM generate_series(1, 9) i",
        {"table": "t", "key": ["a", "b", "c"]},
        "SELECT a::text, b::text, c::text FROM t ORDER BY t.a, t.b, t.c",
        invalid=("a", "yesterday-ish", "b"),
    ),
    "enum": Case(
        "CREATE TYPE level AS ENUM ('low', 'mid', 'high'); CREATE TABLE t (l level, n int, PRIMARY KEY (l, n));"
        f" INSERT INTO t SELECT (ARRAY['high', 'low', 'mid'])[1 + i % 3]::level, i FROM {SERIES}",
        {"table": "t"},
        "SELECT l::text, n::text FROM t ORDER BY t.l, t.n",
        invalid=("medium", "1"),
    ),
    "bytea": Case(
        f"CREATE TABLE t (b bytea PRIMARY KEY); INSERT INTO t SELECT int4send(i * 7919 % {ROWS * 8}) FROM {SERIES}",
        {"table": "t"},
        "SELECT b::text FROM t ORDER BY t.b",
        invalid=("\\xzz",),
    ),
    "partitioned": Case(
        "CREATE TABLE t (id int, d date, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO ('2026-06-01');"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM ('2026-06-01') TO (MAXVALUE);"
        f" INSERT INTO t SELECT i, '2026-01-01'::date + i % 365 FROM {SERIES}",
        {"table": "public.t"},
        "SELECT id::text, d::text FROM t ORDER BY t.id, t.d",
        invalid=("1", "2026-13-01"),
    ),
    "query": Case(
        f"CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' || i FROM {SERIES}",
        {"query": "SELECT o.id AS k, o.v, p.id + 1 AS next FROM a o JOIN a p ON p.id = o.id", "key": ["k"]},
        "SELECT id::text FROM a ORDER BY a.id",
    ),
    "view": Case(
        f"CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' || i FROM {SERIES};"
        "CREATE VIEW t AS SELECT id, upper(v) AS v FROM a",
        {"table": "t", "key": ["id"]},
        "SELECT id::text FROM a ORDER BY a.id",
    ),
}


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest, database: str) -> tuple[str, Case, list[tuple[str, ...]]]:
    made = CASES[request.param]
    async with connected(database) as connection:
        # some builds have no ICU: then at least a collation that is not the database's own
        icu = await connection.fetchval("SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu'")
        setup = made.setup if icu else made.setup.replace("und-x-icu", "ucs_basic")
        await connection.execute(f"SET timezone = 'UTC'; {setup}; ANALYZE")
        keys = [tuple(row.values()) for row in await connection.fetch(made.order)]
    assert len(keys) > ROWS / 2
    return database, made, keys


async def test_inspection_finds_nothing_wrong_and_names_the_key(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        inspection = await opened.inspect()
    assert [finding for finding in inspection.findings if finding.severity == "error"] == []
    assert len(inspection.key) == len(keys[0])
    assert {column.name for column in inspection.key} <= set(inspection.columns)
    assert inspection.size.rows
    assert inspection.size.bytes


async def test_a_plan_covers_every_row_once_in_key_order(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec, options={"page_bytes": 64 * 1024}) as opened:
        plan = await opened.plan(None, 4, waiting=unheard)
        assert plan.bound == keys[-1]
        assert made.splits <= len(plan.splits) <= 4
        assert plan.splits[0].lower is None
        assert plan.splits[-1].upper == plan.bound
        assert [one.upper for one in plan.splits[:-1]] == [one.lower for one in plan.splits[1:]]
        parts = [await read_keys(opened, one.lower, one.upper) for one in plan.splits]
        assert [key for part in parts for key in part] == keys
        assert max(map(len, parts)) < len(keys) / 2
        await opened.check_keys([one.upper for one in plan.splits])


async def test_reading_goes_on_after_any_key_and_ends_at_any_key(case) -> None:
    dsn, made, keys = case
    first, last = keys[len(keys) // 3], keys[2 * len(keys) // 3]
    async with source(dsn, **made.spec) as opened:
        assert await read_keys(opened, first, last) == keys[len(keys) // 3 + 1 : 2 * len(keys) // 3 + 1]
        reader = opened.reader()
        page = await reader.read(first, last, max_rows=1)
        assert [page.key(0)] == [keys[len(keys) // 3 + 1]]
        assert not page.end


async def test_values_are_json_objects_on_one_line_of_the_columns(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        columns = (await opened.inspect()).columns
        rows = [value async for page in pages(opened.reader()) for value in page.values]
    assert len(rows) == len(keys)
    assert all(type(row) is bytes and b"\n" not in row for row in rows)
    assert tuple(json.loads(rows[0])) == columns


async def test_keys_are_compared_by_postgres(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        for one, other in ((keys[0], keys[1]), (keys[5], keys[-1]), (keys[98], keys[102])):
            assert await opened.later(one, other) == await opened.later(other, one) == other
            with pytest.raises(Permanent) as caught:
                await opened.check_keys([other, one])
            assert caught.value.code == "key_invalid"
        with pytest.raises(Permanent) as caught:
            await opened.check_keys([(*keys[0], "1")])
        assert caught.value.code == "key_invalid"
        if made.invalid:
            with pytest.raises(Permanent) as caught:
                await opened.check_keys([made.invalid])
            assert caught.value.code == "key_invalid"


async def test_lag_counts_what_is_above(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        rows, seconds = await opened.lag(keys[99])
        assert rows is not None
        if "table" in made.spec:
            assert rows == len(keys) - 100
        assert seconds is None


async def test_nothing_above_the_last_key_is_an_empty_plan_and_an_ended_page(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        assert (await opened.plan(keys[-1], 4, waiting=unheard)).splits == ()
        page = await opened.reader().read(keys[-1], None)
        assert (page.values, page.end) == ([], True)


async def test_a_limit_is_read_by_one_reader(case) -> None:
    dsn, made, _ = case
    async with source(dsn, **made.spec, limit=10) as opened:
        assert len((await opened.plan(None, 4, waiting=unheard)).splits) == 1


async def test_the_clock_is_the_sources_and_closing_twice_is_fine(case) -> None:
    dsn, made, _ = case
    async with source(dsn, **made.spec) as opened:
        assert abs(await opened.now() - datetime.now(UTC)) < timedelta(seconds=60)
        await opened.reader().close()
        await opened.close()
        await opened.close()


async def test_keys_without_rows_are_those_of_every_row_and_say_which_are_let_through(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        reader = opened.reader()
        found, after = [], keys[10]
        while True:
            page = await reader.keys(after, keys[-10])
            found += [(page.key(index), value) for index, value in enumerate(page.values)]
            if page.end:
                break
            after = found[-1][0]
        assert [key for key, _ in found] == keys[11:-9]
        assert {value for _, value in found} == {b"t"}
        await reader.close()


async def test_rows_are_read_by_their_keys_alone(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        reader = opened.reader()
        wanted = keys[5:ROWS:37]
        page = await reader.among(wanted)
        found = [page.key(index) for index in range(len(page.values))]
        while not page.end:
            page = await reader.among(wanted, found[-1])
            found += [page.key(index) for index in range(len(page.values))]
        assert found == wanted
        page = await reader.among(wanted[:3], wanted[1])
        assert [page.key(index) for index in range(len(page.values))] == [wanted[2]]
        await reader.close()


async def test_a_key_so_many_rows_back_is_found_and_compared_by_the_source(case) -> None:
    dsn, made, keys = case
    async with source(dsn, **made.spec) as opened:
        assert await opened.back(None, keys[-1], 100) == keys[-101]
        assert await opened.back(keys[-101], keys[-1], 100) is None
        assert await opened.back(keys[-102], keys[-1], 100) == keys[-101]
        assert await opened.back(None, keys[-1], len(keys)) is None
        assert await opened.at_or_below([keys[2], keys[7], keys[8], keys[-1]], keys[7]) == [True, True, False, False]
        assert await opened.at_or_below([], keys[7]) == []
