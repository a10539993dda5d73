"""Putting things down without waiting for the other side longer than a stop or an abort allows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from config.names import LogEvent

if TYPE_CHECKING:
    from collections.abc import Coroutine

log = structlog.get_logger(__name__)

_closing: set[asyncio.Task[None]] = set()
"""Keeps what is still being closed from being collected."""


async def put_down(what: str, closing: Coroutine[object, object, None], seconds: float) -> None:
    """Run `closing`, waiting at most `seconds`; after that it goes on by itself. Never raises but for cancellation."""
    task = asyncio.create_task(_quietly(what, closing), name=f"close-{what}")
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    await asyncio.wait({task}, timeout=seconds)


async def _quietly(what: str, closing: Coroutine[object, object, None]) -> None:
    try:
        await closing
    except Exception as error:  # noqa: BLE001 -- closing is the end of the way: nobody could act on it
        log.warning(LogEvent.CLOSE_FAILED, what=what, cause=str(error))


async def all_put_down(seconds: float) -> None:
    """At the end of the process: wait for what is still being closed."""
    if _closing:
        await asyncio.wait(set(_closing), timeout=seconds)
