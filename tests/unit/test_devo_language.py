"""Devo's query language: what of it is understood, what it means in SQL, and that nothing in it can mean more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.api.dialects.devo_language import LONGEST, parse
from service.api.dialects.devo_sql import Columns
from service.api.dialects.devo_tree import Comparison, Field, LanguageError, Literal, Selected
from service.domain import built_sql
from workers.sources.sql import parse_expression, parse_query

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
WORDS = st.sampled_from(
    [
        *("from", "where", "select", "as", "and", "or", "not", "in", "is", "null", "has", "->", "isnull", "pragma"),
        *("(", ")", "{", "}", ",", "*", "=", "!=", "<", ">=", ";", "--", "/*", "$1", "group"),
        *("t", "a.b.c", "eventdate", "`x y`", '"text"', "'it''s'", "1", "-2.5e3", "true", "2020-01-01"),
        *("\\", '"', "'", "`", "\n", "é", "\ud800", "\0"),
    ]
)


def sql(text: str) -> str:
    condition = Columns("created_at").condition(parse(f"from t where {text}").conditions)
    return built_sql.expression(condition)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status = 200", "status = 200"),
        ("status != -1.50", "status <> -1.50"),
        ("a < 1, b <= 2", "a < 1 AND b <= 2"),
        ("a > 1 and b >= 2 or c", "(a > 1 AND b >= 2) OR c"),
        ("a and (b or c)", "a AND (b OR c)"),
        ("not a = 1", "NOT a = 1"),
        ("a in {1, 2.5, 'x'}", "a IN (1, 2.5, 'x')"),
        ("in(a, 1, 2)", "a IN (1, 2)"),
        ("a not in (1)", "NOT a IN (1)"),
        ("isnull(a)", "a IS NULL"),
        ("isnotnull(a)", "a IS NOT NULL"),
        ("a is null or b is not null", "a IS NULL OR b IS NOT NULL"),
        ("eventdate >= 2024-02-29T10:00:00Z", "created_at >= '2024-02-29T10:00:00+00:00'"),
        ("active = true", "active = true"),
        ('`Odd Name` = "it\'s"', "\"Odd Name\" = 'it''s'"),
        ("a = 'back\\\\slash'", "a = E'back\\\\slash'"),
        ("index = 1 and hasty = 2", "index = 1 AND hasty = 2"),
        ("a > 9007199254740993", "a > 9007199254740993"),
    ],
)
def test_conditions_in_sql(text: str, expected: str) -> None:
    assert sql(text) == expected
    assert parse_expression(expected).text == expected


@pytest.mark.parametrize("text", ['a -> "x"', 'a has "x"', 'has(a, "x")'])
def test_three_ways_to_say_contains(text: str) -> None:
    assert sql(text) == "pg_catalog.strpos(a::pg_catalog.text, 'x'::pg_catalog.text) > 0"


def test_the_beginning_and_the_end_of_texts() -> None:
    assert sql("startswith(a, 'x')") == sql("a startswith 'x'")
    assert sql("a endswith 'x'").startswith('pg_catalog."right"(a::pg_catalog.text')


def test_a_whole_query() -> None:
    query = parse(
        'from siem.web-log.activity where status = 200, user -> "bob" select eventdate, user as who '
        'pragma comment.id:"an app" pragma comment.user:"ana"'
    )
    assert (query.table, len(query.conditions)) == ("siem.web-log.activity", 2)
    assert query.conditions[0] == Comparison(Field("status", 33), "=", Literal(200, 42))
    assert query.selected == (Selected(Field("eventdate", 68), "eventdate"), Selected(Field("user", 79), "who"))
    assert parse("from t select *").selected is None
    assert parse("FROM t WHERE a = 1.5 SELECT b").conditions[0] == Comparison(
        Field("a", 13), "=", Literal(Decimal("1.5"), 17)
    )


def test_a_time_without_a_zone_is_in_the_zone_of_the_request() -> None:
    condition = parse("from t where eventdate < 2024-01-01").conditions
    zone = timezone(timedelta(hours=2))
    assert built_sql.expression(Columns("at", zone).condition(condition)) == "at < '2023-12-31T22:00:00+00:00'"


@pytest.mark.parametrize(
    ("text", "named", "position"),
    [
        ("from t group every 1h by x", "'group'", 7),
        ("from t where foo(a) = 1", "'foo'", 13),
        ("from t where a ~ 'x'", "'~'", 15),
        ("from t where a = 1; drop table t", "';'", 18),
        ("from t where a = 1 -- b", "'--'", 19),
        ("from t where a = 'x", '"\'"', 17),
        ("from t where", "too early", 12),
        ("select a from t", "'select'", 0),
        ("", "too early", 0),
        ("from t where a = 2024-13-01", "'2024-13-01'", 17),
        ("from t where a = '\\q'", "\\q", 18),
        ("from t where 5", "5", 13),
        ("from t where a -> 5", "quotes", 18),
        ("from t where a = 'x\0y'", "NUL", 17),
        ("from t where " + "(" * 30 + "a" + ")" * 30, "nested", 33),
        ("from t where " + "not " * 5000 + "a", "nested", 93),
        ("from t where a = 1 select b where c", "'where'", 28),
        ("from t where a = " + "9" * 100, "64", 17),
        ("from " + "t" * LONGEST, "characters", LONGEST),
    ],
)
def test_what_is_not_understood_is_named_with_its_position(text: str, named: str, position: int) -> None:
    with pytest.raises(LanguageError) as refused:
        Columns("at").condition(parse(text).conditions)
    assert named in str(refused.value)
    assert refused.value.position == position


@given(PLAIN)
@example("'; DROP TABLE orders; --")
@example("\\'; SELECT 1")
@example('"')
def test_no_text_means_more_than_itself(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    text = sql(f'a = "{quoted}"')
    again = parse_expression(text)
    assert again.text == text
    assert not again.functions
    assert not again.relations
    (condition,) = parse(f'from t where a = "{quoted}"').conditions
    assert isinstance(condition, Comparison)
    assert isinstance(condition.right, Literal)
    assert condition.right.value == value


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0`"), min_size=1, max_size=40))
def test_no_name_means_more_than_itself(name: str) -> None:
    if len(name.encode()) > 63:
        with pytest.raises(LanguageError, match="63 bytes"):
            sql(f"`{name}` is null")
        return
    text = sql(f"`{name}` is null")
    again = parse_expression(text)
    assert (again.text, again.functions, again.relations) == (text, frozenset(), ())


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=25), st.booleans())
def test_any_words_are_a_query_that_postgres_takes_or_an_error_with_a_place(words: list[str], conditions: bool) -> None:
    text = ("from t where " if conditions else "") + " ".join(words)
    position, condition = 0, None
    try:
        condition = Columns("at").condition(parse(text).conditions)
    except LanguageError as error:
        position = error.position
    assert 0 <= position <= len(text)
    if condition is not None:
        written = built_sql.expression(condition)
        assert parse_expression(written).relations == ()


@given(st.text(max_size=200))
def test_any_text_at_all(text: str) -> None:
    position = 0
    try:
        parse(text)
    except LanguageError as error:
        position = error.position
    assert 0 <= position <= len(text)


def test_a_select_that_is_built_is_one_select() -> None:
    where = built_sql.operator("=", built_sql.column("a"), built_sql.constant("'); DROP TABLE t; --"))
    text = built_sql.select([('b"; --', built_sql.column("a"))], built_sql.table_name('public."T t"'), where)
    parsed = parse_query(text)
    assert (parsed.text, parsed.relations) == (text, (("public", "T t"),))
    for wrong in ("t; DROP TABLE t", "t, u", "(SELECT 1) x", "a.b.c", ""):
        with pytest.raises(built_sql.BuildError):
            built_sql.table_name(wrong)


def test_times_that_postgres_does_not_reach_are_refused_by_their_place() -> None:
    with pytest.raises(LanguageError, match="character 17"):
        Columns("at", timezone(timedelta(hours=14))).condition(parse("from t where a = 0001-01-01").conditions)
    assert datetime(1, 1, 1, tzinfo=UTC)
