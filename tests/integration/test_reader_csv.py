"""Rows as CSV records of Postgres's own COPY, whatever they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.domain.errors import Permanent, RowsRejected
from sinks.formats.columns import Column
from tests.integration.source_cases import (
    connected,
    copied,
    lines,
    pages,
    read_all,
    read_keys,
    read_until_refused,
    source,
    with_odd_values,
)
from workers.sources.csv_page import CsvPageBuilder, Dialect

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.postgres import PostgresServer

DIALECTS = [Dialect(), Dialect(";", "NULL"), Dialect("\t", "\\N"), Dialect("1", "t"), Dialect("|", "glad")]
NASTY = [
    "",
    "plain",
    'quo"ted',
    '"',
    '""',
    "a,b",
    "line\nfeed",
    "\n",
    "\r",
    "\\.",
    "\\N",
    "\\",
    "tab\t",
    "NULL",
    "ü\n,",
]


@pytest.fixture
async def odd(database: str) -> str:
    return await with_odd_values(database)


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
async def test_every_value_is_what_copy_writes(odd: str, dialect: Dialect) -> None:
    async with source(odd, "odd", csv=dialect) as made:
        assert lines(await read_all(made)) == await copied(odd, "SELECT * FROM odd ORDER BY id", dialect)


@pytest.mark.parametrize("columns", [["v", "a"], ["a", "b", "v"], ["a", "b"]], ids=",".join)
@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
async def test_keys_of_any_text_are_where_reading_goes_on(database: str, dialect: Dialect, columns: list[str]) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE named (a text, b text, v text, PRIMARY KEY (a, b))")
        await connection.executemany(
            "INSERT INTO named VALUES ($1, $2, $2 || $1)", [(a, b) for a in NASTY for b in NASTY]
        )
        expected = [tuple(row) for row in await connection.fetch("SELECT a, b FROM named ORDER BY a, b")]
    async with source(database, "named", csv=dialect, columns=columns) as made:
        assert await read_keys(made) == expected
        query = f"SELECT {', '.join(columns)} FROM named ORDER BY named.a, named.b"
        assert lines(await read_all(made)) == await copied(database, query, dialect)
        reader, seen, after = made.reader(), [], None
        while len(seen) < len(expected):
            page = await reader.read(after, None, max_rows=7)
            seen += [page.key(index) for index in range(len(page.values))]
            after = page.scanned_to
        assert seen == expected


async def test_a_table_of_one_column_is_written_as_copy_writes_it(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE words (id int PRIMARY KEY, word text)")
        await connection.executemany("INSERT INTO words VALUES ($1, $2)", list(enumerate([*NASTY, None])))
    async with source(database, "words", csv=Dialect(), columns=["word"]) as made:
        query = "SELECT word FROM words ORDER BY id"
        assert lines(await read_all(made)) == await copied(database, query, Dialect())


async def test_a_key_that_no_index_proves_is_checked_in_csv_too(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE twice AS SELECT i / 2 AS n, i::text AS t FROM generate_series(2, 7) i")
    query = "SELECT n, t FROM twice"
    async with source(database, query=query, key=["t"], csv=Dialect()) as made:
        assert lines(await read_all(made)) == await copied(database, query + " ORDER BY t", Dialect())
    async with source(database, query=query, key=["n"], csv=Dialect()) as made:
        seen, error = await read_until_refused(made)
    assert (seen, error.code) == ([], "key_not_unique")


@pytest.mark.parametrize("column", ["text", "jsonb", "bytea", "text[]", "json"])
async def test_a_row_over_the_limit_never_travels_and_is_told_by_its_key(database: str, column: str) -> None:
    big = {
        "text": "repeat('x', 5000000)",
        "jsonb": "jsonb_build_object('a', repeat('x', 5000000))",
        "json": "json_build_object('a', repeat('x', 5000000))",
        "bytea": "convert_to(repeat('x', 5000000), 'UTF8')",
        "text[]": "array_fill('xxxxx'::text, ARRAY[1000000])",
    }[column]
    async with connected(database) as connection:
        await connection.execute(
            f"CREATE TABLE large (id int PRIMARY KEY, v {column}, w text);"
            "INSERT INTO large (id, w) SELECT i, 'w' FROM generate_series(1, 100) i;"
            f"UPDATE large SET v = {big} WHERE id IN (40, 100)"
        )
    async with source(database, "large", csv=Dialect(), options={"max_row_bytes": 1 << 20}) as made:
        reader = made.reader()
        page = await reader.read(None, None)
        assert [page.key(index) for index in range(len(page.values))] == [(str(n),) for n in range(1, 40)]
        assert not page.end
        with pytest.raises(RowsRejected) as caught:
            await reader.read(page.scanned_to, None)
        assert (caught.value.code, caught.value.key) == ("row_too_large", ("40",))
        assert "max_row_bytes" in str(caught.value)
        seen = [page.key(i) async for page in pages(reader, ("40",), ("99",)) for i in range(len(page.values))]
        assert seen == [(str(n),) for n in range(41, 100)]


@pytest.fixture
def travelled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of what came from the source."""
    sizes: list[int] = []
    real = CsvPageBuilder.feed

    def noted(self: CsvPageBuilder, buffer: bytes) -> Awaitable[bool]:
        sizes.append(len(buffer))
        return real(self, buffer)

    monkeypatch.setattr(CsvPageBuilder, "feed", noted)
    return sizes


