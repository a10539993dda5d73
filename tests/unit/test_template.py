"""Templates of SQL: what their tags give is a literal of the tree, whatever it holds, and nothing else of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sources import template
from workers.sources.sql import SqlError, parse_query
from workers.sources.template import Variables, check, render, single_table

DOCUMENTED = "select * from events {{#max_primary_key}}WHERE id>{{max_primary_key}}{{/max_primary_key}} limit 10000"
HOSTILE = (
    "'; DROP TABLE events; --",
    "' OR ''='",
    "\\'; DROP TABLE events; --",
    "$$; DROP TABLE events",
    '"; DROP TABLE events; --',
    "/* */ x",
    "{{max_primary_key}}",
    "rowferry_0_",
    "",
    "0",
)


def test_the_documented_template_vanishes_on_the_first_run_and_stays_on_later_ones():
    first, later = check(DOCUMENTED)
    assert (first.text, first.query, first.limit) == (
        "SELECT * FROM events LIMIT 10000",
        "SELECT * FROM events",
        10000,
    )
    assert later.query == "SELECT * FROM events WHERE id > '0'"


@pytest.mark.parametrize(
    "written",
    [
        "{{max_primary_key}}",
        "'{{max_primary_key}}'",
        "{{{max_primary_key}}}",
        "'{{&max_primary_key}}'",
        "{{& max_primary_key }}",
        "{{=<% %>=}}<%max_primary_key%>",
        "$q${{max_primary_key}}$q$",
        "E'{{max_primary_key}}'",
    ],
)
@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_a_literal_however_its_tag_is_written(written: str, value: str):
    text = render(f"SELECT {written} AS v FROM x", Variables(value)).query
    alone = render("SELECT {{max_primary_key}} AS v FROM x", Variables(value)).query
    assert text == alone
    assert parse_query(text).relations == (("x",),)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_no_value_changes_what_the_statement_is(value: str):
    rendered = render(
        "SELECT a FROM x WHERE a > '{{max_primary_key}}' AND b LIKE '%{{last_record.0}}%'",
        Variables(value, None, [value]),
    )
    found = parse_query(rendered.query)
    assert (found.relations, found.functions) == ((("x",),), frozenset())


@given(st.text("{}#/^&>!=. max_primary_keylastrecordtimestamp0123'\"();-*selectfromx\n", max_size=80))
def test_no_text_gets_more_than_a_refusal_with_its_reason(text: str):
    try:
        rendered = render(text, Variables("1", "2026-01-01T00:00:00Z", ["1", None]))
    except SqlError:
        return
    assert parse_query(rendered.query).text


def test_a_value_of_0_renders_and_one_that_is_null_is_null():
    variables = Variables("0", None, ["0", None])
    text = (
        "SELECT {{#max_primary_key}}1{{/max_primary_key}} + {{last_record.0}}, {{last_record.1}}, '{{last_record.1}}'"
    )
    assert render(f"{text} {{{{^last_record.1}}}}, 7{{{{/last_record.1}}}} FROM x", variables).query == (
        "SELECT 1 + '0', NULL, '', 7 FROM x"
    )


def test_all_of_a_record_can_be_gone_through():
    text = "SELECT * FROM x WHERE id IN (0{{#last_record}}, {{.}}{{/last_record}})"
    assert render(text, Variables("3", None, ["a'b", "c"])).query == "SELECT * FROM x WHERE id IN (0, 'a''b', 'c')"
    assert render(text, Variables()).query == "SELECT * FROM x WHERE id IN (0)"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("select * from {{max_primary_key}}", "sql_invalid", "on the first run"),
        ("select a{{#last_record}} as {{max_primary_key}}{{/last_record}} from t", "template_invalid", "takes a value"),
        ("select {{max_key}} from t", "template_invalid", "no variable 'max_key'"),
        ("select {{last_record.00}} from t", "template_invalid", "no variable"),
        ("select {{max_primary_key.__class__}} from t", "template_invalid", "no variable"),
        ("select {{#max_primary_key}} from t", "template_invalid", "line 1 column 8"),
        ("select 1\nfrom t {{/max_primary_key}}", "template_invalid", "line 2"),
        ("select {{>other}} from t", "template_invalid", "another template"),
        ("select {{max_primary_key from t", "template_invalid", "line 1 column 8"),
        ("{{#last_record}}{{#last_record}}{{/last_record}}{{/last_record}}", "template_invalid", "without end"),
        ("select * from t; drop table t", "sql_not_one", "one statement"),
        ("select * from t {{#max_primary_key}}; drop table t{{/max_primary_key}}", "sql_not_one", "on later runs"),
        ("drop table t", "sql_not_select", "SELECT"),
        ("select * from t for update", "sql_refused", "locking"),
        ("select pg_sleep(9)", "function_refused", "pg_sleep"),
        ("select * from t limit 5 offset 2", "offset_refused", "OFFSET"),
        ("select * from t limit 0", "limit_refused", "LIMIT 0"),
        ("select * from t limit 1 + 1", "limit_refused", "whole number"),
        ("select * from t limit 99999999999", "limit_refused", "whole number"),
        ("select * from t order by a fetch first 3 rows with ties", "limit_refused", "WITH TIES"),
        ("select * from (select * from t limit 3) q", "limit_without_order", "ORDER BY"),
        ("with q as (select * from t offset 3) select * from q", "limit_without_order", "ORDER BY"),
        ("select '\ud800'", "template_invalid", "surrogate"),
        ("select '\0'", "sql_invalid", "NUL"),
        ("", "sql_not_one", "no SQL"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_refused_with_its_reason(text: str, code: str, said: str):
    with pytest.raises(SqlError) as caught:
        check(text)
    assert (caught.value.code, said in caught.value.message) == (code, True), caught.value.message


def test_a_limit_of_the_whole_is_taken_off_it_with_its_order_and_one_of_an_ordered_part_stays():
    rendered = render("select * from (select * from t order by a limit 3) q order by b limit 7", Variables())
    assert (rendered.query, rendered.limit) == ("SELECT * FROM (SELECT * FROM t ORDER BY a LIMIT 3) q", 7)
    assert render("select * from t union select * from u limit 2", Variables()).limit == 2
    assert render("select * from t limit all", Variables()).limit is None
    kept = render("select distinct on (a) * from t order by a, b limit 2", Variables())
    assert kept.query == "SELECT DISTINCT ON (a) * FROM t ORDER BY a, b"


def test_names_that_the_template_asks_for():
    assert template.names("{{#last_record}}{{.}}{{last_record.2}}{{/last_record}}") == {"last_record", "last_record.2"}


@pytest.mark.parametrize(
    ("text", "single"),
    [
        ("select a, b from t where a > 1 order by b", True),
        ("select * from t, u", False),
        ("select * from t join u using (a)", False),
        ("select a from t group by a", False),
        ("select * from t union all select * from t", False),
        ("select * from (select * from t) q", False),
        ("select distinct a from t", False),
        ("select 1", False),
    ],
)
def test_which_queries_give_the_rows_of_one_table(text: str, single: bool):
    assert single_table(text) is single
