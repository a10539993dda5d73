"""`POST /query` without a destination: the rows, as they are read.

A page is read when the one before is with the caller, so memory is that of a page, and a slow caller slows the reading
down. When the caller leaves, what the source is doing for it is cancelled. An error before the first row has its own
status; one after it is told in the body. The modes of devo_documents are sent when they are whole.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from config.logs import get_logger
from config.names import LogEvent
from config.redaction import REDACTOR
from service.api.dialects import devo_answers as answers
from service.api.dialects import devo_documents, devo_launch, devo_modes, devo_tables, devo_values
from service.api.frame import headers
from service.domain.errors import RowferryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from service.api.dialects.devo_documents import Document
    from service.api.dialects.devo_modes import Mode
    from service.api.dialects.devo_request import QueryRequest
    from service.api.dialects.devo_values import OutputColumn
    from service.api.routes import Call
    from service.domain.inspection import RowsPage

FILLER_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.25
"""A caller who leaves is noticed after this long."""
_SLICE: Final = 500
"""Rows that are turned into text at once: the event loop is not held for longer."""
_BLOCK: Final = 256 * 1024
_SHUTTING_DOWN: Final = "the service is shutting down; ask again"

_log = get_logger("rowferry.api")


class _Gone(Exception):
    """The caller has left."""


class _Closing(Exception):
    """The service ends."""


async def stream(call: Call, request: QueryRequest) -> web.StreamResponse:
    """Every row that matches, then the end; without an end in time for as long as the caller stays."""
    public = await devo_tables.find(call.services, call.account, request.query.table)
    table = await devo_tables.look(call.services, call.account, public)
    source, columns = devo_launch.rows_source(request, table)
    whole = request.mode in devo_documents.MODES
    if whole and request.continuous:
        raise answers.invalid(
            f"mode.type {request.mode!r} is sent when it is whole: give to, and one that is not ahead"
        )
    values = devo_values.reader(columns, ip_as_string=request.ip_as_string, moment=_moment(request))
    spec: dict[str, Any] = {
        "name": public.name,
        "source": source,
        "mode": "continuous" if request.continuous else "once",
        "sink": {"kind": "donothing"},
        "format": {"kind": "json"},
        "options": devo_launch.safety(request, call.services.settings.dialect_delay_seconds),
    }
    await devo_tables.described(
        call.services, call.account, public.name, source, mode=spec["mode"], options=spec["options"]
    )
    cid = call.request[answers.CID]
    async with aclosing(call.services.inspector.rows(call.account, spec)) as pages:
        if whole:
            return await _Making(call, request, values).all(pages, columns, cid)
        return await _Sending(call, request, values, _mode(request, columns, cid)).all(pages)


class _Reading:
    """The rows of one request, within its limits, for as long as its caller stays."""

    def __init__(self, call: Call, request: QueryRequest, values: Callable[[bytes], list[Any]]) -> None:
        self._call = call
        self._request = request
        self._values = values
        self._skip = request.skip
        self._left = request.limit

    def _wanted(self, page: RowsPage) -> Sequence[bytes]:
        """The rows of a page that the limits let through."""
        rows = page.values[self._skip :]
        self._skip -= min(self._skip, len(page.values))
        if self._left is not None:
            rows = rows[: self._left]
            self._left -= len(rows)
        return rows

    def _slices(self, rows: Sequence[bytes]) -> Iterator[list[list[Any]]]:
        for begin in range(0, len(rows), _SLICE):
            yield [self._values(row) for row in rows[begin : begin + _SLICE]]

    async def _next(self, pages: AsyncGenerator[RowsPage, None]) -> RowsPage | None:
        """The next page; None behind the last. Meanwhile the stream is kept alive, and the caller watched."""
        reading: asyncio.Task[RowsPage] = asyncio.ensure_future(anext(pages))
        try:
            while True:
                await asyncio.wait({reading}, timeout=_LOOK_SECONDS)
                transport = self._call.request.transport
                if transport is None or transport.is_closing():
                    raise _Gone
                if self._call.services.closing():
                    raise _Closing
                if reading.done():
                    break
                await self._fill()
            page = reading.result()
            if not page.values:
                await self._fill()
            return page
        except StopAsyncIteration:
            return None
        finally:
            if not reading.done():
                reading.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration, RowferryError):
                    await reading

    async def _fill(self) -> None:
        """Nothing has come for a while."""


class _Making(_Reading):
    """One answer that is sent when it is whole."""

    async def all(
        self, pages: AsyncGenerator[RowsPage, None], columns: Sequence[OutputColumn], cid: str
    ) -> web.StreamResponse:
        """Make it, then send it. Raises what goes wrong before the first byte."""
        folder = self._call.services.settings.data_dir / "system" / "answers"
        document = await asyncio.to_thread(devo_documents.document, self._request.mode, columns, cid, folder)
        response = web.StreamResponse(headers={**headers(self._call.request), "Content-Type": document.content_type})
        try:
            await self._fill_in(document, pages)
            head, rest = await asyncio.to_thread(document.finish)
            with suppress(ConnectionResetError):
                await response.prepare(self._call.request)
                await response.write(head)
                while block := await asyncio.to_thread(rest.read, _BLOCK):
                    await response.write(block)
                await response.write_eof()
        except _Gone:
            pass
        except _Closing:
            raise answers.away(_SHUTTING_DOWN) from None
        except OSError as error:
            raise answers.away(f"the answer could not be kept on the service's disk: {error.strerror}") from error
        finally:
            await asyncio.to_thread(document.close)
        return response

    async def _fill_in(self, document: Document, pages: AsyncGenerator[RowsPage, None]) -> None:
        while self._left != 0 and (page := await self._next(pages)) is not None:
            for rows in self._slices(self._wanted(page)):
                await asyncio.to_thread(document.rows, rows)


class _Sending(_Reading):
    """One answer that is sent while it is read."""

    def __init__(self, call: Call, request: QueryRequest, values: Callable[[bytes], list[Any]], mode: Mode) -> None:
        super().__init__(call, request, values)
        self._mode = mode
        self._response = web.StreamResponse(
            headers={**headers(call.request), "Content-Type": mode.content_type, "X-Accel-Buffering": "no"}
        )
        self._said = time.monotonic()

    async def all(self, pages: AsyncGenerator[RowsPage, None]) -> web.StreamResponse:
        """Send everything. Raises what goes wrong before the first byte."""
        page = await self._next(pages) if self._left != 0 else None
        await self._response.prepare(self._call.request)
        with suppress(ConnectionResetError, _Gone):
            await self._write(self._mode.begin())
            await self._write(await self._body(page, pages))
            await self._response.write_eof()
        return self._response

    async def _body(self, page: RowsPage | None, pages: AsyncGenerator[RowsPage, None]) -> bytes:
        """The rows; what is to be said behind them."""
        try:
            while page is not None:
                await self._page(page)
                if self._left == 0:
                    break
                page = await self._next(pages)
        except (ConnectionResetError, _Gone):
            raise
        except _Closing:
            return self._mode.error(503, _SHUTTING_DOWN)
        except RowferryError as error:
            return self._mode.error(500, str(REDACTOR.scrub_value(f"{error.code}: {error.whole}")))
        except Exception:  # noqa: BLE001 - the status has gone out; the caller must not take this for the end
            _log.exception(LogEvent.HTTP_FAILED, method="POST", path=self._call.request.path)
            return self._mode.error(500, "the service met an error of its own")
        return self._mode.end()

    async def _page(self, page: RowsPage) -> None:
        rows = self._wanted(page)
        for some in self._slices(rows):
            await self._write(self._mode.rows(some))
        if rows and page.last is not None and (reached := _reached(page.last[0])) is not None:
            await self._write(self._mode.progress(reached))

    async def _fill(self) -> None:
        if self._response.prepared and time.monotonic() - self._said > FILLER_SECONDS:
            await self._write(self._mode.filler())

    async def _write(self, data: bytes) -> None:
        if data:
            await self._response.write(data)
            self._said = time.monotonic()


def _mode(request: QueryRequest, columns: Sequence[OutputColumn], cid: str) -> Mode:
    match request.mode:
        case "json":
            return devo_modes.Json(columns, cid)
        case "json/compact":
            return devo_modes.JsonCompact(columns, cid)
        case "json/simple":
            return devo_modes.JsonSimple(columns)
        case "json/simple/compact":
            return devo_modes.JsonSimpleCompact(columns, progress=request.progress)
        case "csv" | "tsv":
            return devo_modes.Separated(columns, "," if request.mode == "csv" else "\t", request.keep_alive)
    raise AssertionError(request.mode)


def _moment(request: QueryRequest) -> Callable[[datetime], Any]:
    if request.mode.startswith("json") or request.mode == "msgpack":
        return devo_values.epoch_ms
    try:
        return devo_values.date_writer(request.date_format, request.zone)
    except devo_values.DateFormatError as error:
        raise answers.invalid(str(error)) from error


def _reached(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return devo_values.epoch_ms(moment.astimezone())
