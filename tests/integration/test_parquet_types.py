"""Each type of PostgreSQL from a table to a Parquet file and back: two readers find what a second client reads."""

from __future__ import annotations

import io
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import duckdb
import pyarrow as pa
import pytest
from pyarrow import parquet as reader

from sinks.formats.columns import Column
from sinks.formats.parquet import Stream
from tests.integration.parquet_types import CASES, OWN_TYPES, WITHOUT_INPUT, Case
from workers.sources.connection import PINNED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SETTINGS = {name: value for name, value in PINNED.items() if name != "default_transaction_read_only"}
COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attndims, attnotnull FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum
"""
WRITTEN = "CASE WHEN {0} IS NOT DISTINCT FROM NULL THEN NULL ELSE format('%s', {0}) END"
"""A value by its type's output function; a cast to text is another thing for char(n), and `IS NULL` for a record."""


@pytest.fixture
async def client(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database, server_settings=SETTINGS)
    yield connection
    await connection.close()


async def copied(client: asyncpg.Connection, table: str) -> tuple[list[Column], list[bytes]]:
    """Columns and records of a table whose first column counts its rows."""
    columns = [
        Column(name, written, dimensions=dimensions, not_null=not_null)
        for name, written, dimensions, not_null in await client.fetch(COLUMNS, table)
    ]
    rows = []
    for (number,) in await client.fetch(f"SELECT n FROM {table} ORDER BY n"):
        record = io.BytesIO()
        await client.copy_from_query(f"SELECT * FROM {table} WHERE n = $1", number, output=record, format="csv")
        rows.append(record.getvalue().removesuffix(b"\n"))
    return columns, rows


async def built_with_xml(client: asyncpg.Connection) -> bool:
    try:
        await client.execute("SELECT '<a/>'::xml")
    except asyncpg.FeatureNotSupportedError:
        return False
    return True


def exact(value: Any) -> Any:
    """Equal only where nothing of it is different: -0 is not 0, 1.0 is not 1, 0.10 is not 0.1."""
    if isinstance(value, list):
        return [exact(one) for one in value]
    if isinstance(value, float):
        return struct.pack(">d", value)
    if isinstance(value, Decimal):
        return value.as_tuple()
    if isinstance(value, datetime):
        return value.tzinfo is not None, value.replace(tzinfo=None)
    return value


def pyarrow_reads(path: Path) -> pa.Table:
    table = reader.ParquetFile(path, page_checksum_verification=True).read()
    table.validate(full=True)
    return table


def duckdb_reads(path: Path, column: str, case: Case, *, listed: bool) -> list[Any]:
    """With zoned times as UTC: its Python values of them need another package."""
    wanted = f'"{column}"'
    if case.duckdb == "TIMESTAMP WITH TIME ZONE":
        moment = "make_timestamp(epoch_us({}))"
        wanted = f"list_transform({wanted}, lambda x: {moment.format('x')})" if listed else moment.format(wanted)
    rows = duckdb.sql(f"SELECT {wanted} FROM read_parquet('{path}') ORDER BY n").fetchall()
    return [_zoned(row[0]) if case.duckdb == "TIMESTAMP WITH TIME ZONE" else row[0] for row in rows]


def _zoned(value: Any) -> Any:
    if isinstance(value, list):
        return [_zoned(one) for one in value]
    return value.replace(tzinfo=UTC) if value is not None else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.type)
async def test_a_type_comes_back(case: Case, client: asyncpg.Connection, tmp_path: Path) -> None:
    await client.execute(OWN_TYPES)
    if case.type == "xml" and not await built_with_xml(client):
        pytest.skip("this PostgreSQL is built without XML")
    await client.execute(f"CREATE TABLE t (n int PRIMARY KEY, v {case.type}, a {case.type}[])")
    literals = [*(f"$x${value}$x$::{case.type}" for value in case.values), "NULL"]
    listed = f"ARRAY[{', '.join(literals)}]::{case.type}[]"
    for number, literal in enumerate(literals):
        array = (listed, "'{}'", "NULL")[min(number, 2)]
        await client.execute(f"INSERT INTO t VALUES ({number}, {literal}, {array})")
    path = tmp_path / "t.parquet"
    columns, rows = await copied(client, "t")
    stream = Stream(columns)
    path.write_bytes(stream.encode(rows) + stream.end())

    value = WRITTEN.format("v") if case.text else "v"
    each = f"(SELECT array_agg({WRITTEN.format('a[i]')} ORDER BY i) FROM generate_subscripts(a, 1) i)"
    inner = each if case.text else "a"
    query = f"SELECT {value}, CASE WHEN cardinality(a) = 0 THEN '{{}}' ELSE {inner} END FROM t ORDER BY n"
    expected = [list(column) for column in zip(*await client.fetch(query), strict=True)]
    assert expected[0][-1] is None
    assert expected[0][0] is not None

    table = pyarrow_reads(path)
    assert str(table.schema.field("v").type) == case.arrow
    assert str(table.schema.field("a").type) == f"list<element: {case.arrow}>"
    assert exact(table.column("v").to_pylist()) == exact(expected[0])
    assert exact(table.column("a").to_pylist()) == exact(expected[1])

    described = {row[0]: row[1] for row in duckdb.sql(f"DESCRIBE SELECT * FROM read_parquet('{path}')").fetchall()}
    assert described == {"n": "INTEGER", "v": case.duckdb, "a": f"{case.duckdb}[]"}
    if case.arrow.startswith("decimal256"):
        expected = [[None if one is None else float(one) for one in expected[0]], None]
        assert duckdb_reads(path, "v", case, listed=False) == pytest.approx(expected[0])
        return
    assert exact(duckdb_reads(path, "v", case, listed=False)) == exact(expected[0])
    assert exact(duckdb_reads(path, "a", case, listed=True)) == exact(expected[1])


async def test_no_type_of_postgres_is_left_out(client: asyncpg.Connection) -> None:
    await client.execute(OWN_TYPES)
    every = await client.fetch(
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') "
        "AND typcategory <> 'A'"
    )
    tried = {await client.fetchval("SELECT typname FROM pg_type WHERE oid = $1::regtype", case.type) for case in CASES}
    assert {row[0] for row in every} - tried == WITHOUT_INPUT


async def test_vectors_are_their_text(client: asyncpg.Connection, tmp_path: Path) -> None:
    await client.execute("CREATE TABLE t (n int, v int2vector, o oidvector); INSERT INTO t VALUES (1, '1 2', '3 4')")
    columns, rows = await copied(client, "t")
    assert [column.type for column in columns] == ["integer", "int2vector", "oidvector"]
    stream = Stream([Column(column.name, column.type) for column in columns])
    path = tmp_path / "t.parquet"
    path.write_bytes(stream.encode(rows) + stream.end())
    assert pyarrow_reads(path).to_pylist() == [{"n": 1, "v": "1 2", "o": "3 4"}]
