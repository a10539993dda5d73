"""The S3 sink on a real store: names, parts, metadata, tries, the finish step, and bad definitions."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.session import AioSession  # type: ignore[import-untyped]

from sinks.base import (
    Batch,
    Cut,
    Guarantee,
    Mark,
    Owner,
    PositionConflict,
    Restage,
    SinkError,
    SinkRefused,
    TargetGone,
)
from sinks.formats import Format
from sinks.s3 import S3Sink
from sinks.s3_client import _session
from sinks.s3_parts import PART_BYTES, Body, Part
from sinks.s3_upload import Abilities, Upload
from tests.support.s3 import OlderStore
from tests.support.secrecy import secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from sinks.base import Prepared
    from sinks.s3_writer import S3Writer
    from tests.support.s3 import MotoServer, S3Server

JOB = "0199a1b2-0000-7000-8000-000000000001"
OWNER = Owner(account="default", job_id=JOB, job_name="orders", run_id="r7", generation=2, split="0", epoch=5)
NEXT = replace(OWNER, epoch=6)
LIBRARY_MEMORY = 64 << 20


def values(first: int, last: int) -> list[bytes]:
    return [b'{"id":%d}' % number for number in range(first, last + 1)]


def cut(sequence: int, first: int, last: int, *, attempt: int = 1, repeat_of: Prepared | None = None) -> Cut:
    found = last >= first
    return Cut(
        sequence=sequence,
        attempt=attempt,
        rows=last - first + 1,
        first_key=(str(first),) if found else None,
        last_key=(str(last),) if found or repeat_of is None else repeat_of.last_key,
        lower=None,
        repeat_of=repeat_of,
    )


async def opened(sink: S3Sink, owner: Owner = OWNER) -> S3Writer:
    writer = sink.writer(owner)
    await writer.open()
    return writer


async def prepared(writer: S3Writer, sequence: int, first: int, last: int, **more: Any) -> Prepared:
    if last >= first:
        await writer.stage(Batch(values(first, last)))
    return await writer.prepare(cut(sequence, first, last, **more))


async def settled(chunks: Iterable[Prepared]) -> AsyncIterator[Prepared]:
    for chunk in chunks:
        yield chunk


@pytest.fixture
async def make(s3_server: S3Server, bucket: str) -> AsyncIterator[Callable[..., S3Sink]]:
    """A sink on the fresh bucket; fields of the definition may be given, `compression` and `form` apart."""
    made: list[S3Sink] = []

    def maker(compression: str = "none", **changes: Any) -> S3Sink:
        known = {name: changes.pop(name) for name in ("guard", "target", "ambient", "patience") if name in changes}
        made.append(S3Sink(s3_server.spec(bucket, **changes), Format("json", compression), **known))
        return made[-1]

    yield maker
    for sink in made:
        await sink.close()


# -- what an object is -----------------------------------------------------------------------------------------------


async def test_an_object_has_its_name_its_metadata_and_its_record(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    sink = make("gzip", prefix="exports/{job}/{date:%Y/%m/%d}/{run}")
    writer = await opened(sink)
    before = datetime.now(UTC)
    chunk = await prepared(writer, 1, 1, 50, attempt=3)
    assert s3_server.objects(bucket) == {}
    receipt = await writer.make_visible(chunk)
    await writer.close()
    days = {f"{day:%Y/%m/%d}" for day in (before, datetime.now(UTC))}
    found = re.fullmatch(rf"exports/orders/(.+)/r7/{JOB}-g0002-s0000-00000001-([0-9a-f]{{8}})\.jsonl\.gz", chunk.target)
    assert found is not None
    assert found[1] in days
    content = s3_server.read(bucket, chunk.target)
    assert gzip.decompress(content).splitlines() == values(1, 50)
    assert chunk.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert chunk.bytes == len(content)
    head = s3_server.client().head_object(Bucket=bucket, Key=chunk.target, ChecksumMode="ENABLED")
    assert head["Metadata"] == {
        "rowferry-token": found[2],
        "rowferry-job": JOB,
        "rowferry-generation": "2",
        "rowferry-split": "0",
        "rowferry-epoch": "5",
        "rowferry-sequence": "1",
        "rowferry-try": "3",
        "rowferry-sha256": hashlib.sha256(content).hexdigest(),
    }
    assert receipt.etag == head["ETag"].strip('"')
    assert json.loads(json.dumps(chunk.details))["token"] == found[2]


async def test_a_large_chunk_goes_in_parts_that_are_compared_and_in_little_memory(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    sink = make()
    writer = await opened(sink)
    writer.begin_after(6)
    row = os.urandom(3 << 19).hex().encode()
    whole = hashlib.sha256()
    for _ in range(9):
        await writer.stage(Batch([row]))
        whole.update(row + b"\n")
    assert len(s3_server.uploads(bucket)) == 1, "parts are sent while rows come"
    chunk = await writer.prepare(cut(7, 1, 9))
    await writer.make_visible(chunk)
    await writer.close()
    assert "-s0000-00000007-" in chunk.target, "the number was known before the cut"
    assert chunk.checksum == f"sha256:{whole.hexdigest()}"
    head = s3_server.client().head_object(Bucket=bucket, Key=chunk.target, ChecksumMode="ENABLED")
    content = s3_server.read(bucket, chunk.target)
    parts = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
    assert len(parts) == 6
    joined = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
    assert chunk.details["digest"] == f"{base64.b64encode(joined).decode()}-6"
    assert head.get("ChecksumSHA256") == chunk.details["digest"]


MEMORY = """
import asyncio, os, sys
from pathlib import Path
from sinks.base import Batch, Cut, Owner
from sinks.formats import Format
from sinks.s3 import S3Sink
from sinks.s3_client import _session
from sinks.specs import S3SinkSpec

