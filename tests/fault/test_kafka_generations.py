"""Stopped, aborted, begun anew and moved: what a later start makes of a job that was left at any point."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fault.scenario import ROWS
from tests.fault.test_kafka_kills import held_between_steps
from tests.support.client import ApiError
from tests.support.reconcile import expected_rows, reconcile

if TYPE_CHECKING:
    from tests.fault.scenario import FaultJob, Scenario
    from tests.support.reconcile import Delivered

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(240)]

LOWER, HIGHER = 150, 1000


@pytest.mark.parametrize("verb", ["stop", "abort"])
async def test_a_job_goes_on_wherever_it_was_told_to_end(kafka_scenario: Scenario, verb: str) -> None:
    scenario = kafka_scenario
    jobs, holds = await held_between_steps(scenario)
    async with scenario.client() as api:
        await asyncio.gather(*(api.call("POST", f"/v1/jobs/{job.name}/{verb}") for job in jobs))
    if verb == "stop":
        for hold in holds:
            hold.release()
    ended = {"stop": "stopped", "abort": "aborted"}[verb]
    answers = await asyncio.gather(*(scenario.wait_for_state(job, ended, "successful") for job in jobs))
    left = [job for job, answer in zip(jobs, answers, strict=True) if answer["state"] == ended]
    assert len(left) >= len(jobs) - 4, "only what was held at its very end may have ended by itself"
    await scenario.start(*left)
    await scenario.finish_and_reconcile(*jobs)


async def test_a_new_generation_after_a_kill_between_commit_and_settle(kafka_scenario: Scenario) -> None:
    scenario = kafka_scenario
    splits = dict.fromkeys(("resume", "beginning", "lower", "higher", "moved"), 1)
    splits |= dict.fromkeys(("fewer", "fewer-resume", "kept"), 4)
    jobs = {name: await scenario.create(name, splits=count, chunk_rows=60) for name, count in splits.items()}
    await _kill_between_commit_and_settle(scenario, jobs, splits)
    before = await scenario.visible(*jobs.values())
    async with scenario.client() as api:
        for name in jobs:
            keys = [row.key for row in before[name]]
            assert len(set(keys)) == len(keys)
            settled = (await api.get(name))["totals"]["rows_sent"]
            assert len(keys) == settled + 60 * splits[name], "the last chunk of each split is visible, not settled"
        at_settled = {"generation": 1, "last_id": (await api.get("lower"))["last_id"]}
        with pytest.raises(ApiError) as refused:
            await api.put_checkpoint("lower", at_settled)
        assert refused.value.code == "would_repeat", "the chunk that is visible and not settled would come twice"
        for name, last_id in {"lower": LOWER, "higher": HIGHER}.items():
            body = {"generation": 1, "last_id": str(last_id), "allow_repeats": True}
            assert (await api.put_checkpoint(name, body))["generation"] == 2
        for name in ("fewer", "fewer-resume"):
            spec = {**jobs[name].spec, "options": {**jobs[name].spec["options"], "splits": 2}}
            await api.call("PUT", f"/v1/jobs/{name}", 200, json=spec)
        kept = {**jobs["kept"].spec, "source": {**jobs["kept"].spec["source"], "where": "amount >= 0"}}
        await api.call("PUT", "/v1/jobs/kept", 200, json=kept, params={"position": "keep"})
        moved = {**jobs["moved"].spec, "sink": scenario.target.sink("moved-to")}
        await api.call("PUT", "/v1/jobs/moved", 200, json=moved, params={"position": "reset"})
    await scenario.note_splits(*jobs.values())

    begun_anew = [jobs[name] for name in ("beginning", "lower", "higher", "fewer", "kept", "moved")]
    closed = [scenario.points.hold("closed", job_id=job.id) for job in begun_anew]
    await scenario.start(jobs["beginning"], jobs["fewer"], beginning=True)
    await scenario.start(*(jobs[name] for name in ("resume", "lower", "higher", "fewer-resume", "kept", "moved")))
    await scenario.reach(*closed)
    await scenario.restart_after_kill()

    await scenario.finish_and_reconcile(jobs["resume"], jobs["fewer-resume"], jobs["kept"])
    await _in_both_places(scenario, jobs["moved"], before["moved"])
    wheres = {"beginning": "true", "fewer": "true", "lower": f"id > {LOWER}", "higher": f"id > {HIGHER}"}
    for name, where in wheres.items():
        await scenario.reconcile_with(jobs[name], before[name], where=where)
    async with scenario.client() as api:
        found = {name: len((await api.get(name))["position"]["splits"]) for name in ("fewer", "fewer-resume")}
    assert found == {"fewer": 2, "fewer-resume": 4}
    assert ROWS > HIGHER


async def _in_both_places(scenario: Scenario, job: FaultJob, before: list[Delivered]) -> None:
    """The old topic keeps what was visible there, counted and without an open transaction; the new one has all."""
    answer = await scenario.wait_for_state(job, "successful")
    assert (await scenario.visible(job))[job.name] == before
    scenario.target.check_watch(job.name)
    expected = await expected_rows(scenario.source_dsn, "orders", values=True)
    report = reconcile(scenario.target.rows("moved-to"), expected)
    assert report.exact, report.describe()
    assert answer["totals"]["rows_sent"] == len(before) + ROWS


async def _kill_between_commit_and_settle(
    scenario: Scenario, jobs: dict[str, FaultJob], splits: dict[str, int]
) -> None:
    """Every split of every job has a chunk that is visible and not settled, nothing runs."""
    places = [(job, ordinal) for name, job in jobs.items() for ordinal in range(splits[name])]
    visible = [scenario.points.hold("visible", job_id=job.id, ordinal=ordinal, skip=2) for job, ordinal in places]
    await scenario.start(*jobs.values())
    await scenario.reach(*visible)
    # Whoever comes next is held before it can look: the abort must find the job as the kill has left it.
    coming = [scenario.points.hold("leased", job_id=job.id, ordinal=ordinal) for job, ordinal in places]
    await scenario.restart_after_kill()
    async with scenario.client() as api:
        await asyncio.gather(*(api.abort(job.name) for job in jobs.values()))
    await asyncio.gather(*(scenario.wait_for_state(job, "aborted") for job in jobs.values()))
    for hold in coming:
        hold.release()
