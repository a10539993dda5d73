"""Keys of every ordered type: read in Postgres's order over any page's edge, by walking the key's index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.source_cases import connected, read_all, read_keys, source, unheard
from tests.support.postgres import PostgresServer
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.sources.base import Key
    from workers.sources.postgres import PostgresSource

ROWS = 2000
SERIES = f"generate_series(1, {ROWS}) AS i"
# Every ASCII character that COPY, JSON or SQL might take for its own, what follows letters in other orders, and the
# ends of UTF-8's lengths; as itself, doubled and inside other text.
ODD = [
    *(chr(code) for code in range(1, 48)),
    *"\\`'\"{}[]<>|~\x7f",
    *("\\N", "\\.", "\\n", "\\\\", "\\x41", "''", '""', "$1", "E'x'", "NULL", "null", "NaN", " ", "  a ", "\t\n\r"),
    *("ä", "Ä", "ß", "\u0130", "\u200b", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"),
]
ODD = sorted({"", *ODD, *(text * 2 for text in ODD), *(f"a{text}b" for text in ODD)})


@dataclass(frozen=True)
class Kind:
    """A table `t` whose key is `key`, with at least half of ROWS rows."""

    setup: str
    key: tuple[str, ...] = ("k",)


def _single(of: str, values: str, special: str = "") -> Kind:
    """One column of a type, filled by an expression over `i` and with texts of special values."""
    fill = f"CREATE TABLE t (k {of} PRIMARY KEY, v int); INSERT INTO t SELECT {values}, i FROM {SERIES};"
    if special:
        fill += f" INSERT INTO t SELECT v::{of}, 0 FROM unnest(ARRAY[{special}]) AS v ON CONFLICT DO NOTHING;"
    return Kind(fill)


KINDS = {
    "smallint": _single("smallint", "i * 16 - 16000", "-32768, 32767"),
    "integer, negative": _single("integer", "-i * 7919", "0, -2147483648, 2147483647"),
    "bigint": _single("bigint", "i::bigint * i * i", "-9223372036854775808, 9223372036854775807"),
    "numeric": _single("numeric", "i / 7.0", "'NaN', '-Infinity', 'Infinity', '-0.000', '1e-200', '-1e300', '1.50'"),
    "numeric of a scale": _single("numeric(20, 5)", "-i / 3.0"),
    "double precision": _single("float8", "i / 7.0", "'NaN', '-Infinity', 'Infinity', '1e-300', '0.1'"),
    "uuid": _single("uuid", "md5(i::text)::uuid"),
    "timestamptz": _single(
        "timestamptz",
        "'2026-03-29 00:00+00'::timestamptz + i * '1.000001 s'::interval",
        "'-infinity', 'infinity', '4713-01-01 00:00:00+00 BC', '294276-12-31 23:59:59.999999+00'",
    ),
    "timestamp": _single(
        "timestamp",
        "'2026-10-25 00:00'::timestamp + i * '1 min'::interval",
        "'-infinity', 'infinity', '0044-03-15 BC'",
    ),
    "date": _single("date", "'1999-12-31'::date + i", "'-infinity', 'infinity', '4713-01-01 BC', '5874897-12-31'"),
    "time": _single("time", "'00:00'::time + i * '7.5 s'::interval", "'24:00'"),
    "interval": _single("interval", "i * '1 hour'::interval", "'-1 mon', '1 year 2 mons -3 days 04:05:06.789'"),
    "bytea": _single("bytea", "int4send(i * 7919)", "'', '\\x00', '\\x5c4e', '\\xff'"),
    "boolean and more": Kind(
        f"CREATE TABLE t (b boolean, k int, PRIMARY KEY (b, k));INSERT INTO t SELECT i % 3 = 0, i FROM {SERIES}",
        ("b", "k"),
    ),
    "inet": _single("inet", "'10.0.0.0'::inet + i", "'::1', '10.0.0.0/8'"),
    "text": _single("text", "chr(64 + i % 58) || i"),
    "varchar": _single("varchar(40)", "'K' || i % 7 || '_' || i", "''"),
    "char": _single("char(12)", "i::text", "'', 'a b'"),
    "domain": Kind(
        "CREATE SCHEMA other; CREATE DOMAIN other.code AS text CHECK (VALUE <> '');"
        f"CREATE TABLE t (k other.code PRIMARY KEY, v int); INSERT INTO t SELECT 'c' || i, i FROM {SERIES}"
    ),
    "enum of another schema": Kind(
        "CREATE SCHEMA \"O's\"; CREATE TYPE \"O's\".\"L \"\"e\" AS ENUM ('low', 'it''s', 'a\\b', '');"
        'CREATE TABLE t (l "O\'s"."L ""e", n int, PRIMARY KEY (l, n));'
        f"INSERT INTO t SELECT (ARRAY['it''s', 'low', '', 'a\\b'])[1 + i % 4]::\"O's\".\"L \"\"e\", i FROM {SERIES}",
        ("l", "n"),
    ),
    "mixed": Kind(
        'CREATE TABLE t ("select" text, "at" timestamptz, "K""" numeric, v int, PRIMARY KEY ("select", "at", "K"""));'
        f"INSERT INTO t SELECT 'a' || i % 3, CASE WHEN i % 5 = 0 THEN 'infinity' ELSE '2026-01-01Z'::timestamptz"
        f" + i % 9 * '1 h'::interval END, i, i FROM {SERIES}",
        ("select", "at", 'K"'),
    ),
    "falling index": Kind(
        "CREATE TABLE t (a int NOT NULL, b text NOT NULL); CREATE UNIQUE INDEX ON t (a DESC, b DESC);"
        f"INSERT INTO t SELECT i % 11, i FROM {SERIES}",
        ("a", "b"),
    ),
    "an index in another collation": Kind(
        'CREATE TABLE t (a int NOT NULL, k text COLLATE "C" NOT NULL, v int);'
        f'CREATE UNIQUE INDEX ON t (a, k COLLATE "POSIX");'
        f"INSERT INTO t SELECT i % 3, chr(60 + i % 60) || i FROM {SERIES}",
        ("a", "k"),
    ),
    "a partitioned table": Kind(
        "CREATE TABLE t (d date, id int, PRIMARY KEY (d, id)) PARTITION BY RANGE (d);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO ('2026-02-01');"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM ('2026-02-01') TO (MAXVALUE);"
        f"INSERT INTO t SELECT '2026-01-01'::date + i % 60, i FROM {SERIES}",
        ("d", "id"),
    ),
}


