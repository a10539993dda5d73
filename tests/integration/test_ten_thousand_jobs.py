"""A page of 50 of 10,000 jobs comes from an index, whatever it is filtered and sorted by."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.records import Job
from service.domain.states import State
from service.store.jobs import SORTS, page_query
from service.store.store import Store
from tests.contract.store_cases import ACCOUNT, StoreCase
from tests.integration.api_cases import ADMIN
from tests.integration.devo_cases import DevoCase
from tests.support.plans import looked_at, nodes, planned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.support.postgres import PostgresServer

JOBS = 10_000
PAGE = 50
# One statement each for jobs, their runs, and the splits of a tenth of them.
FILL = """
INSERT INTO jobs (id, account_id, name, owner, spec, guarantee, guarantee_note, state, errors, run_id, run_number,
                  generation, created_at, state_changed_at)
SELECT ('0199a1b2-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, a.id, 'job-' || md5(n::text), 'ana',
       jsonb_build_object('name', 'job-' || md5(n::text), 'mode', (ARRAY['once', 'full', 'incremental'])[1 + n % 3],
           'source', jsonb_build_object('datasource', 'shop-' || n % 20),
           'sink', jsonb_build_object('kind', (ARRAY['kafka', 'file'])[1 + n % 2]),
           'labels', jsonb_build_object('team', 'team-' || n % 100)),
       'counts', '', (ARRAY['stopped', 'error', 'successful', 'aborted', 'created'])[1 + n % 5],
       CASE WHEN n % 5 = 1 THEN jsonb_build_array(jsonb_build_object('code', 'code_' || n % 50, 'message', 'm',
            'at', '2026-01-01T00:00:00+00:00', 'retryable', false)) ELSE '[]' END,
       ('0199a1b3-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 1,
       now() - n * interval '1 minute', now() - (n * 7919 % 10000) * interval '1 minute'
  FROM generate_series(1, 10000) n, accounts a;
INSERT INTO generations (job_id, number, begins, spec) SELECT id, 1, 'beginning', spec FROM jobs;
INSERT INTO splits (job_id, generation, ordinal, upper)
SELECT id, 1, o, jsonb_build_array(o::text) FROM jobs, generate_series(0, 3) o WHERE mode = 'full';
INSERT INTO runs (id, account_id, job_id, job_name, number, generation, trigger, state, mode, sink, datasource,
                  started_at, errors)
SELECT run_id, account_id, id, name, 1, 1, 'api', state, mode, sink_kind, datasource, created_at, errors FROM jobs;
ANALYZE;
"""


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer) -> Iterator[str]:
    """One database for the module, filled once."""
    dsn = asyncio.run(_fill(postgres_server))
    yield dsn
    asyncio.run(postgres_server.drop_database(dsn))


async def _fill(server: PostgresServer) -> str:
    dsn = await server.create_control_database()
    case = await StoreCase.open(dsn)
    try:
        async with case.store._pool.connection() as connection:
            await connection.execute(FILL)
    finally:
        await case.store.close()
    return dsn


@pytest.fixture
async def store(filled: str) -> AsyncIterator[Store]:
    async with await Store.open(filled) as opened:
        yield opened


def reads(plan: Mapping[str, Any], table: str) -> list[tuple[str, float]]:
    """(how, rows looked at) of every scan of `table`."""
    return [(node["Node Type"], looked_at(node)) for node in nodes(plan) if node.get("Relation Name") == table]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("sort", SORTS)
async def test_a_page_reads_one_page(store: Store, sort: str, deep: bool) -> None:
    after = None
    if deep:
        # The ninetieth page; its token is that of the page before it.
        _, after = await store.list(ACCOUNT, {}, sort=sort, limit=89 * PAGE, after=None)
        assert after is not None
    query, arguments = page_query(ACCOUNT, {}, sort=sort, limit=PAGE, after=after)
    plan = await planned(store, query, arguments)
    assert not [node["Node Type"] for node in nodes(plan) if "Sort" in node["Node Type"] and node["Actual Rows"] > 64]
    for how, rows in reads(plan, "jobs"):
        assert how == "Index Scan"
        assert rows <= PAGE + 1
    for table in ("runs", "splits"):
        assert [how for how, _ in reads(plan, table) if how == "Seq Scan"] == []
        assert sum(rows for _, rows in reads(plan, table)) <= 4 * (PAGE + 1)


MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS: dict[str, dict[str, Any]] = {
    "state": {"state": [State.ERROR]},
    "states": {"state": [State.ERROR, State.RUNNING]},
    "sink": {"sink": "kafka"},
    "mode": {"mode": "full"},
    "datasource": {"datasource": "shop-3"},
    "label": {"label": [("team", "team-7")]},
    "q": {"q": "abc"},
    "stalled": {"stalled": True},
    "error_code": {"error_code": "code_11"},
    "created": {"created_from": MOMENT, "created_to": datetime(2126, 1, 1, tzinfo=UTC)},
}


@pytest.mark.parametrize("sort", ["-created_at", "name"])
@pytest.mark.parametrize("name", sorted(FILTERS))
async def test_no_filter_reads_the_table_from_end_to_end(store: Store, name: str, sort: str) -> None:
    query, arguments = page_query(ACCOUNT, FILTERS[name], sort=sort, limit=PAGE, after=None)
    plan = await planned(store, query, arguments)
    assert [how for how, _ in reads(plan, "jobs") if how == "Seq Scan"] == []


async def test_all_pages_together_are_all_jobs_each_once(store: Store) -> None:
    seen: set[str] = set()
    after, pages, began = None, 0, time.monotonic()
    while True:
        page, after = await store.list(ACCOUNT, {}, sort="-state_changed_at", limit=500, after=after)
        seen.update(job.id for job in page)
        pages += 1
        if after is None:
            break
    assert (len(seen), pages) == (JOBS, 20)
    # Far above what it takes, far below what reading everything for each page would.
    assert time.monotonic() - began < 20


async def test_all_of_them_in_one_answer_are_held_page_by_page(filled: str, database: str) -> None:
    """Devo's list of jobs knows no pages."""
    name = b'"friendlyName"'
    async with DevoCase(filled, database, rate_limit=100_000) as devo:
        seen, most, blocks, tail = 0, 0, 0, b""
        async with devo.client.get("/search/jobs", headers={"Authorization": f"Bearer {ADMIN}"}) as answer:
            assert answer.status == 200
            async for block in answer.content.iter_any():
                tail = tail[1 - len(name) :] + block
                seen += tail.count(name)
                if blocks % 10 == 0:
                    most = max(most, sum(isinstance(one, Job) for one in gc.get_objects()))
                blocks += 1
        assert (seen, tail[-19:]) == (JOBS, b'], "success": true}')
        assert PAGE < most <= 1000
