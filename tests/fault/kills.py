"""Services that are killed at random while they share one job."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import TYPE_CHECKING

from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.fault.scenario import Scenario
    from tests.support.service import ServiceProcess

KILLS = 20
KILL_ROWS = 12_000
"""The rows of the scenario's table: the job must outlive the kills."""
ROWS_PER_SECOND = 100.0
SEED = "ROWFERRY_FAULT_SEED"


async def survived(scenario: Scenario) -> None:
    """Two services share four splits of a slow job and are killed, one or both, `KILLS` times; then the limit is lifted
    and every row is there once. The first line of the output names the variable that replays the run."""
    seed = int(os.environ.get(SEED, random.randrange(10**6)))
    print(f"{SEED}={seed}")  # noqa: T201 -- pytest shows it when the test fails
    chance = random.Random(seed)
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
