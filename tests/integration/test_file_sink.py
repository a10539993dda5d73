"""The file sink on real file systems: names, tries, links, full disks, hanging disks, and the finish step."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import json
import os
import resource
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from sinks import folders, manifest
from sinks.base import (
    Batch,
    Cut,
    Fenced,
    Guarantee,
    Mark,
    Owner,
    PositionConflict,
    Restage,
    Shows,
    SinkRefused,
    SinkUnavailable,
)
from sinks.file import FileSink
from sinks.formats import Format
from sinks.naming import HIDDEN
from sinks.specs import FileSinkSpec
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from sinks.base import Prepared
    from sinks.file_writer import FileWriter

JOB = "0199a1b2-0000-7000-8000-000000000001"
OWNER = Owner(account="default", job_id=JOB, job_name="orders", run_id="r", generation=2, split="0", epoch=5)
PATH = "exports/orders"
MOMENT = 1.3
"""A second, and what a busy machine adds."""


def made(root: Path, compression: str = "none", path: str = PATH, patience: float = 20.0) -> FileSink:
    return FileSink(FileSinkSpec(kind="file", path=path), Format("json", compression), root, patience)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "files" / "default"


@pytest.fixture
async def sink(root: Path) -> FileSink:
    sink = made(root)
    await sink.prepare_target()
    return sink


def rows(first: int, last: int) -> list[bytes]:
    return [b'{"id":%d}' % number for number in range(first, last + 1)]


def cut(sequence: int, first: int, last: int, *, attempt: int = 1, repeat_of: Prepared | None = None) -> Cut:
    lower = (str(first - 1),) if first > 1 else None
    return Cut(sequence, attempt, last - first + 1, (str(first),), (str(last),), lower, repeat_of)


async def opened(sink: FileSink, epoch: int = 5, **changes: Any) -> FileWriter:
    writer = sink.writer(replace(OWNER, epoch=epoch, **changes))
    await writer.open()
    return writer


async def prepare(writer: FileWriter, sequence: int, first: int, last: int, **more: Any) -> Prepared:
    await writer.stage(Batch(rows(first, last)))
    return await writer.prepare(cut(sequence, first, last, **more))


async def through(writer: FileWriter, batches: Iterable[list[bytes]], whole: Cut) -> Prepared:
    for batch in batches:
        await writer.stage(Batch(batch))
    return await writer.prepare(whole)


async def write(sink: FileSink, count: int, *, split: str = "0") -> list[Prepared]:
    """`count` visible chunks of ten rows."""
    writer = await opened(sink, split=split)
    chunks = [await prepare(writer, number, number * 10 - 9, number * 10) for number in (1,)]
    await writer.make_visible(chunks[0])
    for number in range(2, count + 1):
        chunks.append(await prepare(writer, number, number * 10 - 9, number * 10))
        await writer.make_visible(chunks[-1])
    await writer.close()
    return chunks


async def stream(chunks: Iterable[Prepared]) -> AsyncIterator[Prepared]:
    for chunk in chunks:
        yield chunk


def outputs(root: Path, path: str = PATH) -> list[Path]:
    """What a reader of the folder sees."""
    return sorted(file for file in (root / path).iterdir() if not file.name.startswith((".", "_")))


def temporaries(root: Path, path: str = PATH) -> list[Path]:
    return [file for file in (root / path / HIDDEN).rglob("*") if not file.is_dir()]


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- what is written -------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], bytes]] = {
    "none": lambda file: file.read_bytes(),
    "gzip": lambda file: subprocess.run(["gzip", "-dc", file], capture_output=True, check=True).stdout,
    "zstd": lambda file: zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes()),
}


@pytest.mark.parametrize(("compression", "ending"), [("none", ".jsonl"), ("gzip", ".jsonl.gz"), ("zstd", ".jsonl.zst")])
async def test_a_chunk_is_one_file_with_the_size_and_checksum_that_were_prepared(
    root: Path, compression: str, ending: str
):
    sink = made(root, compression)
    await sink.prepare_target()
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 5000)
    assert outputs(root) == []
    receipt = await writer.make_visible(prepared)
    await writer.close()
    [file] = outputs(root)
    assert receipt.target == prepared.target == file.relative_to(root).as_posix()
    assert file.name.startswith(f"{JOB}-g0002-s0000-00000001-")
    assert file.name.endswith(ending)
    data = file.read_bytes()
    assert (prepared.bytes, prepared.checksum) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    assert READERS[compression](file) == b"".join(row + b"\n" for row in rows(1, 5000))
    assert prepared.details == {
        "format": "json",
        "compression": compression,
        "temporary": prepared.details["temporary"],
        "identity": [file.stat().st_ino, file.stat().st_mtime_ns],
    }
    assert file.stat().st_nlink == 1
    assert file.stat().st_mode & 0o027 == 0
    assert temporaries(root) == []


async def test_a_chunk_is_durable_before_it_has_its_name_and_its_name_before_it_is_told(
    sink: FileSink, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        calls.append(f"fsync {'folder' if Path(f'/proc/self/fd/{descriptor}').is_dir() else 'file'}")
        real_fsync(descriptor)

    def link(*args: Any, **more: Any) -> None:
        calls.append("link")
        real_link(*args, **more)

    writer = await opened(sink)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    prepared = await prepare(writer, 1, 1, 10)
    assert calls == ["fsync file"]
    await writer.make_visible(prepared)
    assert calls == ["fsync file", "link", "fsync folder"]
    calls.clear()
    assert await writer.visible([prepared]) is not None
    assert calls == ["fsync folder"]
    await writer.close()


async def test_the_promise_and_what_the_runner_needs_to_know(sink: FileSink):
    promise = sink.promise()
    assert promise.guarantee is Guarantee.EXACTLY_ONCE
    assert promise.note == "files appear whole by a link that cannot overwrite"
    assert (sink.shows, sink.needs_anchor, sink.settles_with_prepare) == (Shows.NAMES, False, False)


async def test_a_row_of_two_lines_and_a_wrong_count_are_refused(sink: FileSink):
    writer = await opened(sink)
    with pytest.raises(SinkRefused, match="record 1 "):
        await through(writer, [[b"{}", b"{\n}"]], cut(1, 1, 2))
    await writer.close()
    writer = await opened(sink)
    await writer.stage(Batch(rows(1, 3)))
    with pytest.raises(SinkRefused, match="3 rows are staged and the cut has 4"):
        await writer.prepare(cut(1, 1, 4))
    await writer.close()


# --- unknown outcomes and tries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("executed", [True, False])
async def test_the_reply_to_a_link_is_lost(sink: FileSink, root: Path, monkeypatch: pytest.MonkeyPatch, executed: bool):
    real = os.link

    def lost(*args: Any, **more: Any) -> None:
        if executed:
            real(*args, **more)
        raise OSError(errno.ETIMEDOUT, "lost")

    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lost)
        with pytest.raises(SinkUnavailable):
            await writer.make_visible(prepared)
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
    [file] = outputs(root)
    assert file.read_bytes().splitlines() == rows(1, 10)
    assert temporaries(root) == []


async def test_of_several_tries_the_one_that_is_there_is_told_and_the_last_of_equals(sink: FileSink):
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
async def test_a_name_taken_by_somebody_else_is_a_conflict_and_stays(sink: FileSink, root: Path, content: bytes | None):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    # With the prepared size and another content, only the checksum can tell.
    content = b"?" * prepared.bytes if content is None else content
    (root / prepared.target).write_bytes(content)
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(prepared)
    assert caught.value.code == "name_taken"
    await writer.close()
    writer = await opened(sink)
    with pytest.raises(PositionConflict, match="none of the 1 prepared tries"):
        await writer.visible([prepared])
    await writer.close()
    assert (root / prepared.target).read_bytes() == content


async def test_a_name_taken_by_our_own_content_is_adopted(sink: FileSink, root: Path):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    [temporary] = temporaries(root)
    os.link(temporary, root / prepared.target)
    with pytest.raises(SinkUnavailable, match="name taken"):
        await writer.make_visible(prepared)
    await writer.close()
    writer = await opened(sink, epoch=6)
    assert await writer.visible([prepared]) == Mark(2, 5, 1, 1)
    await writer.close()
    assert temporaries(root) == []


async def test_a_repeat_keeps_name_and_format_whatever_the_definition_says_now(root: Path):
    before = made(root, "gzip")
    await before.prepare_target()
    writer = await opened(before)
    left = await prepare(writer, 1, 1, 10)
    await writer.close()
    now = made(root, "none")
    writer = await opened(now, epoch=6)
    assert await writer.visible([left]) is None
    again = await prepare(writer, 1, 1, 10, repeat_of=left)
    assert (again.target, again.checksum) == (left.target, left.checksum)
    await writer.make_visible(again)
    following = await prepare(writer, 2, 11, 20)
    await writer.make_visible(following)
    await writer.close()
    assert gzip.decompress((root / left.target).read_bytes()).splitlines() == rows(1, 10)
    assert (root / following.target).read_bytes().splitlines() == rows(11, 20)
    assert following.target.endswith(".jsonl")


@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_a_repeat_without_a_row_fills_the_name_with_an_empty_file(root: Path, compression: str):
    sink = made(root, compression)
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
    [file] = outputs(root)
    assert READERS[compression](file) == b""


async def test_what_was_staged_in_another_format_than_the_repeat_needs_is_staged_again(root: Path):
    left = await prepare(await opened(await _prepared(made(root, "gzip"))), 1, 1, 10)
    writer = await opened(made(root, "none"), epoch=6)
    await writer.stage(Batch(rows(1, 10)))
    with pytest.raises(Restage):
        await writer.prepare(cut(1, 1, 10, repeat_of=left))
    await writer.close()


async def _prepared(sink: FileSink) -> FileSink:
    await sink.prepare_target()
    return sink


async def test_a_prepared_chunk_can_not_be_passed_over(sink: FileSink):
    left = await prepare(await opened(sink), 1, 1, 10)
    writer = await opened(sink, epoch=6)
    assert await writer.visible([left]) is None
    await writer.stage(Batch(rows(1, 20)))
    with pytest.raises(SinkRefused) as caught:
        await writer.prepare(cut(1, 1, 20))
    assert caught.value.code == "repeat_expected"
    await writer.close()


# --- fencing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [6, 5])
async def test_who_opens_takes_away_every_older_file_also_of_its_own_epoch(sink: FileSink, root: Path, epoch: int):
    old = await opened(sink)
    prepared = await prepare(old, 1, 1, 10)
    await old.stage(Batch(rows(11, 20)))
    await until(lambda: len(temporaries(root)) == 2, 10, "the second chunk's temporary file is there")
    new = await opened(sink, epoch=epoch)
    assert temporaries(root) == []
    with pytest.raises(Fenced) as caught:
        await old.make_visible(prepared)
    assert caught.value.code == "temporary_gone"
    await old.close()
    assert outputs(root) == []
    await new.close()


async def test_an_old_owner_can_not_open_over_a_newer_one_nor_harm_it(sink: FileSink, root: Path):
    new = await opened(sink, epoch=7)
    prepared = await prepare(new, 1, 1, 10)
    old = sink.writer(OWNER)
    with pytest.raises(Fenced, match="epoch 7"):
        await old.open()
    await old.close()
    await new.make_visible(prepared)
    await new.close()
    assert len(outputs(root)) == 1


async def test_a_link_that_came_just_before_the_fence_is_seen(sink: FileSink, root: Path):
    old = await opened(sink)
    prepared = await prepare(old, 1, 1, 10)
    [temporary] = temporaries(root)
    os.link(temporary, root / prepared.target)
    new = await opened(sink, epoch=6)
    assert await new.visible([prepared]) == Mark(2, 5, 1, 1)
    with pytest.raises(Fenced):
        await old.make_visible(prepared)
    await old.close()
    await new.close()
    [file] = outputs(root)
    assert file.read_bytes().splitlines() == rows(1, 10)


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../x", "/tmp/x", "a/../../x", ".hidden", "a/.rowferry", "a\x00b"])
def test_a_path_that_leads_elsewhere_makes_no_sink(root: Path, path: str):
    with pytest.raises(ValueError, match="path "):
        made(root, path=path)


@pytest.mark.parametrize("component", ["exports", "exports/orders"])
async def test_a_link_in_the_path_is_never_followed(root: Path, tmp_path: Path, component: str):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = root / component
    link.parent.mkdir(parents=True)
    link.symlink_to(outside, target_is_directory=True)
    sink = made(root)
    for step in (sink.prepare_target, sink.writer(OWNER).open):
        with pytest.raises(SinkRefused) as caught:
            await step()
        assert caught.value.code == "path_not_allowed"
        assert str(tmp_path) not in caught.value.message
    [finding] = [finding for finding in await sink.check() if finding.severity == "error"]
    assert (finding.pointer, finding.code) == ("/sink/path", "path_not_allowed")
    assert list(outside.iterdir()) == []


async def test_a_link_swapped_in_while_a_chunk_is_prepared_leads_nowhere(sink: FileSink, root: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    (root / PATH).rename(root / "exports" / "moved")
    (root / PATH).symlink_to(outside, target_is_directory=True)
    with pytest.raises(SinkRefused) as caught:
        await writer.make_visible(prepared)
    assert caught.value.code == "path_not_allowed"
    await writer.close()
    assert list(outside.iterdir()) == []


async def test_a_hidden_folder_that_is_a_link_is_refused(sink: FileSink, root: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    (outside / f"{JOB}-g0002-s0000").mkdir(parents=True)
    precious = outside / f"{JOB}-g0002-s0000" / "e00000001-c000001-00ff.part"
    precious.write_text("precious")
    (root / PATH / HIDDEN).rmdir()
    (root / PATH / HIDDEN).symlink_to(outside, target_is_directory=True)
    with pytest.raises(SinkRefused):
        await opened(sink)
    with pytest.raises(SinkRefused):
        await sink.clean_up([OWNER])
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("thing", ["dangling link", "link", "pipe", "folder"])
async def test_what_stands_under_a_chunks_name_and_is_no_file_is_neither_read_nor_replaced(
    sink: FileSink, root: Path, tmp_path: Path, thing: str
):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    target = root / prepared.target
    secret = tmp_path / "secret"
    if thing == "pipe":
        os.mkfifo(target)
    elif thing == "folder":
        target.mkdir()
    else:
        target.symlink_to(secret)
        if thing == "link":
            secret.write_bytes(b"".join(row + b"\n" for row in rows(1, 10)))
    with pytest.raises(SinkUnavailable):
        await writer.make_visible(prepared)
    with pytest.raises(SinkRefused):
        await writer.visible([prepared])
    await writer.close()
    assert secret.exists() == (thing == "link")


async def test_a_name_that_is_too_long_for_the_file_system_is_refused(root: Path):
    sink = made(root, path="/".join(["a" * 250] * 4))
    await sink.prepare_target()
    writer = sink.writer(replace(OWNER, job_id="j" * 250))
    with pytest.raises(SinkRefused) as caught:
        await writer.open()
    assert caught.value.code == "path_not_allowed"
    await writer.close()


# --- disks that are full, closed, or hang ----------------------------------------------------------------------------


@contextmanager
def full_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A disk of one MiB under `root`; yields what makes room on it. A quota on write() where we may not mount."""
    root.mkdir(parents=True, exist_ok=True)
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=False, capture_output=True
        ).returncode
    )
    if mounted:
        try:
            yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", root], check=True) and None
        finally:
            subprocess.run(["umount", "-l", root], check=True)
        return
    room, real = 1 << 20, os.write

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal room
        if f"{root}/" in os.path.realpath(f"/proc/self/fd/{descriptor}"):
            if room < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            room -= len(data)
        return real(descriptor, data)

    def more() -> None:
        nonlocal room
        room = 64 << 20

    monkeypatch.setattr(os, "write", limited)
    yield more


