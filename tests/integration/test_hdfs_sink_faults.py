"""HDFS on its bad days: lost replies, cut uploads, dead and frozen servers, standby, safe mode, quotas, guards."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from sinks.base import Batch, Fenced, Mark, SinkError, SinkRefused, SinkUnavailable
from tests.integration.hdfs_cases import (
    FINISHER,
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
from tests.support.ports import free_port
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sinks.base import Prepared
    from tests.support.hdfs import HdfsProxies
    from tests.support.proxy import Action

PATIENCE = 2.0
MOMENT = 1.3
"""A second, and what a busy machine adds."""


@pytest.fixture
async def folder(hdfs_server: HdfsServer) -> AsyncIterator[Folder]:
    made = Folder(hdfs_server, f"/faults/{uuid.uuid4().hex}")
    await made.sink().prepare_target()
    yield made
    if hdfs_server.running:
        await made.call("DELETE", "DELETE", made.path, recursive="true")


# --- replies that are lost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "executed"),
    [("swallow_reply", True), ("cut_after", True), ("drop_request", False), ("cut_before", False)],
)
async def test_the_reply_to_a_rename_is_lost(folder: Folder, hdfs_proxies: HdfsProxies, action: Action, executed: bool):
    sink = folder.sink(url=hdfs_proxies.url, patience=PATIENCE)
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    rule = hdfs_proxies.namenode.on_request(action, predicate=lambda request: b"op=RENAME" in request)
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(prepared)
    assert caught.value.code == "sink_unreachable"
    assert rule.hits == 1
    await writer.close()
    writer = await opened(sink)
    mark = await writer.visible([prepared])
    if executed:
        assert mark == Mark(2, 5, 1, 1)
    else:
        assert mark is None
        again = await prepare(writer, 1, 1, 10, attempt=2, repeat_of=prepared)
        assert again.target == prepared.target
        await writer.make_visible(again)
    await writer.close()
    [name] = await folder.outputs()
    assert (await folder.read(name)).splitlines() == rows(1, 10)
    assert await folder.temporaries() == []


async def test_a_discard_leaves_a_rename_that_was_sent(folder: Folder, hdfs_proxies: HdfsProxies):
    sink = folder.sink(url=hdfs_proxies.url)
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    rule = hdfs_proxies.namenode.on_request("hold_request", predicate=lambda request: b"op=RENAME" in request)
    naming = asyncio.create_task(writer.make_visible(prepared))
    await happened(rule.triggered, 10, "the rename is on its way")
    began = time.monotonic()
    naming.cancel()
    await asyncio.gather(naming, return_exceptions=True)
    await writer.discard()
    assert time.monotonic() - began < MOMENT
    # It stands for a request that the network delivers late: only who opens next takes its file away.
    [temporary] = await folder.temporaries()
    await writer.close()
    assert await folder.temporaries() == [temporary]
    writer = await opened(sink, epoch=6)
    assert await writer.visible([prepared]) is None
    assert await folder.temporaries() == []
    rule.release()
    await writer.close()


@pytest.mark.parametrize("action", ["cut_before", "cut_after", "drop_request"])
async def test_an_upload_whose_answer_is_lost_is_unavailable_and_goes_again(
    folder: Folder, hdfs_proxies: HdfsProxies, action: Action
):
    sink = folder.sink(url=hdfs_proxies.url, patience=PATIENCE)
    writer = await opened(sink)
    hdfs_proxies.datanode.on_request(action, predicate=lambda request: b"op=CREATE" in request)
    with pytest.raises(SinkUnavailable):
        await prepare(writer, 1, 1, 10)
    await writer.close()
    hdfs_proxies.datanode.heal()
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    await writer.make_visible(prepared)
    await writer.close()
    assert (await folder.read(prepared.target)).splitlines() == rows(1, 10)
    assert await folder.temporaries() == []


async def test_an_upload_that_is_cut_leaves_a_part_that_nobody_sees_and_the_next_owner_removes(
    folder: Folder, hdfs_proxies: HdfsProxies
):
    sink = folder.sink(url=hdfs_proxies.url)
    writer = await opened(sink)
    hdfs_proxies.datanode.bytes_per_second = float(8 << 20)
    await writer.stage(Batch(large_rows(8)))

    async def begun() -> bool:
        return bool(await folder.temporaries())

    await until(begun, 10, "the file is being written")
    assert hdfs_proxies.datanode.cut()
    with pytest.raises(SinkUnavailable) as caught:
        await writer.prepare(cut(1, 1, 128))
    assert caught.value.code == "sink_unreachable"
    hdfs_proxies.datanode.bytes_per_second = None
    # Its own discard may come before the DataNode has closed the file, or be lost with its process: as if it were.
    assert await folder.outputs() == []
    new = await opened(sink, epoch=6)
    assert await folder.temporaries() == []
    prepared = await prepare(new, 1, 1, 10)
    await new.make_visible(prepared)
    await writer.close()
    await new.close()
    assert len(await folder.outputs()) == 1


async def test_leaving_takes_a_second_at_most_while_the_cluster_hangs(folder: Folder, hdfs_proxies: HdfsProxies):
    sink = folder.sink(url=hdfs_proxies.url)
    writer = await opened(sink)
    await writer.stage(Batch(large_rows(4)))
    hdfs_proxies.datanode.stall = hdfs_proxies.namenode.stall = True
    for step in (writer.discard, writer.close):
        began = time.monotonic()
        await step()
        assert time.monotonic() - began < MOMENT, step


# --- servers that are away -------------------------------------------------------------------------------------------


async def test_the_namenode_is_killed_between_prepare_and_rename(folder: Folder):
    sink = folder.sink(patience=PATIENCE)
    chunks = await write(sink, 2)
    writer = await opened(sink, epoch=6)
    prepared = await prepare(writer, 3, 21, 30)
    folder.server.namenode.kill()
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(prepared)
    assert caught.value.code == "sink_unreachable"
    assert folder.server.url.removeprefix("http://") in caught.value.message
    await writer.close()
    [finding] = await sink.check()
    assert (finding.pointer, finding.severity, finding.code) == ("/sink/url", "error", "sink_unreachable")
    await folder.server.start_async()

    async def repeated() -> Prepared | None:
        """As the runner does: the DataNode's own connections to the NameNode that died fail once more."""
        writer = await opened(sink, epoch=7)
        try:
            assert await writer.visible([prepared]) is None
            again = await prepare(writer, 3, 21, 30, repeat_of=prepared)
            await writer.make_visible(again)
        except SinkUnavailable:
            return None
        finally:
            await writer.close()
        return again

    again = await until(repeated, 20, "the chunk is taken")
    await sink.finish(FINISHER, stream([*chunks, again]))
    files = [await folder.read(name) for name in await folder.outputs()]
    assert [row for file in files for row in file.splitlines()] == rows(1, 30)


