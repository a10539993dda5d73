"""The HDFS sink on a real cluster: names, tries, fences, the finish step, and what validation says."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from sinks.base import (
    Batch,
    Cut,
    Fenced,
    Guarantee,
    Mark,
    PositionConflict,
    Restage,
    Shows,
    SinkError,
    SinkRefused,
    SinkUnavailable,
    TargetGone,
)
from sinks.hdfs_upload import LONGEST_QUEUE
from tests.integration.hdfs_cases import (
    FINISHER,
    HIDDEN,
    JOB,
    OWNER,
    USER,
    Folder,
    cut,
    large_rows,
    opened,
    prepare,
    rows,
    stream,
    write,
)
from tests.support.hdfs import HdfsServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sinks.hdfs import HdfsSink
    from tests.support.hdfs import HdfsProxies


@pytest.fixture
async def folder(hdfs_server: HdfsServer) -> AsyncIterator[Folder]:
    made = Folder(hdfs_server, f"/jobs/{uuid.uuid4().hex}/orders")
    yield made
    await made.call("DELETE", "DELETE", made.path.rpartition("/")[0], recursive="true")


@pytest.fixture
async def sink(folder: Folder) -> HdfsSink:
    sink = folder.sink()
    await sink.prepare_target()
    return sink


# --- what is written -------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.parametrize(("compression", "ending"), [("none", ".jsonl"), ("gzip", ".jsonl.gz"), ("zstd", ".jsonl.zst")])
async def test_a_chunk_is_one_file_with_the_size_and_checksum_that_were_prepared(
    folder: Folder, compression: str, ending: str
):
    sink = folder.sink(compression, replication=3)
    await sink.prepare_target()
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 5000)
    assert await folder.outputs() == []
    receipt = await writer.make_visible(prepared)
    await writer.close()
    [name] = await folder.outputs()
    assert receipt.target == prepared.target == f"{folder.path}/{name}"
    assert name.startswith(f"{JOB}-g0002-s0000-00000001-")
    assert name.endswith(ending)
    data = await folder.read(name)
    assert (prepared.bytes, prepared.checksum) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    assert READERS[compression](data) == b"".join(row + b"\n" for row in rows(1, 5000))
    status = (await folder.call("GET", "GETFILESTATUS", prepared.target))["FileStatus"]
    assert (status["owner"], status["replication"]) == (USER, 3)
    assert await folder.temporaries() == []


async def test_the_promise_and_what_the_runner_needs_to_know(sink: HdfsSink):
    promise = sink.promise()
    assert promise.guarantee is Guarantee.EXACTLY_ONCE
    assert promise.note == "files appear whole by a rename that cannot overwrite"
    assert (sink.shows, sink.needs_anchor, sink.settles_with_prepare) == (Shows.NAMES, False, False)


async def test_a_row_of_two_lines_and_a_wrong_count_are_refused(sink: HdfsSink):
    writer = await opened(sink)
    with pytest.raises(SinkRefused, match="record 1 "):
        await writer.stage(Batch([b"{}", b"{\n}"]))
    await writer.close()
    writer = await opened(sink)
    await writer.stage(Batch(rows(1, 3)))
    with pytest.raises(SinkRefused, match="3 rows are staged and the cut has 4"):
        await writer.prepare(cut(1, 1, 4))
    await writer.close()


async def test_a_large_chunk_goes_in_one_file_and_waits_for_a_slow_cluster_in_bounded_memory(
    folder: Folder, hdfs_proxies: HdfsProxies
):
    sink = folder.sink(url=hdfs_proxies.url)
    await sink.prepare_target()
    writer = await opened(sink)
    values = large_rows(48)
    hdfs_proxies.datanode.stall = True
    staged = 0

    async def stage() -> None:
        nonlocal staged
        for start in range(0, len(values), 16):
            await writer.stage(Batch(values[start : start + 16]))
            staged += sum(map(len, values[start : start + 16]))

    staging = asyncio.create_task(stage())
    await until(lambda: staged >= LONGEST_QUEUE - (1 << 20), 20, "the queue is full")
    done, _ = await asyncio.wait({staging}, timeout=1)
    # What is neither queued nor in the sockets between us and the proxy has not been taken.
    assert not done
    assert staged < 2 * LONGEST_QUEUE
    hdfs_proxies.datanode.stall = False
    await staging
    prepared = await writer.prepare(cut(1, 1, len(values)))
    await writer.make_visible(prepared)
    await writer.close()
    data = await folder.read(prepared.target)
    assert data == b"".join(value + b"\n" for value in values)
    assert prepared.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}"


# --- names that are taken, tries, repeats ----------------------------------------------------------------------------


async def test_of_several_tries_the_one_that_is_there_is_told_and_the_last_of_equals(sink: HdfsSink):
    writer = await opened(sink)
    first = await prepare(writer, 1, 1, 10)
    await writer.stage(Batch([b'{"id":1,"changed":true}']))
    other = await writer.prepare(replace(cut(1, 1, 10, attempt=2, repeat_of=first), rows=1))
    await writer.make_visible(other)
    twin = replace(other, epoch=6, attempt=1)
    assert await writer.visible([first, other]) == Mark(2, 5, 1, 2)
    assert await writer.visible([first, other, twin]) == Mark(2, 6, 1, 1)
    await writer.close()


@pytest.mark.parametrize("content", [b"something else\n", None])
async def test_a_name_taken_by_somebody_else_is_a_conflict_and_stays(
    sink: HdfsSink, folder: Folder, content: bytes | None
):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    # With the prepared size and another content, only the bytes can tell.
    content = b"?" * prepared.bytes if content is None else content
    await folder.write(prepared.target, content)
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(prepared)
    assert caught.value.code == "name_taken"
    await writer.close()
    writer = await opened(sink)
    with pytest.raises(PositionConflict, match="none of the 1 prepared tries"):
        await writer.visible([prepared])
    await writer.close()
    assert await folder.read(prepared.target) == content


async def test_a_folder_in_the_place_of_a_file_is_a_conflict(sink: HdfsSink, folder: Folder):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    await folder.call("PUT", "MKDIRS", prepared.target)
    with pytest.raises(SinkUnavailable):
        await writer.make_visible(prepared)
    with pytest.raises(PositionConflict):
        await writer.visible([prepared])
    await writer.close()
    assert await folder.call("GET", "LISTSTATUS", prepared.target) == {"FileStatuses": {"FileStatus": []}}


async def test_a_name_taken_by_our_own_content_is_adopted(sink: HdfsSink, folder: Folder):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    await folder.write(prepared.target, b"".join(row + b"\n" for row in rows(1, 10)))
    with pytest.raises(SinkUnavailable, match="name taken"):
        await writer.make_visible(prepared)
    await writer.close()
    writer = await opened(sink, epoch=6)
    assert await writer.visible([prepared]) == Mark(2, 5, 1, 1)
    await writer.close()
    assert await folder.temporaries() == []


async def test_a_repeat_keeps_name_and_format_whatever_the_definition_says_now(folder: Folder):
    before = folder.sink("gzip")
    await before.prepare_target()
    writer = await opened(before)
    left = await prepare(writer, 1, 1, 10)
    await writer.close()
    writer = await opened(folder.sink("none"), epoch=6)
    assert await writer.visible([left]) is None
    again = await prepare(writer, 1, 1, 10, repeat_of=left)
    assert (again.target, again.checksum) == (left.target, left.checksum)
    await writer.make_visible(again)
    following = await prepare(writer, 2, 11, 20)
    await writer.make_visible(following)
    await writer.close()
    assert gzip.decompress(await folder.read(left.target)).splitlines() == rows(1, 10)
    assert (await folder.read(following.target)).splitlines() == rows(11, 20)


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_a_repeat_without_a_row_fills_the_name_with_an_empty_file(folder: Folder, compression: str):
    sink = folder.sink(compression)
    await sink.prepare_target()
    old = await opened(sink)
    left = await prepare(old, 1, 1, 10)
    writer = await opened(sink, epoch=6)
    assert await writer.visible([left]) is None
    again = await writer.prepare(Cut(1, 1, 0, None, ("10",), None, left))
    assert (again.rows, again.first_key, again.last_key) == (0, None, ("10",))
    await writer.make_visible(again)
    await writer.close()
    with pytest.raises(Fenced):
        await old.make_visible(left)
    await old.close()
    [name] = await folder.outputs()
    assert READERS[compression](await folder.read(name)) == b""
    await sink.finish(FINISHER, stream([again]))


async def test_what_was_staged_in_another_format_than_the_repeat_needs_is_staged_again(folder: Folder):
    before = folder.sink("gzip")
    await before.prepare_target()
    old = await opened(before)
    left = await prepare(old, 1, 1, 10)
    await old.close()
    writer = await opened(folder.sink("none"), epoch=6)
    await writer.stage(Batch(rows(1, 10)))
    with pytest.raises(Restage):
        await writer.prepare(cut(1, 1, 10, repeat_of=left))
    await writer.close()


async def test_a_prepared_chunk_can_not_be_passed_over(sink: HdfsSink):
    old = await opened(sink)
    left = await prepare(old, 1, 1, 10)
    await old.close()
    writer = await opened(sink, epoch=6)
    assert await writer.visible([left]) is None
    await writer.stage(Batch(rows(1, 20)))
    with pytest.raises(SinkRefused) as caught:
        await writer.prepare(cut(1, 1, 20))
    assert caught.value.code == "repeat_expected"
    await writer.close()


# --- fencing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [6, 5])
async def test_who_opens_takes_away_every_older_file_also_of_its_own_epoch_and_one_that_is_written_to(
    sink: HdfsSink, folder: Folder, epoch: int
):
    old = await opened(sink)
    prepared = await prepare(old, 1, 1, 10)
    await old.stage(Batch(large_rows(2)))

    async def two() -> bool:
        return len(await folder.temporaries()) == 2

    await until(two, 10, "the second chunk's temporary file is open for writing")
    new = await opened(sink, epoch=epoch)
    assert await folder.temporaries() == []
    with pytest.raises(SinkError):
        await old.prepare(cut(2, 11, 42))
    with pytest.raises(Fenced) as caught:
        await old.make_visible(prepared)
    assert caught.value.code == "temporary_gone"
    await old.close()
    assert await folder.outputs() == []
    assert await folder.temporaries() == []
    await new.close()


async def test_an_old_owner_can_not_open_over_a_newer_one_nor_harm_it(sink: HdfsSink, folder: Folder):
    new = await opened(sink, epoch=7)
    prepared = await prepare(new, 1, 1, 10)
    old = sink.writer(OWNER)
    with pytest.raises(Fenced, match="epoch 7"):
        await old.open()
    await old.close()
    await new.make_visible(prepared)
    await new.close()
    assert len(await folder.outputs()) == 1


async def test_a_rename_that_came_just_before_the_fence_is_seen(sink: HdfsSink, folder: Folder):
    old = await opened(sink)
    prepared = await prepare(old, 1, 1, 10)
    [temporary] = await folder.temporaries()
    await folder.call("PUT", "RENAME", f"{folder.path}/{HIDDEN}/{temporary}", destination=prepared.target)
    new = await opened(sink, epoch=6)
    assert await new.visible([prepared]) == Mark(2, 5, 1, 1)
    with pytest.raises(Fenced):
        await old.make_visible(prepared)
    await old.close()
    await new.close()
    [name] = await folder.outputs()
    assert (await folder.read(name)).splitlines() == rows(1, 10)


async def test_ten_renames_to_one_name_have_one_winner(sink: HdfsSink, folder: Folder):
    writers = [await opened(sink, split=str(number)) for number in range(10)]
    chunks = [await prepare(writer, 1, 1, 10 + number) for number, writer in enumerate(writers)]
    target = f"{folder.path}/the-one"
    racing = [writer.make_visible(replace(chunk, target=target)) for writer, chunk in zip(writers, chunks, strict=True)]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    losers = [outcome for outcome in outcomes if isinstance(outcome, SinkUnavailable) and outcome.code == "name_taken"]
    assert len(losers) == 9
    winner = next(number for number, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException))
    assert (await folder.read(target)).splitlines() == rows(1, 10 + winner)
    await asyncio.gather(*(writer.close() for writer in writers))


async def test_a_late_owner_finds_no_folder_to_write_to_after_the_clean_up(sink: HdfsSink, folder: Folder):
    left = await opened(sink)
    prepared = await prepare(left, 1, 1, 10)
    await sink.clean_up([OWNER])
    await left.stage(Batch(rows(11, 20)))
    with pytest.raises(Fenced):
        await left.prepare(cut(2, 11, 20))
    with pytest.raises(Fenced):
        await left.make_visible(prepared)
    await left.close()
    assert await asyncio.to_thread(folder.server.names, folder.path) == []


async def test_who_leaves_takes_the_empty_folder_along_and_no_file(sink: HdfsSink, folder: Folder):
    left, other = await opened(sink), await opened(sink, split="1")
    prepared = await prepare(left, 1, 1, 10)
    await other.close()
    [temporary] = await folder.temporaries()
    await folder.call("PUT", "RENAME", f"{folder.path}/{HIDDEN}/{temporary}", destination=prepared.target)
    stranger = f"{folder.path}/{HIDDEN}/{temporary.rpartition('/')[0]}/e00000005-c000009-abcd.part"
    await folder.write(stranger, b"as a rename that was sent and is not known to be executed")
    await left.close()
    assert len(await folder.temporaries()) == 1
    await (await opened(sink, epoch=6)).close()
    assert await asyncio.to_thread(folder.server.names, folder.path) == await folder.outputs()


async def test_a_predecessor_that_leaves_late_costs_its_successor_no_more_than_another_opening(
    sink: HdfsSink, folder: Folder
):
    old, new = await opened(sink), await opened(sink, epoch=6)
    await old.close()
    with pytest.raises(Fenced) as caught:
        await prepare(new, 1, 1, 10)
    assert caught.value.code == "temporary_gone"
    await new.close()
    new = await opened(sink, epoch=6)
    await new.make_visible(await prepare(new, 1, 1, 10))
    await new.close()
    assert len(await folder.outputs()) == 1
    assert HIDDEN not in await asyncio.to_thread(folder.server.names, folder.path)


async def test_a_folder_that_is_gone_is_told_so_and_never_made_again(sink: HdfsSink, folder: Folder):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    await folder.call("DELETE", "DELETE", folder.path, recursive="true")
    with pytest.raises((Fenced, TargetGone)):
        await writer.make_visible(prepared)
    await writer.close()
    with pytest.raises(TargetGone, match="the folder is gone"):
        await opened(sink, epoch=6)
    assert await asyncio.to_thread(folder.server.names, folder.path.rpartition("/")[0]) == []


# --- the finish step -------------------------------------------------------------------------------------------------


async def test_the_manifest_names_every_file_of_every_split(sink: HdfsSink, folder: Folder):
    chunks = [*await write(sink, 3), *await write(sink, 12, split="1")]
    left = await opened(sink, split="2")
    await prepare(left, 1, 1, 5)
    for _ in range(2):
        await sink.finish(FINISHER, stream(chunks))
        manifest = json.loads(await folder.read(f"_manifest-{JOB}-g0002.json"))
        assert (manifest["job_id"], manifest["job"], manifest["generation"]) == (JOB, "orders", 2)
        assert (manifest["path"], manifest["file_count"], manifest["rows"]) == (folder.path, 15, 150)
        assert [f"{folder.path}/{entry['file']}" for entry in manifest["files"]] == [one.target for one in chunks]
        for entry in manifest["files"]:
            data = await folder.read(entry["file"])
            assert (entry["bytes"], entry["checksum"]) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    assert HIDDEN not in await asyncio.to_thread(folder.server.names, folder.path)
    await left.close()


async def test_a_file_that_is_gone_changed_or_nobodys_is_found_at_the_end(sink: HdfsSink, folder: Folder):
    chunks = await write(sink, 2)
    data = await folder.read(chunks[1].target)
    await folder.write(chunks[1].target, data[:-1] + b"!")
    with pytest.raises(PositionConflict, match="another checksum") as caught:
        await sink.finish(FINISHER, stream(chunks))
    assert caught.value.code == "output_differs"
    await folder.write(chunks[1].target, data + b"more\n")
    with pytest.raises(PositionConflict, match="bytes, not"):
        await sink.finish(FINISHER, stream(chunks))
    await folder.call("DELETE", "DELETE", chunks[1].target)
    with pytest.raises(PositionConflict) as caught:
        await sink.finish(FINISHER, stream(chunks))
    assert caught.value.code == "output_missing"
    await folder.write(chunks[1].target, data)
    with pytest.raises(PositionConflict) as caught:
        await sink.finish(FINISHER, stream(chunks[:1]))
    assert caught.value.code == "output_unknown"
    assert f"_manifest-{JOB}-g0002.json" not in await asyncio.to_thread(folder.server.names, folder.path)
    await sink.finish(FINISHER, stream(chunks))


async def test_a_finish_whose_last_answer_is_lost_goes_again_and_leaves_nothing(
    folder: Folder, hdfs_proxies: HdfsProxies
):
    sink = folder.sink(url=hdfs_proxies.url, patience=2.0)
    await sink.prepare_target()
    chunks = await write(sink, 1)
    left = await opened(sink, split="2")
    await prepare(left, 1, 1, 5)
    rule = hdfs_proxies.namenode.on_request(
        "cut_before", predicate=lambda request: b"op=DELETE" in request and b"s0002" in request
    )
    with pytest.raises(SinkUnavailable):
        await sink.finish(FINISHER, stream(chunks))
    assert rule.hits == 1
    assert f"_manifest-{JOB}-g0002.json" in await asyncio.to_thread(folder.server.names, folder.path)
    await sink.finish(FINISHER, stream(chunks))
    assert HIDDEN not in await asyncio.to_thread(folder.server.names, folder.path)
    await left.close()


async def test_a_copy_with_the_same_bytes_in_other_blocks_is_the_same_file(folder: Folder):
    sink = folder.sink()
    await sink.prepare_target()
    writer = await opened(sink)
    values = large_rows(3)
    await writer.stage(Batch(values))
    chunk = await writer.prepare(cut(1, 1, len(values)))
    await writer.make_visible(chunk)
    await writer.close()
    await folder.write(chunk.target, await folder.read(chunk.target), blocksize=str(1 << 20))
    found = (await folder.call("GET", "GETFILESTATUS", chunk.target))["FileStatus"]
    assert found["blockSize"] == 1 << 20
    await sink.finish(FINISHER, stream([chunk]))


# --- validation ------------------------------------------------------------------------------------------------------


async def test_validation_says_what_will_be_made_and_what_is_free_and_changes_nothing(folder: Folder):
    findings = await folder.sink().check()
    assert [(one.severity, one.code) for one in findings] == [
        ("info", "folder_will_be_created"),
        ("info", "free_space"),
    ]
    assert await asyncio.to_thread(folder.server.names, folder.path.rpartition("/")[0]) == []
    await folder.sink().prepare_target()
    assert [one.code for one in await folder.sink().check()] == ["free_space"]


async def test_a_user_without_the_right_is_told_who_and_where(sink: HdfsSink, folder: Folder):
    await write(sink, 1)
    stranger = folder.sink(user="bob")
    [finding] = await stranger.check()
    assert (finding.pointer, finding.severity, finding.code) == ("/sink/path", "error", "permission_denied")
    for attempt in (stranger.prepare_target(), opened(stranger, split="7")):
        with pytest.raises(SinkRefused) as caught:
            await attempt
        assert caught.value.code == "permission_denied"
        assert "'bob'" in caught.value.message
        assert repr(folder.path) in caught.value.message
    with pytest.raises(SinkRefused, match="'bob'"):
        await stranger.finish(FINISHER, stream([]))


@pytest.mark.parametrize("below", ["", "/deeper/still"])
async def test_a_file_where_a_folder_is_needed_is_refused(folder: Folder, below: str):
    await folder.write(folder.path, b"a file")
    sink = folder.sink(path=folder.path + below)
    [finding] = await sink.check()
    assert (finding.pointer, finding.code) == ("/sink/path", "folder_not_writable")
    with pytest.raises(SinkRefused) as caught:
        await sink.prepare_target()
    assert caught.value.code == "folder_not_writable"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"replication": HdfsServer.most_copies + 1}, "replication_not_allowed"),
        ({"path": f"/jobs/{'x' * (HdfsServer.longest_name + 1)}"}, "path_not_allowed"),
    ],
)
async def test_what_the_cluster_does_not_allow_is_refused_before_the_first_row(
    folder: Folder, fields: dict[str, Any], code: str
):
    with pytest.raises(SinkRefused) as caught:
        await folder.sink(**fields).prepare_target()
    assert caught.value.code == code


async def test_what_the_cluster_just_allows_is_taken(folder: Folder):
    sink = folder.sink(replication=HdfsServer.most_copies, path=f"{folder.path}/{'x' * HdfsServer.longest_name}")
    await sink.prepare_target()
    await sink.clean_up([OWNER])
