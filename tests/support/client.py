"""A small client of /v1 for tests, demo and bench. It knows paths and fields of the API page, nothing else."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from tests.support.secrecy import assert_silent, remember

if TYPE_CHECKING:
    from collections.abc import Mapping

#: States in which a run has ended.
FINAL = frozenset({"successful", "stopped", "aborted", "error"})
_LONGEST_WAIT = 60
_POLL_SECONDS = 0.05

Json = dict[str, Any]


class ApiError(AssertionError):
    """An answer with another status than the call expected."""

    def __init__(self, method: str, path: str, status: int, body: Any) -> None:
        super().__init__(f"{method} {path} answered {status}: {body}")
        self.status = status
        self.body = body

    @property
    def code(self) -> str | None:
        """The problem's `code`."""
        return self.body.get("code") if isinstance(self.body, dict) else None


@dataclass(frozen=True)
class Answer:
    """One answer; `body` is parsed when it is JSON, else text."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(repr=False)


class Client:
    """Calls with a bearer token. Methods return the parsed body and raise ApiError for an unexpected status."""

    def __init__(
        self, url: str, token: str | None, *, account: str | None = None, timeout_seconds: float = 90.0
    ) -> None:
        self.url = url
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if account is not None:
            headers["X-Rowferry-Account"] = account
        self._headers = headers
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        # No kept connections: the service is killed and restarted under us.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call, whatever its status."""
        if self._session is None:
            raise RuntimeError("use the client as an async context manager")
        remember(json)
        async with self._session.request(
            method, self.url + path, json=json, data=data, params=params, headers=headers, allow_redirects=False
        ) as answer:
            is_json = "json" in answer.headers.get("Content-Type", "")
            body = await answer.json(content_type=None) if is_json else await answer.text()
            assert_silent(f"{body} {dict(answer.headers)}", f"the answer to {method} {path}")
            if method == "POST" and path == "/v1/tokens":
                remember(body)  # shown once, and never again
            return Answer(answer.status, body, answer.headers)

    async def call(self, method: str, path: str, *expected: int, **arguments: Any) -> Any:
        """One call that must answer one of `expected` (any 2xx when none is given); its body."""
        answer = await self.request(method, path, **arguments)
        fits = answer.status in expected if expected else 200 <= answer.status < 300
        if not fits:
            raise ApiError(method, path, answer.status, answer.body)
        return answer.body

    async def put_datasource(self, name: str, url: str) -> Json:
        """Make or change a datasource by its URL."""
        return await self._object("PUT", f"/v1/datasources/{name}", json={"name": name, "url": url})

    async def create(self, spec: Json, *, start: bool = False) -> Json:
        """Make a job, and start it with `start`."""
        params = {"start": "true"} if start else None
        return await self._object("POST", "/v1/jobs", 201, json=spec, params=params)

    async def get(self, job: str) -> Json:
        """The job as it is now."""
        return await self._object("GET", f"/v1/jobs/{job}", 200)

    async def start(self, job: str, *, beginning: bool = False, wait: int | None = None) -> Json:
        """Start; with `wait` (at most 60 s) the answer comes when the run has ended, or the wait has."""
        params = {"from": "beginning"} if beginning else {}
        return await self._verb(job, "start", params, wait)

    async def stop(self, job: str, *, wait: int | None = None) -> Json:
        """Stop; see `start` for `wait`."""
        return await self._verb(job, "stop", {}, wait)

    async def abort(self, job: str, *, wait: int | None = None) -> Json:
        """Abort; see `start` for `wait`."""
        return await self._verb(job, "abort", {}, wait)

    async def remove(self, job: str, *, force: bool = False) -> None:
        """Remove the job."""
        await self.call("DELETE", f"/v1/jobs/{job}", params={"force": "true"} if force else None)

    async def checkpoint(self, job: str) -> Json:
        """The stored position."""
        return await self._object("GET", f"/v1/jobs/{job}/checkpoint", 200)

    async def put_checkpoint(self, job: str, body: Json) -> Json:
        """Set the position."""
        return await self._object("PUT", f"/v1/jobs/{job}/checkpoint", json=body)

    async def validate(self, spec: Json) -> Json:
        """Findings about a definition."""
        return await self._object("POST", "/v1/jobs:validate", 200, json=spec)

    async def runs(self, job: str) -> list[Json]:
        """All runs of a job, newest first as the service lists them."""
        return await self._pages(f"/v1/jobs/{job}/runs", "runs")

    async def outputs(self, job: str) -> list[Json]:
        """All outputs of a job."""
        return await self._pages(f"/v1/jobs/{job}/outputs", "outputs")

    async def dead_letters(self, job: str) -> list[Json]:
        """All dead letters of a job."""
        return await self._pages(f"/v1/jobs/{job}/dead-letters", "dead_letters")

    async def log(self, job: str) -> list[Json]:
        """All log lines of a job."""
        return await self._pages(f"/v1/jobs/{job}/log", "lines")

    async def events(self, job: str) -> list[Json]:
        """All events of a job."""
        return await self._pages(f"/v1/jobs/{job}/events", "events")

    async def wait_for_state(
        self,
        job: str,
        *states: str,
        timeout: float = 60.0,  # noqa: ASYNC109
        ride_out_restarts: bool = False,
    ) -> Json:
        """
        Poll until the job is in one of `states`, and return it.

        AssertionError as soon as it has ended in another state than asked for, with its cause chain, and after
        `timeout` seconds. With `ride_out_restarts` a service that is away is waited for.
        """
        wanted, deadline, body = set(states), time.monotonic() + timeout, None
        while time.monotonic() < deadline:
            try:
                body = await self.get(job)
            except (aiohttp.ClientError, TimeoutError):
                if not ride_out_restarts:
                    raise
            else:
                if body["state"] in wanted:
                    return body
                if body["state"] == "error":
                    raise AssertionError(f"{job} ended in error instead of {states}: {body['errors']}")
                if body["state"] in FINAL and body["desired"] is None:
                    raise AssertionError(f"{job} ended as {body['state']} instead of {states}")
            await asyncio.sleep(_POLL_SECONDS)
        raise AssertionError(f"{job} is not in {states} after {timeout} s: {body}")

    async def wait_for_rows(self, job: str, rows: int, *, timeout: float = 60.0) -> Json:  # noqa: ASYNC109
        """Poll until the job's totals show at least `rows` sent; AssertionError when it ends before, or late."""
        deadline, body = time.monotonic() + timeout, None
        while time.monotonic() < deadline:
            body = await self.get(job)
            if body["totals"]["rows_sent"] >= rows:
                return body
            if body["state"] in FINAL:
                break
            await asyncio.sleep(_POLL_SECONDS)
        raise AssertionError(f"{job} did not send {rows} rows within {timeout} s: {body}")

    async def _verb(self, job: str, verb: str, params: dict[str, str], wait: int | None) -> Json:
        if wait is not None:
            params = {**params, "wait": str(min(wait, _LONGEST_WAIT))}
        return await self._object("POST", f"/v1/jobs/{job}/{verb}", 200, 202, params=params)

    async def _object(self, method: str, path: str, *expected: int, **arguments: Any) -> Json:
        body = await self.call(method, path, *expected, **arguments)
        if not isinstance(body, dict):
            raise ApiError(method, path, 0, f"not an object: {body!r}")
        return body

    async def _pages(self, path: str, name: str) -> list[Json]:
        found: list[Json] = []
        following: str | None = path
        while following:
            body = await self._object("GET", following, 200)
            found += body[name]
            following = body.get("next")
        return found
