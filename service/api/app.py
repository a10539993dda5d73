"""The web application: every route of the table behind the same gate.

Outermost to innermost: request id and log context -> errors as problems -> who asks (401) -> how often (429) -> may
they (403) -> query (422) -> idempotency -> body (400, 413, 415) -> the use case.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web
from prometheus_client import REGISTRY, CollectorRegistry

from config.redaction import register
from service import secret_fields
from service.api import health, openapi
from service.api.auth import Authenticator, digest
from service.api.dialects import devo, siren
from service.api.dialects.devo import Devo
from service.api.dialects.siren import Siren
from service.api.frame import DIALECT_OF, SPOKEN, outermost
from service.api.gate import Gate
from service.api.jwts import Jwts
from service.api.models import CredentialDefinition, DatasourceDefinition, JobDefinition, TableDefinition
from service.api.native import checkpoints, dead_letters, history, jobs, named, published, verbs, verifications
from service.api.rate_limit import RateLimit
from service.api.rendered import Rendered
from service.api.services import SERVICES, Services
from service.api.validation import validate
from service.lifecycle import Checkpoints, Credentials, Datasources, Jobs, Keys, Tables, Tokens, Verbs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from config.references import References
    from config.settings import Settings
    from service.api.dialects.base import Dialect
    from service.api.routes import Route
    from service.domain.inspection import Inspector
    from service.domain.named import Registry
    from service.domain.ports import JobStore
    from service.domain.schedules import ScheduleStore

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

_CLOSED: web.AppKey[asyncio.Event] = web.AppKey("rowferry_closed", asyncio.Event)


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
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[outermost])
    app[_CLOSED] = asyncio.Event()
    app[SERVICES] = _services(
        settings=settings,
        store=store,
        registry=registry,
        schedules=schedules,
        inspector=inspector,
        wake=wake,
        references=references,
        version=version,
        checks=checks or {},
        metrics=metrics,
        closing=closing if closing is not None else app[_CLOSED].is_set,
    )
    register(*settings.secrets())
    health.install(app)
    openapi.install(app, TABLE, version)
    authenticator = Authenticator(registry, settings.admin_token, Jwts.of(settings))
    gate = Gate(app[SERVICES], authenticator, RateLimit(settings.rate_limit))
    app[DIALECT_OF] = {}
    _add_native(app, gate)
    _add_dialects(app, gate, [Devo(settings, registry, authenticator), Siren(authenticator)])
    app.on_shutdown.append(_close)
    return app


def _services(
    *,
    settings: Settings,
    store: JobStore,
    registry: Registry,
    schedules: ScheduleStore,
    inspector: Inspector,
    wake: Callable[[str], Awaitable[None]],
    references: References,
    version: str,
    checks: Mapping[str, Callable[[], Awaitable[None]]],
    metrics: CollectorRegistry,
    closing: Callable[[], bool],
) -> Services:
    secret_names = frozenset(secret_fields.names_in(JobDefinition))
    return Services(
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
        rendered=Rendered(),
        checks={"database": store.ping, **checks},
        metrics=metrics,
        closing=closing,
    )


def _add_native(app: web.Application, gate: Gate) -> None:
    def add(method: str, pattern: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        app[DIALECT_OF][app.router.add_route(method, pattern, handler)] = None

    for route in TABLE:
        handler = gate.behind(route)
        add(route.method, route.pattern, handler)
        if route.method == hdrs.METH_GET and not route.stream:
            add(hdrs.METH_HEAD, route.pattern, handler)


def _add_dialects(app: web.Application, gate: Gate, dialects: Sequence[Dialect]) -> None:
    app[SPOKEN] = dialects
    for dialect in dialects:
        dialect.add_routes(app)
        for route in dialect.routes:
            added = app.router.add_route(route.method, route.pattern, gate.behind_dialect(route, dialect))
            app[DIALECT_OF][added] = dialect


async def _close(app: web.Application) -> None:
    app[_CLOSED].set()
