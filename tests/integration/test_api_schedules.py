"""Schedules over HTTP: given, refused, shown, paused, resumed, patched, and fired by two real services once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.integration.api_cases import TABLE, ApiCase, definition
from tests.support.service import ServiceProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NIGHTLY = {"cron": "0 3 * * *", "time_zone": "Europe/Madrid"}


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as opened:
        await opened.shop()
        yield opened


async def test_a_schedule_is_shown_with_its_next_run(api: ApiCase) -> None:
    made = await api.ok("POST", "/v1/jobs", definition(mode="full", schedule=NIGHTLY), 201)
    assert made["spec"]["schedule"] == {**NIGHTLY, "dialect": "unix", "enabled": True, "missed": "run_once"}
    following = datetime.fromisoformat(made["next_run_at"])
    assert following.minute == 0
    assert timedelta() < following - datetime.now(UTC) < timedelta(hours=26)
    found = await api.ok("POST", "/v1/jobs:validate", definition(mode="full", schedule=NIGHTLY))
    [fires] = [one for one in found["findings"] if one["code"] == "schedule_fires"]
    assert (fires["pointer"], fires["severity"]) == ("/schedule/cron", "info")
    assert fires["message"].count("T03:00:00+0") == 3


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"cron": "0 3 31 2 *"}, "invalid_definition", "/schedule/cron"),
        ({"cron": "0 3 * *"}, "invalid_definition", "/schedule/cron"),
        ({"cron": "0 0 0 * * *", "dialect": "quartz"}, "invalid_definition", "/schedule/cron"),
        ({"cron": "0 0 0 1 1 ? 2020", "dialect": "quartz"}, "schedule_never_fires", "/schedule/cron"),
        ({"cron": None}, "invalid_definition", "/schedule/cron"),
        ({"cron": ["0 3 * * *"]}, "invalid_definition", "/schedule/cron"),
        ({"time_zone": "Mars/Olympus"}, "invalid_definition", "/schedule/time_zone"),
        ({"time_zone": "../../etc/passwd"}, "invalid_definition", "/schedule/time_zone"),
        ({"dialect": "systemd"}, "invalid_definition", "/schedule/dialect"),
        ({"missed": "all"}, "invalid_definition", "/schedule/missed"),
        ({"enabled": "true"}, "invalid_definition", "/schedule/enabled"),
        ({"every": "hour"}, "unknown_field", "/schedule/every"),
    ],
)
async def test_a_schedule_that_can_not_be_is_refused_by_its_field(
    api: ApiCase, change: dict[str, Any], code: str, pointer: str
) -> None:
    given = definition(mode="full", schedule={**NIGHTLY, **change})
    problem = await api.refused("POST", "/v1/jobs", given, 422, code)
    assert pointer in [one["pointer"] for one in problem["errors"]]
    assert (await api.ok("GET", "/v1/jobs"))["jobs"] == []


@pytest.mark.parametrize("mode", ["once", "continuous"])
async def test_only_what_starts_again_has_a_schedule(api: ApiCase, mode: str) -> None:
    problem = await api.refused("POST", "/v1/jobs", definition(mode=mode, schedule=NIGHTLY), 422, "invalid_definition")
    assert [one["pointer"] for one in problem["errors"]] == ["/schedule"]
    await api.ok("POST", "/v1/jobs", definition(mode=mode, schedule=None), 201)


async def test_pause_and_resume(api: ApiCase) -> None:
    made = await api.ok("POST", "/v1/jobs", definition(mode="full", schedule=NIGHTLY), 201)
    operator = await api.token("operator")
    paused = await api.ok("POST", "/v1/jobs/j/schedule:pause", token=operator)
    assert (paused["spec"]["schedule"]["enabled"], paused["next_run_at"]) == (False, None)
    again = await api.ok("POST", "/v1/jobs/j/schedule:pause")
    assert again == paused, "already so: nothing is written"
    resumed = await api.ok("POST", f"/v1/jobs/{made['id']}/schedule:resume")
    assert (resumed["spec"], resumed["next_run_at"]) == (made["spec"], made["next_run_at"])
    events = await api.ok("GET", "/v1/jobs/j/events")
    assert [(one["event"], one["actor"]) for one in events["events"]] == [
        ("create", "admin"),
        ("schedule_paused", "operator-token"),
        ("schedule_resumed", "admin"),
    ]
    await api.ok("POST", "/v1/jobs", definition("plain"), 201)
    for verb in ("pause", "resume"):
        await api.refused("POST", f"/v1/jobs/plain/schedule:{verb}", None, 409, "schedule_missing")
        await api.refused("POST", f"/v1/jobs/nobody/schedule:{verb}", None, 404, "not_found")


async def test_a_patch_is_at_once_in_force(api: ApiCase) -> None:
    made = await api.ok("POST", "/v1/jobs", definition(mode="incremental"), 201)
    assert (made["spec"]["schedule"], made["next_run_at"]) == (None, None)

    async def patch(schedule: Any) -> Any:
        return await api.ok("PATCH", "/v1/jobs/j", {"schedule": schedule})

    await api.refused("PATCH", "/v1/jobs/j", {"schedule": {"cron": "61 * * * *"}}, 422, "invalid_definition")
    spent = {"cron": "0 0 0 1 1 ? 2020", "dialect": "quartz"}
    await api.refused("PATCH", "/v1/jobs/j", {"schedule": spent}, 422, "schedule_never_fires")
    hourly = await patch({"cron": "30 * * * *"})
    assert datetime.fromisoformat(hourly["next_run_at"]).minute == 30
    other = await patch({"time_zone": "Asia/Kolkata"})
    assert datetime.fromisoformat(other["next_run_at"]).minute == 0, "half an hour from everybody else"
    assert (await patch(None))["next_run_at"] is None


async def test_a_schedule_that_is_over_can_still_be_patched_around(api: ApiCase) -> None:
    last = {"cron": "0 0 0 1 1 ? 2099", "dialect": "quartz"}
    await api.ok("POST", "/v1/jobs", definition(mode="full", schedule=last), 201)
    await api.control("UPDATE rowferry.jobs SET spec = jsonb_set(spec, '{schedule,cron}', '\"0 0 0 1 1 ? 2020\"')")
    labelled = await api.ok("PATCH", "/v1/jobs/j", {"labels": {"team": "shop"}})
    assert labelled["spec"]["labels"] == {"team": "shop"}


async def test_two_services_fire_once_and_go_on_after_a_kill(control_database: str, database: str) -> None:
    """Every second for some seconds, two services, then one of them killed: as many runs as finished, none at once."""
    schedule = {"cron": "* * * * * ?", "dialect": "quartz"}
    source = await asyncpg.connect(database)
    await source.execute(TABLE)
    await source.close()
    async with ServiceProcess(control_database, loaded=True) as one, one.twin() as other, one.client() as client:
        await client.put_datasource("shop", database)
        await client.create(definition("often", mode="full", schedule=schedule))

        async def done(least: int) -> list[Any] | None:
            found = [run for run in await client.runs("often") if run["state"] == "successful"]
            return found if len(found) >= least else None

        seen = await until(lambda: done(3), 30, "three runs")
        other.kill()
        await until(lambda: done(len(seen) + 2), 30, "two more runs")
        await client.call("POST", "/v1/jobs/often/schedule:pause")
        runs = await client.runs("often")
        assert {run["trigger"] for run in runs} == {"schedule"}
        assert sorted(run["number"] for run in runs) == list(range(1, len(runs) + 1))
        for newer, older in pairwise(runs):
            assert older["ended_at"] is not None
            assert older["ended_at"] <= newer["started_at"], "never two runs of one job at once"
        starts = [one for one in await client.events("often") if one["event"] == "start"]
        due = [one["details"]["due_at"] for one in starts]
        assert len(due) == len(set(due)), "no moment of the schedule fired twice"
