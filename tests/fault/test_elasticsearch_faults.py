"""What only a search engine does on a bad day: late bulks and lost answers leave the same documents; the rest is in
test_every_sink.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.fault.scenario import CHUNK_ROWS, Scenario
from tests.fault.search_target import SearchTarget
from tests.support.proxy import FaultProxy
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.elasticsearch import SearchServer

pytestmark = [pytest.mark.fault]


@pytest.fixture
async def scenario(database: str, control_database: str, opensearch_server: SearchServer) -> AsyncIterator[Scenario]:
    async with Scenario(database, control_database, SearchTarget(opensearch_server)) as made:
        yield made


def bulk(request: bytes) -> bool:
    return b"/_bulk" in request[:200]


async def nothing_counts_as_doubled(scenario: Scenario, *names: str) -> None:
    async with scenario.client() as api:
        for name in names:
            assert [run["rows_maybe_doubled"] for run in await api.runs(name)] == [0], name
            assert (await api.get(name))["guarantee"] == "idempotent"


@pytest.mark.parametrize("point", ["complete", "prepared", "visible"])
async def test_an_owner_that_was_frozen_comes_back_to_a_finished_job_and_undoes_nothing(scenario: Scenario, point: str):
    job = await scenario.create("orders")
    hold = scenario.points.hold(point, job_id=job.id, skip=2)
    await scenario.start(job)
    await scenario.reach(hold)
    scenario.service.freeze()
    other = await scenario.second().start()
    await change_from(scenario, 2 * CHUNK_ROWS)
    await scenario.finish_and_reconcile(job, service=other)
    scenario.service.thaw()
    hold.release()
    await scenario.logged(scenario.service, "lease_lost", job)
    await scenario.reconcile(job, service=other)


async def test_a_bulk_of_a_dead_owner_that_arrives_after_the_end_undoes_nothing(
    database: str, control_database: str, opensearch_server: SearchServer
):
    async with FaultProxy(opensearch_server.port) as proxy:
        target = SearchTarget(opensearch_server, f"http://{proxy.address}")
        async with Scenario(database, control_database, target) as scenario:
            job = await scenario.create("orders")
            hold = scenario.points.hold("prepared", job_id=job.id, skip=2)
            await scenario.start(job)
            await scenario.reach(hold)
            rule = proxy.on_request("hold_request", predicate=bulk)
            hold.release()
            await happened(rule.triggered, 30, "the third chunk is on its way")
            scenario.service.kill()
            await change_from(scenario, 2 * CHUNK_ROWS)
            await scenario.service.start()
            await scenario.finish_and_reconcile(job)
            refused = _refused(opensearch_server, target.indices["orders"])
            rule.release()

            def arrived() -> bool:
                return _refused(opensearch_server, target.indices["orders"]) >= refused + CHUNK_ROWS

            await until(arrived, 30, "every document of the late chunk has lost against what is there")
            await scenario.reconcile(job)


async def test_lost_answers_and_cut_connections_leave_the_same_documents(
    database: str, control_database: str, opensearch_server: SearchServer
):
    async with (
        FaultProxy(opensearch_server.port) as proxy,
        Scenario(database, control_database, SearchTarget(opensearch_server, f"http://{proxy.address}")) as scenario,
    ):
        for action in ("cut_after", "cut_before"):
            job = await scenario.create(action.replace("_", "-"))
            rule = proxy.on_request(action, predicate=bulk, count=3)  # type: ignore[arg-type]
            await scenario.start(job)
            await happened(rule.triggered, 30, f"a bulk request is hit by {action}")
            await scenario.finish_and_reconcile(job)
            assert rule.hits == 3
        await nothing_counts_as_doubled(scenario, "cut-after", "cut-before")


async def change_from(scenario: Scenario, number: int) -> None:
    """What was read before and is not delivered yet is old from now on."""
    connection = await asyncpg.connect(scenario.source_dsn)
    try:
        await connection.execute("UPDATE orders SET note = 'changed in between' WHERE id > $1", number)
    finally:
        await connection.close()


def _refused(server: SearchServer, index: str) -> int:
    """Documents of the index that the server did not write, since it was made."""
    total: int = server.call("GET", f"/{index}/_stats/indexing")["_all"]["total"]["indexing"]["index_failed"]
    return total
