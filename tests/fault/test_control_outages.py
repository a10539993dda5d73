"""The control database fails one request at a bad moment: the job waits and goes on, it does not end in error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fault.file_target import FileTarget
from tests.fault.scenario import Scenario, through
from tests.support.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer
    from tests.support.proxy import Action

pytestmark = [pytest.mark.fault]


@pytest.fixture
async def control(postgres_server: PostgresServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
async def scenario(database: str, control_database: str, control: FaultProxy) -> AsyncIterator[Scenario]:
    files = FileTarget()
    async with Scenario(database, through(control, control_database), files) as scenario:
        files.root = scenario.service.files()
        yield scenario


@pytest.mark.parametrize("action", ["cut_before", "cut_after"])
@pytest.mark.parametrize("step", ["plan", "split"])
async def test_a_step_that_can_not_look_up_its_datasource_tries_again(
    scenario: Scenario, control: FaultProxy, step: str, action: Action
):
    job = await scenario.create("orders")
    hold = scenario.points.hold("leased", job_id=job.id, skip=["plan", "split"].index(step))
    await scenario.start(job)
    await scenario.reach(hold)
    rule = control.on_request(action, predicate=lambda request: b"shop" in request)
    hold.release()
    await scenario.finish_and_reconcile(job)
    assert rule.hits == 1
    await scenario.logged(scenario.service, "retrying", job, code="store_unreachable", step=step)
