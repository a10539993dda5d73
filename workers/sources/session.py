"""A session on a source: one connection when it is needed, one statement at a time, nothing held between two.

Each statement is a transaction of its own, which may see the source as of an earlier moment (`workers.sources.cut`).
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from service.domain.errors import RowferryError, Transient
from sinks.guarded import addresses_of
from workers.sources import failures
from workers.sources.connection import ANSWER_MARGIN_SECONDS, STATEMENT_SECONDS, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from service.domain.datasource import Datasource
    from sinks.guarded import Guard
    from workers.sources.budget import ConnectionBudget, Slot
    from workers.sources.csv_page import Dialect
    from workers.sources.cut import Cut

_CANCEL = "_cancel_current_command"
_TRANSPORT = "_transport"
"""asyncpg has no public way to cancel a statement that is under way, nor to read no more of it."""


class Session:
    """A connection that opens itself when it is needed, counts in the datasource's budget, and serialises its users.

    Every method raises our errors only, but for `asyncpg.QueryCanceledError`, which `in_use` lets through: how a
    statement that takes too long is made shorter is the caller's matter.
    """

    def __init__(
        self,
        datasource: Datasource,
        *,
        application_name: str,
        connections: ConnectionBudget,
        what: str | None = None,
        guard: Guard | None = None,
        waiting: Callable[[bool], None] | None = None,
        seconds: float = STATEMENT_SECONDS,
        long_is_permanent: bool = False,
        row_security: bool = False,
        cut: Cut | None = None,
    ) -> None:
        """`what` is named in errors; left out, the datasource. `seconds` each statement may take. `long_is_permanent`:
        one that takes longer would again. `row_security`: policies leave rows out instead of failing the statement.
        `cut`: every statement sees the source as of then."""
        self.seconds = seconds
        self.long_is_permanent = long_is_permanent
        self._row_security = row_security
        self._cut = cut
        self._datasource = datasource
        self._application_name = application_name
        self._connections = connections
        self._guard = guard
        self._waiting = waiting
        self._lock = asyncio.Lock()
        self._connection: asyncpg.Connection | None = None
        self._slot: Slot | None = None
        self._closed = False
        self.opened = 0
        """How often a connection was opened; who keeps knowledge of a session compares it."""
        self.what = what or f"datasource {datasource.name!r}"
        self.reading = False
        """The catalog was looked at: what is unknown from now on has changed meanwhile."""

    @asynccontextmanager
    async def in_use(self, *, now: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """The connection, for one statement after another by one user at a time. `now`: they see the source as it is,
        whatever the session's cut."""
        async with self._lock:
            self._refuse_closed()
            if self._slot is not None:
                self._slot.busy()
            connection = self._connection
            if connection is None or connection.is_closed():
                await self._discard()
                connection = await self._open()
            try:
                if self._cut is None or now:
                    yield connection
                else:
                    async with self._cut.entered(connection, self.what):
                        yield connection
            except asyncpg.QueryCanceledError:
                raise
            except (RowferryError, asyncio.CancelledError):
                raise
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                if failures.is_connection_loss(error) or isinstance(error, TimeoutError):
                    await self._discard()
                raise failures.of_statement(error, self.what, reading=self.reading) from error
            finally:
                if self._slot is not None:
                    self._slot.idle(self._give_back)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows of a short statement. One over its time is Transient `source_timeout`, or Permanent
        `statement_too_long` where a repeat would take as long."""
        try:
            async with self.in_use() as connection:
                return await connection.fetch(query, *arguments)
        except asyncpg.QueryCanceledError as error:
            if self.long_is_permanent:
                raise failures.too_long(self.what, self.seconds) from error
            raise failures.of_statement(error, self.what) from error

    async def fetchrow(self, query: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        """The first column of the first row, or None."""
        row = await self.fetchrow(query, *arguments)
        return None if row is None else row[0]

    async def fetchval_now(self, query: str, *arguments: Any) -> Any:
        """As `fetchval`, of the source as it is, whatever the session's cut."""
        try:
            async with self.in_use(now=True) as connection:
                return await connection.fetchval(query, *arguments)
        except asyncpg.QueryCanceledError as error:
            raise failures.of_statement(error, self.what) from error

    async def copy(
        self,
        query: str,
        output: Callable[[bytes], Awaitable[bool]],
        *,
        seconds: float | None = None,
        csv: Dialect | None = None,
    ) -> int | None:
        """Stream `COPY (query) TO STDOUT` as text, or in `csv`; how many rows Postgres counted. When `output` answers
        True, the statement is cancelled, None comes back and the connection stays usable. `seconds` hold for this
        statement alone. What `output` raises is raised here and costs the connection."""
        told = ""
        seconds = seconds or self.seconds
        async with self.in_use() as connection, self._limit(connection, seconds):
            stream = _Stream(connection, output)
            try:
                told = await connection.copy_from_query(
                    query,
                    output=stream.take,
                    timeout=seconds + ANSWER_MARGIN_SECONDS,
                    format="text" if csv is None else "csv",
                    delimiter=None if csv is None else csv.delimiter,
                    null=None if csv is None else csv.null,
                )
            except asyncpg.QueryCanceledError:
                if not stream.cut:
                    raise
            except (asyncio.CancelledError, TimeoutError):
                stream.spoil()
                raise
            finally:
                await stream.settle()
            return None if stream.cut else int(told.removeprefix("COPY "))

    @asynccontextmanager
    async def _limit(self, connection: asyncpg.Connection, seconds: float) -> AsyncIterator[None]:
        if seconds == self.seconds:
            yield
            return
        if self._cut is not None:  # its transaction takes the limit with it
            await connection.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
            yield
            return
        await connection.execute(f"SET statement_timeout = {int(seconds * 1000)}")
        try:
            yield
        except asyncpg.QueryCanceledError:
            await connection.execute(f"SET statement_timeout = {int(self.seconds * 1000)}")
            raise
        except BaseException:
            connection.terminate()  # a session that kept the longer limit would not be noticed
            raise
        await connection.execute(f"SET statement_timeout = {int(self.seconds * 1000)}")

    async def close(self) -> None:
        """Give the connection back; what runs on it is cancelled. Never raises."""
        self._closed = True
        await self._discard()

    async def _open(self) -> asyncpg.Connection:
        slot = self._slot = self._slot or await self._connections.acquire(self._datasource, self._waiting)
        connection = None
        try:
            at = await addresses_of(self._guard, self._datasource.host, self._datasource.port)
            connection = await connect(
                self._datasource, self._application_name, self.seconds, at=at, row_security=self._row_security
            )
            self._refuse_closed()  # meanwhile: nobody would give it back
        except BaseException:
            if connection is not None:
                connection.terminate()
            slot.release()
            self._slot = None
            raise
        self.opened += 1
        self._connection = connection
        return connection

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Transient("source_closed", f"{self.what}: the source was closed")

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        slot, self._slot = self._slot, None
        if connection is not None:
            connection.terminate()
        if slot is not None:
            slot.release()

    async def _discard(self) -> None:
        connection, self._connection = self._connection, None
        slot, self._slot = self._slot, None
        try:
            if connection is not None and not connection.is_closed():
                with contextlib.suppress(Exception):
                    await connection.close(timeout=0.5)
        finally:
            if connection is not None:
                connection.terminate()
            if slot is not None:
                slot.release()


