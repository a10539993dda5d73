"""kill -9 of the service on the way to Kafka: between any two steps, and at random."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fault.kills import KILL_ROWS, survived
from tests.fault.scenario import Scenario
from tests.fault.steps import held_between_steps
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.fault.kafka_target import KafkaTarget

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(240)]


async def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(kafka_scenario: Scenario) -> None:
    jobs, _ = await held_between_steps(kafka_scenario)
    await kafka_scenario.restart_after_kill()
    await kafka_scenario.finish_and_reconcile(*jobs)


async def test_an_orderly_end_at_any_point_parks_what_runs_and_the_next_start_goes_on(
    kafka_scenario: Scenario,
) -> None:
    jobs, holds = await held_between_steps(kafka_scenario)
    ending = asyncio.create_task(kafka_scenario.service.terminate())
    await until(lambda: kafka_scenario.service.log_events("service_stopping"), 20, "the service is asked to end")
    for hold in holds:
        hold.release()
    assert await ending == 0
    await kafka_scenario.service.start()
    await kafka_scenario.finish_and_reconcile(*jobs)
    # The first owner after a parked one; later epochs are leases lost on a busy machine.
    recovered = [line for line in kafka_scenario.service.log_events("chunk_recovered") if line["epoch"] <= 2]
    assert not recovered, f"nothing was in flight any more when it ended: {recovered}"


async def test_twenty_kills_at_random_of_two_services_that_share_four_splits(
    database: str, control_database: str, kafka_target: KafkaTarget
) -> None:
    async with Scenario(database, control_database, kafka_target, rows=KILL_ROWS, lease_seconds=2.0) as scenario:
        await survived(scenario)