def peak_kib():
    # Not ru_maxrss: a child begins with its parent's, and the suite itself is larger by then.
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1])

async def main():
    sink = S3Sink(S3SinkSpec.model_validate_json(sys.stdin.read()), Format("json", "none"))
    writer = sink.writer(Owner("default", "0199a1b2", "orders", "r", 1, "0", 1))
    await writer.open()
    rows = [os.urandom(1 << 19).hex().encode()]
    for number in range(300):
        await writer.stage(Batch(rows))
        if number == 60:
            first = peak_kib()
    chunk = await writer.prepare(Cut(1, 1, 300, ("1",), ("300",), None))
    await writer.make_visible(chunk)
    await writer.close()
    await sink.close()
    last = peak_kib()
    print(chunk.target, chunk.bytes, first, last)

asyncio.run(main())
"""


async def test_a_part_goes_to_the_socket_as_it_is_and_is_signed_by_the_digest_that_is_known(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    """Plain http: the content is signed. Hashing it once more would hold the event loop, and reading it as a file is
    done in a thread for each 64 KiB."""
    read: list[int] = []
    real = Body.read

    def counted(self: Body, size: int | None = -1, /) -> bytes:
        read.append(len(found := real(self, size)))
        return found

    monkeypatch.setattr(Body, "read", counted)
    writer = await opened(make())
    rows = [os.urandom(3 << 20).hex().encode() for _ in range(3)]
    for row in rows:
        await writer.stage(Batch([row]))
    chunk = await writer.prepare(cut(1, 1, 3))
    await writer.make_visible(chunk)
    await writer.close()
    assert s3_server.read(bucket, chunk.target) == b"".join(row + b"\n" for row in rows)
    assert sum(read) == 0


@pytest.mark.parametrize("checksums", [True, False])
async def test_the_content_is_left_out_of_the_signature_once_the_store_was_seen_to_compare_it(
    make: Callable[..., S3Sink], checksums: bool
):
    sink = make()
    upload = Upload(sink.client, sink.spec, Abilities(checksums=checksums), "a/part")
    await upload.begin({})
    signed: list[str] = []

    def note(request: Any, **_: Any) -> None:
        content = request.headers["X-Amz-Content-SHA256"]
        signed.append(content.decode() if isinstance(content, bytes) else content)

    sink.client._client.meta.events.register("before-send.s3.UploadPart", note)
    parts = [Part(number, (text,), hashlib.sha256(text).digest()) for number, text in enumerate((b"1", b"2", b"3"), 1)]
    for part in parts:
        await upload.send(part)
        await upload.finished()
    digests = [part.sha256.hex() for part in parts]
    assert signed == ([digests[0], "UNSIGNED-PAYLOAD", "UNSIGNED-PAYLOAD"] if checksums else digests)
    await upload.abort()


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("checksums", [True, False])
async def test_a_part_that_is_not_what_was_signed_is_refused_by_the_store(
    make: Callable[..., S3Sink], checksums: bool, before: int
):
    sink = make()
    upload = Upload(sink.client, sink.spec, Abilities(checksums=checksums), "a/part")
    await upload.begin({})
    for number in range(1, before + 1):
        await upload.send(Part(number, (b"as it is",), hashlib.sha256(b"as it is").digest()))
        await upload.finished()
    await upload.send(Part(before + 1, (b"one thing",), hashlib.sha256(b"another").digest()))
    with pytest.raises(SinkError) as caught:
        await upload.finished()
    said = f"{caught.value.code} {caught.value.message}".lower()
    assert "sha256" in said or "digest" in said or "checksum" in said, said
    await upload.abort()


async def test_300_megabytes_in_one_object_take_no_more_memory_than_60(s3_server: S3Server, bucket: str):
    definition = json.dumps(s3_server.definition(bucket))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MEMORY),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate(definition.encode())
    target, size, at_60, at_300 = out.decode().split()
    assert s3_server.objects(bucket) == {target: int(size)}
    assert int(size) == 300 * ((1 << 20) + 1)
    assert (int(at_300) - int(at_60)) * 1024 < LIBRARY_MEMORY / 4, "memory grows with the object"
    assert int(at_300) < 200 * 1024, f"{int(at_300) // 1024} MiB"


async def test_a_repeat_keeps_name_and_format_and_may_be_empty(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    first = await opened(make("gzip", prefix="{date:%H}"))
    left = await prepared(first, 1, 1, 10)
    writer = await opened(make("none", prefix="elsewhere"), NEXT)
    assert await writer.visible([left]) is None
    with pytest.raises(SinkRefused) as passed_over:
        await prepared(writer, 1, 1, 10)
    assert passed_over.value.code == "repeat_expected"
    await writer.discard()
    again = await writer.prepare(cut(1, 1, 0, repeat_of=left))
    await writer.make_visible(again)
    assert again.target == left.target
    assert gzip.decompress(s3_server.read(bucket, left.target)) == b""
    for one in (first, writer):
        await one.close()


async def test_a_repeat_of_many_parts_has_its_name_from_the_first_part_on(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    """Another run, maybe another day: what the prefix would say now counts for new chunks alone."""
    rows = [os.urandom(3 << 19).hex().encode() for _ in range(4)]
    left = await opened(make(prefix="{job}/{date}/{run}"))
    for row in rows:
        await left.stage(Batch([row]))
    first = await left.prepare(cut(1, 1, 4))
    writer = await opened(make(prefix="{job}/{date}/{run}"), replace(NEXT, run_id="r8"))
    assert await writer.visible([first]) is None
    for row in rows:
        await writer.stage(Batch([row]))
    assert s3_server.uploads(bucket) == [first.target], "parts are sent before the cut"
    again = await writer.prepare(cut(1, 1, 4, attempt=2, repeat_of=first))
    assert (again.target, again.checksum) == (first.target, first.checksum)
    await writer.make_visible(again)
    for row in rows:
        await writer.stage(Batch([row]))
    following = await writer.prepare(cut(2, 5, 8))
    assert "/r8/" in following.target
    await writer.close()
    await left.close()
    assert list(s3_server.objects(bucket)) == [first.target]


async def test_an_empty_object_without_compression_takes_the_name(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    first = await opened(make())
    left = await prepared(first, 1, 1, 10)
    writer = await opened(make(), NEXT)
    assert await writer.visible([left]) is None
    again = await writer.prepare(cut(1, 1, 0, repeat_of=left))
    await writer.make_visible(again)
    assert s3_server.objects(bucket) == {left.target: 0}
    # An upload that is gone can not fill the name, whether the store says so (NoSuchUpload) or, as versitygw does where
    # the name is there, answers yes: what an owner without a lease is told is settled nowhere.
    with suppress(SinkError):
        await first.make_visible(left)
    assert s3_server.objects(bucket) == {left.target: 0}
    for one in (first, writer):
        await one.close()


async def test_a_repeat_that_staged_before_it_knew_begins_again(make: Callable[..., S3Sink]):
    first = await opened(make("gzip"))
    left = await prepared(first, 1, 1, 10)
    writer = await opened(make("none"), NEXT)
    with pytest.raises(Restage):
        await prepared(writer, 1, 1, 10, repeat_of=left)
    for one in (first, writer):
        await one.close()


async def test_a_name_that_is_taken_by_somebody_else_is_a_conflict_and_stays(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    writer = await opened(make())
    chunk = await prepared(writer, 1, 1, 10)
    s3_server.client().put_object(Bucket=bucket, Key=chunk.target, Body=b"somebody's")
    with pytest.raises(SinkError) as taken:
        await writer.make_visible(chunk)
    assert taken.value.code == "name_taken"
    assert taken.value.retryable
    await writer.close()
    assert s3_server.read(bucket, chunk.target) == b"somebody's"
    other = await opened(make(), NEXT)
    with pytest.raises(PositionConflict) as conflict:
        await other.visible([chunk])
    assert "move it away" in conflict.value.message
    await other.close()


async def test_of_two_owners_that_race_for_a_name_the_object_says_who_won(make: Callable[..., S3Sink]):
    sink = make()
    writer = await opened(sink)
    first = await prepared(writer, 1, 1, 10)
    await writer.make_visible(first)
    await writer.close()
    # A second try under the same name, as a new owner makes it that read before the first one appeared.
    other = await opened(sink, NEXT)
    assert await other.visible([]) is None
    other._repeat = first
    second = await prepared(other, 1, 1, 10, repeat_of=first)
    with pytest.raises(SinkError) as lost:
        await other.make_visible(second)
    assert lost.value.code == "name_taken"
    await other.close()
    last = await opened(sink, replace(OWNER, epoch=7))
    assert await last.visible([first, second]) == Mark(2, 5, 1, 1)
    assert sink.receipt(first).etag
    await last.close()


# -- uploads that nobody ends ----------------------------------------------------------------------------------------


async def test_discard_and_clean_up_leave_no_upload(make: Callable[..., S3Sink], s3_server: S3Server, bucket: str):
    sink = make(prefix="x/{run}/{date}")
    writers = [await opened(sink, replace(OWNER, split=str(number))) for number in range(3)]
    chunks = [await prepared(writer, 1, 1, 5) for writer in writers]
    stranger = await opened(sink, replace(OWNER, job_id="0199ffff"))
    await prepared(stranger, 1, 1, 5)
    assert len(s3_server.uploads(bucket)) == 4
    began = time.monotonic()
    await writers[0].discard()
    assert time.monotonic() - began < 1
    assert len(s3_server.uploads(bucket)) == 3
    await sink.clean_up([replace(OWNER, split=str(number)) for number in (1, 2)])
    assert [key.rpartition("/")[2][:8] for key in s3_server.uploads(bucket)] == ["0199ffff"]
    for writer, chunk in zip(writers[1:], chunks[1:], strict=True):
        with pytest.raises(SinkError) as fenced:
            await writer.make_visible(chunk)
        assert fenced.value.code == "upload_gone"
    for writer in (*writers, stranger):
        await writer.close()
    assert s3_server.uploads(bucket) == []


async def test_many_open_uploads_of_a_split_are_all_found(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    client = s3_server.client()
    for number in range(30):
        key = f"{JOB}-g0002-s000{number % 2}-{number:08d}-0011aabb.jsonl"
        client.create_multipart_upload(Bucket=bucket, Key=key)
    writer = await opened(make())
    assert sorted(key.split("-s")[1][:4] for key in s3_server.uploads(bucket)) == ["0001"] * 15
    await writer.close()


# -- the finish step -------------------------------------------------------------------------------------------------


async def finished(sink: S3Sink, count: int = 3) -> list[Prepared]:
    chunks = []
    for split in ("0", "1"):
        writer = await opened(sink, replace(OWNER, split=split))
        for sequence in range(1, count + 1):
            chunks.append(await prepared(writer, sequence, sequence * 10, sequence * 10 + 4))
            await writer.make_visible(chunks[-1])
        await writer.close()
    return chunks


async def test_the_manifest_names_every_object_and_comes_out_the_same_twice(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    sink = make("zstd", prefix="exports/{job}/{date:%Y}/{run}/")
    chunks = await finished(sink)
    texts = []
    for _ in range(2):
        await sink.finish(replace(OWNER, split="finish"), settled(chunks))
        texts.append(s3_server.read(bucket, f"exports/orders/_manifest-{JOB}-g0002.json"))
    assert texts[0] == texts[1]
    manifest = json.loads(texts[0])
    assert (manifest["file_count"], manifest["rows"], manifest["generation"]) == (6, 30, 2)
    assert [entry["file"].lstrip("/") for entry in manifest["files"]] == [chunk.target for chunk in chunks]
    assert manifest["files"][0]["first_key"] == ["10"]
    assert {entry["checksum"] for entry in manifest["files"]} == {chunk.checksum for chunk in chunks}
    assert len(s3_server.objects(bucket)) == 7
    assert s3_server.uploads(bucket) == []


async def test_what_a_killed_finish_step_had_begun_is_gone_with_the_next(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    sink = make(prefix="exports")
    chunks = await finished(sink)
    for generation in ("0002", "0003"):
        key = f"exports/_manifest-{JOB}-g{generation}.json"
        s3_server.client().create_multipart_upload(Bucket=bucket, Key=key)
    await sink.finish(replace(OWNER, split="finish"), settled(chunks))
    assert s3_server.uploads(bucket) == [f"exports/_manifest-{JOB}-g0003.json"]


@pytest.mark.parametrize("fault", ["output_missing", "output_differs", "replaced", "output_unknown"])
async def test_the_finish_step_finds_what_is_not_as_recorded(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str, fault: str
):
    sink = make()
    chunks = await finished(sink)
    client, victim = s3_server.client(), chunks[4]
    content = s3_server.read(bucket, victim.target)
    if fault == "output_missing":
        client.delete_object(Bucket=bucket, Key=victim.target)
    elif fault == "output_differs":
        client.put_object(Bucket=bucket, Key=victim.target, Body=content + b"x")
    elif fault == "replaced":
        client.put_object(Bucket=bucket, Key=victim.target, Body=content[::-1])
    else:
        client.put_object(Bucket=bucket, Key=f"{JOB}-g0002-s0003-00000001-00112233.jsonl", Body=content)
    with pytest.raises(PositionConflict) as caught:
        await sink.finish(replace(OWNER, split="finish"), settled(chunks))
    assert caught.value.code == {"replaced": "output_differs"}.get(fault, fault)
    assert not [key for key in s3_server.objects(bucket) if "manifest" in key]
    assert s3_server.uploads(bucket) == []


async def test_another_object_under_the_same_token_is_found_by_its_size_and_by_its_checksum(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    sink = make()
    chunks = await finished(sink)
    client, victim = s3_server.client(), chunks[4]
    place = {"Bucket": bucket, "Key": victim.target}
    kept = client.head_object(**place)["Metadata"]
    content = s3_server.read(bucket, victim.target)
    for other in (content + b"x", content[::-1]):
        upload = client.create_multipart_upload(**place, Metadata=kept, ChecksumAlgorithm="SHA256")["UploadId"]
        part = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=other, ChecksumAlgorithm="SHA256")
        sent = {"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}
        client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": [sent]})
        with pytest.raises(PositionConflict) as caught:
            await sink.finish(replace(OWNER, split="finish"), settled(chunks))
        assert caught.value.code == "output_differs"
        assert ("bytes, not" if len(other) != len(content) else "another checksum") in caught.value.message


# -- what the store can do -------------------------------------------------------------------------------------------


async def test_conditional_writes_are_found_out_once_and_leave_nothing(
    make: Callable[..., S3Sink], s3_server: S3Server, bucket: str
):
    sink = make(prefix="a/{date}/b")
    target = await sink.prepare_target()
    assert target == {"conditional_writes": True}
    assert (s3_server.objects(bucket), s3_server.uploads(bucket)) == ({}, [])
    assert sink.promise().guarantee is Guarantee.EXACTLY_ONCE
    later = make(target=target)
    assert await later.prepare_target() == target
    assert "found out" not in later.promise().note


async def test_a_store_without_conditional_writes_is_told_and_promised_less(moto_server: MotoServer):
    async with OlderStore(moto_server) as store:
        bucket = await asyncio.to_thread(moto_server.create_bucket)
        spec = moto_server.spec(bucket, endpoint=store.endpoint)
        sink = S3Sink(spec, Format())
        target = await sink.prepare_target()
        assert target == {"conditional_writes": False}
        await sink.close()
        sink = S3Sink(spec, Format(), target=target)
        promise = sink.promise()
        assert promise.guarantee is Guarantee.EXACTLY_ONCE_UNFENCED
        assert "no conditional writes" in promise.note
        writer = await opened(sink)
        chunk = await prepared(writer, 1, 1, 10)
        await asyncio.to_thread(moto_server.client().put_object, Bucket=bucket, Key=chunk.target, Body=b"theirs")
        with pytest.raises(SinkError) as taken:
            await writer.make_visible(chunk)
        assert taken.value.code == "name_taken"
        chunk = await prepared(writer, 2, 11, 20)
        old, new = writer, await opened(sink, NEXT)
        with pytest.raises(SinkError):  # moto breaks off with a 500 where others say NoSuchUpload
            await old.make_visible(chunk)
        assert chunk.target not in await asyncio.to_thread(moto_server.objects, bucket)
        for one in (old, new):
            await one.close()
        await sink.close()


async def test_a_store_without_checksums_gets_the_md5_of_each_part(moto_server: MotoServer):
    async with OlderStore(moto_server, checksums=False) as store:
        bucket = await asyncio.to_thread(moto_server.create_bucket)
        sink = S3Sink(moto_server.spec(bucket, endpoint=store.endpoint), Format())
        assert await sink.check() == []
        await sink.prepare_target()
        before = store.parts_with_md5
        writer = await opened(sink)
        chunk = await prepared(writer, 1, 1, 10)
        await writer.make_visible(chunk)
        assert store.parts_with_md5 == before + 1
        assert chunk.details["digest"] is None
        await sink.finish(replace(OWNER, split="finish"), settled([chunk]))
        assert (await asyncio.to_thread(moto_server.read, bucket, chunk.target)).splitlines() == values(1, 10)
        await writer.close()
        await sink.close()


async def test_terms_of_the_definition_are_each_objects(moto_server: MotoServer):
    bucket = await asyncio.to_thread(moto_server.create_bucket)
    terms = {
        "storage_class": "STANDARD_IA",
        "tags": {"team": "data + more", "cost center": "7"},
        "encryption": {"algorithm": "aws:kms", "kms_key_id": "alias/rows"},
    }
    sink = S3Sink(moto_server.spec(bucket, **terms), Format())
    writer = await opened(sink)
    chunk = await prepared(writer, 1, 1, 10)
    await writer.make_visible(chunk)
    await writer.close()
    await sink.close()

    def seen() -> tuple[Any, ...]:
        client = moto_server.client()
        head = client.head_object(Bucket=bucket, Key=chunk.target)
        tags = client.get_object_tagging(Bucket=bucket, Key=chunk.target)["TagSet"]
        return head["StorageClass"], head["ServerSideEncryption"], {tag["Key"]: tag["Value"] for tag in tags}

    assert await asyncio.to_thread(seen) == ("STANDARD_IA", "aws:kms", terms["tags"])


# -- what can not be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "kind"),
    [
        ({"bucket": "nobody-has-this"}, "bucket_missing", TargetGone),
        ({"secret_access_key": "wrong"}, "authentication_failed", SinkRefused),
        ({"access_key_id": "NOBODY"}, "authentication_failed", SinkRefused),
        ({"access_key_id": None, "secret_access_key": None}, "credentials_required", SinkRefused),
        ({"secret_access_key": None}, "credentials_required", SinkRefused),
    ],
)
async def test_a_definition_that_does_not_fit_the_store_is_refused_with_a_remedy(
    make: Callable[..., S3Sink], s3_server: S3Server, changes: dict[str, Any], code: str, kind: type[SinkError]
):
    sink = make(**changes)
    writer = sink.writer(OWNER)
    for step in (writer.open, sink.prepare_target):
        with pytest.raises(kind) as caught:
            await step()
        assert caught.value.code == code
        assert not caught.value.retryable
        assert s3_server.secret_key not in f"{caught.value!r} {caught.value.__cause__!r}"
    findings = await sink.check()
    assert [(one.severity, one.code) for one in findings] == [("error", code)]
    await writer.close()


async def test_a_missing_right_is_named(make: Callable[..., S3Sink], s3_server: S3Server):
    access, hidden = await asyncio.to_thread(s3_server.create_user)
    sink = make(access_key_id=access, secret_access_key=hidden)
    with pytest.raises(SinkRefused) as caught:
        await sink.prepare_target()
    assert caught.value.code == "right_missing"
    assert "s3:ListBucketMultipartUploads" in caught.value.message
    assert access in caught.value.message


async def test_the_hosts_own_credentials_are_for_allowed_buckets(
    make: Callable[..., S3Sink], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    nobody = {"access_key_id": None, "secret_access_key": None}
    assert await make(**nobody, ambient=True).check() == []
    assert [one.code for one in await make(**nobody).check()] == ["credentials_required"]


async def test_nothing_of_the_hosts_own_settings_reaches_a_job_with_keys(
    s3_server: S3Server, bucket: str, tmp_path: Path
):
    """In a process of its own: the session is made once."""
    config = tmp_path / "config"
    config.write_text("[default]\nregion = nowhere-1\nendpoint_url = http://127.0.0.1:1\n")
    hostile = {
        "AWS_PROFILE": "nobody",
        "AWS_CONFIG_FILE": str(config),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "the-hosts-own",
        "AWS_SECRET_ACCESS_KEY": "the-hosts-own",
        "AWS_SESSION_TOKEN": "the-hosts-own",
        "AWS_DEFAULT_REGION": "nowhere-1",
    }
    code = (
        "import asyncio, sys; from sinks.formats import Format; from sinks.s3 import S3Sink\n"
        "from sinks.specs import S3SinkSpec\n"
        "async def main():\n"
        "    sink = S3Sink(S3SinkSpec.model_validate_json(sys.stdin.read()), Format())\n"
        "    print(await sink.check()); await sink.close()\n"
        "asyncio.run(main())"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=os.environ | hostile,
        input=json.dumps(s3_server.definition(bucket)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr


async def test_an_address_that_is_not_allowed_is_asked_for_before_anything_is_sent(make: Callable[..., S3Sink]):
    asked: list[tuple[str, int]] = []

    async def guard(host: str, port: int) -> list[str]:
        asked.append((host, port))
        raise SinkRefused("destination_refused", "s3 destination is not allowed here")

    sink = make(guard=guard)
    with pytest.raises(SinkRefused) as caught:
        await sink.prepare_target()
    assert caught.value.code == "destination_refused"
    assert asked == [("127.0.0.1", sink_port(sink))]
    assert [one.pointer for one in await sink.check()] == ["/sink/endpoint_url"]


async def test_every_request_is_asked_for_by_its_own_address(make: Callable[..., S3Sink]):
    asked: list[tuple[str, int]] = []

    async def guard(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return [host]

    sink = make(guard=guard)
    writer = await opened(sink)
    await writer.make_visible(await prepared(writer, 1, 1, 3))
    await writer.close()
    assert len(asked) == 5, "once before connecting, then list, create, part, complete"
    assert set(asked) == {("127.0.0.1", sink_port(sink))}


def sink_port(sink: S3Sink) -> int:
    return int((sink.spec.endpoint_url or "").rpartition(":")[2])


async def test_no_secret_is_logged_at_the_most_talkative_level(
    make: Callable[..., S3Sink], s3_server: S3Server, caplog: pytest.LogCaptureFixture
):
    token = secret("a-session-token-that-must-not-be-logged")
    with caplog.at_level(logging.DEBUG):
        sink = make()
        writer = await opened(sink)
        await writer.make_visible(await prepared(writer, 1, 1, 3))
        await writer.close()
        await make(session_token=token).check()
    said = caplog.text
    assert s3_server.secret_key not in said
    assert token not in said
    assert "Authorization" not in said


async def test_the_clients_of_many_jobs_that_begin_at_once_hold_no_event_loop(make: Callable[..., S3Sink]):
    """By the processor's clock of the loop's thread, which a busy machine does not move."""
    turns: list[float] = []
    sinks = [make() for _ in range(22)]

    async def watch() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - began)

    _session.cache_clear()
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(sink.client.call("ListObjectsV2", MaxKeys=1) for sink in sinks))
    watching.cancel()
    assert max(turns) < 0.05
    assert _session.cache_info().misses == 1, "reading the descriptions takes a second"


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "xx-new-9"])
async def test_what_is_left_of_the_descriptions_leads_to_the_same_places(region: str):
    session = _session(ambient=False)
    loader = session.get_component("data_loader")
    assert len(loader.load_data("endpoints")["partitions"][0]["services"]) < 10
    keys = {"region_name": region, "aws_access_key_id": "a", "aws_secret_access_key": "b", "verify": False}
    for service in ("s3", "sts"):
        async with session.create_client(service, **keys) as ours, AioSession().create_client(service, **keys) as plain:
            assert ours.meta.endpoint_url == plain.meta.endpoint_url
            assert ours.meta.service_model.operation_names == plain.meta.service_model.operation_names
    assert len(json.dumps(loader.load_service_model("s3", "service-2"))) < 700_000


async def test_nothing_of_the_client_is_loaded_before_the_first_connection():
    code = (
        "import sys; from pathlib import Path; from sinks.registry import *\n"
        "sink = build(parse({'kind': 's3', 'bucket': 'rows'}), Context(files=Path()))\n"
        "print(sink.promise().guarantee.value, 'aiobotocore' in sys.modules, 'aiohttp' in sys.modules)"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["exactly_once", "False", "False"]
