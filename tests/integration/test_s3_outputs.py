"""What the job tells of each object, beside what another client finds in the bucket."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.states import State
from tests.support.workshop import ACCOUNT, Workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.s3 import S3Server


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        yield workshop


def looked_at(store: S3Server, bucket: str) -> dict[str, tuple[str, bytes]]:
    """ETag and content of every object by its name."""
    client = store.client()
    found: dict[str, tuple[str, bytes]] = {}
    for key in store.objects(bucket):
        answer: Any = client.get_object(Bucket=bucket, Key=key)
        found[key] = answer["ETag"].strip('"'), answer["Body"].read()
    return found


async def test_outputs_and_manifest_say_of_each_object_what_is_in_the_bucket(
    shop: Workshop, s3_server: S3Server, bucket: str
) -> None:
    await shop.rows(250)
    form = {"kind": "json", "compression": "gzip"}
    job = await shop.job(
        "orders", sink=s3_server.definition(bucket), format=form, options={"chunk": {"rows": 100}, "splits": 1}
    )
    await shop.engine().start()
    assert (await shop.run(job)).state is State.SUCCESSFUL
    found = await asyncio.to_thread(looked_at, s3_server, bucket)
    (manifest,) = [json.loads(content) for key, (_, content) in found.items() if "_manifest-" in key]
    objects = {key: one for key, one in found.items() if "_manifest-" not in key}
    outputs, _ = await shop.store.outputs(ACCOUNT, job.id, limit=50, after=None)
    told = {one.target: one for one in outputs}
    assert told.keys() == objects.keys()
    for key, (etag, content) in objects.items():
        ids = [json.loads(line)["id"] for line in gzip.decompress(content).splitlines()]
        one = told[key]
        assert (one.etag, one.bytes, one.rows) == (etag, len(content), len(ids))
        assert one.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert (one.first_id, one.last_id) == ((str(ids[0]),), (str(ids[-1]),))
    listed = [(entry["rows"], entry["bytes"], entry["checksum"], entry["last_key"]) for entry in manifest["files"]]
    by_order = sorted(outputs, key=lambda one: one.sequence)
    assert listed == [(one.rows, one.bytes, one.checksum, list(one.last_id or ())) for one in by_order]
    assert (manifest["file_count"], manifest["rows"]) == (3, 250)
