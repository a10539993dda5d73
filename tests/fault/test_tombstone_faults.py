"""kill -9 between the steps of chunks that hold tombstones: none is lost, none comes twice, no row comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.fault.kafka_target import KafkaTarget
from tests.fault.places import place
from tests.fault.scenario import Scenario
from tests.support.topics import read_topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.scenario import FaultJob

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

BETWEEN = ("staged", "complete", "prepared", "visible", "settled")
SOFT = {"source": {"datasource": "shop", "table": "public.orders", "soft_delete": {"column": "deleted_at"}}}
ROWS, CHUNK_ROWS = 300, 50


@pytest.fixture(params=["kafka", "elasticsearch"])
async def scenario(request: pytest.FixtureRequest, database: str, control_database: str) -> AsyncIterator[Scenario]:
    """A service, and rows of which none is deleted yet."""
    async with place(request.param, request) as where:
        made = Scenario(database, control_database, where.target, rows=ROWS)
        where.before_start(made.service)
        async with made:
            await changed(made, "ALTER TABLE orders ADD deleted_at timestamptz")
            yield made


async def changed(scenario: Scenario, statement: str) -> None:
    """Change the source."""
    connection = await asyncpg.connect(scenario.source_dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def state(scenario: Scenario, job: FaultJob) -> tuple[set[int], Counter[int]]:
    """The rows that a reader of the target still has, and in Kafka how often each came."""
    target = scenario.target
    if not isinstance(target, KafkaTarget):
        return {int(row.key[0] or 0) for row in target.rows(job.name)}, Counter()
    records = read_topic(target.kafka.bootstrap, target.topics[job.name])
    last = {int(one.key or b""): one.value for one in records}
    return {number for number, value in last.items() if value is not None}, Counter(int(r.key or b"") for r in records)


async def test_a_kill_between_two_steps_loses_no_tombstone_and_sends_none_twice(scenario: Scenario) -> None:
    jobs = [await scenario.create(f"gone-{point}", chunk_rows=CHUNK_ROWS, mode="full", **SOFT) for point in BETWEEN]
    await scenario.start(*jobs)
    for job in jobs:
        await scenario.wait_for_state(job, "successful")
    await changed(scenario, "UPDATE orders SET deleted_at = now() WHERE id % 3 = 0")
    holds = [scenario.points.hold(point, job_id=job.id, skip=1) for point, job in zip(BETWEEN, jobs, strict=True)]
    await scenario.start(*jobs)
    await scenario.reach(*holds)
    await scenario.restart_after_kill()
    for job in jobs:
        answer = await scenario.wait_for_state(job, "successful")
        assert answer["totals"]["rows_sent"] == 2 * ROWS, job.name
        live, came = await asyncio.to_thread(state, scenario, job)
        assert live == {number for number in range(1, ROWS + 1) if number % 3}, job.name
        assert set(came.values()) <= {2}, f"{job.name}: once a run"