async def test_rows_are_measured_as_soon_as_the_table_has_anything_stored_apart(
    database: str, travelled: list[int]
) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE short (id int PRIMARY KEY, v text);"
            "INSERT INTO short VALUES (1, 'a'), (2, repeat('b', 500000))"
        )
        async with source(database, "short", csv=Dialect(), options={"max_row_bytes": 17 << 20}) as made:
            reader = made.reader()
            page = await reader.read(None, None)
            assert [len(value) for value in page.values] == [3, 500_002]
            await connection.execute("INSERT INTO short VALUES (3, 'c'), (4, repeat('d', 20000000))")
            page = await reader.read(("2",), None)
            assert page.values == [b"3,c"]
            with pytest.raises(RowsRejected) as caught:
                await reader.read(page.scanned_to, None)
    assert (caught.value.code, caught.value.key) == ("row_too_large", ("4",))
    assert max(travelled) < 1 << 20


async def test_rows_are_measured_that_are_long_only_when_they_are_read(
    newest_postgres_server: PostgresServer, travelled: list[int]
) -> None:
    dsn = await newest_postgres_server.create_database()
    async with connected(dsn) as connection:
        await connection.execute(
            "CREATE TABLE computed (id int PRIMARY KEY, n int, v text GENERATED ALWAYS AS (repeat('x', n)) VIRTUAL);"
            "INSERT INTO computed (id, n) VALUES (1, 1), (2, 20000000)"
        )
    async with source(dsn, "computed", csv=Dialect(), options={"max_row_bytes": 17 << 20}) as made:
        seen, error = await read_until_refused(made)
    assert (len(seen), error.code) == (1, "row_too_large")
    assert max(travelled) < 100
    await newest_postgres_server.drop_database(dsn)


async def test_a_row_that_only_its_text_makes_too_large_is_told_by_its_key(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE quoted (id int PRIMARY KEY, v text);"
            "INSERT INTO quoted SELECT i, repeat('\"', CASE i WHEN 3 THEN 900 ELSE 10 END) FROM generate_series(1, 5) i"
        )
    async with source(database, "quoted", csv=Dialect(), options={"max_row_bytes": 1024}) as made:
        page = await made.reader().read(None, None)
        assert [page.key(index) for index in range(len(page.values))] == [("1",), ("2",)]
        with pytest.raises(RowsRejected) as caught:
            await made.reader().read(page.scanned_to, None)
    assert (caught.value.code, caught.value.key) == ("row_too_large", ("3",))


async def test_pages_are_cut_at_their_bytes_within_the_stream(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE wide (id int PRIMARY KEY, v text);"
            "INSERT INTO wide SELECT i, repeat(E'\"\\n', 5000) FROM generate_series(1, 300) i"
        )
    async with source(database, "wide", csv=Dialect(), options={"page_bytes": 65536}) as made:
        found = [page async for page in pages(made.reader())]
    assert all(page.size <= 65536 for page in found)
    assert len(found) > 30
    query = "SELECT * FROM wide ORDER BY id"
    assert lines([v for page in found for v in page.values]) == await copied(database, query, Dialect())


