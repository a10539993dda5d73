"""Each type of PostgreSQL from a table through the reader to a CSV file: Postgres loads it back as it was, and other
readers of CSV find the texts that Postgres writes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import asyncpg
import duckdb
import pytest
from pyarrow import BufferReader, csv, parquet, string

from sinks.formats import Format
from tests.integration.parquet_types import CASES, OWN_TYPES, Case
from tests.integration.source_cases import read_all, source
from tests.integration.test_parquet_types import SETTINGS, WRITTEN, built_with_xml
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXTS = f"SELECT n::text, {WRITTEN.format('v')}, {WRITTEN.format('a')} FROM {{}} ORDER BY n"


@pytest.fixture
async def client(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database, server_settings=SETTINGS)
    yield connection
    await connection.close()


async def filled(client: asyncpg.Connection, kind: str, values: list[str]) -> None:
    await client.execute(f"CREATE TABLE t (n int PRIMARY KEY, v {kind}, a {kind}[])")
    literals = [*(f"$x${value}$x$::{kind}" for value in values), "NULL"]
    for number, literal in enumerate(literals):
        array = (f"ARRAY[{', '.join(literals)}]::{kind}[]", "'{}'", "NULL")[min(number, 2)]
        await client.execute(f"INSERT INTO t VALUES ({number}, {literal}, {array})")


async def written(database: str, form: Format, dialect: Dialect) -> tuple[bytes, Format]:
    """The table as one file, read as a job reads it."""
    async with source(database, "t", csv=dialect) as made:
        whole = Format(
            form.kind, form.compression, delimiter=form.delimiter, null=form.null, columns=tuple(await made.columns())
        )
        stream = whole.stream()
        return stream.encode(await read_all(made)) + stream.end(), whole


async def texts(client: asyncpg.Connection, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await client.fetch(TEXTS.format(table))]


def duckdb_reads(path: Path) -> list[tuple[Any, ...]]:
    options = "header = true, all_varchar = true, nullstr = '', allow_quoted_nulls = false, auto_detect = false"
    shape = """delim = ',', quote = '"', escape = '"', columns = {'n': 'VARCHAR', 'v': 'VARCHAR', 'a': 'VARCHAR'}"""
    return duckdb.sql(f"SELECT * FROM read_csv('{path}', {options}, {shape})").fetchall()


def pyarrow_reads(data: bytes) -> list[tuple[Any, ...]]:
    table = csv.read_csv(
        BufferReader(data),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys("nva", string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.type)
async def test_a_type_comes_back(case: Case, client: asyncpg.Connection, database: str, tmp_path: Path) -> None:
    await client.execute(OWN_TYPES)
    if case.type == "xml" and not await built_with_xml(client):
        pytest.skip("this PostgreSQL is built without XML")
    await filled(client, case.type, list(case.values))
    expected = await texts(client, "t")

    data, _ = await written(database, Format("csv"), Dialect())
    await client.execute("CREATE TABLE again (LIKE t)")
    await client.copy_to_table("again", source=io.BytesIO(data), format="csv", header=True)
    assert await texts(client, "again") == expected
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    assert duckdb_reads(path) == expected
    assert pyarrow_reads(data) == expected

    # The same columns, as the catalog told them, make the schema of Parquet.
    data, _ = await written(database, Format("parquet", "zstd"), Dialect())
    schema = parquet.read_table(io.BytesIO(data)).schema
    assert [str(schema.field(name).type) for name in "va"] == [case.arrow, f"list<element: {case.arrow}>"]


@pytest.mark.parametrize("dialect", [Dialect(";", "NULL"), Dialect("\t", "\\N"), Dialect("|", "0")], ids=repr)
async def test_texts_come_back_in_every_dialect(client: asyncpg.Connection, database: str, dialect: Dialect) -> None:
    await filled(
        client, "text", ["", "0", "NULL", "\\N", "\\.", '"', '""', "a;b|c\td,e", "\n", "\r\n", "x\n\\.\ny" * 3]
    )
    form = Format("csv", delimiter=dialect.delimiter, null=dialect.null)
    data, _ = await written(database, form, dialect)
    await client.execute("CREATE TABLE again (LIKE t)")
    await client.copy_to_table(
        "again", source=io.BytesIO(data), format="csv", header=True, delimiter=dialect.delimiter, null=dialect.null
    )
    assert await texts(client, "again") == await texts(client, "t")
