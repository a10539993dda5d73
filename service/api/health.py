"""/healthz, /readyz, /metrics, /v1/info, /openapi.json."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, get_args

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from config.redaction import REDACTOR
from service.api.answers.health import CheckAnswer, HealthAnswer, InfoAnswer, ReadyAnswer
from service.api.routes import Role, Route, answer
from service.domain.spec import Mode
from sinks.format_spec import FormatSpec
from sinks.specs import AnySinkSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.api.routes import Call

CHECK_SECONDS: Final = 3.0


class Readiness:
    """Asks every dependency, and remembers since when one is away."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    async def look(self, name: str, check: Callable[[], Awaitable[None]], *, told: bool) -> CheckAnswer:
        """One dependency; what is wrong only where the caller may be told."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await check()
        except Exception as error:  # noqa: BLE001 - whatever it raises, it is not ready
            since = self._since.setdefault(name, datetime.now(UTC))
            text = str(error) or type(error).__name__
            if not told:
                return CheckAnswer(ok=False)
            return CheckAnswer(ok=False, error=REDACTOR.scrub(text), since=since)
        self._since.pop(name, None)
        return CheckAnswer(ok=True)


_READINESS: web.AppKey[Readiness] = web.AppKey("rowferry_readiness")


def install(app: web.Application) -> None:
    """What these routes remember."""
    app[_READINESS] = Readiness()


async def healthz(_call: Call) -> web.StreamResponse:
    """The process serves."""
    return answer(HealthAnswer(status="ok"))


async def readyz(call: Call) -> web.StreamResponse:
    """200, or 503 naming what is away."""
    readiness = call.request.app[_READINESS]
    told = call.caller.role >= Role.VIEWER
    names = list(call.services.checks)
    found = await asyncio.gather(*(readiness.look(name, call.services.checks[name], told=told) for name in names))
    checks = dict(zip(names, found, strict=True))
    ready = all(one.ok for one in found) and not call.services.closing()
    body = ReadyAnswer(ready=ready, checks=checks).model_dump_json(exclude_none=True)
    headers = {} if ready else {"Retry-After": "1"}
    return web.Response(
        status=200 if ready else 503, body=body.encode(), headers=headers, content_type="application/json"
    )


async def metrics(call: Call) -> web.StreamResponse:
    """Prometheus text."""
    body = await asyncio.to_thread(generate_latest, call.services.metrics)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def info(call: Call) -> web.StreamResponse:
    """What this service is and has."""
    return answer(
        InfoAnswer(
            version=call.services.version,
            engine=call.services.settings.engine,
            sinks=sink_kinds(),
            formats=list(get_args(FormatSpec.model_fields["kind"].annotation)),
            modes=list(get_args(Mode)),
        )
    )


def sink_kinds() -> list[str]:
    """The kinds of the definition's sink, from the models themselves."""
    union = get_args(AnySinkSpec)[0]
    return sorted(get_args(model.model_fields["kind"].annotation)[0] for model in get_args(union))


ROUTES = (
    Route("GET", "/healthz", Role.PUBLIC, healthz, "Whether the process serves", {200: HealthAnswer}),
    Route("GET", "/readyz", Role.PUBLIC, readyz, "Whether the service can work",
          {200: ReadyAnswer, 503: ReadyAnswer}),
    Route("GET", "/metrics", Role.VIEWER, metrics, "Prometheus text", {200: None}),
    Route("GET", "/v1/info", Role.PUBLIC, info, "What this service is and has", {200: InfoAnswer}),
)  # fmt: skip
