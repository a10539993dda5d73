"""Bounded waiting for a condition: what tests use instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1


@overload
async def until(condition: Callable[[], Coroutine[Any, Any, T]], timeout: float, describe: str) -> T: ...  # noqa: ASYNC109
@overload
async def until(condition: Callable[[], T], timeout: float, describe: str) -> T: ...  # noqa: ASYNC109
async def until(condition: Callable[[], Any], timeout: float, describe: str) -> Any:  # noqa: ASYNC109
    """
    Poll `condition` (plain or async) until it is true and return its value.

    Raises TimeoutError naming `describe` and the last value after `timeout` seconds; errors of the condition
    itself pass through. An async condition is cancelled at the deadline.
    """
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
    value: Any = None
    while True:
        try:
            answer = condition()
            if inspect.isawaitable(answer):
                async with asyncio.timeout(max(0.001, deadline - time.monotonic())):
                    value = await answer
            else:
                value = answer
        except TimeoutError:
            if time.monotonic() < deadline:
                raise
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {timeout} s: {describe} (last value: {value!r})")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


async def happened(event: asyncio.Event, timeout: float, describe: str) -> None:  # noqa: ASYNC109
    """Wait for `event`; TimeoutError naming `describe` after `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        raise TimeoutError(f"did not happen within {timeout} s: {describe}") from None


def until_blocking(condition: Callable[[], T], timeout: float, describe: str) -> T:
    """As `until`, for code without an event loop."""
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {timeout} s: {describe} (last value: {value!r})")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
