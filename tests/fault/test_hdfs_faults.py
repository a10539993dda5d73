"""What only HDFS does on a bad day, on the way from Postgres into it; the rest is in test_every_sink.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fault.hdfs_target import HdfsTarget
from tests.fault.scenario import Scenario
from tests.support.client import ApiError
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.scenario import FaultJob
    from tests.support.hdfs import HdfsServer

pytestmark = [pytest.mark.fault]


@pytest.fixture
async def scenario(database: str, control_database: str, hdfs_server: HdfsServer) -> AsyncIterator[Scenario]:
    async with Scenario(database, control_database, HdfsTarget(hdfs_server)) as scenario:
        yield scenario


async def _retrying(scenario: Scenario, job: FaultJob) -> str:
    """The code of what the job waits for."""
    async with scenario.client() as api:
        waits = (await api.get(job.name))["retrying"]
    return str(waits["cause"]["code"]) if waits else ""


async def test_a_cluster_that_is_killed_in_the_middle_is_waited_for(scenario: Scenario, hdfs_server: HdfsServer):
    job = await scenario.create("orders", splits=2)
    hold = scenario.points.hold("prepared", job_id=job.id, skip=2)
    await scenario.start(job)
    await scenario.reach(hold)
    hdfs_server.namenode.kill()
    hdfs_server.datanode.kill()
    hold.release()

    async def waits() -> bool:
        return await _retrying(scenario, job) == "sink_unreachable"

    await until(waits, 30, "the job says what it waits for")
    await hdfs_server.start_async()
    await scenario.finish_and_reconcile(job)


async def test_an_owner_whose_folder_a_late_predecessor_takes_away_makes_it_again(
    scenario: Scenario, hdfs_server: HdfsServer
):
    job = await scenario.create("orders")
    hold = scenario.points.hold("opened", job_id=job.id)
    await scenario.start(job)
    await scenario.reach(hold)
    assert isinstance(scenario.target, HdfsTarget)
    hidden = f"{scenario.target.path(job.name)}/.rowferry"
    hdfs_server.call("DELETE", "DELETE", hidden, recursive="true")
    hold.release()
    await scenario.finish_and_reconcile(job)


async def test_an_abort_leaves_nothing_behind_that_the_next_start_does_not_find(scenario: Scenario):
    job = await scenario.create("orders")
    hold = scenario.points.hold("staged", job_id=job.id, skip=3)
    await scenario.start(job)
    await scenario.reach(hold)
    async with scenario.client() as api:
        await api.abort(job.name)
    hold.release()
    await scenario.wait_for_state(job, "aborted")
    await scenario.start(job)
    await scenario.finish_and_reconcile(job)


async def test_a_user_without_rights_ends_in_error_with_a_remedy(scenario: Scenario, hdfs_server: HdfsServer):
    hdfs_server.call("PUT", "MKDIRS", "/of-the-superuser", permission="755")
    job = await scenario.create("orders", sink={"path": "/of-the-superuser/orders"})
    async with scenario.client() as api:
        findings = (await api.validate(job.spec))["findings"]
    assert ("/sink/path", "permission_denied") in [(one["pointer"], one["code"]) for one in findings]
    await scenario.start(job)
    answer = await scenario.wait_for_state(job, "error")
    [told] = [error["message"] for error in answer["errors"] if "give user 'ann' the right" in error["message"]]
    assert "'/of-the-superuser/orders'" in told
    assert answer["errors"][0]["code"] == "permission_denied"


async def test_a_definition_that_can_not_be_is_refused_by_field(scenario: Scenario):
    for field, value in (
        ("url", "hdfs://nn:8020"),
        ("url", "http://ann:pw@nn:9870"),
        ("path", "exports/orders"),
        ("path", "/exports/../etc"),
        ("user", "ann&doas=hdfs"),
        ("replication", 0),
    ):
        with pytest.raises(ApiError) as refused:
            await scenario.create("orders", sink={field: value})
        assert refused.value.status == 422
        assert [error["pointer"] for error in refused.value.body["errors"]] == [f"/sink/{field}"]
