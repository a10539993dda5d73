from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from service.domain.steps import StepKind
from service.lifecycle.verbs import Verbs
from tests.integration.api_cases import ApiCase, definition
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    """Nothing works on steps unless a test starts the engine."""
    async with ApiCase(control_database, database) as case:
        await case.shop()
        yield case


async def lease(api: ApiCase) -> None:
    """Somebody begins to work on the job."""
    step = await api.store.claim("somebody", list(StepKind), lease_seconds=60)
    assert step is not None


async def test_verbs_answer_as_the_page_says(api: ApiCase) -> None:
    await api.ok("POST", "/v1/jobs", definition(), 201)
    for verb in ("stop", "abort"):
        unchanged = await api.ok("POST", f"/v1/jobs/j/{verb}", status=200)
        assert unchanged["state"] == "created"
    queued = await api.ok("POST", "/v1/jobs/j/start", status=202)
    assert (queued["state"], queued["desired"], queued["verbs"]) == ("queued", "run", ["stop", "abort"])
    assert (queued["run"]["number"], queued["run"]["trigger"], queued["run"]["state"]) == (1, "api", "queued")
    await api.ok("POST", "/v1/jobs/j/start", status=200)
    problem = await api.refused("POST", "/v1/jobs/j/start?from=beginning", None, 409, "verb_refused")
    assert (problem["state"], problem["verbs"]) == ("queued", ["stop", "abort"])
    await lease(api)
    await api.refused("PUT", "/v1/jobs/j", definition(labels={"a": "b"}), 409, "job_running")
    await api.refused("DELETE", "/v1/jobs/j", None, 409, "job_running")
    stopping = await api.ok("POST", "/v1/jobs/j/stop", status=202)
    assert (stopping["state"], stopping["desired"], stopping["verbs"]) == ("stopping", "stop", ["abort"])
    await api.ok("POST", "/v1/jobs/j/stop", status=200)
    await api.refused("POST", "/v1/jobs/j/start", None, 409, "verb_refused")
    aborting = await api.ok("POST", "/v1/jobs/j/abort", status=202)
    assert (aborting["state"], aborting["verbs"]) == ("aborting", [])
    await api.ok("POST", "/v1/jobs/j/abort", status=200)
    for verb in ("start", "stop"):
        problem = await api.refused("POST", f"/v1/jobs/j/{verb}", None, 409, "verb_refused")
        assert (problem["state"], problem["verbs"]) == ("aborting", [])


async def test_a_job_runs_to_its_end_and_wait_tells_of_it(api: ApiCase) -> None:
    await api.rows(250)
    await api.engine.start()
    await api.ok("POST", "/v1/jobs", definition(), 201)
    done = await api.ok("POST", "/v1/jobs/j/start?wait=30", status=200)
    assert (done["state"], done["desired"], done["verbs"]) == ("successful", None, [])
    assert (done["last_id"], done["totals"]["rows_sent"], done["run"]["progress"]) == ("250", 250, 1.0)
    assert done["run"]["rows_per_second"] > 0
    assert done["position"]["splits"][-1]["done"]
    await api.refused("POST", "/v1/jobs/j/start", None, 409, "verb_refused")
    again = await api.ok("POST", "/v1/jobs/j/start?from=beginning&wait=30", status=200)
    assert (again["generation"], again["totals"]["rows_sent"], again["totals"]["runs"]) == (2, 500, 2)
    runs = await api.ok("GET", "/v1/jobs/j/runs")
    assert [run["number"] for run in runs["runs"]] == [2, 1]
    assert await api.ok("GET", f"/v1/runs/{done['run']['id']}") == {**done["run"], "labels": {}}
    await api.ok("DELETE", "/v1/jobs/j", status=204)
    assert len((await api.ok("GET", f"/v1/jobs/{done['id']}/runs"))["runs"]) == 2, "the job log outlives the job"
    assert len((await api.ok("GET", "/v1/runs?job=j&state=successful"))["runs"]) == 2
    events = (await api.ok("GET", f"/v1/jobs/{done['id']}/events?limit=500"))["events"]
    assert events[0]["actor"] == "admin"
    assert "successful" in [event["state_to"] for event in events]


