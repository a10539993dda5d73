"""Sources over a test's database, and what tests ask of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import asyncpg

from service.domain.datasource import Datasource
from service.domain.errors import RowferryError
from service.domain.spec import Options, SourceSpec
from workers.sources.budget import ConnectionBudget
from workers.sources.postgres import PostgresSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sinks.formats.columns import Column
    from workers.sources.base import Horizon, Key, Page, Reader
    from workers.sources.csv_page import Dialect


def datasource(dsn: str, **changes: Any) -> Datasource:
    """The datasource of a dsn."""
    parts = urlsplit(dsn)
    fields = {
        "account": "default",
        "name": "shop",
        "host": parts.hostname,
        "port": parts.port,
        "database": parts.path[1:],
        "user": parts.username,
        "password": unquote(parts.password) if parts.password else None,
        "tls_mode": "disable",
    }
    return Datasource(**(fields | changes))


@asynccontextmanager
async def source(
    dsn: str,
    table: str | None = None,
    *,
    mode: str = "once",
    message_key: list[str] | None = None,
    options: dict[str, Any] | None = None,
    connections: ConnectionBudget | None = None,
    store: Datasource | None = None,
    csv: Dialect | None = None,
    fixed: Sequence[Column] = (),
    salts: dict[str, str] | None = None,
    origin: dict[str, object] | None = None,
    **spec: Any,
) -> AsyncIterator[PostgresSource]:
    """A source that is closed afterwards. What is not named here goes into `source` of the job."""
    made = PostgresSource(
        store or datasource(dsn),
        SourceSpec.model_validate({"datasource": "shop", "table": table, **spec}),
        mode=mode,
        options=Options.model_validate(options or {}),
        message_key=message_key,
        application_name="rowferry test",
        connections=connections or ConnectionBudget(),
        csv=csv,
        columns=fixed,
        salts=salts,
        origin=origin,
    )
    try:
        yield made
    finally:
        await made.close()


async def pages(reader: Reader, after: Key | None = None, upper: Key | None = None) -> AsyncIterator[Page]:
    """All pages of a range."""
    while True:
        page = await reader.read(after, upper)
        yield page
        if page.end:
            return
        assert page.scanned_to is not None
        assert page.scanned_to != after
        after = page.scanned_to


async def read_all(made: PostgresSource, after: Key | None = None, upper: Key | None = None) -> list[bytes]:
    """The values of a range."""
    return [value async for page in pages(made.reader(), after, upper) for value in page.values]


async def read_keys(made: PostgresSource, after: Key | None = None, upper: Key | None = None) -> list[Key]:
    """The keys of a range, in order."""
    return [page.key(index) async for page in pages(made.reader(), after, upper) for index in range(len(page.values))]


async def read_until_refused(made: PostgresSource) -> tuple[list[Key], RowferryError]:
    """All keys up to the first error, and the error."""
    seen: list[Key] = []
    try:
        async for page in pages(made.reader()):
            seen += [page.key(index) for index in range(len(page.values))]
    except RowferryError as error:
        return seen, error
    raise AssertionError("nothing was refused")


def unheard(_: Horizon | None) -> None:
    """For plans whose waiting is of no interest."""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)