async def test_a_full_disk_is_unavailable_loses_nothing_and_goes_on_when_there_is_room(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    with full_disk(root, monkeypatch) as make_room:
        sink = made(root)
        await sink.prepare_target()
        first = await write(sink, 1)
        writer = await opened(sink, epoch=6)
        values = [b'{"id":%d,"filler":"%s"}' % (number, b"x" * 300) for number in range(11, 6011)]
        whole = Cut(2, 1, len(values), ("11",), ("6010",), ("10",))
        with pytest.raises(SinkUnavailable) as caught:
            await through(writer, [values[start : start + 500] for start in range(0, len(values), 500)], whole)
        assert caught.value.code == "no_space"
        assert caught.value.retryable
        assert "free space" in caught.value.message
        [finding] = await sink.check()
        # Where a quota stands for the small disk, statvfs knows nothing of it.
        assert finding.code == "little_space" or not is_small(root)
        await writer.discard()
        await writer.close()
        # The room that the broken try took is free again, and what was delivered is as it was.
        assert temporaries(root) == []
        make_room()
        writer = await opened(sink, epoch=7)
        await writer.stage(Batch(values))
        second = await writer.prepare(whole)
        await writer.make_visible(second)
        await writer.close()
        await sink.finish(OWNER, stream([*first, second]))
        assert b"".join(file.read_bytes() for file in outputs(root)).splitlines() == rows(1, 10) + values


def is_small(folder: Path) -> bool:
    return folder.is_mount()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may do everything: be nobody for a while, for the whole process, as threads share it."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_folder_without_the_right_to_write_is_refused_with_the_remedy(root: Path):
    (root / PATH).mkdir(parents=True)
    (root / PATH).chmod(0o500)
    sink = made(root)
    with unprivileged():
        findings = await sink.check()
        for step in (sink.prepare_target, sink.writer(OWNER).open):
            with pytest.raises(SinkRefused) as caught:
                await step()
            assert caught.value.code == "folder_not_writable"
            assert "give the service's user the right" in caught.value.message
    (root / PATH).chmod(0o700)
    assert "folder_not_writable" in {finding.code for finding in findings if finding.severity == "error"}


@pytest.mark.parametrize("component", ["exports", "exports/orders"])
async def test_a_file_where_a_folder_is_needed_is_refused(root: Path, component: str):
    (root / component).parent.mkdir(parents=True)
    (root / component).write_text("mine")
    sink = made(root)
    with pytest.raises(SinkRefused, match="a file stands where a folder is needed"):
        await sink.prepare_target()
    assert [finding.code for finding in await sink.check() if finding.severity == "error"] == ["folder_not_writable"]
    assert (root / component).read_text() == "mine"


async def test_a_folder_that_went_away_is_not_made_again_behind_the_operators_back(sink: FileSink, root: Path):
    await write(sink, 1)
    (root / PATH).rename(root / "elsewhere")
    with pytest.raises(SinkRefused) as caught:
        await opened(sink, epoch=6)
    assert caught.value.code == "folder_missing"
    assert not (root / PATH).exists()


async def test_a_file_system_without_hard_links_is_refused_before_the_first_row(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: Any, **more: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SinkRefused) as caught:
        await made(root).prepare_target()
    assert caught.value.code == "links_not_supported"
    assert temporaries(root) == []


@pytest.mark.parametrize("step", ["stage", "prepare", "make_visible"])
async def test_a_disk_that_hangs_holds_nobody(root: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    sink = made(root, patience=0.2)
    await sink.prepare_target()
    writer = await opened(sink)
    hangs, thaw = threading.Event(), threading.Event()
    function = {"stage": "write", "prepare": "fsync", "make_visible": "link"}[step]
    real = getattr(os, function)

    def hanging(*args: Any, **more: Any) -> Any:
        hangs.set()
        thaw.wait(60)
        return real(*args, **more)

    if step == "make_visible":
        call = writer.make_visible(await prepare(writer, 1, 1, 10))
    else:
        call = through(writer, [[b"x" * (9 << 20) if step == "stage" else b"{}"]], cut(1, 1, 1))
    monkeypatch.setattr(os, function, hanging)
    with pytest.raises(SinkUnavailable) as caught:
        await call
    assert caught.value.code == "folder_timeout"
    assert hangs.is_set()
    for leave in (writer.discard, writer.close):
        began = time.monotonic()
        await leave()
        assert time.monotonic() - began < MOMENT
    monkeypatch.setattr(os, function, real)
    # The next owner goes on while the old thread still hangs.
    new = await opened(sink, epoch=6)
    again = await prepare(new, 1, 1, 10)
    await new.make_visible(again)
    descriptors = descriptors_open()
    thaw.set()
    await until(lambda: descriptors_open() < descriptors, 10, "the old owner's descriptors are closed")
    await new.close()
    [file] = outputs(root)
    assert file.read_bytes().splitlines() == rows(1, 10)
    assert temporaries(root) == []


async def test_a_cancelled_make_visible_is_waited_for_and_never_taken_back(
    sink: FileSink, root: Path, monkeypatch: pytest.MonkeyPatch
):
    writer = await opened(sink)
    prepared = await prepare(writer, 1, 1, 10)
    hangs, thaw, real = threading.Event(), threading.Event(), os.link

    def slow(*args: Any, **more: Any) -> None:
        hangs.set()
        thaw.wait(60)
        real(*args, **more)

    monkeypatch.setattr(os, "link", slow)
    showing = asyncio.create_task(writer.make_visible(prepared))
    await until(hangs.is_set, 10, "the link is under way")
    showing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await showing
    thaw.set()
    await writer.discard()
    await writer.close()
    assert len(outputs(root)) == 1


async def test_leaving_gives_back_descriptors_and_threads(sink: FileSink):
    await write(sink, 1, split="7")
    descriptors, threads = descriptors_open(), threading.active_count()
    for epoch in range(6, 16):
        writer = await opened(sink, epoch=epoch)
        await prepare(writer, 1, 1, 10)
        await writer.stage(Batch(rows(11, 20)))
        await writer.close()
    assert descriptors_open() == descriptors
    await until(lambda: threading.active_count() <= threads, 5, "the writers' threads end")


# --- the finish step and clean-up ------------------------------------------------------------------------------------


async def test_finish_writes_the_same_manifest_each_time_and_removes_what_is_temporary(sink: FileSink, root: Path):
    chunks = await write(sink, 3)
    left = await opened(sink, epoch=9, split="1")
    await left.stage(Batch(rows(1, 10)))
    retry = await opened(sink, split="retry-1")
    kept = await prepare(retry, 1, 1, 5)
    seen = []
    for epoch in (1, 2):
        await sink.finish(replace(OWNER, split="finish", epoch=epoch), stream(chunks))
        seen.append((root / PATH / f"_manifest-{JOB}-g0002.json").read_bytes())
    assert seen[0] == seen[1]
    told = json.loads(seen[0])
    assert (told["job_id"], told["job"], told["generation"]) == (JOB, "orders", 2)
    assert (told["file_count"], told["rows"], told["bytes"]) == (3, 30, sum(chunk.bytes for chunk in chunks))
    for entry, chunk, file in zip(told["files"], chunks, outputs(root), strict=True):
        assert entry["file"] == file.name
        assert entry["rows"] == 10
        assert (entry["bytes"], entry["checksum"]) == (file.stat().st_size, chunk.checksum)
        assert (entry["first_key"], entry["last_key"]) == (list(chunk.first_key or ()), list(chunk.last_key))
    # The planned splits are over; a dead-letter retry of the same generation may still be at work.
    assert [file.name for file in temporaries(root)] == [kept.details["temporary"]]
    await retry.make_visible(kept)
    for writer in (left, retry):
        await writer.close()


async def test_an_empty_generation_has_an_empty_manifest_and_leaves_no_hidden_folder(root: Path):
    sink = made(root)
    await sink.finish(OWNER, stream([]))
    told = json.loads((root / PATH / f"_manifest-{JOB}-g0002.json").read_text())
    assert (told["files"], told["file_count"], told["rows"]) == ([], 0, 0)
    assert not (root / PATH / HIDDEN).exists()


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        ("gone", "output_missing"),
        ("folder gone", "output_missing"),
        ("longer", "output_differs"),
        ("other bytes", "output_differs"),
        ("one more", "output_unknown"),
    ],
)
async def test_finish_refuses_a_target_that_is_not_what_was_recorded(sink: FileSink, root: Path, harm: str, code: str):
    chunks = await write(sink, 12)
    file = root / chunks[4].target
    data = file.read_bytes()
    if harm == "gone":
        file.unlink()
    elif harm == "folder gone":
        (root / PATH).rename(root / "elsewhere")
    elif harm == "longer":
        file.write_bytes(data + b"\n")
    elif harm == "other bytes":
        file.write_bytes(bytes(reversed(data)))
    else:
        (root / PATH / file.name.replace("-00000005-", "-00000099-")).write_bytes(data)
    with pytest.raises(PositionConflict) as caught:
        await sink.finish(OWNER, stream(chunks))
    assert caught.value.code == code
    if harm in {"gone", "longer", "other bytes"}:
        assert chunks[4].target in caught.value.message
    assert not (root / PATH / f"_manifest-{JOB}-g0002.json").exists()