class _Stream:
    """Ends a COPY by cancelling it, and lets what is still on its way go by.

    Raising in asyncpg's callback would cancel too, but when the callback holds the last of the data, the server has
    nothing to cancel, no answer comes, and the connection's next statement waits for it for ever.
    """

    def __init__(self, connection: asyncpg.Connection, output: Callable[[bytes], Awaitable[bool]]) -> None:
        self._connection = connection
        self._output = output
        self._cancelled: asyncio.Future[None] | None = None
        self._broken = False

    @property
    def cut(self) -> bool:
        """The statement was cancelled by us."""
        return self._cancelled is not None

    async def take(self, buffer: bytes) -> None:
        """The callback of a COPY: never raises for being full."""
        if self._cancelled is not None:
            return
        try:
            full = await self._output(buffer)
        except BaseException:
            self._broken = True
            raise
        if full:
            self._cancelled = asyncio.get_running_loop().create_future()
            cancel: Callable[[asyncio.Future[None]], None] = getattr(self._connection, _CANCEL)
            cancel(self._cancelled)

    def spoil(self) -> None:
        """Who waited for the end of a cut statement has gone. What is still on its way the driver would meet with an
        error that belongs to nobody, and lose the connection under the next statement: nothing more is read of it."""
        if self._cancelled is not None:
            self._broken = True
            transport: asyncio.ReadTransport = getattr(self._connection, _TRANSPORT)
            if not transport.is_closing():
                transport.pause_reading()

    async def settle(self) -> None:
        """Wait until the request to cancel was taken: it must not hit the next statement."""
        try:
            if self._cancelled is not None:
                async with asyncio.timeout(STATEMENT_SECONDS):
                    await self._cancelled
        except (OSError, asyncpg.PostgresError):
            self._broken = True
        finally:
            if self._broken:
                self._connection.terminate()
