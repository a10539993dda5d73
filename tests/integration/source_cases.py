"""Sources over a test's database, and what tests ask of them."""

from __future__ import annotations

import io
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import asyncpg

from service.domain.datasource import Datasource
from service.domain.errors import RowferryError
from service.domain.options import Options
from service.domain.spec import SourceSpec
from workers.sources.budget import ConnectionBudget
from workers.sources.definition import MessageKey
from workers.sources.postgres import PostgresSource
from workers.sources.wishes import RowWishes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sinks.formats.columns import Column
    from workers.sources.base import Horizon, Key, Page, Reader
    from workers.sources.csv_page import Dialect
    from workers.sources.cut import Cut


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
    cut: Cut | None = None,
    **spec: Any,
) -> AsyncIterator[PostgresSource]:
    """A source that is closed afterwards. What is not named here goes into `source` of the job."""
    made = PostgresSource(
        store or datasource(dsn),
        SourceSpec.model_validate({"datasource": "shop", "table": table, **spec}),
        RowWishes(
            MessageKey(tuple(message_key or ()), "/sink/key"), csv=csv, columns=fixed, salts=salts or {}, origin=origin
        ),
        mode=mode,
        options=Options.model_validate(options or {}),
        application_name="rowferry test",
        connections=connections or ConnectionBudget(),
        cut=cut,
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


async def oracle(dsn: str, query: str) -> list[bytes]:
    """What Postgres says over the extended protocol, with raw line breaks and tabs of type json as spaces."""
    async with connected(dsn) as connection:
        await connection.execute("SET timezone = 'UTC'; SET extra_float_digits = 3; SET lc_monetary = 'C'")
        values = [row[0] for row in await connection.fetch(query)]
    return ["".join(" " if character in "\n\r\t" else character for character in value).encode() for value in values]


ODD: Final = """
CREATE TYPE mood AS ENUM ('sad', 'glad "quoted"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE odd (
  id bigint PRIMARY KEY, n numeric, f float8, f4 float4, t text, j json, jb jsonb, b bytea, ts timestamp,
  tz timestamptz, d date, iv interval, m money, a int[], ta text[], r int4range, u uuid, ip inet, bits bit(5), x xml,
  v tsvector, p point, e mood, c pair, pos positive, tt timetz, "Quoted ""col" int, ch char(5), mr nummultirange
);
"""
ODD_ROWS: Final = [
    r"""(1, 'NaN', 'Infinity', '-Infinity', E'tab\there\nnew\\line\r\b\f\x0b', E'{"a" :\n\t1,\r "b": "x\\ny"}',
    '{"b": 1e400}', '\x00ff5c', 'infinity', '-infinity', 'infinity', '1 year 2 mons -3 days 04:05:06.789', 1234.5,
    '{{1,NULL},{3,4}}', '{"a,b",NULL,"c\\d"}', '[1,5)', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '10.0.0.1/8', B'10110',
    NULL, 'a:1 b:2', '(1.5,2)', 'glad "quoted"', '(1,"x y")', 5, '12:00+05', 7, 'ab', '{[1,2),[5,6]}')""",
    r"""(2, 12345678901234567890123456789012345678901234567890.12345678901234567890, 0.1, 0.1, '\N', E'[1,\t2]', '{}',
    '', '0001-01-01', '294276-12-31 23:59:59.999999+00', '5874897-12-31', '-1 mons', '-0.01', '{}', '{}', 'empty', NULL,
    NULL, NULL, NULL, '', NULL, 'sad', NULL, NULL, NULL, NULL, '', NULL)""",
    f"(3{', NULL' * 28})",
]


async def with_odd_values(dsn: str) -> str:
    """The dsn of a database that has a table `odd` of every kind of value now."""
    async with connected(dsn) as connection:
        await connection.execute(ODD)
        for row in ODD_ROWS:
            await connection.execute(f"INSERT INTO odd VALUES {row}")
    return dsn


async def copied(dsn: str, query: str, dialect: Dialect) -> bytes:
    """What COPY itself writes in CSV."""
    written = io.BytesIO()
    async with connected(dsn) as connection:
        await connection.execute("SET timezone = 'UTC'; SET extra_float_digits = 3; SET lc_monetary = 'C'")
        await connection.copy_from_query(
            query, output=written, format="csv", delimiter=dialect.delimiter, null=dialect.null
        )
    return written.getvalue()


def lines(values: list[bytes]) -> bytes:
    """Records as one text."""
    return b"".join(value + b"\n" for value in values)
