"""Broker, source and control database go away in the middle, or their connections do: the job waits and goes on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.fault.scenario import LEASE_SECONDS, Scenario, through
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.fault.kafka_target import KafkaTarget
    from tests.fault.scenario import FaultJob
    from tests.support.kafka import KafkaServer
    from tests.support.signalled import Hold

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(240)]

HELD_AT = {"staged": 2, "complete": 2, "prepared": 2, "visible": 2, "settled": 2}
CUTS = 30


@pytest.fixture
def second_postgres() -> Iterator[PostgresServer]:
    """A source of its own, to be killed while the control database lives."""
    server = PostgresServer()
    yield server.start()
    server.close()


@pytest.fixture
async def control_proxy(postgres_server: PostgresServer) -> AsyncIterator[FaultProxy]:
    """In front of the control database."""
    async with FaultProxy(postgres_server.port) as proxy:
        yield proxy


async def _held_everywhere(scenario: Scenario) -> tuple[list[FaultJob], list[Hold]]:
    jobs = {point: await scenario.create(point) for point in HELD_AT}
    holds = [scenario.points.hold(point, job_id=jobs[point].id, skip=skip) for point, skip in HELD_AT.items()]
    await scenario.start(*jobs.values())
    await scenario.reach(*holds)
    return list(jobs.values()), holds


async def test_a_broker_killed_and_started_again(
    kafka_scenario: Scenario, kafka_server: KafkaServer, kafka_target: KafkaTarget
) -> None:
    kafka_target.transaction_timeout = 30.0
    jobs, holds = await _held_everywhere(kafka_scenario)
    kafka_server.kill()
    for hold in holds:
        hold.release()
    async with kafka_scenario.client() as api:

        async def all_retry() -> bool:
            return all([(await api.get(job.name))["retrying"] for job in jobs])

        await until(all_retry, 30, "every job shows that it retries")
    await kafka_server.start_async()
    await kafka_scenario.finish_and_reconcile(*jobs)


async def test_a_source_killed_and_started_again(
    second_postgres: PostgresServer, control_database: str, kafka_target: KafkaTarget
) -> None:
    source = await second_postgres.create_database()
    async with Scenario(source, control_database, kafka_target) as scenario:
        jobs = [await scenario.create("bounded"), await scenario.create("read"), await scenario.create("settled")]
        holds = [scenario.points.hold(job.name, job_id=job.id) for job in jobs]
        leased = scenario.points.hold("opened", job_id=(late := await scenario.create("late")).id)
        await scenario.start(*jobs, late)
        await scenario.reach(*holds, leased)
        second_postgres.kill()
        for hold in [*holds, leased]:
            hold.release()
        async with scenario.client() as api:

            async def retries() -> bool:
                return bool((await api.get("late"))["retrying"])

            await until(retries, 30, "the job shows that it retries")
        second_postgres.start()
        await scenario.finish_and_reconcile(*jobs, late)


async def test_connections_cut_at_random_and_then_the_control_database_away_for_longer_than_a_lease(
    database: str,
    control_database: str,
    proxied_kafka_target: KafkaTarget,
    kafka_proxy: FaultProxy,
    postgres_proxy: FaultProxy,
    control_proxy: FaultProxy,
) -> None:
    control, source = through(control_proxy, control_database), through(postgres_proxy, database)
    async with Scenario(database, control, proxied_kafka_target, rows=12_000, datasource_dsn=source) as scenario:
        rate = {"rate": {"rows_per_second": 400.0}}
        job = await scenario.create("orders", splits=2, chunk_rows=100, options=rate)
        await scenario.start(job)
        for _ in range(CUTS):
            await _moves(scenario, random.randrange(1, 12))
            random.choice([kafka_proxy, kafka_proxy, postgres_proxy, control_proxy]).cut()
        await control_proxy.refuse()
        control_proxy.cut()
        left = len(scenario.service.log_events("lease_lost"))
        await until(
            lambda: len(scenario.service.log_events("lease_lost")) > left, LEASE_SECONDS * 3, "both owners give up"
        )
        await control_proxy.accept_again()
        async with scenario.client() as api:
            await until(lambda: _answers(scenario), 20, "the API is back")
            await api.call("PATCH", "/v1/jobs/orders", json={"options": {"rate": {"rows_per_second": None}}})
        await scenario.finish_and_reconcile(job)


async def _answers(scenario: Scenario) -> bool:
    async with scenario.client() as api:
        return (await api.request("GET", "/readyz")).status == 200


async def _moves(scenario: Scenario, points: int) -> None:
    passed = len(scenario.points.seen) + points
    await until(lambda: len(scenario.points.seen) >= passed, 40, "the job moves")
