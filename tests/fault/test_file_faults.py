"""Kills, freezes and take-overs on the way into files: every key once, and the books agree with the folder."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.file_target import FileTarget
from tests.fault.kills import KILL_ROWS, survived
from tests.fault.scenario import CHUNK_ROWS, ROWS, Scenario
from tests.fault.steps import held_between_steps
from tests.support.reconcile import expected_rows, reconcile
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fault.scenario import FaultJob, Json

pytestmark = [pytest.mark.fault]

COMPRESSIONS = ("none", "gzip", "zstd")


@pytest.fixture
def files() -> FileTarget:
    return FileTarget()


@pytest.fixture
async def scenario(database: str, control_database: str, files: FileTarget) -> AsyncIterator[Scenario]:
    async with Scenario(database, control_database, files) as scenario:
        files.root = scenario.service.files()
        yield scenario


def packed(compression: str) -> dict[str, Any]:
    return {"format": {"kind": "json", "compression": compression}}


# -- kills --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(scenario: Scenario, compression: str):
    """`prepared` is a link() that was never executed, `visible` one whose reply was never heard."""
    jobs, _ = await held_between_steps(scenario, **packed(compression))
    await scenario.restart_after_kill()
    await scenario.finish_and_reconcile(*jobs)


async def test_a_second_kill_at_the_same_point_while_the_first_is_mended(scenario: Scenario):
    jobs = [await scenario.create(f"{first}-{second}") for first in TWICE for second in TWICE]
    for number in (0, 1):
        holds = [scenario.points.hold(job.name.split("-")[number], job_id=job.id) for job in jobs]
        if number == 0:
            await scenario.start(*jobs)
        await scenario.reach(*holds)
        await scenario.restart_after_kill()
    await scenario.finish_and_reconcile(*jobs)


TWICE = ("staged", "complete", "prepared", "visible")


@pytest.mark.timeout(300)
async def test_twenty_kills_at_random_of_two_services_that_share_four_splits(
    database: str, control_database: str, files: FileTarget
):
    async with Scenario(database, control_database, files, rows=KILL_ROWS, lease_seconds=2.0) as scenario:
        files.root = scenario.service.files()
        await survived(scenario)


# -- two at a time ------------------------------------------------------------------------------------------------


async def test_frozen_services_thawed_after_a_take_over_make_nothing_visible(scenario: Scenario):
    """At every point of a split. Frozen after `prepared`, the other one shows the chunk as cut, under its name."""
    frozen, other = scenario.service, scenario.second()
    jobs = [await scenario.create(point) for point in FROZEN]
    holds = [
        scenario.points.hold(point, job_id=job.id, skip=1 if point == "leased" else 0)
        for point, job in zip(FROZEN, jobs, strict=True)
    ]
    await scenario.start(*jobs)
    await scenario.reach(*holds)
    frozen.freeze()
    await other.start()
    await scenario.finish_and_reconcile(*jobs, service=other)
    for hold in holds:
        hold.release()
    frozen.thaw()
    for job in jobs:
        await scenario.logged(frozen, "lease_lost", job)
        await scenario.reconcile(job)


FROZEN = ("leased", "opened", "read", "staged", "complete", "prepared", "visible", "settled")


async def test_two_live_services_share_the_splits(scenario: Scenario):
    services = [scenario.service, await scenario.second().start()]
    job = await scenario.create("orders", splits=4, chunk_rows=20, options={"rate": {"rows_per_second": 600}})
    for service in services:
        service.settings["ROWFERRY_MAX_SPLITS"] = "2"
        await service.restart()
    holds = [scenario.points.hold("opened", job_id=job.id, pid=service.process.pid) for service in services]
    await scenario.start(job)
    await scenario.reach(*holds)
    for hold in holds:
        hold.release()
    await scenario.finish_and_reconcile(job)
    for service in services:
        assert {line["step"] for line in service.log_events("step_done") if line.get("job_id") == job.id} >= {"split"}


# -- generations and positions ------------------------------------------------------------------------------------


async def killed_and_aborted(scenario: Scenario, job: FaultJob, point: str, *, skip: int = 2) -> Json:
    """Killed at `point`, restarted, and aborted before the chunk's fate was found out."""
    hold = scenario.points.hold(point, job_id=job.id, skip=skip)
    await scenario.start(job)
    await scenario.reach(hold)
    again = scenario.points.hold("leased", job_id=job.id)
    await scenario.restart_after_kill()
    await scenario.reach(again)
    async with scenario.client() as api:
        answer = await api.abort(job.name, wait=20)
    again.release()
    assert answer["state"] == "aborted"
    assert answer["totals"]["rows_sent"] == skip * CHUNK_ROWS
    await scenario.note_splits(job)
    return answer


