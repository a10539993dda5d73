"""kill -9 of the service on the way to Kafka: between any two steps, and at random."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.fault.scenario import Scenario
from tests.fault.steps import held_between_steps
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.fault.kafka_target import KafkaTarget
    from tests.support.service import ServiceProcess

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(240)]

KILLS = 20
KILL_ROWS = 12_000
ROWS_PER_SECOND = 100.0
SEED = "ROWFERRY_FAULT_SEED"


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
    """Replay one with the variable that the first line of its output names."""
    seed = int(os.environ.get(SEED, random.randrange(10**6)))
    print(f"{SEED}={seed}")  # noqa: T201 -- pytest shows it when the test fails
    chance = random.Random(seed)
    async with Scenario(database, control_database, kafka_target, rows=KILL_ROWS, lease_seconds=2.0) as scenario:
        services = [scenario.service, await scenario.second().start()]
        # Slow enough to outlive the kills; the limit is lifted after them.
        job = await scenario.create(
            "orders", splits=4, chunk_rows=50, options={"rate": {"rows_per_second": ROWS_PER_SECOND}}
        )
        await scenario.start(job)
        kills = 0
        while kills < KILLS:
            at_work = await _at_work(scenario, services, chance)
            # One of them, now and then both; nobody waits until the victim is back.
            for victim in chance.sample(at_work, chance.choice([1, 1, len(at_work)])):
                victim.kill()
                victim.launch()
                kills += 1
        await asyncio.gather(*(service.wait_ready() for service in services))
        assert await scenario.ended(job) is None, "it was over before the last kill: make the table larger"
        async with scenario.client() as api:
            await api.call("PATCH", "/v1/jobs/orders", json={"options": {"rate": {"rows_per_second": None}}})
        await scenario.finish_and_reconcile(job)


async def _at_work(scenario: Scenario, services: list[ServiceProcess], chance: random.Random) -> list[ServiceProcess]:
    """The services that have passed a few points since their last start, once there is one."""
    few = chance.randrange(2, 16)

    def found() -> list[ServiceProcess]:
        passed = Counter(question["pid"] for question in scenario.points.seen)
        return [service for service in services if passed[service.process.pid] >= few]

    return await until(found, 40, f"a service passes {few} points")
