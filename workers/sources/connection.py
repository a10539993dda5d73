"""How a connection to a source is made: pinned settings, TLS, errors as ours, and a look whether it is Postgres itself.

What is pinned changes what Postgres writes, or protects it; the session is read-only. Names without schema are looked
up in `public`: a role's own search_path could make the same job read another table tomorrow. `row_security` is off
unless the job asks for it, so a policy that would leave rows out fails the statement instead.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from service.domain.errors import Permanent, RowferryError
from workers.sources import failures
from workers.sources.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.datasource import Datasource

CONNECT_SECONDS = 10.0
STATEMENT_SECONDS = 0.9
"""The promise is a second: a cancelled statement ends a moment after its time-out."""
ANSWER_MARGIN_SECONDS = 10.0
"""A server that is frozen does not end its own statements: this much later we leave."""

PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "search_path": "public",
    "xmloption": "content",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "default_transaction_read_only": "on",
    "statement_timeout": str(int(STATEMENT_SECONDS * 1000)),
    "lock_timeout": "500",
    "idle_in_transaction_session_timeout": "2000",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "enable_sort": "off",
}
"""In the units of pg_settings; checked against it after connecting. Sorting is only discouraged: without statistics the
planner would rather read and sort half a table than walk the key's index for one page."""

_RESERVED = {name.lower() for name in PINNED} | {"application_name", "role", "session_authorization", "options"}


async def connect(
    datasource: Datasource,
    application_name: str,
    seconds: float = STATEMENT_SECONDS,
    *,
    at: Sequence[str] | None = None,
    row_security: bool = False,
) -> asyncpg.Connection:
    """A checked connection to the first of the addresses `at` that takes one; None: the host is looked up.

    Raises Permanent (`authentication_failed`, `database_unknown`, `tls_failed`, `datasource_properties`,
    `pooled_connection`) or Transient `source_unreachable`."""
    settings = {name: value for name, value in datasource.properties.items() if name.lower() not in _RESERVED}
    pinned = PINNED | {"statement_timeout": str(int(seconds * 1000)), "row_security": "on" if row_security else "off"}
    settings |= pinned | {"application_name": application_name[:63]} | datasource.private
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await _connect_by_tls_mode(datasource, settings, seconds, at or [datasource.host])
            try:
                await _check(connection, datasource, pinned)
            except BaseException:
                connection.terminate()
                raise
    except RowferryError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, ValueError) as error:
        raise failures.of_connecting(error, datasource) from error
    return connection


async def _connect_by_tls_mode(
    datasource: Datasource, settings: dict[str, str], seconds: float, at: Sequence[str]
) -> asyncpg.Connection:
    context = tls_context(datasource)
    if context is not None:
        try:
            return await _connect(datasource, settings, context, seconds, at)
        except (ConnectionError, ssl.SSLError):
            if datasource.tls_mode != "prefer":
                raise
    return await _connect(datasource, settings, None, seconds, at)


async def _connect(
    datasource: Datasource,
    settings: dict[str, str],
    context: ssl.SSLContext | None,
    seconds: float,
    at: Sequence[str],
) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=list(at),
        port=datasource.port,
        database=datasource.database,
        user=datasource.user,
        # an empty password keeps asyncpg from the environment and the password file of whoever runs the service
        password=datasource.password or "",
        ssl=context if context is not None else False,
        target_session_attrs=SessionAttribute.any,
        server_settings=settings,
        statement_cache_size=0,
        timeout=CONNECT_SECONDS,
        command_timeout=seconds + ANSWER_MARGIN_SECONDS,
    )


async def _check(connection: asyncpg.Connection, datasource: Datasource, pinned: dict[str, str]) -> None:
    """A pooler between us and Postgres may swallow start-up settings, or give each statement another session."""
    rows = await connection.fetch(
        "SELECT name, setting, pg_backend_pid() AS pid FROM pg_settings WHERE lower(name) = ANY($1)",
        [name.lower() for name in pinned],
    )
    found = {row["name"].lower(): row["setting"] for row in rows}
    wrong = [name for name, value in pinned.items() if found.get(name.lower(), value) != value]
    if wrong or (rows and rows[0]["pid"] != connection.get_server_pid()):
        detail = f"settings {', '.join(wrong)} did not take hold" if wrong else "the session is not one server process"
        raise Permanent(
            "pooled_connection",
            f"datasource {datasource.name!r} ({datasource.host}:{datasource.port}) is not Postgres itself: {detail}",
            hint="point the datasource at Postgres, not at a pooler: values and cancelled statements depend on it",
        )
