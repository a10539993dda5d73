"""Kills, freezes, lost answers and a store that is away, on the way from Postgres into S3: every key once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fault.s3_target import S3Target
from tests.fault.scenario import Scenario
from tests.fault.test_kafka_kills import AND_THE_NEXT_STEP, BETWEEN_STEPS
from tests.integration.test_s3_sink_faults import completes
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.scenario import FaultJob, Json
    from tests.support.proxy import FaultProxy
    from tests.support.s3 import S3Server

pytestmark = [pytest.mark.fault]


@pytest.fixture
async def scenario(database: str, control_database: str, s3_server: S3Server) -> AsyncIterator[Scenario]:
    async with Scenario(database, control_database, S3Target(s3_server)) as scenario:
        yield scenario


@pytest.fixture
async def proxied(
    database: str, control_database: str, s3_server: S3Server, s3_proxy: FaultProxy
) -> AsyncIterator[Scenario]:
    target = S3Target(s3_server, f"http://{s3_proxy.address}")
    async with Scenario(database, control_database, target) as scenario:
        yield scenario


async def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(scenario: Scenario):
    """`prepared` is a completion that was never sent, `visible` one whose answer was never heard."""
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
async def test_a_lost_answer_to_a_completion_costs_nothing(proxied: Scenario, s3_proxy: FaultProxy, action: str):
    job = await proxied.create("orders")
    hold = proxied.points.hold("prepared", job_id=job.id, skip=2)
    await proxied.start(job)
    await proxied.reach(hold)
    rule = s3_proxy.on_request(action, predicate=completes)  # type: ignore[arg-type]
    hold.release()
    await happened(rule.triggered, 20, "a completion's answer is lost")
    await proxied.finish_and_reconcile(job)


async def test_a_store_that_is_away_makes_the_job_wait_and_say_so(proxied: Scenario, s3_proxy: FaultProxy):
    job = await proxied.create("orders")
    hold = proxied.points.hold("settled", job_id=job.id, skip=1)
    await proxied.start(job)
    await proxied.reach(hold)
    await s3_proxy.refuse()
    s3_proxy.cut()
    hold.release()
    retrying = await until(lambda: _retrying(proxied, job), 30, "the job says what it waits for")
    assert retrying["cause"]["code"] == "sink_unreachable"
    await s3_proxy.accept_again()
    await proxied.finish_and_reconcile(job)


async def _retrying(scenario: Scenario, job: FaultJob) -> Json | None:
    async with scenario.client() as api:
        answer = await api.get(job.name)
    return answer["retrying"]
