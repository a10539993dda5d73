"""The Devo dialect: the Query API's job requests, for clients that were written for Devo.

A client is pointed here by changing its address and keys, nothing else. Every path answers with and without `/search`
in front: clients send it, Devo's pages leave it out. docs/devo-dialect.md says what is taken and answered.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aiohttp import web

from service.api.dialects import devo_answers as answers
from service.api.dialects import devo_jobs, devo_launch, devo_request, devo_rows, devo_tables, devo_values
from service.api.dialects.devo_auth import DevoAuthenticator
from service.api.names import drawn
from service.api.routes import Role, Route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from config.settings import Settings
    from service.api.auth import Authenticator, Caller
    from service.api.routes import Call, Handler
    from service.domain.named import Registry

PREFIX: Final = "/search"
_OWN: Final = re.compile(r"/(query|jobs(/[^/]*)?|job/[^/]*(/[^/]*)?|table/[^/]*|system/ping)")


async def query(call: Call) -> web.StreamResponse:
    """A job where there is a destination, else the rows."""
    request = devo_request.read(call.body, datetime.now(UTC))
    if request.destination is None:
        return await devo_rows.stream(call, request)
    return await devo_launch.launch(call, request)


async def table(call: Call) -> web.StreamResponse:
    """The columns of a table."""
    public = await devo_tables.find(call.services, call.account, call.part("name"))
    found = await devo_tables.look(call.services, call.account, public)
    shown = [{"fieldName": one.name, "type": devo_values.devo_type(one.type)} for one in found.columns]
    return answers.answer(call.request, shown, msg="")


async def ping(call: Call) -> web.StreamResponse:
    """Any 200 will do."""
    return answers.answer(call.request, "pong", msg="")


def _both(method: str, path: str, role: Role, handler: Handler, summary: str) -> list[Route]:
    return [Route(method, f"{prefix}{path}", role, handler, summary) for prefix in (PREFIX, "")]


ROUTES: Final = (
    *_both("POST", "/query", Role.OPERATOR, query, "Launch a query: as a job, or for its rows"),
    Route("POST", "/", Role.OPERATOR, query, "Launch a query, for addresses that end in a slash"),
    *_both("GET", "/jobs", Role.VIEWER, devo_jobs.listed, "Every job"),
    *_both("GET", "/jobs/{type}", Role.VIEWER, devo_jobs.listed, "Every job of a destination's type"),
    *_both("GET", "/job/{id}", Role.VIEWER, devo_jobs.one, "One job"),
    *_both("GET", "/job/stop/{id}", Role.OPERATOR, devo_jobs.stop, "Stop a job"),
    *_both("GET", "/job/start/{id}", Role.OPERATOR, devo_jobs.start, "Go on with a job"),
    *_both("GET", "/job/remove/{id}", Role.OPERATOR, devo_jobs.remove, "Remove a job"),
    *_both("GET", "/table/{name}", Role.VIEWER, table, "The columns of a table"),
    *_both("GET", "/system/ping", Role.PUBLIC, ping, "Whether the service is there"),
)


async def _preflight(_request: web.Request) -> web.StreamResponse:
    """Which requests a page of an allowed origin may send; `headers` says whether its origin is one."""
    allowed = "authorization, content-type, x-logtrust-apikey, x-logtrust-sign, x-logtrust-timestamp"
    headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": allowed}
    return web.Response(status=204, headers={**headers, "Access-Control-Max-Age": "600"})


class Devo:
    """Implements `service.api.dialects.base.Dialect`."""

    routes: Sequence[Route] = ROUTES

    def __init__(self, settings: Settings, registry: Registry, tokens: Authenticator) -> None:
        """`tokens` knows bearer tokens and jwts."""
        self._authenticator = DevoAuthenticator(
            registry,
            tokens,
            skew_seconds=settings.devo_clock_skew_seconds,
            signed_over_http=settings.devo_signed_over_http,
        )
        self._origins = settings.devo_cors_origins

    def add_routes(self, app: web.Application) -> None:
        """See the protocol: what browsers ask before a request of another origin."""
        if self._origins:
            for path in dict.fromkeys(route.pattern for route in ROUTES):
                app.router.add_route("OPTIONS", path, _preflight)

    def headers(self, request: web.Request) -> Mapping[str, str]:
        """See the protocol. No cookie opens anything here, so that a page may send them changes nothing."""
        origin = request.headers.get("Origin")
        if origin is None or not ("*" in self._origins or origin in self._origins):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", "Vary": "Origin"}

    def owns(self, method: str, path: str) -> bool:
        """See the protocol."""
        if path == "/":
            return method == "POST"
        return path == PREFIX or path.startswith(f"{PREFIX}/") or _OWN.fullmatch(path) is not None

    def begin(self, request: web.Request) -> str:
        """See the protocol."""
        cid = request[answers.CID] = drawn(6)
        return cid

    async def caller(self, request: web.Request, body: bytes) -> Caller:
        """See the protocol."""
        return await self._authenticator.caller(request, body)

    def failure(self, error: BaseException, request: web.Request) -> web.Response | None:
        """See the protocol."""
        failure = answers.of(error)
        return None if failure is None else answers.failed(failure, request)

    def unexpected(self, request: web.Request) -> web.Response:
        """See the protocol."""
        return answers.failed(answers.unexpected(), request)
