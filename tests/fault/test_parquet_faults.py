"""Kills, stops and lost answers on the way into Parquet files: every row once, and each file the one that was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.file_target import FileTarget
from tests.fault.s3_target import S3Target
from tests.fault.scenario import Scenario
from tests.fault.steps import BETWEEN_STEPS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.s3 import S3Server

pytestmark = [pytest.mark.fault]

OF_A_CHUNK = {"staged", "complete", "prepared", "visible", "settled"}
"""At the others nothing depends on the format."""
PARQUET: dict[str, Any] = {"format": {"kind": "parquet"}}


@pytest.fixture(params=["file", "s3"])
async def scenario(
    database: str, control_database: str, s3_server: S3Server, request: pytest.FixtureRequest
) -> AsyncIterator[Scenario]:
    target = FileTarget() if request.param == "file" else S3Target(s3_server)
    async with Scenario(database, control_database, target) as scenario:
        if isinstance(target, FileTarget):
            target.root = scenario.service.files()
        yield scenario


async def test_a_kill_between_any_two_steps_of_a_chunk_loses_nothing_and_doubles_nothing(scenario: Scenario):
    jobs, holds = [], []
    for name, (point, skip) in BETWEEN_STEPS.items():
        if point not in OF_A_CHUNK:
            continue
        job = await scenario.create(name, **PARQUET)
        jobs.append(job)
        holds.append(scenario.points.hold(point, job_id=job.id, skip=skip))
    await scenario.start(*jobs)
    await scenario.reach(*holds)
    await scenario.restart_after_kill()
    await scenario.finish_and_reconcile(*jobs)


@pytest.mark.parametrize("verb", ["stop", "abort"])
async def test_a_job_that_was_stopped_in_the_middle_goes_on_where_it_was(scenario: Scenario, verb: str):
    """Among these points are an open row group, a complete file and a name that was not given yet."""
    jobs = {point: await scenario.create(f"{verb}-{point}", **PARQUET) for point in ("staged", "complete", "prepared")}
    holds = [scenario.points.hold(point, job_id=job.id, skip=2) for point, job in jobs.items()]
    await scenario.start(*jobs.values())
    await scenario.reach(*holds)
    async with scenario.client() as api:
        for job in jobs.values():
            await (api.stop(job.name) if verb == "stop" else api.abort(job.name))
    for hold in holds:
        hold.release()
    for job in jobs.values():
        await scenario.wait_for_state(job, "stopped" if verb == "stop" else "aborted")
        delivered = await scenario.visible(job)
        assert 0 < len(delivered[job.name]) < scenario.row_count
    await scenario.start(*jobs.values())
    await scenario.finish_and_reconcile(*jobs.values())
