"""S3 and HDFS destinations of the Devo dialect: names, archives, paths."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import pyzipper

from tests.integration.devo_cases import FIRST, DevoCase, launch
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.hdfs import HdfsServer
    from tests.support.s3 import S3Server

CLUSTER = "hdfs://namenode.example:8020"


async def ended(devo: DevoCase, job_id: str) -> Any:
    async def look() -> Any:
        found = await devo.status(job_id)
        return found if found["status"] in {"COMPLETED", "STOPPED"} else None

    return await until(look, 60, f"{job_id} to end")


@pytest.fixture
async def devo(control_database: str, database: str, s3_server: S3Server) -> AsyncIterator[DevoCase]:
    settings = {"devo_s3_endpoint_url": s3_server.endpoint, "devo_s3_object_bytes": 2000}
    async with DevoCase(control_database, database, rate_limit=100_000, **settings) as case:
        await case.engine.start()
        yield case


def s3(server: S3Server, bucket: str, **params: Any) -> dict[str, Any]:
    keys = {"aws.bucket": bucket, "aws.region": "us-east-1"}
    keys |= {"aws.accesskey": server.access_key, "aws.secretkey": server.secret_key}
    return {"type": "s3", "params": keys | params}


def ids(text: bytes) -> list[int]:
    header, *rows = csv.reader(io.StringIO(text.decode()))
    assert header == ["id", "user"]
    return [int(row[0]) for row in rows]


async def test_archives_with_a_password_numbered_over_stops(devo: DevoCase, s3_server: S3Server, bucket: str) -> None:
    await devo.events(500)
    destination = s3(s3_server, bucket, **{"file.password": "hard to guess", "s3.fileName": "in/web-"})
    query = "from web.events select id, user"
    job_id = await devo.job(destination, query=query)
    job = await ended(devo, job_id)
    assert (job["status"], job["eventsSent"], job["error"]) == ("COMPLETED", 500, []), job
    paths = job["extra"]["paths"]
    assert len(paths) > 1
    assert paths == [f"s3://{bucket}/in/web-apiv2_{job_id}_{number:03d}.csv.zip" for number in range(1, len(paths) + 1)]
    assert "hard to guess" not in json.dumps(await devo.ok("GET", f"/v1/jobs/{job_id}"))
    found: list[int] = []
    for path in paths:
        body = await asyncio.to_thread(s3_server.read, bucket, path.removeprefix(f"s3://{bucket}/"))
        with pyzipper.AESZipFile(io.BytesIO(body)) as archive:
            archive.setpassword(b"hard to guess")
            found += ids(archive.read("rows.csv"))
    assert found == list(range(1, 501))
    # Again from the beginning: another generation, and the numbers go on.
    await devo.ok("POST", f"/v1/jobs/{job_id}/start?from=beginning", status=202)
    await devo.until_state(job_id, "successful")
    again = (await devo.status(job_id))["extra"]["paths"]
    assert again[: len(paths)] == paths
    numbers = [int(re.findall(r"_(\d+)\.csv\.zip$", path)[0]) for path in again]
    assert numbers == list(range(1, len(again) + 1))
    assert len(again) == 2 * len(paths)


@pytest.mark.parametrize(("packing", "extension"), [("gzip", ".csv.gz"), ("plain", ".csv")])
async def test_other_packings(devo: DevoCase, s3_server: S3Server, bucket: str, packing: str, extension: str) -> None:
    await devo.events(10)
    job_id = await devo.job(s3(s3_server, bucket, format=packing), query="from web.events select id, user")
    (path,) = (await ended(devo, job_id))["extra"]["paths"]
    assert path == f"s3://{bucket}/apiv2_{job_id}_001{extension}"
    body = await asyncio.to_thread(s3_server.read, bucket, path.removeprefix(f"s3://{bucket}/"))
    assert ids(gzip.decompress(body) if packing == "gzip" else body) == list(range(1, 11))


async def test_every_wrong_setting_has_its_code(devo: DevoCase, s3_server: S3Server, bucket: str) -> None:
    for change, code in (
        ({"aws.bucket": None}, 205),
        ({"aws.secretkey": None}, 205),
        ({"aws.bucket": ""}, 206),
        ({"aws.bucket": 5}, 206),
        ({"aws.accesskey": ""}, 207),
        ({"aws.secretkey": {}}, 208),
        ({"aws.region": ""}, 209),
        ({"format": "rar"}, 210),
        ({"format": "gzip", "file.password": "x"}, 211),
        ({"file.password": ""}, 212),
        ({"s3.fileName": "../up"}, 205),
        ({"aws.secretkey": "env:ROWFERRY_SECRET_PG"}, 205),
        ({"aws.secretkey": "file:/etc/passwd"}, 205),
    ):
        given = s3(s3_server, bucket)
        given["params"] |= change
        reply = await devo.devo("POST", "/search/query", launch(given))
        assert (reply.status, reply.body["code"], reply.body["status"]) == (400, code, code), (change, reply)
        assert s3_server.secret_key.encode() not in reply.raw
    nothing = await devo.devo("POST", "/search/query", launch({"type": "s3", "params": {}}))
    assert (nothing.status, nothing.body["code"]) == (400, 205)
    assert (await devo.ok("GET", "/v1/jobs"))["jobs"] == []


async def test_files_of_hdfs(control_database: str, database: str, hdfs_server: HdfsServer) -> None:
    settings = {"devo_webhdfs": {CLUSTER: hdfs_server.url}, "devo_s3_object_bytes": 8192}
    async with DevoCase(control_database, database, rate_limit=100_000, **settings) as devo:
        await devo.events(200)
        await devo.engine.start()
        folder = f"/devo-{FIRST}"
        params = {"fs.defaultFS": CLUSTER, "full path": folder, "file": "events", "dfs.replication": "1"}
        job_id = await devo.job({"type": "hdfs", "params": params})
        job = await ended(devo, job_id)
        assert (job["status"], job["eventsSent"]) == ("COMPLETED", 200), job
        paths = job["extra"]["paths"]
        assert len(paths) > 1
        assert paths == [f"{CLUSTER}{folder}/events_0_{number:03d}.data" for number in range(1, len(paths) + 1)]
        unknown = await devo.devo(
            "POST", "/query", launch({"type": "hdfs", "params": {**params, "fs.defaultFS": "hdfs://other:8020"}})
        )
        assert (unknown.status, unknown.body["code"]) == (400, 205)
