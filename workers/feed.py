"""Reads ahead: one page is on its way while the last is written. Bounded by the queue: at most two pages wait."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.domain.errors import RowsRejected
from workers.metrics import PAGE_SECONDS
from workers.sources.base import Horizon, Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from service.domain.control import Control
    from service.domain.spec import JobSpec
    from workers.sources.base import Frontier, Key, Reader, Source


@dataclass(frozen=True, slots=True)
class Idle:
    """Everything up to the horizon was read; the next poll comes by itself."""

    horizon: Horizon


@dataclass(frozen=True, slots=True)
class End:
    """The range is exhausted."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The next row can not be read; the rows after its key can."""

    key: Key
    code: str
    message: str


Item = Page | Idle | End | Unreadable


class Feed:
    """Pages of one split, read ahead by a task of its own."""

    def __init__(self, pages: AsyncIterator[Item]) -> None:
        """Starts reading at once; `close` ends it."""
        self._queue: asyncio.Queue[Item | BaseException] = asyncio.Queue(maxsize=1)
        self._task = asyncio.create_task(self._read(pages), name="read-ahead")
        self._getter: asyncio.Task[Item | BaseException] | None = None

    async def _read(self, pages: AsyncIterator[Item]) -> None:
        try:
            async for item in pages:
                await self._queue.put(item)
        except Exception as error:  # noqa: BLE001 -- raised again where the page is asked for
            await self._queue.put(error)

    async def next(self, control: Control, timeout: float | None) -> Item | None:  # noqa: ASYNC109 -- a chunk's age, not a failure
        """The next item; None when a stop is wanted or the time is over. Raises what the reader raised."""
        if control.stopping:
            return None
        if self._getter is None:
            self._getter = asyncio.create_task(self._queue.get())
        if not self._getter.done():
            stop = asyncio.create_task(control.stop_wanted())
            try:
                await asyncio.wait({self._getter, stop}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stop.cancel()
            if control.stopping or not self._getter.done():
                return None
        item = self._getter.result()
        self._getter = None
        if isinstance(item, BaseException):
            raise item
        return item

    async def close(self) -> None:
        """Stop reading; what was read ahead is dropped."""
        for task in (self._task, self._getter):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def bounded(reader: Reader, after: Key | None, upper: Key | None, rows_left: int | None) -> AsyncIterator[Item]:
    """Pages above `after` up to `upper`, at most `rows_left` rows in all."""
    while rows_left is None or rows_left > 0:
        try:
            with PAGE_SECONDS.time():
                page = await reader.read(after, upper, max_rows=rows_left)
        except RowsRejected as error:
            refused = unreadable(error)
            after = refused.key
            rows_left = None if rows_left is None else rows_left - 1
            yield refused
            continue
        if page.scanned_to is not None:
            after = page.scanned_to
        if rows_left is not None:
            rows_left -= len(page.values)
        if page.values or page.scanned_to is not None:
            yield page
        if page.end:
            break
    yield End()


async def following(
    reader: Reader,
    frontier: Frontier,
    after: Key | None,
    *,
    poll_seconds: float,
    over: Callable[[], Awaitable[bool]],
) -> AsyncIterator[Item]:
    """Pages above `after` as far as the frontier allows, then a poll, without end until `over` was true before a
    pass that found nothing more."""
    read_to: Key | None = None
    while True:
        last_pass = await over()
        horizon = await frontier.advance()
        if horizon.bound is not None and horizon.bound != read_to:
            while True:
                try:
                    with PAGE_SECONDS.time():
                        page = await reader.read(after, horizon.bound)
                except RowsRejected as error:
                    refused = unreadable(error)
                    after = refused.key
                    yield refused
                    continue
                after = page.scanned_to or after
                if page.values or page.scanned_to is not None:
                    yield page
                if page.end:
                    break
            read_to = horizon.bound
        if last_pass and not horizon.held_by:
            break
        yield Idle(horizon)
        await asyncio.sleep(poll_seconds)
    yield End()


async def is_over(source: Source, spec: JobSpec) -> bool:
    """Whether nothing more can come that `source.time.to` lets through."""
    span = spec.source.time
    return span is not None and span.to is not None and await source.now() >= span.to


def unreadable(error: RowsRejected) -> Unreadable:
    """The item for what a reader raised. Raises it again where it is not about one row."""
    if error.key is None:
        raise error
    return Unreadable(error.key, error.code, error.whole)