async def _walks(made: PostgresSource, query: str) -> None:
    """No sort, no look at what is not given out."""
    plan = json.loads(await made._session.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}"))
    text = json.dumps(plan)
    scans = ('"Index Scan"', '"Index Only Scan"')
    assert any(scan in text for scan in scans), text
    for never in ("Seq Scan", "Sort", "Bitmap", "Rows Removed by Filter"):
        assert f'"{never}"' not in text, text
    assert '"Incremental Sort"' not in text


async def _check(made: PostgresSource, keys: list[Key]) -> None:
    """Pages, splits and the bound of a run, against Postgres's own order."""
    definition = await made._current.required()
    reader = made.reader()
    third, later = keys[len(keys) // 3], keys[2 * len(keys) // 3]
    assert await read_keys(made) == keys
    page = await reader.read(third, later, max_rows=50)
    assert [page.key(index) for index in range(50)] == keys[len(keys) // 3 + 1 : len(keys) // 3 + 51]
    plan = await made.plan(None, 3, waiting=unheard)
    assert plan.bound == keys[-1]
    assert [key for one in plan.splits for key in await read_keys(made, one.lower, one.upper)] == keys
    assert len(plan.splits) == 3
    for after, upper in ((None, None), (None, later), (third, None), (third, later)):
        await _walks(made, definition.page_sql(after, upper, 100, 10_000))
    largest = definition.rows_sql(definition.key.texts(), third, None, order=definition.key.order("DESC"))
    await _walks(made, f"{largest} LIMIT 1")


@pytest.mark.parametrize("name", KINDS)
async def test_a_key_is_read_in_its_own_order_by_its_index(database_of_each_major: str, name: str) -> None:
    database, kind = database_of_each_major, KINDS[name]
    names = ", ".join('"' + one.replace('"', '""') + '"' for one in kind.key)
    order = ", ".join('t."' + one.replace('"', '""') + '"' for one in kind.key)
    if name == "an index in another collation":
        order = 't.a, t.k COLLATE "POSIX"'
    async with connected(database) as connection:
        await connection.execute(f"SET timezone = 'UTC'; {kind.setup}")
        selected = ", ".join(f"{one}::text" for one in names.split(", "))
        rows = await connection.fetch(f"SELECT {selected} FROM t ORDER BY {order}")
        keys = [tuple(row.values()) for row in rows]
        assert len(keys) > ROWS / 2
        async with source(database, "t", key=list(kind.key)) as made:  # no statistics yet
            await _walks(made, (await made._current.required()).page_sql(keys[500], keys[1500], 100, 10_000))
        await connection.execute("ANALYZE t")
    async with source(database, "t", key=list(kind.key)) as made:
        inspection = await made.inspect()
        assert [finding.code for finding in inspection.findings if finding.severity == "error"] == []
        assert await made.later(keys[0], keys[1]) == keys[1]
        await made.check_keys(keys[::100])
        await _check(made, keys)


@pytest.mark.parametrize("collation", ['"C"', "ucs_basic"])
@pytest.mark.parametrize("csv", [False, True])
async def test_any_character_may_stand_in_a_key(database: str, collation: str, csv: bool) -> None:
    async with connected(database) as connection:
        await connection.execute(f"CREATE TABLE t (k text COLLATE {collation} PRIMARY KEY, v int)")
        await connection.executemany("INSERT INTO t VALUES ($1, 1)", [(text,) for text in ODD])
        keys = [tuple(row.values()) for row in await connection.fetch("SELECT k FROM t ORDER BY k")]
    dialect = Dialect(delimiter=",", null="") if csv else None
    async with source(database, "t", csv=dialect) as made:
        assert await read_keys(made) == keys
        reader = made.reader()
        after: Key | None = None
        for key in keys:  # every key as a position to go on from
            page = await reader.read(after, None, max_rows=1)
            assert [page.key(0)] == [key]
            after = page.scanned_to
            assert [one.key(0) for one in [await reader.one(key)]] == [key]
        assert (await reader.read(after, None)).values == []
        await made.check_keys(keys)
        assert len(await read_all(made)) == len(keys)


@pytest.fixture(scope="module")
def icu_server() -> Iterator[PostgresServer]:
    """A server built with ICU, which the one of the session is not: nondeterministic collations need it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not found:
        pytest.skip("no PostgreSQL with ICU on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWFERRY_TEST_POSTGRES_BIN", str(found[0]))
        server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.close()


async def test_a_collation_under_which_different_texts_are_equal_keeps_its_own_order(
    icu_server: PostgresServer,
) -> None:
    dsn = await icu_server.create_database()
    async with connected(dsn) as connection:
        await connection.execute(
            "CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
            "CREATE TABLE t (k text COLLATE nd PRIMARY KEY, v int);"
            f"INSERT INTO t SELECT chr(65 + i % 25 + CASE WHEN i % 2 = 0 THEN 32 ELSE 0 END) || i, i FROM {SERIES};"
            # the same letters under the column's own collation, and the index that tells them apart
            "CREATE TABLE apart (k text COLLATE nd NOT NULL);"
            'CREATE UNIQUE INDEX ON apart (k COLLATE "C");'
            "INSERT INTO apart SELECT chr(65 + i % 25 + CASE WHEN i % 2 = 0 THEN 32 ELSE 0 END) FROM"
            " generate_series(1, 60) i ON CONFLICT DO NOTHING;"
            # and the index that is stricter than the column: equal letters can not be there
            "CREATE TABLE stricter (k text NOT NULL, n int NOT NULL); CREATE UNIQUE INDEX ON stricter (k COLLATE nd);"
            "CREATE INDEX ON stricter (k); INSERT INTO stricter SELECT 'k' || i, i FROM generate_series(1, 60) i;"
            # unique letter by letter, but walked where letters are equal: not a proof
            "CREATE TABLE doubtful (k text NOT NULL, n int NOT NULL); CREATE INDEX ON doubtful (k COLLATE nd, n);"
            'CREATE UNIQUE INDEX ON doubtful (k COLLATE "C");'
        )
        keys = [tuple(row.values()) for row in await connection.fetch("SELECT k FROM t ORDER BY k")]
        bytewise = [tuple(row.values()) for row in await connection.fetch('SELECT k FROM apart ORDER BY k COLLATE "C"')]
    async with source(dsn, "t") as made:
        await _check(made, keys)
        assert (await made.reader().one((keys[7][0].swapcase(),))).key(0) == keys[7]
    async with source(dsn, "apart", key=["k"]) as made:
        assert len(bytewise) > 26
        assert await read_keys(made) == bytewise
    async with source(dsn, "stricter", key=["k"]) as made:
        assert [finding for finding in (await made.inspect()).findings if finding.severity == "error"] == []
        assert len(await read_keys(made)) == 60
    async with source(dsn, "doubtful", key=["k", "n"]) as made:
        errors = [finding.code for finding in (await made.inspect()).findings if finding.severity == "error"]
        assert errors == ["key_not_unique_by_index"]
