"""The connection pool of the control database.

Every connection of it: search_path is the schema `rowferry`, jsonb values are Python values, uuids are text, and
nothing waits without end. What a lost or refused connection raises is mapped here, once.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from service.domain.errors import Permanent, RowferryError, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Row: TypeAlias = asyncpg.Record

_AWAY = (
    OSError,  # TimeoutError too
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, statement_timeout
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # The driver's own books do not agree, as after an answer that was lost while a connection was given back.
    asyncpg.InternalClientError,
)
_BUSY = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError, asyncpg.SerializationError)
_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


def mapped(error: BaseException, dsn: str = "") -> RowferryError | None:
    """What a driver's error means for callers of the store; None: it is a fault of ours and passes through. With the
    `dsn` of a first connection it says where the database was looked for."""
    if isinstance(error, _BUSY):
        return Transient("store_busy", "the control database did not get to it in time; try again")
    if isinstance(error, _REFUSED):
        said = f"the control database refused: {error}; check ROWFERRY_DATABASE_URL"
        # A password that is changed while the service runs ends no job and is nobody's wrong request.
        return Permanent("store_refused", said) if dsn else Transient("store_refused", said)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        said = "the control database takes no writes: it is a standby, or set to read only"
        return Transient("store_read_only", said, hint="let ROWFERRY_DATABASE_URL lead to the primary")
    # InterfaceError is also what the driver says of a call that is wrong in itself.
    if isinstance(error, _AWAY) or (isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)):
        said = f"the control database{_place(dsn)} does not answer ({type(error).__name__})"
        hint = "check that Postgres runs there, and host and port in ROWFERRY_DATABASE_URL" if dsn else ""
        return Transient("store_unreachable", said, hint=hint)
    return None


def _place(dsn: str) -> str:
    """Host, port and database, and nothing else of a dsn, which may hold a password anywhere else."""
    try:
        parts = urlsplit(dsn)
        return f" {parts.hostname}:{parts.port or 5432}{parts.path}" if parts.hostname else ""
    except ValueError:
        return ""


async def _set_up(connection: asyncpg.Connection[Any]) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_dump, decoder=json.loads)
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)


async def _left_as_found(_connection: asyncpg.Connection[Any]) -> None:
    """What asyncpg would send after every use (UNLISTEN, RESET ALL, CLOSE ALL, …) costs as much as reading a job. No
    statement of the store outlives its transaction: it sets nothing, listens to nothing, locks for a transaction only.
    An open transaction is rolled back by asyncpg before this is called."""


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def connect(dsn: str, *, application_name: str = "rowferry", timeout_seconds: float = 10.0) -> Connection:
    """One connection set up like the pool's, for LISTEN and for migrations. Raises as the pool does."""
    try:
        connection = await asyncpg.connect(
            dsn, timeout=timeout_seconds, command_timeout=None, server_settings=_settings(application_name)
        )
        await _set_up(connection)
    except Exception as error:
        raise mapped(error, dsn) or error from error
    return connection


def _settings(application_name: str) -> dict[str, str]:
    return {
        "application_name": application_name,
        "search_path": "rowferry",
        "TimeZone": "UTC",
        # Planning a three-row join with the compiler takes longer than running it.
        "jit": "off",
        "lock_timeout": "10s",
        # A process that is frozen in the middle of a transaction holds a job's row; nothing of ours pauses in one, so
        # the server may take it for dead before its leases run out.
        "idle_in_transaction_session_timeout": "5s",
    }


class Pool:
    """An asyncpg pool. Raises Transient `store_unreachable`, `store_busy`, `store_read_only` or `store_refused`, the
    last as Permanent while it is opened; retries nothing."""

    def __init__(self, pool: asyncpg.Pool[Any], acquire_seconds: float) -> None:
        self._pool = pool
        self._acquire_seconds = acquire_seconds

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        application_name: str = "rowferry",
        size: int = 10,
        command_seconds: float = 15.0,
        acquire_seconds: float = 10.0,
    ) -> Pool:
        """Connect once and keep up to `size` connections; no statement runs longer than `command_seconds`, nobody
        waits longer than `acquire_seconds` for a connection."""
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=size,
                init=_set_up,
                reset=_left_as_found,
                timeout=acquire_seconds,
                command_timeout=command_seconds,
                server_settings=_settings(application_name),
            )
        except Exception as error:
            raise mapped(error, dsn) or error from error
        return cls(pool, acquire_seconds)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection outside any transaction: each statement stands alone."""
        try:
            async with self._pool.acquire(timeout=self._acquire_seconds) as connection:
                yield connection
        except RowferryError:
            raise
        except Exception as error:
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                # A session stays what it was when it began, also when its database takes writes again.
                await self._pool.expire_connections()
            raise mapped(error) or error from error

    async def check_writable(self) -> None:
        """Raises what stands in the way of work: as every call, and `store_read_only` before anything is written."""
        async with self.connection() as connection:
            if await connection.fetchval("SELECT current_setting('transaction_read_only') = 'on'"):
                raise asyncpg.ReadOnlySQLTransactionError

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One READ COMMITTED transaction; rolled back by any exception. A `store_unreachable` that comes out of
        the end of it leaves open whether it was committed."""
        cancelled = False
        try:
            async with self.connection() as connection, connection.transaction():
                try:
                    yield connection
                except asyncio.CancelledError:
                    # Rolling back in good order would wait for a server that may be frozen: cut, the server rolls back.
                    cancelled = True
                    connection.terminate()
                    raise
        except RowferryError:
            if cancelled:
                raise asyncio.CancelledError from None
            raise

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Wait for connections in use, then cut them."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
