"""The web application: every route of the table behind the same gate.

Outermost to innermost: request id and log context -> errors as problems -> who asks (401) -> how often (429) -> may
they (403) -> query (422) -> idempotency -> body (400, 413, 415) -> the use case.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web
from prometheus_client import REGISTRY, CollectorRegistry

from config.logs import bound_contextvars, get_logger
from config.names import LogEvent
from config.redaction import register
from service import secret_fields
from service.api import bodies, health, idempotency, not_available, openapi, problems, queries
from service.api.auth import Authenticator, Caller, anonymous, check_role, digest, unauthorized
from service.api.dialects import devo, siren
from service.api.dialects.devo import Devo
from service.api.dialects.siren import Siren
from service.api.jwts import Jwts
from service.api.metrics import answered
from service.api.models import CredentialDefinition, DatasourceDefinition, JobDefinition, TableDefinition
from service.api.native import checkpoints, dead_letters, history, jobs, named, published, verbs, verifications
from service.api.problems import Problem
from service.api.rate_limit import RateLimit
from service.api.routes import Call, Role, Route
from service.api.services import CALLER, REQUEST_ID, SERVICES, Services
from service.api.validation import validate
from service.domain.errors import NotFound, RowferryError
from service.lifecycle import Checkpoints, Credentials, Datasources, Jobs, Keys, Tables, Tokens, Verbs
from service.lifecycle.jobs import is_ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from config.references import References
    from config.settings import Settings
    from service.api.dialects.base import Dialect
    from service.domain.ports import Inspector, JobStore, Registry, ScheduleStore

LARGEST_BODY: Final = 1024 * 1024
TABLE: Final[Sequence[Route]] = (
    *jobs.ROUTES,
    *verbs.ROUTES,
    *checkpoints.ROUTES,
    *history.ROUTES,
    *dead_letters.ROUTES,
    *verifications.ROUTES,
    *named.ROUTES,
    *published.ROUTES,
    *health.ROUTES,
    *openapi.ROUTES,
)
"""Every route that exists."""

DIALECTS: Final[Sequence[Route]] = (*devo.ROUTES, *siren.ROUTES)
"""Every route of every dialect."""

_DIALECTS: web.AppKey[Sequence[Dialect]] = web.AppKey("rowferry_dialects")
_CLOSED: web.AppKey[asyncio.Event] = web.AppKey("rowferry_closed", asyncio.Event)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = get_logger("rowferry.api")


def build(
    *,
    settings: Settings,
    store: JobStore,
    registry: Registry,
    schedules: ScheduleStore,
    inspector: Inspector,
    wake: Callable[[str], Awaitable[None]],
    references: References,
    version: str,
    checks: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
    metrics: CollectorRegistry = REGISTRY,
    closing: Callable[[], bool] | None = None,
) -> web.Application:
    """The application, ready for an aiohttp runner. `wake` is the engine's; `checks` are further dependencies of
    /readyz beside the control database, each raising while it is away; `metrics` is what /metrics shows. Once
    `closing` says so streams end and /readyz says no; without it that is from the application's shutdown on."""
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_outermost])
    app[_CLOSED] = asyncio.Event()
    closing = closing if closing is not None else app[_CLOSED].is_set
    secret_names = frozenset(secret_fields.names_in(JobDefinition))
    app[SERVICES] = Services(
        settings=settings,
        version=version,
        store=store,
        registry=registry,
        inspector=inspector,
        jobs=Jobs(store, registry, inspector, jobs.define, secret_names),
        verbs=Verbs(store, schedules, wake, closing),
        checkpoints=Checkpoints(store, inspector),
        datasources=Datasources(registry, inspector, references, lambda data: validate(DatasourceDefinition, data)),
        credentials=Credentials(
            registry,
            lambda data: validate(CredentialDefinition, data),
            secret_names | secret_fields.BESIDE_THEM | secret_fields.OF_SOURCES,
        ),
        tokens=Tokens(registry, digest),
        tables=Tables(registry, inspector, lambda data: validate(TableDefinition, data)),
        keys=Keys(registry),
        checks={"database": store.ping, **(checks or {})},
        metrics=metrics,
        closing=closing,
    )
    register(*settings.secrets())
    health.install(app)
    openapi.install(app, TABLE, version)
    authenticator = Authenticator(registry, settings.admin_token, Jwts.of(settings))
    gate = Gate(app[SERVICES], authenticator, RateLimit(settings.rate_limit))
    for route in TABLE:
        handler = gate.behind(route)
        app.router.add_route(route.method, route.pattern, handler)
        if route.method == hdrs.METH_GET and not route.stream:
            app.router.add_route(hdrs.METH_HEAD, route.pattern, handler)
    for method, path, role in not_available.ROUTES:
        absent = Route(method, path, Role[role.upper()], _not_available, "Not available")
        app.router.add_route(method, absent.pattern, gate.behind(absent))
    _add_dialects(app, gate, [Devo(settings, registry, authenticator), Siren(authenticator)])
    app.on_response_prepare.append(_headers)
    app.on_shutdown.append(_close)
    return app


def _add_dialects(app: web.Application, gate: Gate, dialects: Sequence[Dialect]) -> None:
    app[_DIALECTS] = dialects
    for dialect in dialects:
        dialect.add_routes(app)
        for route in dialect.routes:
            app.router.add_route(route.method, route.pattern, gate.behind_dialect(route, dialect))


