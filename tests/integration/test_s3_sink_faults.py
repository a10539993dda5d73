"""The S3 sink on bad days, against a real store behind a fault proxy: nothing lost, nothing twice, nobody hangs."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sinks.base import Batch, Cut, Fenced, Mark, Owner, SinkError, SinkUnavailable
from sinks.formats import Format
from sinks.s3 import S3Sink
from sinks.s3_client import TRIES
from tests.support.s3 import S3Server
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sinks.base import Prepared
    from sinks.s3_writer import S3Writer
    from tests.support.proxy import FaultProxy

OWNER = Owner("default", "0199a1b2-0000-7000-8000-000000000001", "orders", "r7", 2, "0", 5)
NEXT = replace(OWNER, epoch=6)
PATIENCE = 2.0
MOMENT = 1.3
"""A second, and what a busy machine adds."""


def completes(data: bytes) -> bool:
    return data.startswith(b"POST ") and b"uploadId=" in data.partition(b"\r\n")[0]


def sends_a_part(data: bytes) -> bool:
    return data.startswith(b"PUT ") and b"partNumber=" in data.partition(b"\r\n")[0]


def values(first: int, last: int) -> list[bytes]:
    return [b'{"id":%d}' % number for number in range(first, last + 1)]


def cut(sequence: int, first: int, last: int, **more: Any) -> Cut:
    return Cut(sequence, 1, last - first + 1, (str(first),), (str(last),), None, **more)


async def opened(sink: S3Sink, owner: Owner = OWNER) -> S3Writer:
    writer = sink.writer(owner)
    await writer.open()
    return writer


async def prepared(writer: S3Writer, sequence: int, first: int, last: int, **more: Any) -> Prepared:
    await writer.stage(Batch(values(first, last)))
    return await writer.prepare(cut(sequence, first, last, **more))


@pytest.fixture(autouse=True)
async def nothing_is_lost_in_the_loop() -> AsyncIterator[None]:
    """No task or future of the sink may leave an error that nobody asked for."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    yield
    gc.collect()
    assert complaints == []


@pytest.fixture
async def make(s3_server: S3Server, s3_proxy: FaultProxy, bucket: str) -> AsyncIterator[Callable[..., S3Sink]]:
    """A sink through the proxy, or past it."""
    made: list[S3Sink] = []

    def maker(*, direct: bool = False, patience: float = PATIENCE) -> S3Sink:
        endpoint = None if direct else f"http://{s3_proxy.address}"
        made.append(S3Sink(s3_server.spec(bucket, endpoint=endpoint), Format(), patience=patience))
        return made[-1]

    yield maker
    for sink in made:
        await sink.close()


async def contents(server: S3Server, bucket: str) -> list[bytes]:
    """Every row, by order of name; botocore blocks, and the proxy lives in this loop."""

    def read() -> list[bytes]:
        found = sorted(server.objects(bucket))
        return [row for key in found for row in server.read(bucket, key).splitlines()]

    return await asyncio.to_thread(read)


@pytest.mark.parametrize(
    ("action", "executed"),
    [("cut_after", True), ("swallow_reply", True), ("cut_before", False), ("drop_request", False)],
)
async def test_a_lost_answer_to_the_completion_is_unknown_and_the_object_tells(
    make: Callable[..., S3Sink],
    s3_server: S3Server,
    s3_proxy: FaultProxy,
    bucket: str,
    action: Any,
    executed: bool,
):
    sink = make(patience=0.7)
    writer = await opened(sink)
    chunk = await prepared(writer, 1, 1, 10)
    rule = s3_proxy.on_request(action, predicate=completes)
    with pytest.raises(SinkUnavailable):
        await writer.make_visible(chunk)
    assert rule.hits == 1, "sent once, never again"
    await writer.discard()
    await writer.close()
    s3_proxy.heal()

    writer = await opened(make(), NEXT)
    mark = await writer.visible([chunk])
    assert mark == (Mark(2, OWNER.epoch, 1, 1) if executed else None)
    if not executed:
        await writer.make_visible(await prepared(writer, 1, 1, 10, repeat_of=chunk))
    await writer.make_visible(await prepared(writer, 2, 11, 20))
    await writer.close()
    assert await contents(s3_server, bucket) == values(1, 20)
    assert await asyncio.to_thread(s3_server.uploads, bucket) == []


