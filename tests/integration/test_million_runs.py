"""The job log as search: of 1,000,000 stored runs a page is answered from an index, whatever it is filtered by."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.domain.states import State
from service.store.retention import Retention
from service.store.run_search import runs_query
from service.store.store import Store
from tests.contract.store_cases import ACCOUNT, StoreCase
from tests.support.million_runs import RUNS, SEARCHES, fill, timed
from tests.support.plans import looked_at, nodes, planned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.timeout(900)

PAGE = 50
SLOW_SECONDS = 1.0
"""Thirty times what a page takes: `make bench` has the number, this says that nothing is read from end to end."""


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer) -> Iterator[str]:
    """One database for the module, filled once."""
    dsn = asyncio.run(_fill(postgres_server))
    yield dsn
    asyncio.run(postgres_server.drop_database(dsn))


async def _fill(server: PostgresServer) -> str:
    dsn = await server.create_control_database()
    case = await StoreCase.open(dsn)
    await case.store.close()
    connection = await asyncpg.connect(dsn)
    await fill(connection)
    await connection.close()
    return dsn


@pytest.fixture
async def store(filled: str) -> AsyncIterator[Store]:
    async with await Store.open(filled, command_seconds=60) as opened:
        yield opened


# Where no order of an index can help: the words stand in a hundred thousand runs, and never beside each other.
READS_ALL = {"no such text"}


@pytest.mark.parametrize("name", SEARCHES)
async def test_a_page_is_answered_from_an_index_in_its_order(store: Store, name: str) -> None:
    filters, expected = await timed(store, SEARCHES[name][0]), SEARCHES[name][1]
    began = time.perf_counter()
    page, _ = await store.runs(ACCOUNT, filters, limit=PAGE, after=None)
    seconds = time.perf_counter() - began
    assert len(page) == expected
    moments = [run.started_at for run in page]
    assert moments == sorted(moments, reverse=True)
    assert seconds < (10 if name in READS_ALL else SLOW_SECONDS)
    plan = await searched(store, filters, after=None)
    assert_from_an_index(plan, leads_only=name in READS_ALL or len(filters) > 1 or len(filters.get("label", ())) > 1)


@pytest.mark.parametrize(
    "filters",
    [{}, {"state": [State.ERROR]}, {"label": [("team", "team-7")]}, {"q": "connection refused"}, {"sink": "kafka"}],
    ids=str,
)
async def test_a_page_from_the_depth_is_as_near_as_the_first(store: Store, filters: dict[str, Any]) -> None:
    old = await timed(store, {"started_to": 600_000})
    page, after = await store.runs(ACCOUNT, {**filters, **old}, limit=1, after=None)
    assert after is not None
    began = time.perf_counter()
    deep, _ = await store.runs(ACCOUNT, filters, limit=PAGE, after=after)
    assert time.perf_counter() - began < SLOW_SECONDS
    assert len(deep) == PAGE
    assert deep[0].started_at < page[0].started_at
    assert_from_an_index(await searched(store, filters, after=after))


async def test_pages_of_one_word_together_are_all_its_runs_each_once(store: Store) -> None:
    seen: list[str] = []
    after = None
    while True:
        page, after = await store.runs(ACCOUNT, {"q": "quokka"}, limit=7, after=after)
        seen += [run.id for run in page]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == RUNS // 50_000 - 1
    assert await store.count_runs(ACCOUNT, {"q": "quokka"}) == len(seen)


async def test_counts_are_exact(store: Store) -> None:
    assert await store.count_runs(ACCOUNT, {}) == RUNS
    assert await store.count_runs(ACCOUNT, {"state": [State.ERROR, State.RUNNING]}) == RUNS // 10 + 18
    assert await store.count_runs(ACCOUNT, {"label": [("team", "team-7")]}) == RUNS // 20
    assert await store.count_runs(ACCOUNT, {"label": [("team", "a"), ("team", "b")]}) == 0


async def test_retention_takes_what_is_old_and_its_terms_in_batches(store: Store) -> None:
    """The last of the module: it takes the oldest runs away."""
    days = (RUNS - 5_000) // (24 * 60) + 1
    async with store._pool.connection() as connection:
        cut = "ended_at < now() - make_interval(days => $1)"
        old = await connection.fetchval(f"SELECT count(*) FROM rowferry.runs WHERE {cut}", days)
        terms = await connection.fetchval(
            f"SELECT count(*) FROM rowferry.run_terms WHERE run_id IN (SELECT id FROM rowferry.runs WHERE {cut})", days
        )
        before = await connection.fetchval("SELECT count(*) FROM rowferry.run_terms")
        purged = await store.purge(Retention(job_log_days=days), batch=500)
        assert 2000 < old == purged["runs"]
        assert before - await connection.fetchval("SELECT count(*) FROM rowferry.run_terms") == terms > old
    page, _ = await store.runs(ACCOUNT, {"trigger": "devo"}, limit=PAGE, after=None)
    assert page == []


async def searched(store: Store, filters: dict[str, Any], *, after: str | None) -> Mapping[str, Any]:
    term = await store.driving_term(ACCOUNT, filters)
    query, arguments = runs_query(ACCOUNT, filters, limit=PAGE, after=after, term=term)
    return await planned(store, query, arguments)


def assert_from_an_index(plan: Mapping[str, Any], *, leads_only: bool = False) -> None:
    """No table from end to end, nothing sorted but the few pages of several states, and no more read than a page; with
    several filters one of them leads and the others leave rows out."""
    for node in nodes(plan):
        kind = node["Node Type"]
        rows = looked_at(node)
        assert not (kind == "Seq Scan" and node["Relation Name"] in {"runs", "run_terms"}), node
        assert kind != "Bitmap Heap Scan", node
        if "Sort" in kind:
            assert sum(child["Actual Rows"] * child["Actual Loops"] for child in node["Plans"]) <= 10 * (PAGE + 1), node
        if node.get("Relation Name") in {"runs", "run_terms"} and not leads_only:
            assert rows <= 10 * (PAGE + 1), node
