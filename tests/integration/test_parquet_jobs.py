"""Jobs into Parquet files over HTTP: types from the catalogue, values that no file can hold, the books."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import duckdb
import pytest
from pyarrow.parquet import ParquetFile

from tests.integration.serving import serving
from tests.support.reconcile import visible_files
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.hdfs import HdfsServer
    from tests.support.s3 import S3Server
    from tests.support.service import ServiceProcess

TABLE = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN price AS numeric(8,2);
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone int, pieces positive NOT NULL, price price,
  moods mood[], grid int[][], at timestamptz, note text, "Quoted, ""col" uuid, prices price[]
);
ALTER TABLE orders DROP COLUMN gone;
INSERT INTO orders (pieces, price, moods, grid, at, note, "Quoted, ""col", prices)
SELECT n, n * 1.25, ARRAY['sad', NULL, 'glad']::mood[], ARRAY[[n, 1], [2, NULL]],
  '2024-01-01Z'::timestamptz + n * '1 s'::interval,
  CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE E'a, "b"\\n' || n END, gen_random_uuid(), ARRAY[n, 0.5]
FROM generate_series(1, 500) n
"""


@pytest.fixture
async def service(database: str, control_database: str) -> AsyncIterator[ServiceProcess]:
    async with source(database) as connection:
        await connection.execute(TABLE)
    async with serving(control_database, database) as made:
        yield made