async def test_a_finished_job_from_the_beginning_delivers_every_row_a_second_time(scenario: Scenario):
    job = await scenario.create("orders")
    await scenario.start(job)
    await scenario.finish_and_reconcile(job)
    hold = scenario.points.hold("visible", job_id=job.id, skip=1)
    await scenario.start(job, beginning=True)
    await scenario.reach(hold)
    await scenario.restart_after_kill()
    [answer] = await scenario.finish_and_reconcile(job, times=2)
    assert (answer["generation"], answer["run"]["rows_sent"]) == (2, ROWS)


@pytest.mark.parametrize("point", ["visible", "prepared"])
async def test_from_the_beginning_after_a_kill_before_the_settle(scenario: Scenario, files: FileTarget, point: str):
    """The old generation is closed first: what was prepared is shown as it was cut, and counted."""
    job = await scenario.create("orders")
    await killed_and_aborted(scenario, job, point)
    await scenario.start(job, beginning=True)
    answer = await scenario.wait_for_state(job, "successful")
    first = await asyncio.to_thread(files.rows, job.name, 1)
    second = await asyncio.to_thread(files.rows, job.name, 2)
    assert [row.key for row in first] == [(str(number),) for number in range(1, 3 * CHUNK_ROWS + 1)]
    report = reconcile(second, await expected_rows(scenario.source_dsn, "orders", values=True))
    assert report.exact, report.describe()
    assert answer["generation"] == 2
    await scenario.check_books(job, len(first) + len(second))
    async with scenario.client() as api:
        runs, outputs = await api.runs(job.name), await api.outputs(job.name)
    by_run = {run["id"]: run["rows_sent"] for run in runs}
    assert by_run == {run: sum(o["rows"] for o in outputs if o["run_id"] == run) for run in by_run}


@pytest.mark.parametrize("last_id", [100, 1000], ids=["lower", "higher"])
async def test_a_checkpoint_after_a_kill_before_the_settle(scenario: Scenario, files: FileTarget, last_id: int):
    job = await scenario.create("orders")
    answer = await killed_and_aborted(scenario, job, "visible")
    before = await asyncio.to_thread(files.rows, job.name)
    assert len(before) == 3 * CHUNK_ROWS
    async with scenario.client() as api:
        body = {"generation": answer["generation"], "last_id": str(last_id)}
        if last_id < 3 * CHUNK_ROWS:
            refused = await api.request("PUT", f"/v1/jobs/{job.name}/checkpoint", json=body)
            assert refused.status == 409, refused
        await api.put_checkpoint(job.name, {**body, "allow_repeats": True})
    await scenario.start(job)
    await scenario.reconcile_with(job, before, where=f"id > {last_id}")


async def test_four_splits_then_two_after_a_kill_before_the_settle(scenario: Scenario):
    """The generation keeps its four; the next one has two."""
    job = await scenario.create("orders", splits=4, chunk_rows=50)
    hold = scenario.points.hold("visible", job_id=job.id, skip=3)
    await scenario.start(job)
    await scenario.reach(hold)
    again = scenario.points.hold("leased", job_id=job.id)
    await scenario.restart_after_kill()
    await scenario.reach(again)
    changed = {**job.spec, "options": {**job.spec["options"], "splits": 2}}
    async with scenario.client() as api:
        await api.abort(job.name, wait=20)
        again.release()
        await api.call("PUT", f"/v1/jobs/{job.name}", 200, json=changed)
    await scenario.start(job)
    [answer] = await scenario.finish_and_reconcile(job)
    assert (answer["generation"], len(answer["position"]["splits"])) == (1, 4)
    await scenario.start(job, beginning=True)
    [answer] = await scenario.finish_and_reconcile(job, times=2)
    assert (answer["generation"], len(answer["position"]["splits"])) == (2, 2)


@pytest.mark.parametrize("verb", ["stop", "abort"])
async def test_resume_after_a_verb_at_every_point(scenario: Scenario, verb: str):
    jobs = [await scenario.create(point) for point in FROZEN]
    holds = [
        scenario.points.hold(point, job_id=job.id, skip={"leased": 1, "opened": 0, "read": 1}.get(point, 2))
        for point, job in zip(FROZEN, jobs, strict=True)
    ]
    await scenario.start(*jobs)
    await scenario.reach(*holds)
    async with scenario.client() as api:
        asked = [asyncio.create_task(getattr(api, verb)(job.name, wait=30)) for job in jobs]
        for job in jobs:
            await until(lambda job=job: _desired(api, job, verb), 10, f"{verb} of {job.name} is stored")
        for hold in holds:
            hold.release()
        states = {answer["state"] for answer in await asyncio.gather(*asked)}
    assert states == {{"stop": "stopped", "abort": "aborted"}[verb]}
    await scenario.start(*jobs)
    await scenario.finish_and_reconcile(*jobs)


async def _desired(api: Any, job: FaultJob, verb: str) -> bool:
    answer = await api.get(job.name)
    return answer["desired"] in {verb, None}