async def test_finish_reads_only_files_that_were_written_to_or_replaced(
    sink: FileSink, root: Path, monkeypatch: pytest.MonkeyPatch
):
    chunks = await write(sink, 3)
    read: list[str] = []
    real = folders.checksum_of

    def noted(folder: int, name: str, leave: Callable[[], bool]) -> str:
        read.append(name)
        return real(folder, name, leave)

    monkeypatch.setattr(folders, "checksum_of", noted)
    replaced, touched = (root / chunk.target for chunk in chunks[:2])
    copy = replaced.with_name("copy")
    shutil.copyfile(replaced, copy)
    copy.replace(replaced)
    touched.touch()
    await sink.finish(OWNER, stream(chunks))
    assert sorted(read) == sorted([replaced.name, touched.name])


async def test_finish_holds_only_a_few_chunks_at_a_time(sink: FileSink, root: Path):
    chunks = await write(sink, 40)
    given = 0
    behind: list[int] = []
    size_of = {chunk.target: chunk for chunk in chunks}

    async def counted() -> AsyncIterator[Prepared]:
        nonlocal given
        for chunk in chunks:
            given += 1
            part = [file for file in temporaries(root) if file.name.startswith("manifest-")]
            behind.append(given - part[0].read_bytes().count(b'"file":') if part else given)
            yield chunk

    await sink.finish(OWNER, counted())
    assert len(size_of) == given == 40
    assert max(behind) <= manifest.AHEAD + 1


