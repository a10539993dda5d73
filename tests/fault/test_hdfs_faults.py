"""Kills, freezes, lost answers and a cluster that is away, on the way from Postgres into HDFS: every key once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.hdfs_target import HdfsTarget
from tests.fault.scenario import Scenario
from tests.fault.test_kafka_kills import AND_THE_NEXT_STEP, BETWEEN_STEPS
from tests.support.client import ApiError
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.scenario import FaultJob
    from tests.support.hdfs import HdfsProxies, HdfsServer

pytestmark = [pytest.mark.fault]


@pytest.fixture
async def scenario(database: str, control_database: str, hdfs_server: HdfsServer) -> AsyncIterator[Scenario]:
    async with Scenario(database, control_database, HdfsTarget(hdfs_server)) as scenario:
        yield scenario


@pytest.fixture
async def proxied(
    database: str, control_database: str, hdfs_server: HdfsServer, hdfs_proxies: HdfsProxies
) -> AsyncIterator[Scenario]:
    async with Scenario(database, control_database, HdfsTarget(hdfs_server, hdfs_proxies.url)) as scenario:
        yield scenario


async def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(scenario: Scenario):
    """`prepared` is a rename that was never sent, `visible` one whose answer was never heard."""
    jobs, holds = [], []
    for name, (point, skip) in BETWEEN_STEPS.items():
        job = await scenario.create(name)
        jobs.append(job)
        holds.append(scenario.points.hold(point, job_id=job.id, skip=skip))
        if name in AND_THE_NEXT_STEP:
            following, passed = AND_THE_NEXT_STEP[name]
            holds.append(scenario.points.hold(following, job_id=job.id, skip=passed))
    await scenario.start(*jobs)
    await scenario.reach(*holds)
    await scenario.restart_after_kill()
    await scenario.finish_and_reconcile(*jobs)


async def test_a_frozen_service_that_wakes_after_its_lease_changes_nothing(scenario: Scenario):
    jobs = {point: await scenario.create(f"frozen-{point}") for point in ("staged", "complete", "prepared", "visible")}
    holds = [scenario.points.hold(point, job_id=job.id, skip=1) for point, job in jobs.items()]
    await scenario.start(*jobs.values())
    await scenario.reach(*holds)
    scenario.service.process.freeze()
    other = await scenario.second().start()
    for job in jobs.values():
        await scenario.wait_for_state(job, "successful", service=other)
    for hold in holds:
        hold.release()
    scenario.service.process.thaw()
    await scenario.service.wait_ready()
    for job in jobs.values():
        await scenario.reconcile(job, service=other)


@pytest.mark.parametrize("action", ["cut_after", "cut_before"])
async def test_a_lost_answer_to_a_rename_costs_nothing(proxied: Scenario, hdfs_proxies: HdfsProxies, action: Any):
    job = await proxied.create("orders")
    hold = proxied.points.hold("prepared", job_id=job.id, skip=2)
    await proxied.start(job)
    await proxied.reach(hold)
    rule = hdfs_proxies.namenode.on_request(action, predicate=lambda request: b"op=RENAME" in request)
    hold.release()
    await happened(rule.triggered, 20, "the rename was cut")
    await proxied.finish_and_reconcile(job)
    assert rule.hits == 1


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