async def test_the_columns_are_those_of_the_catalog_with_domains_resolved(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN price AS numeric(12,2) NOT NULL;"
            "CREATE DOMAIN fair AS price; CREATE DOMAIN grid AS int[][]; CREATE SCHEMA other;"
            "CREATE TYPE other.mood AS ENUM ('calm');"
            "CREATE TABLE typed (id bigint PRIMARY KEY, n numeric(10,4), f fair, fs fair[], t timestamp(3),"
            " tz timestamptz, c char(5), vc varchar(20)[], ints int[3][4], g grid, m mood, ms mood[], om other.mood,"
            " gone int, u uuid NOT NULL, tt time(2) with time zone, b bit(7), iv interval day to second(3));"
            "ALTER TABLE typed DROP COLUMN gone"
        )
    expected = (
        Column("id", "bigint", not_null=True),
        Column("n", "numeric(10,4)"),
        Column("f", "numeric(12,2)"),
        Column("fs", "numeric(12,2)[]", dimensions=1),
        Column("t", "timestamp(3) without time zone"),
        Column("tz", "timestamp with time zone"),
        Column("c", "character(5)"),
        Column("vc", "character varying(20)[]", dimensions=1),
        Column("ints", "integer[]", dimensions=2),
        Column("g", "integer[]", dimensions=2),
        Column("m", "mood", enum=True),
        Column("ms", "mood[]", dimensions=1, enum=True),
        Column("om", "other.mood", enum=True),
        Column("u", "uuid", not_null=True),
        Column("tt", "time(2) with time zone"),
        Column("b", "bit(7)"),
        Column("iv", "interval day to second(3)"),
    )
    async with source(database, "typed") as made:
        assert tuple(await made.columns()) == expected
    async with source(database, "typed", columns=["m", "id"]) as made:
        assert tuple(await made.columns()) == (expected[10], expected[0])
    async with source(database, query="SELECT id, n, f, fs, ints, m, ms FROM typed", key=["id"]) as made:
        assert tuple(await made.columns()) == (
            Column("id", "bigint"),
            Column("n", "numeric"),
            Column("f", "numeric"),
            Column("fs", "numeric(12,2)[]", dimensions=1),
            Column("ints", "integer[]", dimensions=1),
            Column("m", "mood", enum=True),
            Column("ms", "mood[]", dimensions=1, enum=True),
        )


async def test_a_column_added_meanwhile_shifts_nothing_and_one_that_is_gone_is_named(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE grows (id int PRIMARY KEY, a text, b numeric(5,2)); INSERT INTO grows VALUES (1, 'x', 1.5)"
        )
        async with source(database, "grows", csv=Dialect()) as made:
            fixed = await made.columns()
        await connection.execute(
            "ALTER TABLE grows ADD COLUMN c int DEFAULT 7; ALTER TABLE grows ALTER b TYPE numeric(9,2)"
        )
        async with source(database, "grows", csv=Dialect(), fixed=fixed) as made:
            assert await read_all(made) == [b"1,x,1.50"]
        async with source(database, "grows", fixed=fixed) as made:
            assert await read_all(made) == [b'{"id":1,"a":"x","b":1.50,"c":7}']
        await connection.execute("ALTER TABLE grows ALTER a TYPE int USING 3")
        async with source(database, "grows", csv=Dialect(), fixed=fixed) as made:
            with pytest.raises(Permanent, match=r"column 'a' of public\.grows is integer now, .* text") as changed:
                await read_all(made)
        await connection.execute("ALTER TABLE grows DROP COLUMN a")
        async with source(database, "grows", csv=Dialect(), fixed=fixed) as made:
            with pytest.raises(Permanent, match="no column 'a' any more") as gone:
                await read_all(made)
    assert (changed.value.code, gone.value.code) == ("column_changed", "column_gone")


@pytest.mark.parametrize(
    "text",
    [
        "true)) TO PROGRAM 'id' --",
        "true) TO STDOUT; COMMIT; CREATE TABLE evil (); --",
        "false) UNION ALL SELECT 1 WHERE (true",
    ],
)
async def test_user_sql_is_as_safe_in_csv(database: str, text: str) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE plain (id int PRIMARY KEY)")
    async with source(database, "plain", csv=Dialect(), where=text) as made:
        assert [f.code for f in (await made.inspect()).findings if f.severity == "error"] == ["sql_invalid"]
