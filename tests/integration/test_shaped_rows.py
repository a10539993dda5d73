"""The shape of rows, as the reader gives them out of a real Postgres."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from sinks.formats.columns import Column
from tests.integration.source_cases import connected, read_all, source
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from service.domain.inspection import Finding

TABLE = """
    CREATE TABLE people (id int PRIMARY KEY, email text, phone varchar(20), "odd "" name" numeric(9,2), gone bool);
    INSERT INTO people VALUES
        (1, 'ana@example.org', '600123456', 1.50, false), (2, NULL, '12', 2, true), (3, 'ö', NULL, NULL, NULL)
"""
HASH: dict[str, Any] = {"kind": "sha256", "credential": "masking"}


@pytest.fixture
async def people(database: str) -> str:
    async with connected(database) as connection:
        await connection.execute(TABLE)
    return database


def hashed(salt: str, text: str) -> str:
    return hashlib.sha256((salt + text).encode()).hexdigest()


async def rows(dsn: str, columns: list[Any], **more: Any) -> list[Any]:
    async with source(dsn, "people", columns=columns, **more) as made:
        return [json.loads(value) for value in await read_all(made)]


async def errors(dsn: str, columns: list[Any], **more: Any) -> list[Finding]:
    async with source(dsn, "people", columns=columns, **more) as made:
        found = (await made.inspect()).findings
    return [finding for finding in found if finding.severity == "error"]


async def test_columns_are_renamed_computed_and_constant_in_their_order(people: str) -> None:
    columns = [
        {"column": "id", "as": "order"},
        {"expression": 'upper(email) || "odd "" name"', "as": "x"},
        {"constant": "it's \\ here", "as": "origin"},
        {"constant": 7, "as": "n"},
        {"constant": False, "as": "no"},
        "phone",
    ]
    found = await rows(people, columns)
    assert list(found[0]) == ["order", "x", "origin", "n", "no", "phone"]
    assert found[0] == {
        "order": 1, "x": "ANA@EXAMPLE.ORG1.50", "origin": "it's \\ here", "n": 7, "no": False, "phone": "600123456",
    }  # fmt: skip


async def test_beside_a_star_an_entry_takes_the_place_of_the_column_it_is_of_or_is_called_as(people: str) -> None:
    columns = [
        {"column": "email", "as": "who", "mask": HASH},
        "*",
        {"expression": "length(phone)", "as": "phone"},
        {"constant": "shop", "as": "origin"},
    ]
    found = await rows(people, columns, salts={"masking": "pepper"})
    assert list(found[0]) == ["id", "who", "phone", 'odd " name', "gone", "origin"]
    assert found[0]["who"] == hashed("pepper", "ana@example.org")
    assert [row["phone"] for row in found] == [9, 2, None]


async def test_masks_hide_what_they_promise_to(people: str) -> None:
    columns = [
        {"column": "email", "mask": HASH},
        {"column": "phone", "mask": {"kind": "partial", "keep": 3}},
        {"column": "id", "as": "none", "mask": {"kind": "null"}},
        {"expression": "email || phone", "as": "both", "mask": {"kind": "partial", "keep": 2}},
    ]
    salt = "sal't \\ ü"
    assert await rows(people, columns, salts={"masking": salt}) == [
        {"email": hashed(salt, "ana@example.org"), "phone": "******456", "none": None, "both": "*" * 22 + "56"},
        {"email": None, "phone": "**", "none": None, "both": None},
        {"email": hashed(salt, "ö"), "phone": None, "none": None, "both": None},
    ]


async def test_a_salt_stands_in_no_statement_and_no_repr_and_user_sql_can_not_ask_for_it(
    people: str, caplog: pytest.LogCaptureFixture
) -> None:
    columns = [{"column": "email", "mask": HASH}]
    salt = "a-salt-that-nobody-sees"
    async with source(people, "people", columns=columns, salts={"masking": salt}) as made, connected(people) as other:
        await read_all(made)
        shown = await other.fetch("SELECT to_json(a)::text AS row FROM pg_stat_activity a")
        assert not [row["row"] for row in shown if salt in row["row"]]
        assert salt not in repr(vars(made))
    assert salt not in caplog.text
    for spec in (
        {"columns": [*columns, {"expression": "current_setting('rowferry.salt_0')", "as": "salt"}]},
        {"columns": columns, "where": "pg_catalog.current_setting('rowferry.salt_0') > ''"},
    ):
        (found,) = await errors(people, salts={"masking": salt}, **spec)
        assert (found.code, "current_setting" in found.message) == ("function_refused", True)
    listed = {"expression": "(SELECT count(*) FROM pg_settings WHERE name LIKE 'rowferry%')", "as": "n"}
    seen = await rows(people, [*columns, listed], salts={"masking": salt})
    assert seen[0]["n"] == 0


async def test_the_key_may_be_renamed_or_masked_and_reading_goes_by_the_real_one(people: str) -> None:
    columns = [{"column": "id", "as": "number", "mask": {"kind": "null"}}, {"column": "phone", "as": "id"}]
    async with source(people, "people", columns=columns, message_key=["id"], where="id < 3") as made:
        page = await made.reader().read(("1",), None)
        assert (page.values, page.message_keys, page.key(0)) == ([b'{"number":null,"id":"12"}'], [b"12"], ("2",))


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ({"expression": "1; DROP TABLE people", "as": "x"}, "sql_not_one"),
        ({"expression": "random()", "as": "x"}, "function_volatile"),
        ({"expression": "count(*)", "as": "x"}, "sql_refused"),
        ({"expression": "row_number() OVER ()", "as": "x"}, "sql_refused"),
        ({"expression": "generate_series(1, 2)", "as": "x"}, "sql_refused"),
        ({"expression": "nothing + 1", "as": "x"}, "column_unknown"),
        ({"column": "nothing", "as": "x"}, "column_unknown"),
        ({"expression": "true)) q) TO PROGRAM 'id' --", "as": "x"}, "sql_invalid"),
    ],
)
async def test_an_expression_that_is_not_one_stable_value_a_row_is_named(people: str, column: Any, code: str) -> None:
    (found,) = await errors(people, ["id", column])
    assert (found.code, found.pointer.startswith("/source/columns/1")) == (code, True), found


async def test_two_outputs_of_one_name_are_refused(people: str) -> None:
    (found,) = await errors(people, ["*", {"column": "email", "as": "phone"}])
    assert (found.code, "'phone'" in found.message) == ("column_doubled", True)


async def test_csv_has_the_shape_and_its_types(people: str) -> None:
    columns = [{"column": "id", "as": "n"}, {"expression": "id * 2.5", "as": "m"}, {"column": "phone", "mask": HASH}]
    async with source(people, "people", columns=columns, salts={"masking": "s"}, csv=Dialect()) as made:
        assert tuple(await made.columns()) == (
            Column("n", "integer", not_null=True), Column("m", "numeric"), Column("phone", "text"),
        )  # fmt: skip
        assert await read_all(made) == [
            b"1,2.5," + hashed("s", "600123456").encode(), b"2,5.0," + hashed("s", "12").encode(), b"3,7.5,",
        ]  # fmt: skip


async def test_an_envelope_tells_job_run_split_key_and_when_the_row_was_read(people: str) -> None:
    begun = datetime.now(UTC)
    found = await rows(people, ["email"], origin={"job": "it's", "run": "r", "split": 2}, where="id = 1")
    told = found[0].pop("_rowferry")
    assert begun <= datetime.fromisoformat(told.pop("read_at")) <= datetime.now(UTC)
    assert told == {"job": "it's", "run": "r", "split": 2, "key": "1"}
    assert found == [{"email": "ana@example.org"}]


@pytest.mark.parametrize(("column", "deleted"), [("gone", {2}), ("email", {1, 3})])
async def test_a_deleted_row_is_an_empty_value_with_its_key(people: str, column: str, deleted: set[int]) -> None:
    async with source(people, "people", soft_delete={"column": column}, message_key=["id"]) as made:
        page = await made.reader().read(None, None)
    assert {number for number, value in enumerate(page.values, 1) if not value} == deleted
    assert page.message_keys == [b"1", b"2", b"3"]
    assert all(json.loads(value)["id"] == number for number, value in enumerate(page.values, 1) if value)