@asynccontextmanager
async def source(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def job(**changes: Any) -> dict[str, Any]:
    return {
        "name": "orders",
        "source": {"datasource": "shop", "table": "public.orders"},
        "sink": {"kind": "file", "path": "exports"},
        "format": {"kind": "parquet"},
        "options": {"chunk": {"rows": 200}},
    } | changes


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """As DuckDB reads all files together."""
    files = [str(path) for path in visible_files(folder)]
    columns = 'id, pieces, price, moods, grid, epoch_us("at"), note, "Quoted, ""col", prices'
    return duckdb.sql(f"SELECT {columns} FROM read_parquet({files}) ORDER BY id").fetchall()


async def table(dsn: str) -> list[tuple[Any, ...]]:
    async with source(dsn) as connection:
        columns = (
            'id, pieces, price, moods, grid, (extract(epoch FROM at) * 1000000)::int8, note, "Quoted, ""col", prices'
        )
        return [tuple(row) for row in await connection.fetch(f"SELECT {columns} FROM orders ORDER BY id")]


async def test_a_table_arrives_with_the_types_of_its_catalogue(service: ServiceProcess, database: str):
    async with service.client() as api:
        await api.create(job(), start=True)
        await api.wait_for_state("orders", "successful", timeout=60)
        outputs = await api.outputs("orders")
    folder = service.files("exports")
    files = visible_files(folder)
    assert {output["rows"] for output in outputs} == {200, 100}
    for path in files:
        opened = ParquetFile(path)
        schema = opened.schema_arrow
        assert [(field.name, str(field.type), field.nullable) for field in schema] == [
            ("id", "int64", False),
            ("pieces", "int32", False),
            ("price", "decimal128(8, 2)", True),
            ("moods", "list<element: string>", True),
            ("grid", "list<element: list<element: int32>>", True),
            ("at", "timestamp[us, tz=UTC]", True),
            ("note", "string", True),
            ('Quoted, "col', "extension<arrow.uuid>", True),
            ("prices", "list<element: decimal128(8, 2)>", True),
        ]
        assert schema.field("price").metadata == {b"postgres_type": b"numeric(8,2)"}
        assert opened.metadata.row_group(0).column(0).compression == "ZSTD"
    assert await asyncio.to_thread(rows, folder) == await table(database)


async def test_a_value_that_no_file_can_hold_ends_the_run_and_when_it_is_mended_the_job_goes_on(
    service: ServiceProcess, database: str
):
    async with source(database) as connection:
        await connection.execute("UPDATE orders SET price = 'NaN' WHERE id = 317")
    async with service.client() as api:
        await api.create(job(), start=True)
        failed = await api.wait_for_state("orders", "error", timeout=60)
        told = " ".join(error["message"] for error in failed["errors"] if error["code"] == "value_not_representable")
        assert [part for part in ("317", "'price'", "numeric(8,2)", "'NaN'", "::text") if part not in told] == []
        delivered = await asyncio.to_thread(rows, service.files("exports"))
        assert len(delivered) == failed["totals"]["rows_sent"] < 317
        async with source(database) as connection:
            await connection.execute("UPDATE orders SET price = 0 WHERE id = 317")
        await api.start("orders")
        await api.wait_for_state("orders", "successful", timeout=60)
    assert await asyncio.to_thread(rows, service.files("exports")) == await table(database)


async def test_values_that_no_file_can_hold_are_dead_letters_and_the_others_arrive(
    service: ServiceProcess, database: str
):
    async with source(database) as connection:
        await connection.execute("UPDATE orders SET price = 'NaN' WHERE id % 50 = 3")
        await connection.execute("UPDATE orders SET at = 'infinity' WHERE id = 500")
    options = {"chunk": {"rows": 200}, "dead_letters": {"max_rows": 100}}
    async with service.client() as api:
        await api.create(job(options=options), start=True)
        await api.wait_for_state("orders", "successful", timeout=60)
        letters = (await api.call("GET", "/v1/jobs/orders/dead-letters"))["dead_letters"]
        async with source(database) as connection:
            await connection.execute("UPDATE orders SET price = 0, at = now() WHERE price = 'NaN' OR at = 'infinity'")
    refused = {*range(3, 500, 50), 500}
    assert {int(str(letter["key"]).strip("[]'")) for letter in letters} == refused
    assert {letter["reason"]["code"] for letter in letters} == {"value_not_representable"}
    arrived = await asyncio.to_thread(rows, service.files("exports"))
    assert arrived == [row for row in await table(database) if row[0] not in refused]


@pytest.mark.parametrize("kind", ["s3", "hdfs"])
async def test_objects_and_files_of_hdfs_hold_the_same_and_leave_the_same_aside(
    service: ServiceProcess, database: str, tmp_path: Path, request: pytest.FixtureRequest, kind: str
):
    target = S3Folder(request) if kind == "s3" else HdfsFolder(request)
    async with source(database) as connection:
        await connection.execute("UPDATE orders SET price = 'NaN' WHERE id % 50 = 3")
        await connection.execute("UPDATE orders SET at = 'infinity' WHERE id = 500")
    refused = {*range(3, 500, 50), 500}
    options = {"chunk": {"rows": 200}, "dead_letters": {"max_rows": 100}}
    async with service.client() as api:
        await api.create(job(sink=target.sink, options=options), start=True)
        await api.wait_for_state("orders", "successful", timeout=60)
        letters, outputs = await api.dead_letters("orders"), await api.outputs("orders")
        async with source(database) as connection:
            await connection.execute("UPDATE orders SET price = 0, at = now() WHERE price = 'NaN' OR at = 'infinity'")
        assert {int(letter["key"]) for letter in letters} == refused
        assert {letter["reason"]["code"] for letter in letters} == {"value_not_representable"}
        expected = await table(database)
        target.take(tmp_path / "run")
        arrived = await asyncio.to_thread(rows, tmp_path / "run")
        assert arrived == [row for row in expected if row[0] not in refused]
        assert sorted(output["target"].rpartition("/")[2] for output in outputs) == [
            path.name for path in visible_files(tmp_path / "run")
        ]
        await api.call("POST", "/v1/jobs/orders/dead-letters:retry", 202, json={"from": "source"})

        async def sent() -> bool:
            return not await api.dead_letters("orders")

        await until(sent, 40, "the dead letters are sent")
    target.take(tmp_path / "retried")
    assert await asyncio.to_thread(rows, tmp_path / "retried") == expected


class S3Folder:
    """A fresh bucket."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._server: S3Server = request.getfixturevalue("s3_server")
        self._bucket = self._server.create_bucket()
        self.sink = self._server.definition(self._bucket)

    def take(self, folder: Path) -> None:
        """Copy every object that readers take."""
        folder.mkdir()
        for key in self._server.objects(self._bucket):
            (folder / key.rpartition("/")[2]).write_bytes(self._server.read(self._bucket, key))


class HdfsFolder:
    """A fresh folder."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._server: HdfsServer = request.getfixturevalue("hdfs_server")
        self._path = f"/parquet/{uuid.uuid4().hex}"
        self.sink = {"kind": "hdfs", "url": self._server.url, "path": self._path, "user": "ann"}

    def take(self, folder: Path) -> None:
        """Copy every file that readers take."""
        folder.mkdir()
        for name in self._server.names(self._path):
            if not name.startswith("."):
                (folder / name).write_bytes(self._server.read(f"{self._path}/{name}"))


async def test_a_query_says_how_it_reads_what_has_no_exact_type(service: ServiceProcess, database: str):
    """Postgres tells no precision of a query's numeric: it is a text, exact as well."""
    async with source(database) as connection:
        await connection.execute("UPDATE orders SET price = 'NaN' WHERE id = 3")
    query = "SELECT id, price, pieces::numeric(12,3) AS wide, moods FROM orders WHERE id > 1 AND id < 4"
    async with service.client() as api:
        await api.create(job(source={"datasource": "shop", "query": query, "key": ["id"]}), start=True)
        await api.wait_for_state("orders", "successful", timeout=60)
    (path,) = visible_files(service.files("exports"))
    assert ParquetFile(path).read().to_pylist() == [
        {"id": 2, "price": "2.50", "wide": "2.000", "moods": ["sad", None, "glad"]},
        {"id": 3, "price": "NaN", "wide": "3.000", "moods": ["sad", None, "glad"]},
    ]