async def test_a_frozen_namenode_is_given_up_in_time(folder: Folder):
    sink = folder.sink(patience=1.0)
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    folder.server.namenode.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(SinkUnavailable, match="no answer in time"):
            await writer.make_visible(prepared)
        assert time.monotonic() - began < 2.5
        assert [one.code for one in await sink.check()] == ["sink_unreachable"]
    finally:
        folder.server.namenode.thaw()
    await writer.close()
    writer = await opened(sink, epoch=6)

    async def settled() -> Mark | None:
        return await writer.visible([prepared])

    # A frozen server executes what it had taken in as soon as it thaws, unless the fence came first.
    mark = await settled()
    if mark is None:
        await writer.make_visible(await prepare(writer, 1, 1, 10, repeat_of=prepared))
    await writer.close()
    [name] = await folder.outputs()
    assert (await folder.read(name)).splitlines() == rows(1, 10)


async def test_the_datanode_is_killed_in_the_middle_of_a_chunk(folder: Folder):
    sink = folder.sink(patience=5.0)
    writer = await opened(sink)
    await writer.stage(Batch(large_rows(4)))

    async def begun() -> bool:
        return bool(await folder.temporaries())

    await until(begun, 10, "the file is being written")
    folder.server.datanode.kill()
    with pytest.raises(SinkUnavailable) as caught:
        await writer.prepare(cut(1, 1, 64))
    assert caught.value.code == "sink_unreachable"
    await writer.close()
    # Known as alive until its heartbeats are missed: redirected to, and then left out.
    writer = await opened(sink)
    with pytest.raises(SinkUnavailable) as caught:
        await prepare(writer, 1, 1, 10)
    assert caught.value.code in {"no_datanode", "sink_unreachable"}
    await writer.close()
    await folder.server.start_async()
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    await writer.make_visible(prepared)
    await writer.close()
    assert (await folder.read(prepared.target)).splitlines() == rows(1, 10)
    assert await folder.temporaries() == []


