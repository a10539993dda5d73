"""A table that is altered while it is read: named, and the end of the run or not, and no row passed over."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.domain.errors import Permanent
from tests.integration.source_cases import connected, pages, read_all, source
from tests.support.waiting import until
from workers.sources.csv_page import Dialect
from workers.sources.resolver import Resolver

ROWS = 40
GO_ON = {"options": {"schema_change": "continue"}}


@pytest.fixture
async def moving(database: str) -> str:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, a text, b int);"
            f"INSERT INTO t SELECT n, 'a' || n, n FROM generate_series(1, {ROWS}) n"
        )
    return database


async def altered(dsn: str, statement: str, **more: Any) -> list[bytes]:
    """The table's rows, read in two halves with `statement` between them."""
    async with source(dsn, "t", **more) as made, connected(dsn) as connection:
        reader = made.reader()
        first = await reader.read(None, None, max_rows=ROWS // 2)
        await connection.execute(statement)
        rest = [value async for page in pages(reader, first.scanned_to) for value in page.values]
    return first.values + rest


CHANGES = [
    ("ALTER TABLE t ADD COLUMN c int DEFAULT 7", {"id": 40, "a": "a40", "b": 40, "c": 7}, "'c' (integer) was added"),
    ("ALTER TABLE t DROP COLUMN a", {"id": 40, "b": 40}, "'a' was dropped"),
    ("ALTER TABLE t ALTER b TYPE text USING 'x'", {"id": 40, "a": "a40", "b": "x"}, "'b' is text now, not integer"),
    (
        "ALTER TABLE t ALTER b TYPE date USING '2026-01-01'",
        {"id": 40, "a": "a40", "b": "2026-01-01"},
        "'b' is date now, not integer",
    ),
    ("ALTER TABLE t RENAME b TO bee", {"id": 40, "a": "a40", "bee": 40}, "'bee' (integer) was added"),
]


@pytest.mark.parametrize(("statement", "last", "said"), CHANGES)
async def test_a_change_ends_the_run_and_is_named_or_the_rows_have_it_from_then_on(
    moving: str, caplog: pytest.LogCaptureFixture, statement: str, last: dict[str, Any], said: str
) -> None:
    with pytest.raises(Permanent, match="has changed while it was read") as caught:
        await altered(moving, f"BEGIN; {statement}; COMMIT")
    assert (caught.value.code, said in caught.value.message) == ("schema_changed", True), caught.value.message
    async with connected(moving) as connection:
        await connection.execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
        await connection.execute(f"INSERT INTO t SELECT n, 'a' || n, n FROM generate_series(1, {ROWS}) n")
    rows = [json.loads(value) for value in await altered(moving, statement, **GO_ON)]
    assert [row["id"] for row in rows] == list(range(1, ROWS + 1))
    assert rows[ROWS // 2 - 1] == {"id": 20, "a": "a20", "b": 20}
    assert rows[-1] == last


@pytest.mark.parametrize("more", [{}, GO_ON])
async def test_a_column_that_may_be_null_from_now_on_is_no_change_and_its_nulls_arrive(
    moving: str, caplog: pytest.LogCaptureFixture, more: dict[str, Any]
) -> None:
    async with connected(moving) as connection:
        await connection.execute("ALTER TABLE t ALTER b SET NOT NULL")
    rows = await altered(moving, "ALTER TABLE t ALTER b DROP NOT NULL; UPDATE t SET b = NULL WHERE id > 30", **more)
    assert [json.loads(row)["b"] for row in rows] == [*range(1, 31), *[None] * 10]
    assert "schema_changed" not in caplog.text


async def test_a_column_that_was_dropped_and_made_again_is_a_change(moving: str) -> None:
    with pytest.raises(Permanent, match="has changed while it was read"):
        await altered(moving, "ALTER TABLE t DROP b; ALTER TABLE t ADD b int")


async def test_nulls_of_a_child_that_comes_arrive_though_its_parent_holds_none(moving: str) -> None:
    async with connected(moving) as connection:
        await connection.execute("ALTER TABLE t ALTER b SET NOT NULL")
    child = (
        "CREATE TABLE child (id int PRIMARY KEY, a text, b int) INHERITS (t);"
        "ALTER TABLE child ALTER b DROP NOT NULL; INSERT INTO child VALUES (41, 'c', NULL)"
    )
    rows = await altered(moving, child, key=["id"], options={"key_is_unique": True})
    assert [json.loads(row)["b"] for row in rows] == [*range(1, 41), None]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE t RENAME TO other", "it was renamed to other"),
        ("DROP TABLE t", "it was dropped"),
        ("ALTER TABLE t RENAME TO old; CREATE TABLE t (id int PRIMARY KEY, a text, b int)", "another table bears"),
    ],
)
async def test_a_table_that_is_gone_from_its_name_is_told_of(moving: str, statement: str, said: str) -> None:
    with pytest.raises(Permanent, match=said) as caught:
        await altered(moving, statement)
    assert caught.value.code == "schema_changed"


async def test_files_of_one_generation_keep_their_columns(moving: str) -> None:
    async with source(moving, "t", csv=Dialect()) as made:
        fixed = await made.columns()
    kept: dict[str, Any] = {"csv": Dialect(), "fixed": fixed, **GO_ON}
    rows = await altered(moving, "ALTER TABLE t ADD COLUMN c int DEFAULT 7", **kept)
    assert (len(rows), rows[-1]) == (ROWS, b"40,a40,40")
    with pytest.raises(Permanent, match="no column 'a' any more"):
        await altered(moving, "ALTER TABLE t DROP COLUMN a", **kept)


async def test_a_change_between_two_looks_at_the_table_is_looked_at_again(
    moving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Resolver._prepare
    late = ["ALTER TABLE t RENAME b TO bee"]

    async def prepared(resolver: Resolver) -> None:
        async with connected(moving) as connection:
            for statement in late:
                await connection.execute(statement)
        late.clear()
        await prepare(resolver)

    monkeypatch.setattr(Resolver, "_prepare", prepared)
    async with source(moving, "t") as made:
        assert [column.name for column in await made.columns()] == ["id", "a", "bee"]


async def test_what_is_not_a_change_of_the_columns_disturbs_nobody(moving: str) -> None:
    statement = "CREATE INDEX ON t (b); ALTER TABLE t ADD CHECK (b > 0); CLUSTER t USING t_pkey"
    assert len(await altered(moving, f"{statement}; ANALYZE t")) == ROWS


async def test_a_page_that_waits_for_a_rewrite_does_not_see_an_empty_table(moving: str) -> None:
    """COPY takes its snapshot before it waits for the table, and to that snapshot the new one is empty."""
    async with source(moving, "t", options={"schema_change": "continue"}) as made, connected(moving) as writer:
        assert len(await read_all(made)) == ROWS
        async with connected(moving) as watcher:
            transaction = writer.transaction()
            await transaction.start()
            await writer.execute("ALTER TABLE t ALTER b TYPE bigint")
            reading = asyncio.create_task(read_all(made))

            async def waits() -> bool:
                waiting: bool = await watcher.fetchval(
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 't'::regclass)"
                )
                return waiting

            await until(waits, 5, "the page waits for the table")
            await transaction.commit()
            assert len(await reading) == ROWS