async def test_finish_of_a_generation_leaves_another_one_alone(sink: FileSink, root: Path):
    chunks = await write(sink, 1)
    other = await opened(sink, generation=3)
    prepared = await prepare(other, 1, 1, 10)
    await sink.finish(OWNER, stream(chunks))
    await sink.clean_up([OWNER])
    await other.make_visible(prepared)
    await other.close()
    assert len(outputs(root)) == 2


async def test_clean_up_removes_only_what_these_splits_left_and_no_row(sink: FileSink, root: Path):
    await write(sink, 2)
    mine = await opened(sink, epoch=6)
    dropped = await prepare(mine, 3, 21, 30)
    other = await opened(sink, epoch=6, split="1")
    kept = await prepare(other, 1, 101, 110)
    for _ in range(2):
        await sink.clean_up([OWNER])
    with pytest.raises(Fenced):
        await mine.make_visible(dropped)
    with pytest.raises(Fenced):
        await through(mine, [rows(31, 40)], cut(4, 31, 40))
    await other.make_visible(kept)
    for writer in (mine, other):
        await writer.close()
    assert len(outputs(root)) == 3
    await made(root, path="never/made").clean_up([OWNER])
    assert not (root / "never").exists()


# --- check -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", ["", "exports", PATH])
async def test_check_says_how_much_space_there_is_and_changes_nothing(root: Path, tmp_path: Path, exists: str):
    if exists:
        (root / exists).mkdir(parents=True)
    before = tree(tmp_path)
    findings = await made(root).check()
    assert [(finding.pointer, finding.code) for finding in findings] in (
        [("/sink/path", "free_space")],
        [("/sink/path", "little_space")],
    )
    assert "MiB" in findings[0].message
    assert tree(tmp_path) == before