class Gate:
    """What every request passes on its way to a handler."""

    def __init__(self, services: Services, authenticator: Authenticator, limit: RateLimit) -> None:
        self._services = services
        self._authenticator = authenticator
        self._limit = limit

    def behind(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler that aiohttp's router is given."""

        async def handle(request: web.Request) -> web.StreamResponse:
            caller = request[CALLER] = await self._caller(request, route)
            with bound_contextvars(account=caller.account):
                self._limit.take(caller.key)
                check_role(caller, self._role(route))
                if not all(is_ref(part) for part in request.match_info.values()):
                    raise NotFound("object", ascii("/".join(request.match_info.values()))[1:60])
                query = queries.read(route.query, request) if route.handler is not _not_available else None
                if request.method == hdrs.METH_POST and idempotency.HEADER in request.headers:
                    return await idempotency.once(
                        self._services.store,
                        caller.account,
                        request,
                        lambda: _safely(request, lambda: self._call(route, request, caller, query)),
                    )
                return await self._call(route, request, caller, query)

        return handle

    def behind_dialect(self, route: Route, dialect: Dialect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """As `behind`, for a route of a dialect: bodies and answers are its own matter, who may what is not."""

        async def handle(request: web.Request) -> web.StreamResponse:
            # The body as it came: signatures are over its bytes. That of a GET is ignored.
            body = await request.read() if request.method in {hdrs.METH_POST, hdrs.METH_PUT} else b""
            caller = anonymous(request)
            if route.role is not Role.PUBLIC:
                try:
                    caller = await dialect.caller(request, body)
                except Exception:
                    self._limit.take(caller.key)  # guessing is slow
                    raise
            request[CALLER] = caller
            with bound_contextvars(account=caller.account):
                self._limit.take(caller.key)
                check_role(caller, route.role)
                return await route.handler(Call(request, self._services, caller, None, body))

        return handle

    def _role(self, route: Route) -> Role:
        public = route.path == "/metrics" and self._services.settings.metrics_public
        return Role.PUBLIC if public else route.role

    async def _caller(self, request: web.Request, route: Route) -> Caller:
        role = self._role(route)
        try:
            caller = await self._authenticator.caller(request)
        except Problem as problem:
            if role is Role.PUBLIC:
                return anonymous(request)
            if problem.status == 401:
                # Guessing is slow.
                self._limit.take(anonymous(request).key)
            raise
        except RowferryError:
            # Health must be told without the control database.
            if role is not Role.PUBLIC:
                raise
            caller = None
        if caller is None and role is not Role.PUBLIC:
            self._limit.take(anonymous(request).key)
            raise unauthorized("this needs a token")
        return caller or anonymous(request)

    async def _call(self, route: Route, request: web.Request, caller: Caller, query: object) -> web.StreamResponse:
        body = None
        if route.body is not None:
            body = await bodies.read_json(request)
        elif route.handler is not _not_available:
            await bodies.refuse_body(request)
        return await route.handler(Call(request, self._services, caller, query, body))


async def _not_available(_call: Call) -> web.StreamResponse:
    raise not_available.route()


def _speaking(request: web.Request) -> Dialect | None:
    """The dialect that the request is in."""
    return next((one for one in request.app[_DIALECTS] if one.owns(request.method, request.path)), None)


@web.middleware
async def _outermost(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    given = request.headers.get("X-Request-ID", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    request[REQUEST_ID] = request_id
    began = time.perf_counter()
    dialect = _speaking(request)
    named = {"request_id": request_id} | ({} if dialect is None else {"cid": dialect.begin(request)})
    with bound_contextvars(**named):
        response = await _safely(request, lambda: handler(request), dialect)
        seconds = time.perf_counter() - began
        _say(request, response, seconds)
    return response


async def _safely(
    request: web.Request, act: Callable[[], Awaitable[web.StreamResponse]], dialect: Dialect | None = None
) -> web.StreamResponse:
    """Errors become problems, or what a dialect calls them; a bug of ours becomes a 500 that says nothing, and a log
    line that says all."""
    try:
        return await act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
        if dialect is not None:
            told = dialect.failure(error, request)
            if told is None:
                _log.exception(LogEvent.HTTP_FAILED, method=request.method, path=request.path)
            return told or dialect.unexpected(request)
        problem = problems.of(error)
        if problem is None:
            _log.exception(LogEvent.HTTP_FAILED, method=request.method, path=request.path)
            problem = problems.unexpected()
        return problem.response(instance=request.path, request_id=request[REQUEST_ID])


def _say(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    stream = not isinstance(response, web.Response)
    caller = request.get(CALLER)
    answered(request.method, route, response.status, None if stream else seconds)
    quiet = response.status < 400 and request.method in {"GET", "HEAD"}
    _log.log(
        10 if quiet else 20,
        LogEvent.HTTP_REQUEST,
        method=request.method,
        path=request.path,
        status=response.status,
        seconds=round(seconds, 4),
        remote=request.remote,
        **({"account": caller.account, "who": caller.name} if caller is not None else {}),
    )


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    """Of every answer, streams and problems included."""
    response.headers["X-Request-ID"] = request.get(REQUEST_ID, "")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if (dialect := _speaking(request)) is not None:
        response.headers.update(dialect.headers(request))


async def _close(app: web.Application) -> None:
    app[_CLOSED].set()