async def test_a_part_that_is_cut_off_in_its_middle_is_sent_again(
    make: Callable[..., S3Sink], s3_server: S3Server, s3_proxy: FaultProxy, bucket: str
):
    writer = await opened(make(patience=10))
    row = os.urandom(5 << 20).hex().encode()
    rule = s3_proxy.on_request("cut_before", predicate=sends_a_part)
    for _ in range(3):
        await writer.stage(Batch([row]))
    chunk = await writer.prepare(cut(1, 1, 3))
    assert rule.hits == 1
    await writer.make_visible(chunk)
    await writer.close()
    assert await contents(s3_server, bucket) == [row] * 3


async def test_parts_that_never_arrive_are_given_up_after_a_few_tries(
    make: Callable[..., S3Sink], s3_proxy: FaultProxy
):
    writer = await opened(make())
    rule = s3_proxy.on_request("cut_before", predicate=sends_a_part, count=100)
    with pytest.raises(SinkUnavailable) as caught:
        await prepared(writer, 1, 1, 10)
    assert caught.value.code == "sink_unreachable"
    # aiohttp itself sends a PUT once more when a connection that it kept was closed meanwhile.
    assert TRIES <= rule.hits <= 2 * TRIES
    await writer.close()


@pytest.mark.parametrize("step", ["open", "stage", "prepare", "make_visible"])
async def test_a_store_that_stalls_is_an_error_in_time_and_leaving_takes_a_moment(
    make: Callable[..., S3Sink], s3_proxy: FaultProxy, step: str
):
    sink = make(patience=0.7)
    writer = sink.writer(OWNER)
    if step != "open":
        await writer.open()
    chunk = await prepared(writer, 1, 1, 10) if step == "make_visible" else None
    s3_proxy.stall = True
    large = Batch([os.urandom(5 << 20).hex().encode()])

    async def stage_and_prepare() -> None:
        await writer.stage(large)
        await writer.prepare(cut(1, 1, 1))

    calls = {
        "open": writer.open,
        "stage": stage_and_prepare,
        "prepare": lambda: prepared(writer, 1, 1, 10),
        "make_visible": lambda: writer.make_visible(chunk),  # type: ignore[arg-type]
    }
    began = time.monotonic()
    with pytest.raises(SinkUnavailable):
        await calls[step]()
    assert time.monotonic() - began < 12
    for leave in (writer.discard, writer.close, sink.close):
        began = time.monotonic()
        await leave()
        assert time.monotonic() - began < MOMENT, leave
    s3_proxy.heal()


async def test_an_abort_in_the_middle_of_a_slow_part_takes_a_moment_and_leaves_no_upload(
    make: Callable[..., S3Sink], s3_server: S3Server, s3_proxy: FaultProxy, bucket: str
):
    writer = await opened(make(patience=20))
    s3_proxy.bytes_per_second = 1 << 20
    writing = asyncio.create_task(writer.stage(Batch([os.urandom(1 << 20).hex().encode()] * 12)))
    await until(lambda: asyncio.to_thread(s3_server.uploads, bucket), 10, "the upload has begun")
    writing.cancel()
    await asyncio.wait({writing})
    began = time.monotonic()
    await writer.discard()
    assert time.monotonic() - began < MOMENT
    assert await asyncio.to_thread(s3_server.uploads, bucket) == []
    await writer.close()


async def test_a_frozen_owner_that_wakes_before_its_completion_changes_nothing(
    make: Callable[..., S3Sink], s3_server: S3Server, s3_proxy: FaultProxy, bucket: str
):
    old = await opened(make(patience=20))
    chunk = await prepared(old, 1, 1, 10)
    rule = s3_proxy.on_request("hold_request", predicate=completes)
    sending = asyncio.create_task(old.make_visible(chunk))
    await happened(rule.triggered, 10, "the old owner's completion is on its way")

    new = await opened(make(direct=True), NEXT)
    assert await new.visible([chunk]) is None
    # A row was updated and another is gone in between.
    await new.stage(Batch([b'{"id":1,"new":true}']))
    again = await new.prepare(cut(1, 1, 1, repeat_of=chunk))
    await new.make_visible(again)
    rule.release()
    await asyncio.wait({sending}, timeout=20)
    assert sending.done()
    sending.exception()
    assert await contents(s3_server, bucket) == [b'{"id":1,"new":true}']
    last = await opened(make(direct=True), replace(OWNER, epoch=7))
    assert await last.visible([chunk, again]) == Mark(2, 6, 1, 1)
    for writer in (old, new, last):
        await writer.close()


