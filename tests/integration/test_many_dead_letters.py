"""Thousands of rows that can not be delivered cost no thousands of statements: counted in the servers' own log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from service.domain.errors import RowsRejected
from service.domain.states import State
from tests.integration.source_cases import connected, source
from tests.support.reconcile import file_rows
from tests.support.statements import statements
from tests.support.waiting import until
from tests.support.workshop import ACCOUNT, ACTOR, Workshop
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer
    from workers.sources.base import Key, Reader

MANY = 10_000
LARGE = "repeat('x', 1100)"
OPTIONS = {"max_row_bytes": 1024, "dead_letters": {"max_rows": MANY}}


async def everything(reader: Reader) -> tuple[list[int], list[int]]:
    """The ids of all rows, and of those that can not be read, each in the order in which they were told."""
    seen: list[int] = []
    refused: list[int] = []
    after: Key | None = None
    while True:
        try:
            page = await reader.read(after, None)
        except RowsRejected as error:
            after = error.key
            refused.append(int((after or ())[0]))
            continue
        seen += [int(page.key(place)[0]) for place in range(len(page.values))]
        after = page.scanned_to
        if page.end:
            return seen, refused


@pytest.mark.parametrize("csv", [None, Dialect()], ids=["json", "csv"])
@pytest.mark.parametrize("where", [None, "id > 0"], ids=["all", "some"])
@pytest.mark.parametrize(
    "large", ["id % 2 = 0", "id % 3000 > 1000", "id IN (1, 9999, 10000)"], ids=["every other", "stretches", "the ends"]
)
async def test_rows_that_can_not_be_read_share_statements(
    database: str, postgres_server: PostgresServer, csv: Dialect | None, where: str | None, large: str
) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);"
            f"INSERT INTO t SELECT id, CASE WHEN {large} THEN {LARGE} ELSE 'short' END"
            f" FROM generate_series(1, {MANY}) AS id"
        )
        wrong = [row["id"] for row in await connection.fetch(f"SELECT id FROM t WHERE {large} ORDER BY id")]
    async with (
        statements(postgres_server, database) as asked,
        source(database, "t", csv=csv, where=where, options={"max_row_bytes": 1024}) as made,
    ):
        seen, refused = await everything(made.reader())
    assert refused == wrong
    assert seen == sorted(set(range(1, MANY + 1)) - set(wrong))
    assert len(asked) < 100, asked.said()[-40:]


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        yield workshop


async def test_ten_thousand_dead_letters_are_set_aside_and_sent_again_in_few_statements(
    shop: Workshop, postgres_server: PostgresServer, database: str, control_database: str
) -> None:
    await shop.rows(MANY + 100)
    await shop.source.execute(f"UPDATE orders SET note = {LARGE} WHERE id > 100")
    job = await shop.job("orders", options=OPTIONS)
    async with statements(postgres_server, database, control_database) as setting_aside:
        await shop.engine().start()
        job = await shop.run(job)
    assert (job.state, job.totals.rows_sent, job.totals.rows_dead) == (State.SUCCESSFUL, 100, MANY)
    await shop.source.execute("UPDATE orders SET note = 'short' WHERE id <= 10050; DELETE FROM orders WHERE id = 5000")
    async with statements(postgres_server, database, control_database) as sending:
        await shop.store.retry_dead_letters(ACCOUNT, ACTOR, job.id, ids=None, origin="source")

        async def over() -> bool:
            events = await shop.events_of(job)
            return "dead_letters_retried" in events or "dead_letters_retry_failed" in events

        await until(over, 60, "the retry has ended")
    left, _ = await shop.store.dead_letters(ACCOUNT, job.id, {}, limit=500, after=None)
    assert sorted(int(one.key[0]) for one in left) == [5000, *range(10_051, MANY + 101)]
    assert sum(one.note is not None for one in left) == 1, "the row that is gone, and no other"
    rows = sorted(int(row.key[0]) for row in file_rows(shop.folder / "files" / ACCOUNT / job.name))
    assert rows == [number for number in range(1, 10_051) if number != 5000]
    # Most of them are heartbeats and looks for work: so many a second, however many rows.
    for asked in (setting_aside, sending):
        assert len(asked) < MANY // 5, asked.said()[-40:]


async def test_a_row_whose_key_is_written_otherwise_by_now_is_found_all_the_same(shop: Workshop) -> None:
    """1.0 and 1.00 are one numeric: a row that came and was not asked for is a sign of it."""
    await shop.source.execute(
        "CREATE TABLE odd (id numeric PRIMARY KEY, note text);"
        f"INSERT INTO odd SELECT n + 0.0, {LARGE} FROM generate_series(1, 5) AS n"
    )
    job = await shop.job("odd", source={"datasource": "shop", "table": "public.odd"}, options=OPTIONS)
    await shop.engine().start()
    job = await shop.run(job)
    assert (job.state, job.totals.rows_dead) == (State.SUCCESSFUL, 5)
    await shop.source.execute("UPDATE odd SET note = 'short'; UPDATE odd SET id = 1.00 WHERE id = 1")
    await shop.source.execute("DELETE FROM odd WHERE id = 2")
    await shop.store.retry_dead_letters(ACCOUNT, ACTOR, job.id, ids=None, origin="source")

    async def over() -> bool:
        return "dead_letters_retried" in await shop.events_of(job)

    await until(over, 30, "the retry has ended")
    (left,), _ = await shop.store.dead_letters(ACCOUNT, job.id, {}, limit=500, after=None)
    assert (left.key, left.note is not None) == (("2.0",), True)
    sent = [json.loads(row.value)["note"] for row in file_rows(shop.folder / "files" / ACCOUNT / job.name)]
    assert sent == ["short"] * 4