async def test_the_next_namenode_is_asked_when_the_first_takes_no_connection(folder: Folder):
    url = f"http://127.0.0.1:{free_port()},{folder.server.url.removeprefix('http://')}"
    sink = folder.sink(url=url)
    chunks = await write(sink, 1)
    await sink.finish(FINISHER, stream(chunks))
    assert [one.severity for one in await sink.check()] == ["info"]


async def test_a_rename_that_was_sent_is_asked_of_no_other_namenode(folder: Folder, hdfs_proxies: HdfsProxies):
    """It would say that there is nothing to rename, of a chunk that readers see."""
    sink = folder.sink(url=f"{hdfs_proxies.url},{folder.server.url.removeprefix('http://')}", patience=PATIENCE)
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    hdfs_proxies.namenode.on_request("cut_after", predicate=lambda request: b"op=RENAME" in request)
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(prepared)
    assert caught.value.code == "sink_unreachable"
    await writer.close()
    writer = await opened(sink)
    assert await writer.visible([prepared]) == Mark(2, 5, 1, 1)
    await writer.close()


async def test_a_discard_leaves_no_temporary_file(folder: Folder):
    writer = await opened(folder.sink())
    await prepare(writer, 1, 1, 10)
    assert len(await folder.temporaries()) == 1
    await writer.discard()
    assert await folder.temporaries() == []
    await writer.close()


async def test_the_next_namenode_is_asked_when_the_first_is_in_standby(folder: Folder, tmp_path: Path):
    """A NameNode of a cluster with two starts in standby, and nobody makes this one active."""
    standby = HdfsServer(folder=tmp_path / "standby", standby=True)
    try:
        await standby.start_namenode_async()
        sink = folder.sink(url=f"{standby.url},{folder.server.url}")
        chunks = await write(sink, 2)
        await sink.finish(FINISHER, stream(chunks))
        alone = folder.sink(url=standby.url)
        with pytest.raises(SinkUnavailable) as caught:
            await opened(alone, epoch=6)
        assert caught.value.code == "namenode_standby"
        assert [one.code for one in await alone.check()] == ["namenode_standby"]
    finally:
        standby.close()
    assert len(await folder.outputs()) == 2


# --- clusters that take nothing --------------------------------------------------------------------------------------


async def test_safe_mode_is_waited_for(folder: Folder):
    sink = folder.sink()
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    await asyncio.to_thread(folder.server.administer, "-safemode", "enter")
    try:
        with pytest.raises(SinkUnavailable) as caught:
            await writer.make_visible(prepared)
        assert caught.value.code == "safe_mode"
        [finding] = await sink.check()
        assert (finding.severity, finding.code) == ("error", "safe_mode")
        for attempt in (sink.prepare_target(), sink.clean_up([FINISHER])):
            with pytest.raises(SinkUnavailable) as caught:
                await attempt
            assert caught.value.code == "safe_mode"
    finally:
        await asyncio.to_thread(folder.server.administer, "-safemode", "leave")
    await writer.close()
    writer = await opened(sink)
    assert await writer.visible([prepared]) is None
    await writer.make_visible(await prepare(writer, 1, 1, 10, repeat_of=prepared))
    await writer.close()


@pytest.mark.parametrize(("megabytes", "answered"), [(1, True), (40, True), (40, False)])
async def test_a_full_quota_is_waited_for(folder: Folder, hdfs_proxies: HdfsProxies, megabytes: int, answered: bool):
    """The large one is refused while it is sent, and the connection's end may come before the reason."""
    sink = folder.sink(url=hdfs_proxies.url)
    writer = await opened(sink)
    await asyncio.to_thread(folder.server.limit_space, folder.path, 1 << 20)
    hdfs_proxies.datanode.swallow_replies = not answered
    with pytest.raises(SinkUnavailable) as caught:
        await _stage_and_prepare(writer, megabytes)
    assert caught.value.code == "no_space", caught.value.message
    await writer.close()
    hdfs_proxies.datanode.heal()
    await asyncio.to_thread(folder.server.limit_space, folder.path, None)
    writer = await opened(sink)
    await writer.make_visible(await prepare(writer, 1, 1, 10))
    await writer.close()
    assert len(await folder.outputs()) == 1


