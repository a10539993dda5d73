"""What handlers work with, made by `app.build` and carried in the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from service.api.auth import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client import CollectorRegistry

    from config.settings import Settings
    from service.api.rendered import Rendered
    from service.domain.inspection import Inspector
    from service.domain.named import Registry
    from service.domain.ports import JobStore
    from service.lifecycle.checkpoints import Checkpoints
    from service.lifecycle.jobs import Jobs
    from service.lifecycle.named import Credentials, Datasources, Tokens
    from service.lifecycle.published import Keys, Tables
    from service.lifecycle.verbs import Verbs


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases, and the few ports that only read."""

    settings: Settings
    version: str
    store: JobStore
    registry: Registry
    inspector: Inspector
    jobs: Jobs
    verbs: Verbs
    checkpoints: Checkpoints
    datasources: Datasources
    credentials: Credentials
    tokens: Tokens
    tables: Tables
    keys: Keys
    rendered: Rendered
    """Answers about jobs that have not changed since."""
    checks: Mapping[str, Callable[[], Awaitable[None]]]
    """Of /readyz: a dependency's name and what raises while it is away."""
    metrics: CollectorRegistry
    """What /metrics shows."""
    closing: Callable[[], bool]
    """Whether the service is shutting down: streams end then."""


SERVICES: web.AppKey[Services] = web.AppKey("rowferry_services")
CALLER: web.RequestKey[Caller] = web.RequestKey("rowferry_caller", Caller)
STILL_ADMITTED: web.RequestKey[Callable[[Caller, web.Request], Awaitable[bool]]] = web.RequestKey(
    "rowferry_still_admitted"
)
"""Asks whether the caller's token still opens what it opened when the request began: for answers without an end. What
it asks about is given to it: a request that held itself would have to be found by the garbage collector."""
REQUEST_ID: web.RequestKey[str] = web.RequestKey("rowferry_request_id", str)