async def test_a_completion_that_wins_against_the_new_owners_abort_is_adopted(
    make: Callable[..., S3Sink], s3_server: S3Server, s3_proxy: FaultProxy, bucket: str
):
    old = await opened(make(patience=20))
    chunk = await prepared(old, 1, 1, 10)
    rule = s3_proxy.on_request("hold_reply", predicate=completes)
    sending = asyncio.create_task(old.make_visible(chunk))
    await happened(rule.triggered, 10, "the store has executed the completion")
    new = await opened(make(direct=True), NEXT)
    assert await new.visible([chunk]) == Mark(2, OWNER.epoch, 1, 1)
    rule.release()
    assert (await sending).target == chunk.target
    await new.make_visible(await prepared(new, 2, 11, 20))
    for writer in (old, new):
        await writer.close()
    assert await contents(s3_server, bucket) == values(1, 20)


async def test_an_owner_whose_upload_was_aborted_is_fenced_while_it_stages(make: Callable[..., S3Sink]):
    old = await opened(make(patience=10))
    row = os.urandom(5 << 20).hex().encode()
    await old.stage(Batch([row]))
    # A part on its way when its upload is aborted may bring it to life again here; no chunk of it can be prepared.
    await until(lambda: len(old._staged.upload.parts) == 2, 10, "what was staged has arrived")
    new = await opened(make(patience=10), NEXT)

    async def go_on() -> None:
        for _ in range(4):
            await old.stage(Batch([row]))
        await old.prepare(cut(1, 1, 5))

    with pytest.raises(Fenced) as caught:
        await go_on()
    assert caught.value.code == "upload_gone"
    for writer in (old, new):
        await writer.close()


async def test_a_store_that_is_killed_and_started_again_goes_on(bucket_of_its_own: tuple[S3Server, str]):
    server, bucket = bucket_of_its_own
    sink = S3Sink(server.spec(bucket), Format(), patience=5)
    writer = await opened(sink)
    first = await prepared(writer, 1, 1, 10)
    await writer.make_visible(first)
    second = await prepared(writer, 2, 11, 20)
    server.kill()
    with pytest.raises(SinkUnavailable):
        await writer.make_visible(second)
    await writer.close()
    with pytest.raises(SinkUnavailable):
        await opened(sink, NEXT)
    server.start()
    writer = await opened(sink, NEXT)
    assert await writer.visible([second]) is None
    await writer.make_visible(await prepared(writer, 2, 11, 20, repeat_of=second))
    await writer.close()
    await sink.close()
    assert await contents(server, bucket) == values(1, 20)


async def test_a_frozen_store_is_an_error_in_time_and_works_when_it_wakes(bucket_of_its_own: tuple[S3Server, str]):
    server, bucket = bucket_of_its_own
    sink = S3Sink(server.spec(bucket), Format(), patience=0.7)
    writer = await opened(sink)
    chunk = await prepared(writer, 1, 1, 10)
    server.freeze()
    with pytest.raises(SinkError):
        await writer.make_visible(chunk)
    await writer.close()
    server.thaw()
    writer = await opened(sink, NEXT)
    # Thawed, the store may execute the completion that nobody waits for: before the abort or never.
    mark = await writer.visible([chunk])
    if mark is None:
        await writer.make_visible(await prepared(writer, 1, 1, 10, repeat_of=chunk))
    await writer.close()
    await sink.close()
    assert await contents(server, bucket) == values(1, 10)


@pytest.fixture
async def bucket_of_its_own() -> AsyncIterator[tuple[S3Server, str]]:
    """A server that other tests do not share."""
    server = S3Server().start()
    try:
        yield server, server.create_bucket()
    finally:
        server.close()