async def test_wait_ends_and_a_caller_who_leaves_changes_nothing(api: ApiCase, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_changed, waits = api.store.wait_changed, set()

    async def noticed(timeout_seconds: float) -> None:
        waits.add(asyncio.current_task())
        await wait_changed(timeout_seconds)

    monkeypatch.setattr(api.store, "wait_changed", noticed)
    await api.ok("POST", "/v1/jobs", definition(), 201)
    waited = await api.ok("POST", "/v1/jobs/j/start?wait=0.3", status=202)
    assert waited["state"] == "queued"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await api.call("POST", "/v1/jobs/j/start?wait=30")
    assert (await api.ok("GET", "/v1/jobs/j"))["state"] == "queued"
    left = set(waits)
    waiting = asyncio.create_task(api.call("POST", "/v1/jobs/j/start?wait=30"))
    await until(lambda: waits > left, 10, "the start waits")
    stopped = await api.ok("POST", "/v1/jobs/j/stop?wait=5", status=200)
    assert stopped["state"] == "stopped"
    async with asyncio.timeout(10):
        assert (await waiting).body["state"] == "stopped"
    for wait in ("61", "-1", "soon", "nan"):
        await api.refused("POST", f"/v1/jobs/j/start?wait={wait}", None, 422, "invalid_parameter")


async def test_force_aborts_first_and_leaves_the_rest_to_whoever_ends_the_abort(
    api: ApiCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Verbs.remove.__kwdefaults__, "seconds", 0.2)
    job = await api.ok("POST", "/v1/jobs?start=true", definition(), 201)
    await lease(api)
    left = await api.ok("DELETE", "/v1/jobs/j?force=true", status=202)
    assert (left["id"], left["state"]) == (job["id"], "aborting")
    await api.control(
        "UPDATE rowferry.steps SET leased_until = clock_timestamp() - interval '1 hour' WHERE state = 'leased'"
    )
    await api.store.expire()
    await api.refused("GET", "/v1/jobs/j", None, 404, "not_found")
    await api.ok("POST", "/v1/jobs?start=true", definition(), 201)
    await api.ok("DELETE", "/v1/jobs/j?force=true", status=204)


async def test_bulk_reports_job_by_job(api: ApiCase) -> None:
    for name in ("a", "b", "c"):
        await api.ok("POST", "/v1/jobs", definition(name, labels={"bulk": "no" if name == "c" else "yes"}), 201)
    dry = await api.ok(
        "POST", "/v1/jobs:bulk", {"verb": "start", "filter": {"label": {"bulk": "yes"}}, "dry_run": True}
    )
    assert [(one["name"], one["status"], one["state"]) for one in dry["results"]] == [
        ("a", 202, "created"),
        ("b", 202, "created"),
    ]
    done = await api.ok("POST", "/v1/jobs:bulk", {"verb": "start", "ids": ["a", "nobody", "c"]})
    assert [(one["name"], one["status"], one["code"]) for one in done["results"]] == [
        ("a", 202, None),
        (None, 404, "not_found"),
        ("c", 202, None),
    ]
    stop = await api.ok("POST", "/v1/jobs:bulk", {"verb": "stop", "filter": {"state": ["queued"]}})
    assert {one["name"]: one["state"] for one in stop["results"]} == {"a": "stopped", "c": "stopped"}
    await api.refused("POST", "/v1/jobs:bulk", {"verb": "start", "filter": {}}, 422, "invalid_definition")
    await api.refused("POST", "/v1/jobs:bulk", {"verb": "start"}, 422, "invalid_definition")
    await api.refused(
        "POST", "/v1/jobs:bulk", {"verb": "start", "filter": {"state": ["sleeping"]}}, 422, "invalid_definition"
    )


async def test_two_live_jobs_never_share_a_path(api: ApiCase) -> None:
    for name, path in (("a", "out/x"), ("b", "out"), ("c", "out/xy")):
        await api.ok("POST", "/v1/jobs", definition(name, sink={"kind": "file", "path": path}), 201)
    await api.ok("POST", "/v1/jobs/a/start", status=202)
    problem = await api.refused("POST", "/v1/jobs/b/start", None, 409, "path_in_use")
    assert problem["job"] == "a"
    at_once = definition("d", sink={"kind": "file", "path": "out/x/y"})
    await api.refused("POST", "/v1/jobs?start=true", at_once, 409, "path_in_use")
    await api.refused("GET", "/v1/jobs/d", None, 404, "not_found")
    await api.ok("POST", "/v1/jobs/c/start", status=202)
    await api.ok("POST", "/v1/jobs/a/stop", status=202)
    await api.ok("POST", "/v1/jobs/c/stop", status=202)
    await api.ok("POST", "/v1/jobs/b/start", status=202)


async def test_the_checkpoint_moves_only_with_eyes_open(api: ApiCase) -> None:
    await api.rows(100)
    await api.engine.start()
    await api.ok("POST", "/v1/jobs", definition(mode="incremental"), 201)
    done = await api.ok("POST", "/v1/jobs/j/start?wait=30", status=200)
    assert done["state"] == "successful", done
    seen = await api.ok("GET", "/v1/jobs/j/checkpoint")
    assert (seen["generation"], seen["last_id"]) == (1, "100")
    put = {"generation": 1, "last_id": "40"}
    problem = await api.refused("PUT", "/v1/jobs/j/checkpoint", put, 409, "would_repeat")
    assert problem["repeats"] == [{"lower": "40", "upper": "100"}]
    await api.refused("PUT", "/v1/jobs/j/checkpoint", {**put, "generation": 7}, 409, "generation_changed")
    bad = await api.refused("PUT", "/v1/jobs/j/checkpoint", {**put, "last_id": "forty"}, 422, "key_invalid")
    assert "forty" in bad["detail"]
    moved = await api.ok("PUT", "/v1/jobs/j/checkpoint", {**put, "allow_repeats": True})
    assert (moved["generation"], moved["repeats"]) == (2, [{"lower": "40", "upper": "100"}])
    again = await api.ok("POST", "/v1/jobs/j/start?wait=30", status=200)
    assert (again["run"]["rows_sent"], again["last_id"]) == (60, "100")
    higher = await api.ok("PUT", "/v1/jobs/j/checkpoint", {"generation": 2, "last_id": "150"})
    assert higher["repeats"] == []
    for body in ({"generation": 3}, {"generation": 3, "last_id": "1", "splits": []}, {"last_id": "1"}):
        await api.refused("PUT", "/v1/jobs/j/checkpoint", body, 422, "invalid_definition")


async def test_the_checkpoint_of_a_running_job_stays(api: ApiCase) -> None:
    await api.ok("POST", "/v1/jobs?start=true", definition(), 201)
    put = {"generation": 1, "last_id": "1"}
    await api.refused("PUT", "/v1/jobs/j/checkpoint", put, 409, "job_running")
