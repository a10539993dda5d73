"""Server-sent events: one long answer that follows a table by its `seq`.

A comment every 15 seconds keeps proxies from cutting the line and finds out that the caller has left. A stream ends
when the service shuts down; the caller comes back with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from service.api.frame import headers
from service.api.metrics import STREAMS
from service.api.problems import invalid_parameter
from service.api.services import STILL_ADMITTED
from service.domain.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from service.api.routes import Call

CONTENT_TYPE: Final = "text/event-stream"
_COMMENT_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 1.0
ADMITTED_SECONDS = 15.0
"""How long a stream may outlive its token."""


def wanted(request: web.Request) -> bool:
    """Whether the caller asks for a stream."""
    return any(
        part.split(";")[0].strip().lower() == CONTENT_TYPE
        for value in request.headers.getall("Accept", [])
        for part in value.split(",")
    )


def last_event_id(request: web.Request) -> int | None:
    """Where to resume. Raises Problem 422 for what is no id of ours."""
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid_parameter("Last-Event-ID", f"Last-Event-ID {text[:40]!a} is no id of an event", "leave it out")
    return int(text)


def message(event: str, data: str, seq: int | None = None) -> str:
    """One event as the wire has it. `data` is one line of JSON."""
    return (f"id: {seq}\n" if seq is not None else "") + f"event: {event}\ndata: {data}\n\n"


async def follow(call: Call, look: Callable[[], Awaitable[Sequence[str]]]) -> web.StreamResponse:
    """Send what `look` finds, again and again: as soon as a job changes, and every second. Ends when the caller
    leaves, its token opens it no more or the service shuts down; while the control database is away it waits."""
    response = web.StreamResponse(
        headers={**headers(call.request), "Content-Type": CONTENT_TYPE, "X-Accel-Buffering": "no"}
    )
    services = call.services
    STREAMS.inc()
    try:
        await response.prepare(call.request)
        said = admitted = time.monotonic()
        # The caller left: nothing to say to anybody.
        with suppress(ConnectionResetError):
            while not services.closing():
                if time.monotonic() - admitted > ADMITTED_SECONDS:
                    if not await call.request[STILL_ADMITTED](call.caller, call.request):
                        break
                    admitted = time.monotonic()
                parts = await _looked(look)
                if parts:
                    await response.write("".join(parts).encode())
                    said = time.monotonic()
                elif time.monotonic() - said > _COMMENT_SECONDS:
                    await response.write(b": still here\n\n")
                    said = time.monotonic()
                if not parts:
                    await _pause(call)
            await response.write_eof()
    finally:
        STREAMS.dec()
    return response


async def _looked(look: Callable[[], Awaitable[Sequence[str]]]) -> Sequence[str]:
    try:
        return await look()
    except Transient:
        await asyncio.sleep(_LOOK_SECONDS)
        return ()


async def _pause(call: Call) -> None:
    await call.services.store.wait_changed(_LOOK_SECONDS)
    # A busy job changes many times a second: at most five looks in one.
    await asyncio.sleep(0.2)
