"""Jobs of CSV and Parquet through the API: every row once over stop, kill and resume, in files that others read."""

from __future__ import annotations

import asyncio
import csv
import io
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import duckdb
import pytest

from tests.support.client import ApiError
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.s3 import S3Server

ROWS = 30_000
TABLE = """
CREATE TABLE notes (id bigserial PRIMARY KEY, amount numeric(12,2), note text, tags text[], at timestamptz);
INSERT INTO notes (amount, note, tags, at)
SELECT n / 100.0, CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'a;b "c"\\nd' ELSE 'note ' || n END,
       ARRAY['t' || n % 7, NULL], timestamptz '2026-01-01' + n * interval '1 second'
FROM generate_series(1, 30000) AS n
"""


@pytest.fixture
async def notes(database: str) -> str:
    connection = await asyncpg.connect(database)
    await connection.execute(TABLE)
    await connection.close()
    return database


@pytest.fixture
async def service(control_database: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    async with ServiceProcess(control_database, folder=tmp_path / "service", loaded=True) as made:
        yield made


def definition(sink: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "notes",
        "source": {"datasource": "shop", "table": "notes"},
        "sink": sink,
        "format": {"kind": "csv", "delimiter": ";", "null": "\\N"},
        "options": {"splits": 2, "page_bytes": 65536, "chunk": {"rows": 1000}, "rate": {"rows_per_second": 8000}},
        **changes,
    }


async def loaded_again(dsn: str, files: list[bytes]) -> list[Any]:
    """Rows that differ between the table and what COPY FROM makes of the files."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("DROP TABLE IF EXISTS again; CREATE TABLE again (LIKE notes)")
        for file in files:
            await connection.copy_to_table(
                "again", source=io.BytesIO(file), format="csv", header=True, delimiter=";", null="\\N"
            )
        assert await connection.fetchval("SELECT count(*) FROM again") == ROWS
        return list(
            await connection.fetch("(TABLE notes EXCEPT ALL TABLE again) UNION ALL (TABLE again EXCEPT TABLE notes)")
        )
    finally:
        await connection.close()


async def interrupted(service: ServiceProcess, database: str, sink: dict[str, Any]) -> None:
    """Stopped once, resumed, killed once; then it ends by itself."""
    async with service.client() as api:
        await api.put_datasource("shop", database)
        await api.create(definition(sink), start=True)
        await api.wait_for_rows("notes", ROWS // 6)
        await api.stop("notes", wait=20)
        assert (await api.get("notes"))["state"] == "stopped"
        await api.start("notes")
        await api.wait_for_rows("notes", ROWS // 2)
    service.kill()
    await service.restart()
    async with service.client() as api:
        job = await api.wait_for_state("notes", "successful", timeout=90)
        assert job["totals"]["rows_sent"] == ROWS


async def test_a_csv_job_to_files_has_every_row_once_over_stop_and_kill(service: ServiceProcess, notes: str) -> None:
    await interrupted(service, notes, {"kind": "file", "path": "out/notes"})
    files = [path.read_bytes() for path in sorted(service.files("out/notes").glob("*.csv"))]
    assert len(files) > 20
    assert all(file.startswith(b"id;amount;note;tags;at\n") for file in files)
    assert await loaded_again(notes, files) == []


async def test_a_csv_job_to_s3_has_every_row_once_over_stop_and_kill(
    service: ServiceProcess, notes: str, s3_server: S3Server, bucket: str
) -> None:
    await interrupted(service, notes, s3_server.definition(bucket))
    files = [s3_server.read(bucket, key) for key in s3_server.objects(bucket) if key.endswith(".csv")]
    assert await loaded_again(notes, files) == []


async def test_a_parquet_job_has_every_row_once_but_the_one_that_does_not_fit(
    service: ServiceProcess, notes: str
) -> None:
    connection = await asyncpg.connect(notes)
    await connection.execute("UPDATE notes SET amount = 'NaN' WHERE id = 20000")
    await connection.close()
    async with service.client() as api:
        await api.put_datasource("shop", notes)
        given = definition({"kind": "file", "path": "out/{job}/{generation}"}, format={"kind": "parquet"})
        given["options"]["dead_letters"] = {"max_rows": 1}
        await api.create(given, start=True)
        await api.wait_for_rows("notes", ROWS // 3)
    service.kill()
    await service.restart()
    async with service.client() as api:
        job = await api.wait_for_state("notes", "successful", timeout=90)
        letters = await api.call("GET", "/v1/jobs/notes/dead-letters")
    assert (job["totals"]["rows_sent"], job["totals"]["rows_dead"]) == (ROWS - 1, 1)
    assert [(one["key"], one["reason"]["code"]) for one in letters["dead_letters"]] == [
        ("20000", "value_not_representable")
    ]
    folder = service.files("out/notes/0001")
    ids = duckdb.sql(f"SELECT id, note, amount FROM read_parquet('{folder}/*.parquet') ORDER BY id").fetchall()
    assert [row[0] for row in ids] == [number for number in range(1, ROWS + 1) if number != 20_000]
    assert ids[1] == (2, 'a;b "c"\nd', Decimal("0.02"))
    assert ids[3] == (4, None, Decimal("0.04"))
    assert [path.name for path in service.files("out/notes").glob("_manifest-*.json")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
async def test_rows_of_a_megabyte_cost_no_memory(service: ServiceProcess, database: str, kind: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE TABLE large (id int PRIMARY KEY, text text);"
        "INSERT INTO large SELECT n, repeat(md5(n::text) || E'\"\\n', 31000) FROM generate_series(1, 150) AS n"
    )
    await connection.close()
    async with service.client() as api:
        await api.put_datasource("shop", database)
        given = definition({"kind": "file", "path": "out"}, format={"kind": kind}, options={})
        await api.create({**given, "source": {"datasource": "shop", "table": "large"}}, start=True)
        job = await api.wait_for_state("notes", "successful", timeout=100)
    assert job["totals"]["rows_sent"] == 150
    assert service.peak_rss_bytes() < 200 * 1024 * 1024, service.peak_rss_bytes()


@pytest.mark.parametrize("header", [True, False])
async def test_a_column_added_in_the_middle_of_a_run_shifts_nothing(
    service: ServiceProcess, notes: str, header: bool
) -> None:
    """A file that names its columns may name others than the one before; one that does not has the generation's."""
    async with service.client() as api:
        await api.put_datasource("shop", notes)
        given = definition({"kind": "file", "path": "out/notes"})
        given["format"]["header"] = header
        given["options"] = {**given.get("options", {}), "schema_change": "continue"}
        await api.create(given, start=True)
        await api.wait_for_rows("notes", 2000)
        connection = await asyncpg.connect(notes)
        await connection.execute("ALTER TABLE notes ADD COLUMN later text DEFAULT 'x'")
        await api.stop("notes", wait=20)
        await api.start("notes")
        await api.wait_for_state("notes", "successful", timeout=60)
        await connection.execute("ALTER TABLE notes DROP COLUMN later")
        await connection.close()
        files = [path.read_bytes() for path in sorted(service.files("out/notes").glob("*.csv"))]
        if header:
            heads = {file.partition(b"\n")[0] for file in files}
            assert heads == {b"id;amount;note;tags;at", b"id;amount;note;tags;at;later"}
            files = [
                _without_last(file) if file.startswith(b"id;amount;note;tags;at;later") else file for file in files
            ]
        else:
            files = [b"id;amount;note;tags;at\n" + file for file in files]
        assert await loaded_again(notes, files) == []


def _without_last(file: bytes) -> bytes:
    """The same rows without their last column, which is `later`."""
    assert file.count(b";x\n") > 0
    return file.replace(b";later\n", b"\n").replace(b";x\n", b"\n")


async def test_a_column_that_is_dropped_in_the_middle_ends_the_run_and_is_named(
    service: ServiceProcess, notes: str
) -> None:
    async with service.client() as api:
        await api.put_datasource("shop", notes)
        await api.create(definition({"kind": "file", "path": "out/notes"}), start=True)
        await api.wait_for_rows("notes", 2000)
        await api.stop("notes", wait=20)
        connection = await asyncpg.connect(notes)
        await connection.execute("ALTER TABLE notes DROP COLUMN note")
        await connection.close()
        await api.start("notes")
        job = await api.wait_for_state("notes", "error", timeout=30)
    assert "column_gone" in [error["code"] for error in job["errors"]]
    assert "'note'" in str(job["errors"])


async def test_a_preview_shows_csv_as_it_is(service: ServiceProcess, notes: str) -> None:
    async with service.client() as api:
        await api.put_datasource("shop", notes)
        answer = await api.call("POST", "/v1/jobs:preview?limit=4", json=definition({"kind": "file", "path": "x"}))
    assert answer["format"] == "csv"
    assert [row["key"] for row in answer["rows"]] == ["1", "2", "3", "4"]
    assert answer["rows"][1]["value"] == '2;0.02;"a;b ""c""\nd";{t2,NULL};2026-01-01 00:00:02+00'
    assert next(csv.reader([answer["rows"][3]["value"]], delimiter=";"))[2] == "\\N"


async def test_another_delimiter_is_another_target(service: ServiceProcess, notes: str) -> None:
    async with service.client() as api:
        await api.put_datasource("shop", notes)
        given = definition({"kind": "file", "path": "out/notes"})
        await api.create(given, start=True)
        await api.wait_for_rows("notes", 2000)
        await api.stop("notes", wait=20)
        with pytest.raises(ApiError) as refused:
            await api.call("PUT", "/v1/jobs/notes", json={**given, "format": {"kind": "csv", "delimiter": "|"}})
        assert refused.value.code == "position_incompatible"
        await api.call("PUT", "/v1/jobs/notes", json={**given, "format": {**given["format"], "compression": "gzip"}})
        await api.start("notes")
        await api.wait_for_state("notes", "successful", timeout=60)
    folder = service.files("out/notes")
    assert list(folder.glob("*.csv"))
    assert list(folder.glob("*.csv.gz"))
    assert await asyncio.to_thread(lambda: len(list(folder.iterdir()))) > 20
