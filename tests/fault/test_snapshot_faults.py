"""Who holds a snapshot is killed, or leaves in order: nobody goes on in another moment, and the job says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fault.file_target import FileTarget
from tests.fault.scenario import ROWS, Scenario
from tests.integration.source_cases import connected
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.fault]
SLOW = {"snapshot": True, "rate": {"rows_per_second": 100}, "chunk": {"rows": 20}}


@pytest.fixture
async def scenario(database: str, control_database: str) -> AsyncIterator[Scenario]:
    files = FileTarget()
    async with Scenario(database, control_database, files, settings={"ROWFERRY_MAX_SPLITS": "2"}) as scenario:
        files.root = scenario.service.files()
        yield scenario


@pytest.mark.parametrize("how", ["killed", "terminated"])
async def test_a_run_whose_holder_is_gone_ends_in_error_wherever_its_splits_are(scenario: Scenario, how: str) -> None:
    job = await scenario.create("orders", splits=4, options=SLOW)
    first, second, third = (scenario.points.hold("settled", job_id=job.id, ordinal=number) for number in range(3))
    await scenario.start(job)
    await scenario.reach(first, second)  # the first service has planned, and works on two of four
    other = await scenario.second().start()
    await scenario.reach(third)
    assert third.question["pid"] == other.process.pid
    async with connected(scenario.source_dsn) as source:
        await source.execute("UPDATE orders SET note = 'another moment'")
        if how == "killed":
            scenario.service.kill()
        else:
            first.release()
            second.release()
            left = asyncio.create_task(scenario.service.terminate())

        async def unheld() -> bool:
            return not await source.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '% snapshot'"
                " AND datname = current_database()"
            )

        await until(unheld, 45, "nobody holds the snapshot")
    third.release()
    answer = await scenario.wait_for_state(job, "error", service=other)
    assert answer["errors"][0]["code"] == "snapshot_lost"
    assert "from=beginning" in answer["errors"][0]["message"]
    seen = [row.value for row in (await scenario.visible(job))["orders"]]
    assert 0 < len(seen) < ROWS
    assert not [value for value in seen if b"another moment" in value]
    if how == "terminated":
        assert await left == 0
    async with scenario.client(other) as api:
        await api.call("PATCH", "/v1/jobs/orders", json={"options": {"rate": {"rows_per_second": None}}})
        await api.start("orders", beginning=True)
    done = await scenario.wait_for_state(job, "successful", service=other)
    assert done["run"]["rows_sent"] == ROWS
    assert (done["generation"], done["snapshot"]["held"]) == (2, False)