# --- weight ----------------------------------------------------------------------------------------------------------


async def test_much_goes_through_a_writer_with_flat_memory_and_the_loop_stays_free(root: Path):
    sink = made(root, "gzip")
    await sink.prepare_target()
    writer = await opened(sink)
    values = [b'{"id":%d,"filler":"%s"}' % (number, b"abcdefgh" * 34) for number in range(12_000)]
    batches = 90
    lags: list[float] = []
    sizes = [_resident()]
    ended = asyncio.Event()

    async def watch() -> None:
        while not ended.is_set():
            began = time.perf_counter()
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.002)
            lags.append(time.perf_counter() - began - 0.002)
            sizes.append(_resident())

    watching = asyncio.create_task(watch())
    for _ in range(batches):
        # As many bytes objects as a real reader makes: the writer must not keep them.
        await writer.stage(Batch([bytes(bytearray(value)) for value in values]))
    total = len(values) * batches
    prepared = await writer.prepare(Cut(1, 1, total, ("0",), (str(total),), None))
    await writer.make_visible(prepared)
    ended.set()
    await watching
    await writer.close()
    assert sum(map(len, values)) * batches > 290 << 20
    assert max(sizes) - sizes[0] < 64 << 20
    lags.sort()
    # Without threads every block of 3.5 MiB would hold the loop for its compression, 40 ms and more.
    assert lags[int(len(lags) * 0.98)] < 0.05


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