async def _stage_and_prepare(writer: object, megabytes: int) -> None:
    values = large_rows(megabytes)
    for start in range(0, len(values), 64):
        await writer.stage(Batch(values[start : start + 64]))  # type: ignore[attr-defined]
    await writer.prepare(cut(1, 1, len(values)))  # type: ignore[attr-defined]


# --- addresses -------------------------------------------------------------------------------------------------------


async def test_the_address_of_every_redirect_is_asked_about_before_it_is_connected_to(
    folder: Folder, hdfs_proxies: HdfsProxies
):
    asked: list[tuple[str, int]] = []

    async def guard(host: str, port: int) -> list[str]:
        asked.append((host, port))
        if port != hdfs_proxies.namenode.port:
            raise SinkRefused("destination_refused", f"hdfs destination {host}:{port} is not allowed here")
        return [host]

    sink = folder.sink(url=hdfs_proxies.url, guard=guard)
    writer = await opened(sink)
    with pytest.raises(SinkRefused) as caught:
        await prepare(writer, 1, 1, 10)
    assert caught.value.code == "destination_refused"
    await writer.close()
    assert hdfs_proxies.datanode.accepted == 0
    assert ("127.0.0.1", hdfs_proxies.datanode.port) in asked


async def test_a_namenode_that_is_not_allowed_is_never_connected_to(folder: Folder, hdfs_proxies: HdfsProxies):
    async def guard(host: str, port: int) -> list[str]:
        raise SinkRefused("destination_refused", f"hdfs destination {host}:{port} is not allowed here")

    sink = folder.sink(url=hdfs_proxies.url, guard=guard)
    assert [one.code for one in await sink.check()] == ["destination_refused"]
    with pytest.raises(SinkRefused):
        await opened(sink)
    assert hdfs_proxies.namenode.accepted == 0


ANSWERS = {
    "nothing": b"",
    "no http": b"220 ftp.example.org ready\r\n",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
    "a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]",
    "an empty object": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "too little": b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\nConnection: close\r\n\r\n{",
    "no status": b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{"FileStatus":{}}',
    "a redirect to nowhere": b"HTTP/1.1 307 Go\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "a redirect to ftp": b"HTTP/1.1 307 Go\r\nLocation: ftp://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    "no such page": b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone",
    "a gateway's trouble": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "an odd refusal": b'HTTP/1.1 403 No\r\nContent-Length: 22\r\nConnection: close\r\n\r\n{"RemoteException":[1]}',
    "a secured server": b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_whatever_another_server_answers_is_an_error_of_ours(folder: Folder, answer: str):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWERS[answer])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        sink = folder.sink(url=f"http://127.0.0.1:{port}", patience=PATIENCE)
        with pytest.raises(SinkError) as caught:
            await opened(sink)
        assert isinstance(caught.value, SinkRefused) is (answer == "a secured server")
        [finding] = await sink.check()
        assert (finding.pointer, finding.severity) == ("/sink/url", "error")
        with pytest.raises(SinkError):
            await sink.prepare_target()
        with pytest.raises(SinkError):
            await sink.finish(FINISHER, stream([]))


async def test_an_old_owner_that_wakes_in_the_middle_of_its_upload_is_fenced(folder: Folder, hdfs_proxies: HdfsProxies):
    old = await opened(folder.sink(url=hdfs_proxies.url))
    await old.stage(Batch(large_rows(2)))

    async def begun() -> bool:
        return bool(await folder.temporaries())

    await until(begun, 10, "the old owner's file is being written")
    hdfs_proxies.namenode.stall = hdfs_proxies.datanode.stall = True
    new = await opened(folder.sink(), epoch=6)
    await new.make_visible(await prepare(new, 1, 1, 10))
    hdfs_proxies.namenode.stall = hdfs_proxies.datanode.stall = False
    with pytest.raises(Fenced):
        await old.prepare(cut(1, 1, 32))
    await old.close()
    await new.close()
    assert len(await folder.outputs()) == 1
    assert await folder.temporaries() == []


def test_the_user_of_the_tests_is_nobody_special():
    """The superuser would see no missing right."""
    assert USER not in {"hdfs", "root"}
