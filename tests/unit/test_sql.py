"""User SQL: what Postgres's grammar takes as one SELECT or one expression, and nothing else."""

from __future__ import annotations

import threading

import pytest

from workers.sources.sql import (
    LONGEST,
    SqlError,
    UserSql,
    in_thread,
    parse_expression,
    parse_name,
    parse_query,
    quote_ident,
    quote_literal,
)

HOSTILE = [
    "true)) q) TO PROGRAM 'id' --",
    "true)) q) TO STDOUT; COMMIT; BEGIN READ WRITE; CREATE TABLE owned(x int) --",
    "false) UNION ALL SELECT usename, passwd FROM pg_shadow WHERE (true",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_neither_expression_nor_query(text: str) -> None:
    with pytest.raises(SqlError):
        parse_expression(text)
    with pytest.raises(SqlError):
        parse_query(f"SELECT * FROM t WHERE ({text}")


@pytest.mark.parametrize(
    "text",
    [
        "true; SELECT 1",
        "true ORDER BY 1",
        "true LIMIT 1",
        "true GROUP BY a",
        "true UNION SELECT 1",
        "true FOR UPDATE",
        "a) OR (b",
        "",
        "  -- nothing",
        "status = $1",
        "pg_sleep(1) IS NULL",
        "pg_read_file('/etc/passwd') <> ''",
        "id IN (SELECT id FROM t FOR UPDATE)",
        "x = 'a\0b'",
        "true WINDOW w AS ()",
    ],
)
def test_refused_expressions(text: str) -> None:
    with pytest.raises(SqlError):
        parse_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; SELECT 2",
        "DELETE FROM t",
        "SELECT * INTO t2 FROM t",
        "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
        "SELECT * FROM t FOR SHARE",
        "COPY t TO STDOUT",
        "EXPLAIN SELECT 1",
        "SELECT lo_import('/etc/passwd')",
        "SELECT * FROM t WHERE id = $1",
        "",
        "VALUES (nextval('s'))",
    ],
)
def test_refused_queries(text: str) -> None:
    with pytest.raises(SqlError):
        parse_query(text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("status <> 'draft'", "status <> 'draft'"),
        ("a = 1 -- comment\n AND b", "a = 1 AND b"),
        ("a OR b AND NOT c", "a OR (b AND NOT c)"),
        ("id IN (SELECT x FROM y)", "id IN (SELECT x FROM y)"),
    ],
)
def test_only_text_written_back_from_the_tree_is_kept(text: str, written: str) -> None:
    assert parse_expression(text).text == written


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id, pieces::numeric(12,3) AS wide FROM orders WHERE id IN (2,3)",
        "SELECT 1.50::numeric(4,2) AS a, ARRAY[1,2,3] AS b FROM orders",
    ],
)
def test_a_list_that_is_written_back_at_another_place_is_still_the_same(text: str) -> None:
    assert parse_query(text).relations == (("orders",),)


def test_names_in_a_query_are_collected() -> None:
    parsed = parse_query(
        "WITH c AS (SELECT 1 AS x) SELECT lower(o.name), pg_catalog.upper('a')"
        " FROM shop.orders o JOIN c ON c.x @> o.id, lines"
    )
    assert parsed.relations == (("shop", "orders"), ("lines",))
    assert {("lower",), ("pg_catalog", "upper")} <= parsed.functions
    assert ("@>",) in parsed.operators
    assert "name" in parsed.attributes


@pytest.mark.parametrize(("text", "offset"), [("a = = 1", 4), ("ä = 'ö' AND (", 13), ("a = 1 FROM x", 6)])
def test_an_error_says_where(text: str, offset: int) -> None:
    with pytest.raises(SqlError) as caught:
        parse_expression(text)
    assert caught.value.offset == offset


def test_a_refused_part_of_a_query_says_where() -> None:
    text = "SELECT 'ä', pg_sleep(1)"
    with pytest.raises(SqlError) as caught:
        parse_query(text)
    assert caught.value.offset == text.index("pg_sleep")
    assert caught.value.code == "function_refused"


@pytest.mark.parametrize(
    ("text", "name"),
    [("orders", ("orders",)), ("public.Orders", ("public", "orders")), ('"My Schema"."T.x"', ("My Schema", "T.x"))],
)
def test_table_names_as_in_sql(text: str, name: tuple[str, ...]) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize("text", ["a.b.c", "a b", "a, b", "a; b", "a WHERE true", "ONLY a", "f()", "(SELECT 1)", ""])
def test_what_is_not_one_table(text: str) -> None:
    with pytest.raises(SqlError):
        parse_name(text)


def test_quoting_cannot_be_left() -> None:
    assert quote_ident('a"b') == '"a""b"'
    assert quote_literal("it's") == "'it''s'"
    assert quote_literal("\\'; --") == " E'\\\\''; --'"
    with pytest.raises(SqlError):
        quote_literal("\0")
    with pytest.raises(SqlError):
        quote_ident("")


def test_a_text_that_would_hold_up_everybody_is_refused_before_it_is_parsed() -> None:
    longest = "a" * (LONGEST - 2)
    assert longest in parse_expression(f"'{longest}'").text
    for refuse in (parse_expression, parse_query):
        with pytest.raises(SqlError, match=r"has 65,537 characters, at most 65,536 are taken; keep") as refused:
            refuse(" " * (LONGEST + 1))
        assert refused.value.code == "sql_too_long"


def test_a_text_that_was_taken_is_not_parsed_again() -> None:
    text = " OR ".join(f"a = {number}" for number in range(50))
    assert parse_expression(text) is parse_expression(text)
    assert parse_query(f"SELECT 1 WHERE {text}") is parse_query(f"SELECT 1 WHERE {text}")


async def test_a_long_text_is_parsed_beside_the_event_loop() -> None:
    threads = []

    def parse(text: str) -> UserSql:
        threads.append(threading.get_ident())
        return parse_expression(text)

    for length in (1_000, 1_001):
        await in_thread(parse, f"{'a' * (length - 4)} > 0")
    assert [thread == threading.get_ident() for thread in threads] == [True, False]
    with pytest.raises(SqlError):
        await in_thread(parse_query, "x" * 5_000)
