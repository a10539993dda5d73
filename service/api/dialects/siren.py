"""The Siren dialect: the connector's jobs, datasources and ingestions, for clients that were written for Siren.

Such a client is an Elasticsearch client; it is pointed here by changing its address and credentials, nothing else. A
second slash in front, as addresses that end in one make it, is the same path. docs/siren-dialect.md says what is taken
and answered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from service.api.dialects import siren_answers as answers
from service.api.dialects import siren_datasources, siren_ingestions, siren_jobs
from service.api.dialects.siren_auth import SirenAuthenticator
from service.api.names import drawn
from service.api.routes import Role, Route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from service.api.auth import Authenticator, Caller
    from service.api.routes import Handler

PREFIX: Final = "/_siren/connector"
_OWN: Final = re.compile(r"//?_siren(/.*)?", re.DOTALL)
_OPAQUE_ID: Final = re.compile(r"[ -~]{1,64}")
_ECHOED: Final = "X-Opaque-Id"


def _both(method: str, path: str, role: Role, handler: Handler, summary: str) -> list[Route]:
    return [Route(method, f"{slash}{PREFIX}{path}", role, handler, summary) for slash in ("", "/")]


def _search(path: str, handler: Handler, summary: str) -> list[Route]:
    """As Elasticsearch's clients search: by GET, by POST, and by HEAD to see whether they may."""
    return [
        route
        for method in ("GET", "POST", "HEAD")
        for route in _both(method, f"{path}/_search", Role.VIEWER, handler, summary)
    ]


ROUTES: Final = (
    *_search("/jobs", siren_jobs.search, "The log of ended runs"),
    *_both("GET", "/jobs/{type}", Role.VIEWER, siren_jobs.running, "Every running job of a type"),
    *_both("GET", "/jobs/{type}/{id}", Role.VIEWER, siren_jobs.one, "The status of a job"),
    *_both("POST", "/jobs/{type}/{id}/_abort", Role.OPERATOR, siren_jobs.abort, "Abort the running run"),
    *_search("/ingestion", siren_ingestions.search, "Every configuration"),
    *_both("GET", "/ingestion/{id}", Role.VIEWER, siren_ingestions.get, "A configuration"),
    *_both("PUT", "/ingestion/{id}", Role.ADMIN, siren_ingestions.put, "Make a configuration, or another one of it"),
    *_both("DELETE", "/ingestion/{id}", Role.ADMIN, siren_ingestions.delete, "Remove a configuration"),
    *_both("POST", "/ingestion/{id}/_run", Role.OPERATOR, siren_ingestions.run, "Start a run now"),
    *_both("POST", "/ingestion/{id}/_validate", Role.ADMIN, siren_ingestions.check, "Check a configuration"),
    *_search("/datasource", siren_datasources.search, "Every datasource"),
    *_both("GET", "/datasource/{id}", Role.VIEWER, siren_datasources.get, "One datasource"),
    *_both("PUT", "/datasource/{id}", Role.ADMIN, siren_datasources.put, "Create or replace a datasource"),
    *_both("DELETE", "/datasource/{id}", Role.ADMIN, siren_datasources.delete, "Remove a datasource"),
    *_both("POST", "/datasource/{id}/_validate", Role.ADMIN, siren_datasources.validate, "Connect and look"),
    *_both("POST", "/datasource/{id}/_metadata", Role.OPERATOR, siren_datasources.metadata, "Its schemas and tables"),
    *_both("POST", "/datasource/{id}/_sample", Role.ADMIN, siren_datasources.sample, "The first rows of a query"),
)


class Siren:
    """Implements `service.api.dialects.base.Dialect`."""

    routes: Sequence[Route] = ROUTES

    def __init__(self, tokens: Authenticator) -> None:
        """`tokens` knows bearer tokens and jwts."""
        self._authenticator = SirenAuthenticator(tokens)

    def add_routes(self, app: web.Application) -> None:
        """See the protocol: there are none."""

    def headers(self, request: web.Request) -> Mapping[str, str]:
        """See the protocol. Elasticsearch's own clients refuse answers without the product's name."""
        given = request.headers.get(_ECHOED, "")
        echoed = {_ECHOED: given} if _OPAQUE_ID.fullmatch(given) else {}
        return {"X-Elastic-Product": "Elasticsearch", **echoed}

    def owns(self, method: str, path: str) -> bool:  # noqa: ARG002  of the protocol
        """See the protocol."""
        return _OWN.fullmatch(path) is not None

    def begin(self, request: web.Request) -> str:
        """See the protocol: clients name their requests in `X-Opaque-Id`."""
        given = request.headers.get(_ECHOED, "")
        return given if _OPAQUE_ID.fullmatch(given) else drawn(6)

    async def caller(self, request: web.Request, body: bytes) -> Caller:  # noqa: ARG002  nothing is signed
        """See the protocol."""
        return await self._authenticator.caller(request)

    def failure(self, error: BaseException, request: web.Request) -> web.Response | None:
        """See the protocol."""
        failure = answers.of(error, request)
        return None if failure is None else answers.failed(failure, request)

    def unexpected(self, request: web.Request) -> web.Response:
        """See the protocol."""
        return answers.failed(answers.unexpected(), request)
