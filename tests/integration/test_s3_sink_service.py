"""The S3 sink behind the HTTP API: bad definitions, secrets, the promise that the store keeps, ambient buckets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.integration.serving import serving
from tests.support.s3 import OlderStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.s3 import MotoServer, S3Server
    from tests.support.service import ServiceProcess


@pytest.fixture
async def service(database: str, control_database: str) -> AsyncIterator[ServiceProcess]:
    """With a datasource over a table of 500 rows, and one bucket for the host's own credentials."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
        await connection.execute("INSERT INTO orders (note) SELECT 'note ' || n FROM generate_series(1, 500) n")
    finally:
        await connection.close()
    settings = {"ROWFERRY_AMBIENT_S3_BUCKETS": "ours, also-ours", "ROWFERRY_LOG_LEVEL": "debug"}
    async with serving(control_database, database, **settings) as made:
        yield made


def job(sink: dict[str, Any], name: str = "orders", **changes: Any) -> dict[str, Any]:
    source = {"datasource": "shop", "table": "public.orders"}
    return {"name": name, "source": source, "sink": sink, "options": {"chunk": {"rows": 100}}, **changes}


BAD: dict[str, dict[str, Any]] = {
    # where it is told: what is wrong
    "/sink/prefix": {"prefix": "a/{when}"},
    "/sink/bucket": {"bucket": "s3://rows"},
    "/sink/endpoint_url": {"endpoint_url": "store"},
    "/sink/tags": {"tags": {"a&b": "c"}},
    "/sink/encryption/algorithm": {"encryption": {"algorithm": "rot13"}},
    "/sink/path": {"path": "exports"},
}


async def test_a_bad_definition_is_told_at_its_place(service: ServiceProcess):
    told = {}
    async with service.client() as api:
        for pointer, changes in BAD.items():
            answer = await api.request("POST", "/v1/jobs", json=job({"kind": "s3", "bucket": "rows"} | changes))
            assert answer.status == 422, pointer
            told[pointer] = [error["pointer"] for error in answer.body["errors"]]
    assert told == {pointer: [pointer] for pointer in BAD}


async def test_a_job_runs_with_a_credential_and_its_secret_is_nowhere(
    service: ServiceProcess, s3_server: S3Server, bucket: str
):
    sink = s3_server.definition(bucket) | {"prefix": "exports/{job}", "credential": "store"}
    keys = {name: sink.pop(name) for name in ("access_key_id", "secret_access_key")}
    async with service.client() as api:
        await api.call("PUT", "/v1/credentials/store", json={"secrets": keys})
        answers = [
            await api.create(job(sink), start=True),
            await api.wait_for_state("orders", "successful", timeout=40),
        ]
        answers.append(await api.outputs("orders"))
        given = await api.create(job(sink | {"credential": None} | keys, name="given"))
        assert given["spec"]["sink"]["secret_access_key"] == "***"
        answers += [given, await api.call("POST", "/v1/jobs:validate", json=job(sink))]
        assert (await api.get("orders"))["guarantee"] == "exactly_once"
    rows = [row for key in await asyncio.to_thread(s3_server.objects, bucket) if "manifest" not in key for row in
            (await asyncio.to_thread(s3_server.read, bucket, key)).splitlines()]  # fmt: skip
    assert len(rows) == len(set(rows)) == 500
    assert s3_server.secret_key not in str(answers)
    assert s3_server.secret_key not in service.log.read_text()


async def test_what_a_store_lacks_stands_in_the_jobs_guarantee(service: ServiceProcess, moto_server: MotoServer):
    async with OlderStore(moto_server) as store:
        bucket = await asyncio.to_thread(moto_server.create_bucket)
        async with service.client() as api:
            made = await api.create(job(moto_server.definition(bucket, endpoint=store.endpoint)), start=True)
            assert made["guarantee"] == "exactly_once"
            assert "found out" in made["guarantee_note"]
            ended = await api.wait_for_state("orders", "successful", timeout=40)
    assert ended["guarantee"] == "exactly_once_unfenced"
    assert "no conditional writes" in ended["guarantee_note"]


async def test_the_hosts_own_credentials_are_for_buckets_that_the_setting_names(
    service: ServiceProcess, s3_server: S3Server
):
    async with service.client() as api:
        findings = {}
        for bucket in ("ours", "theirs"):
            sink = {"kind": "s3", "bucket": bucket, "endpoint_url": s3_server.endpoint}
            answer = await api.call("POST", "/v1/jobs:validate", json=job(sink))
            findings[bucket] = [one["code"] for one in answer["findings"] if one["pointer"].startswith("/sink")]
    assert findings["theirs"] == ["credentials_required"]
    assert "credentials_required" not in findings["ours"]


async def test_a_destination_that_is_not_allowed_is_refused_before_anything_is_sent(service: ServiceProcess):
    keys = {"access_key_id": "A", "secret_access_key": "a-secret-for-nobody"}
    sink = {"kind": "s3", "bucket": "rows", "endpoint_url": "http://169.254.169.254", **keys}
    async with service.client() as api:
        answer = await api.call("POST", "/v1/jobs:validate", json=job(sink))
    assert [(one["pointer"], one["code"]) for one in answer["findings"] if one["severity"] == "error"] == [
        ("/sink/endpoint_url", "destination_refused")
    ]
