"""Keys: what proves one, what is refused, and that a page walks the key's index."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.domain.errors import Permanent
from tests.integration.source_cases import connected, read_all, read_keys, read_until_refused, source, unheard
from workers.sources.csv_page import Dialect
from workers.sources.session import Session

NOT_ENOUGH = {
    "no index": "CREATE TABLE t (id int NOT NULL)",
    "nullable": "CREATE TABLE t (id int UNIQUE)",
    "partial": "CREATE TABLE t (id int NOT NULL); CREATE UNIQUE INDEX ON t (id) WHERE id > 5",
    "deferrable": "CREATE TABLE t (id int NOT NULL UNIQUE DEFERRABLE)",
    "expression": "CREATE TABLE t (id int NOT NULL); CREATE UNIQUE INDEX ON t ((id + 0))",
    "more columns": "CREATE TABLE t (id int NOT NULL, b int NOT NULL, UNIQUE (id, b))",
    "not unique": "CREATE TABLE t (id int NOT NULL); CREATE INDEX ON t (id)",
    "inherited": "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child () INHERITS (t)",
    "invalid": "CREATE TABLE t (id int NOT NULL); CREATE UNIQUE INDEX bad ON t (id);"
    " UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'bad'::regclass",
}


@pytest.mark.parametrize("case", NOT_ENOUGH)
async def test_what_does_not_prove_a_key(database: str, case: str) -> None:
    async with connected(database) as connection:
        await connection.execute(NOT_ENOUGH[case])
    async with source(database, "t", key=["id"]) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
        assert [finding.code for finding in errors] == ["key_not_unique_by_index"]
        assert errors[0].hint
        with pytest.raises(Permanent):
            await made.plan(None, 1, waiting=unheard)
        with pytest.raises(Permanent):
            await made.reader().read(None, None)


@pytest.mark.parametrize("case", sorted(NOT_ENOUGH.keys() - {"nullable"}))
async def test_what_does_not_prove_a_key_is_read_at_its_owners_word(database: str, case: str) -> None:
    async with connected(database) as connection:
        filled = "INSERT INTO t (id, b) SELECT i, i" if "b int" in NOT_ENOUGH[case] else "INSERT INTO t (id) SELECT i"
        await connection.execute(f"{NOT_ENOUGH[case]}; {filled} FROM generate_series(1, 50) i")
        if case == "inherited":
            await connection.execute("INSERT INTO child SELECT i FROM generate_series(51, 60) i")
    async with source(database, "t", key=["id"], options={"key_is_unique": True}) as made:
        inspection = await made.inspect()
        found = [finding.code for finding in inspection.findings]
        assert "key_checked_while_reading" in found
        walked = case in {"deferrable", "more columns", "not unique"}
        assert ("key_not_walked" in found) is not walked
        assert "key_is_unique" in inspection.guarantee_note
        keys = [str(number) for number in range(1, 61 if case == "inherited" else 51)]
        assert await read_keys(made) == [(key,) for key in keys]
        assert (await made.plan(None, 1, waiting=unheard)).bound == (keys[-1],)


async def test_nulls_in_a_key_are_refused_whatever_its_owner_says(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(NOT_ENOUGH["nullable"])
    async with source(database, "t", key=["id"], options={"key_is_unique": True}) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
    assert [finding.code for finding in errors] == ["key_not_unique_by_index"]
    assert "IS NOT NULL" in errors[0].hint


@pytest.mark.parametrize("setup", ["not unique", "inherited", "no index"])
@pytest.mark.parametrize("csv", [Dialect(delimiter=",", null=""), None])
async def test_a_key_at_its_owners_word_that_repeats_ends_the_run_before_it_is_given_out(
    database: str, setup: str, csv: Dialect | None
) -> None:
    again = "child" if setup == "inherited" else "t"
    async with connected(database) as connection:
        await connection.execute(
            f"{NOT_ENOUGH[setup]}; INSERT INTO t SELECT i FROM generate_series(1, 900) i;"
            f"INSERT INTO {again} VALUES (641)"
        )
    async with source(database, "t", key=["id"], csv=csv, options={"key_is_unique": True}) as made:
        seen, error = await read_until_refused(made)
        assert (type(error), error.code) == (Permanent, "key_not_unique")
        assert "641" in error.message
        assert seen == [(str(number),) for number in range(1, len(seen) + 1)]
        assert len(seen) < 641
        reader = made.reader()
        for size in (1, 2, 3, 50):  # wherever the page ends, not one of the two is in it
            with pytest.raises(Permanent, match="641"):
                await reader.read((str(641 - size),), None, max_rows=size)


async def test_a_large_table_that_no_index_gives_by_key_says_so_instead_of_being_sorted_for_ever(
    database: str,
) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id int NOT NULL, v text); INSERT INTO t VALUES (1, 'x');"
            "CREATE FUNCTION slow(int) RETURNS bool STABLE LANGUAGE plpgsql"
            " AS $$ BEGIN PERFORM pg_sleep(1); RETURN true; END $$"
        )
    options = {"key_is_unique": True}
    async with source(database, "t", key=["id"], where="slow(id)", options=options) as made:
        with pytest.raises(Permanent) as caught:
            await made.reader().read(None, None)
        assert caught.value.code == "statement_too_long"
        assert "no index gives the rows by key" in caught.value.message
    async with source(
        database, "t", key=["id"], where="slow(id)", options=options | {"allow_long_statements": True}
    ) as made:
        assert await read_keys(made) == [("1",)]


async def test_columns_that_contain_a_unique_index_and_are_walked_are_a_key(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL); CREATE INDEX ON t (at, id);"
            "INSERT INTO t SELECT i, '2026-01-01'::date + (i * 7) % 10 FROM generate_series(1, 50) i"
        )
        expected = [
            tuple(row.values()) for row in await connection.fetch("SELECT at::text, id::text FROM t ORDER BY 1, t.id")
        ]
    async with source(database, "t", key=["at", "id"]) as made:
        assert await read_keys(made) == expected


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"table": "nowhere"}, "table_unknown"),
        ({"table": "no.where"}, "table_unknown"),
        ({"table": "t; DROP TABLE t"}, "table_invalid"),
        ({"table": "t", "columns": ["id", "nix"]}, "column_unknown"),
        ({"table": "t", "columns": ["id + 1"]}, "column_unknown"),
        ({"table": "t", "key": ["nix"]}, "column_unknown"),
        ({"table": "t", "where": "nix = 1"}, "column_unknown"),
        ({"table": "t", "where": "id = true"}, "sql_refused"),
        ({"table": "t", "where": "id = = 1"}, "sql_invalid"),
        ({"table": "t", "where": "random() < 0.5"}, "function_volatile"),
        ({"table": "t", "where": "own_volatile(id)"}, "function_volatile"),
        ({"table": "t", "where": "(t).row_volatile"}, "function_volatile"),
        ({"table": "t", "where": "id ~~~~ 1"}, "function_volatile"),
        ({"table": "t", "time": {"column": "id"}}, "time_column_type"),
        ({"table": "t", "time": {"column": "nix"}}, "column_unknown"),
        ({"table": "nokey"}, "key_required"),
        ({"query": "SELECT id, v AS id FROM t", "key": ["id"]}, "column_doubled"),
        ({"query": "SELECT id FROM t; SELECT 1", "key": ["id"]}, "sql_not_one"),
        ({"query": "SELECT id FROM nix", "key": ["id"]}, "table_unknown"),
        ({"query": "SELECT id, nextval('s') FROM t", "key": ["id"]}, "function_refused"),
        ({"query": "SELECT id, clock_timestamp() FROM t", "key": ["id"]}, "function_volatile"),
    ],
)
async def test_a_definition_that_can_not_be_read_says_why(database: str, spec: dict, code: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE nokey (a int); CREATE SEQUENCE s;"
            "CREATE FUNCTION own_volatile(int) RETURNS bool LANGUAGE sql AS 'SELECT true';"
            "CREATE FUNCTION row_volatile(t) RETURNS bool LANGUAGE sql AS 'SELECT true';"
            "CREATE FUNCTION op_volatile(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true';"
            "CREATE OPERATOR ~~~~ (leftarg = int, rightarg = int, function = op_volatile)"
        )
    async with source(database, **spec) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
        assert [finding.code for finding in errors] == [code]
        assert errors[0].pointer.startswith("/source")
        with pytest.raises(Permanent) as caught:
            await made.plan(None, 1, waiting=unheard)
        assert caught.value.code == code
    async with connected(database) as connection:
        assert await connection.fetchval("SELECT to_regclass('t') IS NOT NULL")


@pytest.mark.parametrize("columns", [["*"], ["id"]])
async def test_a_message_key_names_columns_that_exist(database: str, columns: list[str]) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    async with source(database, "t", columns=columns, message_key=["id", "nix"]) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
    assert [(finding.pointer, finding.code) for finding in errors] == [("/sink/key", "column_unknown")]


async def test_hostile_where_reaches_the_source_neither_whole_nor_in_part(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        for text in (
            "true)) q) TO PROGRAM 'touch /tmp/rowferry-was-here' --",
            "true)) q) TO STDOUT; COMMIT; BEGIN READ WRITE; CREATE TABLE owned(x int) --",
            "false) UNION ALL SELECT usename, passwd FROM pg_shadow WHERE (true",
        ):
            async with source(database, "t", where=text) as made:
                with pytest.raises(Permanent) as caught:
                    await made.reader().read(None, None)
                assert caught.value.code == "sql_invalid"
        assert await connection.fetchval("SELECT to_regclass('owned')") is None


@pytest.mark.parametrize(
    "values",
    ["(1.0, 'a'), (1.00, 'b'), (2, 'c')", "(1, 'a'), (2, 'b'), (2, 'c'), (3, 'd')"],
)
@pytest.mark.parametrize("page_bytes", [65536, 4 * 1024 * 1024])
async def test_a_repeated_key_of_a_query_is_found_before_it_is_given_out(
    database: str, values: str, page_bytes: int
) -> None:
    query = f"SELECT n, v FROM (VALUES {values}) AS x(n, v)"
    async with source(database, query=query, key=["n"], options={"page_bytes": page_bytes}) as made:
        reader = made.reader()
        with pytest.raises(Permanent) as caught:
            await read_all(made)
        assert caught.value.code == "key_not_unique"
        first = await reader.read(None, None, max_rows=1) if values.startswith("(1, ") else None
        if first is not None:
            assert first.key(0) == ("1",)
            with pytest.raises(Permanent):
                await reader.read(("1",), None, max_rows=1)


async def test_a_repeat_over_a_pages_edge_is_found(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (k int, v text); CREATE INDEX ON t (k);"
            "INSERT INTO t SELECT i, repeat('x', 20000) FROM generate_series(1, 40) i;"
            "INSERT INTO t VALUES (31, 'again')"
        )
    async with source(database, query="SELECT k, v FROM t", key=["k"], options={"page_bytes": 65536}) as made:
        seen, error = await read_until_refused(made)
    assert (type(error), error.code) == (Permanent, "key_not_unique")
    assert "31" in error.message
    assert seen == [(str(number),) for number in range(1, len(seen) + 1)]
    assert ("31",) not in seen


async def test_a_table_is_not_read_whole_for_nulls_that_its_columns_do_not_take(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = Session.fetchval

    async def noted(self: Session, query: str, *arguments: Any) -> Any:
        asked.append(query)
        return await real(self, query, *arguments)

    monkeypatch.setattr(Session, "fetchval", noted)
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE t (a int NOT NULL, b int NOT NULL); INSERT INTO t VALUES (1, 1)")
    async with source(database, "t", key=["a", "b"], options={"key_is_unique": True}) as made:
        await made.plan(None, 1, waiting=unheard)
        assert len(await read_all(made)) == 1
    assert asked
    assert not [query for query in asked if '"a" IS NULL' in query]


async def test_a_null_in_a_querys_key_is_refused(database: str) -> None:
    query = "SELECT n FROM (VALUES (1), (NULL), (2)) AS x(n)"
    async with source(database, query=query, key=["n"]) as made:
        with pytest.raises(Permanent) as caught:
            await made.plan(None, 1, waiting=unheard)
        assert caught.value.code == "key_is_null"


@pytest.mark.parametrize("analyzed", [True, False])
async def test_a_page_of_a_composite_key_walks_the_index(database: str, analyzed: bool) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (a int, b text, v text, PRIMARY KEY (a, b));"
            "INSERT INTO t SELECT i % 100, 'b' || i, repeat('x', 100) FROM generate_series(1, 50000) i"
        )
        if analyzed:
            await connection.execute("ANALYZE t")
    async with source(database, "t") as made:
        definition = await made._current.required()
        query = definition.page_sql(("50", "b20050"), ("90", "b1"), 100, 1000)
        plan = await made._session.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
    text = json.dumps(json.loads(plan))
    assert '"Index Scan"' in text
    assert "Seq Scan" not in text
    assert '"Sort"' not in text
    assert "Bitmap" not in text


async def test_splits_of_a_skewed_table_are_even(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY);"
            "INSERT INTO t SELECT CASE WHEN i < 30000 THEN i ELSE i::bigint * i * i END"
            " FROM generate_series(1, 40000) i"
        )
    async with source(database, "t") as made:
        plan = await made.plan(("10000",), 3, waiting=unheard)
        counts = [len(await read_keys(made, one.lower, one.upper)) for one in plan.splits]
    assert sum(counts) == 30_000
    assert all(8_000 < count < 12_000 for count in counts)
