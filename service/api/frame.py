"""What stands around every request: its name, what its log lines say, errors as answers, its count."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Final

from aiohttp import web

from config.logs import carry, get_logger, is_heard, put_down
from config.names import LogEvent
from service.api import problems
from service.api.metrics import answered
from service.api.names import drawn
from service.api.services import CALLER, REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from service.api.dialects.base import Dialect

SPOKEN: web.AppKey[Sequence[Dialect]] = web.AppKey("rowferry_dialects")
DIALECT_OF: web.AppKey[dict[web.AbstractRoute, Dialect | None]] = web.AppKey("rowferry_dialect_of")
"""The language of every route, None for our own; where there is no route the dialects are asked."""
CONTEXT: web.RequestKey[dict[str, str]] = web.RequestKey("rowferry_log_context", dict)
"""What every log line of the request says."""
_DIALECT: web.RequestKey[Dialect | None] = web.RequestKey("rowferry_dialect")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OF_EVERY_ANSWER: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_LOGGER: Final = "rowferry.api"
_log = get_logger(_LOGGER)


def _speaking(request: web.Request) -> Dialect | None:
    """The dialect that the request is in."""
    of_route = request.app[DIALECT_OF]
    route = request.match_info.route
    if route in of_route:
        return of_route[route]
    return next((one for one in request.app[SPOKEN] if one.owns(request.method, request.path)), None)


@web.middleware
async def outermost(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Name the request, answer it whatever happens, count it and say it."""
    began = time.perf_counter()
    given = request.headers.get("X-Request-ID")
    request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else drawn(16)
    request[REQUEST_ID] = request_id
    dialect = request[_DIALECT] = _speaking(request)
    context = request[CONTEXT] = {"request_id": request_id}
    if dialect is not None:
        context["cid"] = dialect.begin(request)
    carried = carry(context)
    try:
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
            response = _told(error, request, dialect)
        if not response.prepared:
            response.headers.update(headers(request))
        _say(request, response, time.perf_counter() - began)
    finally:
        put_down(carried)
    return response


def _told(error: Exception, request: web.Request, dialect: Dialect | None = None) -> web.StreamResponse:
    """Errors become problems, or what a dialect calls them; a bug of ours becomes a 500 that says nothing, and a log
    line that says all."""
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


async def safely(request: web.Request, act: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """What `act` answers, errors included: an answer that is kept for a repeat."""
    try:
        return await act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
        return _told(error, request)


def _say(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    answered(request.method, route, response.status, seconds if isinstance(response, web.Response) else None)
    quiet = response.status < 400 and request.method in {"GET", "HEAD"}
    level = logging.DEBUG if quiet else logging.INFO
    if not is_heard(_LOGGER, level):
        return
    caller = request.get(CALLER)
    _log.log(
        level,
        LogEvent.HTTP_REQUEST,
        method=request.method,
        path=request.path,
        status=response.status,
        seconds=round(seconds, 4),
        remote=request.remote,
        **({"account": caller.account, "who": caller.name} if caller is not None else {}),
    )


def headers(request: web.Request) -> Mapping[str, str]:
    """Of every answer, problems included. A stream, which is on its way before `outermost` sees it, is made with
    them."""
    said = {"X-Request-ID": request[REQUEST_ID], **_OF_EVERY_ANSWER}
    dialect = request[_DIALECT]
    return said if dialect is None else {**said, **dialect.headers(request)}
