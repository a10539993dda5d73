from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from service.api import streams
from tests.integration.api_cases import ADMIN, ApiCase, definition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAIT = 20


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as case:
        await case.shop()
        yield case


class Stream:
    """Server-sent events as they come."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[tuple[str | None, str, Any]] = []

    async def one(self) -> tuple[str | None, str, Any]:
        """The next event: id, name, data."""
        found: dict[str, str] = {}
        async with asyncio.timeout(WAIT):
            while True:
                line = (await self.answer.content.readline()).decode().rstrip("\n")
                if not line and found:
                    event = (found.get("id"), found["event"], json.loads(found["data"]))
                    self.seen.append(event)
                    return event
                if not line and self.answer.content.at_eof():
                    raise EOFError
                name, sign, value = line.partition(": ")
                if sign and name:
                    found[name] = value

    async def until(self, name: str, **data: Any) -> tuple[str | None, str, Any]:
        """The next event of this name with this data."""
        while True:
            event = await self.one()
            if event[1] == name and data.items() <= event[2].items():
                return event


@asynccontextmanager
async def following(api: ApiCase, path: str, **headers: str) -> AsyncIterator[Stream]:
    sent = {"Authorization": f"Bearer {ADMIN}", "Accept": "text/event-stream", **headers}
    async with api.client.get(path, headers=sent) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        yield Stream(answer)


async def test_events_of_a_job_are_told_as_they_happen_and_can_be_resumed(api: ApiCase) -> None:
    await api.ok("POST", "/v1/jobs", definition(), 201)
    async with following(api, "/v1/jobs/j/events") as stream:
        await api.ok("POST", "/v1/jobs/j/start", status=202)
        seen, _, change = await stream.until("state", state_to="queued")
        assert (change["actor"], change["job_name"]) == ("admin", "j")
        _, _, job = await stream.until("progress")
        assert (job["name"], job["state"]) == ("j", "queued")
        await api.ok("POST", "/v1/jobs/j/stop", status=202)
        await stream.until("state", state_to="stopped")
    assert seen is not None
    async with following(api, "/v1/jobs/j/events", **{"Last-Event-ID": seen}) as again:
        identity, name, change = await again.one()
        assert (name, change["state_to"]) == ("state", "stopped"), "what came before is not told again"
        assert int(identity or 0) > int(seen)
    await api.refused(
        "GET", "/v1/events", None, 422, "invalid_parameter", Accept="text/event-stream", Last_Event_ID="x"
    )


async def test_outputs_and_errors_are_told(api: ApiCase) -> None:
    await api.rows(20)
    await api.engine.start()
    await api.ok("POST", "/v1/jobs", definition(sink={"kind": "file", "path": "out"}), 201)
    async with following(api, "/v1/jobs/j/events") as stream:
        await stream_ready(stream, api)
        await api.ok("POST", "/v1/jobs/j/start", status=202)
        _, _, output = await stream.until("output")
        assert (output["rows"], output["last_id"]) == (20, "20")
        await stream.until("state", state_to="successful")
    broken = definition("broken", source={"datasource": "shop", "table": "public.nowhere"})
    await api.ok("POST", "/v1/jobs", broken, 201)
    async with following(api, "/v1/events") as stream:
        await api.ok("POST", "/v1/jobs/broken/start", status=202)
        await stream.until("error", state_to="error", job_name="broken")
    ended = await api.ok("GET", "/v1/jobs/broken")
    assert ended["errors"][0]["code"]


async def stream_ready(stream: Stream, api: ApiCase) -> None:
    """The stream has looked at the job once: outputs from now on are new to it. A change before its first look is no
    progress to it, so there is another one until it tells of one."""
    told = asyncio.create_task(stream.until("progress"))
    change = 0
    while not told.done():
        change += 1
        await api.ok("PATCH", "/v1/jobs/j", {"labels": {"change": str(change)}})
        await asyncio.wait({told}, timeout=1)
    await told


async def test_the_log_is_followed_from_now_or_from_a_line(api: ApiCase) -> None:
    job = await api.ok("POST", "/v1/jobs", definition(), 201)

    async def write(*names: str) -> None:
        line = {"level": "info", "account": "default", "job_id": job["id"], "fields": {"n": 1}}
        await api.store.write([{**line, "event": name, "message": name} for name in names])

    await write("before")
    async with following(api, "/v1/jobs/j/log?follow=1") as stream:
        await write("first", "second")
        seen, name, line = await stream.one()
        assert (name, line["event"], line["fields"]) == ("log", "first", {"n": 1})
        assert (await stream.one())[2]["event"] == "second"
    async with following(api, "/v1/log?follow=1&level=info", **{"Last-Event-ID": str(seen)}) as again:
        assert (await again.one())[2]["event"] == "second"
    page = await api.ok("GET", "/v1/jobs/j/log?limit=2")
    assert [line["event"] for line in page["lines"]] == ["before", "first"]
    rest = await api.ok("GET", page["next"])
    assert ([line["event"] for line in rest["lines"]], rest["next"]) == (["second"], None)


async def test_a_stream_ends_when_the_service_does(api: ApiCase) -> None:
    async with following(api, "/v1/events") as stream:
        await api.client.server.app.shutdown()  # type: ignore[attr-defined]
        with pytest.raises(EOFError):
            await stream.one()
        ready = await api.call("GET", "/readyz", token=None)
        assert (ready.status, ready.body["ready"]) == (503, False)


async def test_a_stream_ends_soon_after_its_token_was_taken_back(api: ApiCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ADMITTED_SECONDS", 0.1)
    made = await api.ok("POST", "/v1/tokens", {"name": "guest", "role": "viewer"}, status=201)
    async with following(api, "/v1/events", Authorization=f"Bearer {made['token']}") as stream:
        await api.ok("POST", "/v1/jobs", definition(), status=201)
        assert (await stream.one())[1] == "state"
        await api.ok("DELETE", "/v1/tokens/guest", status=204)
        with pytest.raises(EOFError):
            await stream.until("never")
