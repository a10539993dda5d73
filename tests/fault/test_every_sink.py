"""What must hold on every kind of sink, at the same named points: kills, freezes, lost answers, a target that is slow,
and one that is away and comes back. What belongs to one kind alone has a module of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.fault.outside import Outside
from tests.fault.places import KINDS, FilePlace, place
from tests.fault.scenario import Scenario
from tests.fault.steps import held_between_steps
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.places import Place
    from tests.fault.scenario import FaultJob, Json
    from tests.support.proxy import Action

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

FROZEN = ("staged", "complete", "prepared", "visible")
WIDE_ROWS = 12_000
"""Of 2 kB each: more than a service that kept them could hide."""
MEMORY_BYTES = 96 << 20
SLOW_BYTES = 400_000.0
"""A second, through the slow proxy."""
ATTEMPTS = 4


class Stage:
    """A service, and the place it delivers to."""

    def __init__(self, where: Place, scenario: Scenario) -> None:
        self.place, self.scenario = where, scenario


@asynccontextmanager
async def stage(kind: str, request: pytest.FixtureRequest, source: str, control: str) -> AsyncIterator[Stage]:
    async with place(kind, request) as where:
        # Twenty jobs that begin at once keep a small machine busy for longer than a short lease.
        scenario = Scenario(source, control, where.target, lease_seconds=8.0)
        where.before_start(scenario.service)
        async with scenario:
            yield Stage(where, scenario)


@pytest.fixture
async def staged(
    request: pytest.FixtureRequest, kind: str, database: str, control_database: str
) -> AsyncIterator[Stage]:
    async with stage(kind, request, database, control_database) as made:
        yield made


# Kafka and files have these in modules of their own, with what is theirs besides.
@pytest.mark.parametrize("kind", ["s3", "hdfs", "elasticsearch"])
async def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(staged: Stage):
    """`prepared` is a request that was never sent, `visible` one whose answer was never heard."""
    scenario = staged.scenario
    jobs, _ = await held_between_steps(scenario)
    await scenario.restart_after_kill()
    await scenario.finish_and_reconcile(*jobs)
    async with scenario.client() as api:
        for job in jobs:
            assert [run["rows_maybe_doubled"] for run in await api.runs(job.name)] == [0], job.name


@pytest.mark.parametrize("kind", ["s3", "hdfs"])
async def test_a_frozen_service_that_wakes_after_its_lease_changes_nothing(staged: Stage):
    scenario = staged.scenario
    jobs = {point: await scenario.create(f"frozen-{point}") for point in FROZEN}
    holds = [scenario.points.hold(point, job_id=job.id, skip=1) for point, job in jobs.items()]
    await scenario.start(*jobs.values())
    await scenario.reach(*holds)
    scenario.service.freeze()
    other = await scenario.second().start()
    for job in jobs.values():
        await scenario.wait_for_state(job, "successful", service=other)
    for hold in holds:
        hold.release()
    scenario.service.thaw()
    for job in jobs.values():
        await scenario.logged(scenario.service, "lease_lost", job)
        await scenario.reconcile(job, service=other)


@pytest.mark.parametrize("kind", ["s3", "hdfs"])
@pytest.mark.parametrize("action", ["cut_after", "cut_before"])
async def test_a_lost_answer_to_what_shows_a_chunk_costs_nothing(staged: Stage, action: Action):
    scenario, where = staged.scenario, staged.place
    job = await scenario.create("orders")
    hold = scenario.points.hold("prepared", job_id=job.id, skip=2)
    await scenario.start(job)
    await scenario.reach(hold)
    rule = where.shown_through.on_request(action, predicate=where.shows)
    hold.release()
    await happened(rule.triggered, 20, f"what shows the chunk is hit by {action}")
    await scenario.finish_and_reconcile(job)
    assert rule.hits == 1


async def wide(scenario: Scenario) -> None:
    """Rows of 2 kB instead of the small ones."""
    connection = await asyncpg.connect(scenario.source_dsn)
    try:
        await connection.execute(
            "INSERT INTO orders (amount, note) SELECT n, repeat(md5(n::text), 64) FROM generate_series(1, $1::int) n",
            WIDE_ROWS,
        )
        await connection.execute("ANALYZE orders")
    finally:
        await connection.close()


async def retrying(scenario: Scenario, job: FaultJob) -> Json:
    async with scenario.client() as api:
        return (await api.get(job.name))["retrying"] or {"attempt": 0, "cause": {"code": None}}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_target_that_is_away_is_named_and_costs_neither_memory_nor_an_open_transaction(staged: Stage):
    scenario, where = staged.scenario, staged.place
    if isinstance(where, FilePlace) and not where.can_be_full:
        pytest.skip("no file system of our own can be mounted here: it takes root")
    await wide(scenario)
    job = await scenario.create("orders", splits=2, chunk_rows=1000)
    hold = scenario.points.hold("settled", job_id=job.id, skip=2)
    await scenario.start(job)
    await scenario.reach(hold)
    await where.lose()
    async with Outside(scenario.source_dsn, scenario.service) as outside:
        hold.release()

        async def waits() -> bool:
            return bool((await retrying(scenario, job))["attempt"] >= ATTEMPTS)

        await until(waits, 60, "the job has tried it a few times")
        assert (await retrying(scenario, job))["cause"]["code"] == where.away_code
        await outside.seen(10)
    outside.check(memory=MEMORY_BYTES)
    await where.mend()
    await scenario.finish_and_reconcile(job)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "file"])
async def test_a_slow_target_is_waited_for_without_an_open_transaction_and_in_bounded_memory(staged: Stage):
    scenario, where = staged.scenario, staged.place
    await wide(scenario)
    job = await scenario.create("orders", splits=2, chunk_rows=1000)
    hold = scenario.points.hold("settled", job_id=job.id)
    await scenario.start(job)
    await scenario.reach(hold)
    async with Outside(scenario.source_dsn, scenario.service) as outside:
        for proxy in where.proxies.values():
            proxy.bytes_per_second = SLOW_BYTES
        later = scenario.points.hold("settled", job_id=job.id, skip=1)
        hold.release()
        await scenario.reach(later)
        await outside.seen(10)
    later.release()
    outside.check(memory=MEMORY_BYTES)
    for proxy in where.proxies.values():
        proxy.heal()
    await scenario.finish_and_reconcile(job)
