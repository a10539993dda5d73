"""The Elasticsearch sink on bad days: lost answers, a cluster that is too busy or too small for a request, one that
hangs, credentials that are wrong, names that lead elsewhere."""

from __future__ import annotations

import asyncio
import base64
import gc
import ssl
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from sinks.base import SinkError, SinkRefused, SinkUnavailable
from tests.support.authority import Authority
from tests.support.elasticsearch import SearchServer
from tests.support.gateway import Gateway
from tests.support.proxy import FaultProxy
from tests.support.search_rows import OWNER, batch, cut, deliver, documents, key, prepared, search_sink, values
from tests.support.waiting import happened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

NEXT = replace(OWNER, epoch=6)
MOMENT = 1.3


@pytest.fixture
def index(opensearch_server: SearchServer) -> str:
    return opensearch_server.index_name()


@pytest.fixture
async def proxy(opensearch_server: SearchServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(opensearch_server.port) as made:
        yield made


@pytest.fixture(scope="module")
def narrow_server() -> Iterator[SearchServer]:
    """A node with one thread that writes, a queue of two, and requests of a megabyte at most."""
    settings = {
        "thread_pool.write.size": "1",
        "thread_pool.write.queue_size": "2",
        "http.max_content_length": "1mb",
    }
    with closing(SearchServer("opensearch", settings=settings)) as server:
        yield server.start()


@pytest.fixture(autouse=True)
async def nothing_is_lost_in_the_loop() -> AsyncIterator[None]:
    """No task or future of the sink may leave an error that nobody asked for, no connection may be left open."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    yield
    gc.collect()
    assert complaints == []


def bulk(request: bytes) -> bool:
    return b"/_bulk" in request[:200]


async def found(server: SearchServer, index: str) -> dict[str, bytes]:
    return await asyncio.to_thread(server.documents, index)


# -- answers that do not come -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "executed"), [("cut_after", True), ("cut_before", False)])
async def test_a_lost_answer_is_unknown_and_sending_again_gives_the_same_documents(
    opensearch_server: SearchServer, index: str, proxy: FaultProxy, action: str, executed: bool
):
    sink = search_sink(f"http://{proxy.address}", index)
    await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    await deliver(writer, 1, values(1, 10))
    chunk = await prepared(writer, 2, values(11, 20))
    rule = proxy.on_request(action, predicate=bulk)  # type: ignore[arg-type]
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(chunk)
    assert (caught.value.code, rule.hits) == ("sink_unreachable", 1)
    await writer.discard()
    await writer.close()
    assert await found(opensearch_server, index) == documents(values(1, 20 if executed else 10))

    writer = sink.writer(NEXT)
    await writer.open()
    assert await writer.visible([chunk]) is None
    await deliver(writer, 2, values(11, 20, "read again"))
    await writer.close()
    assert await found(opensearch_server, index) == documents(values(1, 10) + values(11, 20, "read again"))
    versions = opensearch_server.call("GET", f"/{index}/_search?version=true&size=50")["hits"]["hits"]
    assert len(versions) == 20


async def test_a_writer_whose_answer_never_comes_can_be_left_at_once(
    opensearch_server: SearchServer, index: str, proxy: FaultProxy
):
    sink = search_sink(f"http://{proxy.address}", index)
    await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    chunk = await prepared(writer, 1, values(1, 10))
    rule = proxy.on_request("swallow_reply", predicate=bulk)
    task = asyncio.create_task(writer.make_visible(chunk))
    await happened(rule.triggered, 10, "the bulk request was executed")
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.discard()
    await writer.close()
    assert time.monotonic() - began < MOMENT
    assert await found(opensearch_server, index) == documents(values(1, 10))


async def test_a_server_that_hangs_is_given_up_in_time(index: str, proxy: FaultProxy):
    sink = search_sink(f"http://{proxy.address}", index)
    writer = sink.writer(OWNER)
    proxy.stall = True
    began = time.monotonic()
    with pytest.raises(SinkUnavailable) as caught:
        await writer.open()
    assert time.monotonic() - began < 20
    assert "no answer in time" in caught.value.message
    await writer.close()


async def test_a_node_that_was_killed_and_started_again_has_what_it_acknowledged():
    server = SearchServer("opensearch")
    try:
        await server.start_async()
        index = server.index_name()
        sink = search_sink(server.url, index)
        target = await sink.prepare_target()
        writer = sink.writer(OWNER)
        await writer.open()
        await deliver(writer, 1, values(1, 500))
        chunk = await prepared(writer, 2, values(501, 600))
        server.kill()
        with pytest.raises(SinkUnavailable):
            await writer.make_visible(chunk)
        await writer.close()
        await server.start_async()
        later = search_sink(server.url, index, target=target)
        writer = later.writer(NEXT)
        await writer.open()
        await deliver(writer, 2, values(501, 600))
        await writer.close()
        assert await found(server, index) == documents(values(1, 600))
    finally:
        server.close()


# -- too much for the cluster -----------------------------------------------------------------------------------------


async def test_documents_that_find_the_queue_full_are_offered_again_until_they_are_in(narrow_server: SearchServer):
    index = narrow_server.index_name()
    sink = search_sink(narrow_server.url, index, mapping={"settings": {"number_of_shards": 6}})
    await sink.prepare_target()
    writers = [sink.writer(replace(OWNER, split=str(number))) for number in range(3)]
    chunks = []
    for number, writer in enumerate(writers):
        await writer.open()
        chunks.append(await prepared(writer, 1, values(number * 1000, number * 1000 + 999)))
    before = _rejections(narrow_server)
    receipts = await asyncio.gather(
        *(writer.make_visible(chunk) for writer, chunk in zip(writers, chunks, strict=True))
    )
    assert _rejections(narrow_server) > before, "the queue was never full: the test shows nothing"
    assert [receipt.rejected for receipt in receipts] == [()] * 3
    assert await found(narrow_server, index) == documents(values(0, 2999))
    for writer in writers:
        await writer.close()


def _rejections(server: SearchServer) -> int:
    nodes = server.call("GET", "/_nodes/stats/thread_pool")["nodes"].values()
    return sum(node["thread_pool"]["write"]["rejected"] for node in nodes)


async def test_a_cluster_that_stays_too_busy_is_backed_off_from(
    narrow_server: SearchServer, monkeypatch: pytest.MonkeyPatch
):
    """Sixteen shards at once do not all find room in a queue of two; without patience, the first full queue ends it."""
    monkeypatch.setattr("sinks.elasticsearch_writer.BUSY_SECONDS", -1.0)
    index = narrow_server.index_name()
    sink = search_sink(narrow_server.url, index, mapping={"settings": {"number_of_shards": 16}})
    await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    chunk = await prepared(writer, 1, values(0, 999))
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(chunk)
    assert caught.value.code == "too_many_requests"
    await writer.close()


async def test_a_request_that_is_too_large_is_halved_and_a_row_that_is_too_large_is_refused_alone(
    narrow_server: SearchServer,
):
    index = narrow_server.index_name()
    sink = search_sink(narrow_server.url, index)
    await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    rows = [b'{"id":%d,"text":"%s"}' % (number, b"x" * 30_000) for number in range(90)]
    huge = b'{"id":1000,"text":"%s"}' % (b"x" * 1_500_000)
    rows.insert(45, huge)
    receipt = await deliver(writer, 1, rows)
    assert [(one.id, one.code) for one in receipt.rejected] == [(key(1000), "row_too_large")]
    rows.remove(huge)
    assert await found(narrow_server, index) == documents(rows)
    await writer.close()


# -- who we are, and where we may go ----------------------------------------------------------------------------------


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


CREDENTIALS = {
    "basic": ({"username": "löader", "password": SecretStr("pä:ss")}, _basic("löader", "pä:ss")),
    "key": ({"api_key": SecretStr("VnVhQ2ZHY0JDZGJrU")}, "ApiKey VnVhQ2ZHY0JDZGJrU"),
}
WRONG = {
    "basic": {"username": "löader", "password": SecretStr("the-wr0ng-word")},
    "key": {"api_key": SecretStr("the-wr0ng-word")},
    "none": {},
}


@pytest.mark.parametrize("how", CREDENTIALS)
async def test_credentials_go_with_every_request(opensearch_server: SearchServer, index: str, how: str):
    given, header = CREDENTIALS[how]
    async with Gateway(opensearch_server.url, authorization=header) as gateway:
        sink = search_sink(gateway.url, index, **given)
        await sink.prepare_target()
        writer = sink.writer(OWNER)
        await writer.open()
        chunk = await prepared(writer, 1, values(1, 10))
        await writer.make_visible(chunk)
        await writer.close()

        async def chunks():
            yield chunk

        await sink.finish(OWNER, chunks())
        assert [one.code for one in await sink.check()] == ["password_in_clear"]
    assert await found(opensearch_server, index) == documents(values(1, 10))


@pytest.mark.parametrize("how", WRONG)
async def test_wrong_credentials_are_told_without_saying_them(opensearch_server: SearchServer, index: str, how: str):
    async with Gateway(opensearch_server.url, authorization="Basic right") as gateway:
        sink = search_sink(gateway.url, index, **WRONG[how])
        writer = sink.writer(OWNER)
        for step in (sink.prepare_target(), writer.open()):
            with pytest.raises(SinkRefused) as caught:
                await step
            assert caught.value.code == "authentication_failed"
            assert "the-wr0ng-word" not in caught.value.message
        codes = [one.code for one in await sink.check() if one.severity == "error"]
        assert codes == ["authentication_failed"]
        await writer.close()


async def test_a_right_that_is_missing_is_named(opensearch_server: SearchServer, index: str):
    async with Gateway(opensearch_server.url, forbidden=lambda _, path: path.endswith("/_bulk")) as gateway:
        sink = search_sink(gateway.url, index)
        await sink.prepare_target()
        writer = sink.writer(OWNER)
        await writer.open()
        chunk = await prepared(writer, 1, values(1, 10))
        with pytest.raises(SinkRefused) as caught:
            await writer.make_visible(chunk)
        assert caught.value.code == "right_missing"
        assert "view_index_metadata, write and create_index" in caught.value.message
        await writer.close()
    assert await found(opensearch_server, index) == {}


async def test_without_the_right_to_refresh_a_run_ends_all_the_same(opensearch_server: SearchServer, index: str):
    async with Gateway(opensearch_server.url, forbidden=lambda _, path: path.endswith("/_refresh")) as gateway:
        sink = search_sink(gateway.url, index)
        await sink.prepare_target()

        async def no_chunks():
            for nothing in ():
                yield nothing

        await sink.finish(OWNER, no_chunks())
        assert ("POST", f"/{index}/_refresh") in gateway.requests


async def test_a_redirect_is_not_followed(opensearch_server: SearchServer, index: str):
    async with Gateway(opensearch_server.url) as elsewhere, Gateway("", redirect=elsewhere.url) as gateway:
        with pytest.raises(SinkRefused):
            await search_sink(gateway.url, index, **CREDENTIALS["key"][0]).prepare_target()
        assert elsewhere.requests == []
        assert gateway.requests


async def test_the_guard_is_asked_before_anything_is_sent(proxy: FaultProxy, index: str):
    asked: list[tuple[str, int]] = []

    async def guard(host: str, port: int) -> list[str]:
        asked.append((host, port))
        raise SinkRefused("destination_refused", "not there")

    for host in ("127.0.0.1", "localhost"):
        sink = search_sink(f"http://{host}:{proxy.port}", index, guard=guard)
        with pytest.raises(SinkRefused) as caught:
            await sink.writer(OWNER).open()
        assert caught.value.code == "destination_refused"
        assert [one.code for one in await sink.check()] == ["destination_refused"]
    assert asked == [("127.0.0.1", proxy.port)] * 2 + [("localhost", proxy.port)] * 2
    assert proxy.accepted == 0


async def test_a_name_is_checked_again_when_it_is_looked_up(proxy: FaultProxy, index: str):
    asked: list[str] = []

    async def guard(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    sink = search_sink(f"http://localhost:{proxy.port}", index, guard=guard)
    await sink.prepare_target()
    assert asked == ["localhost", "localhost"]


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def _tls(authority: Authority, folder: Path, name: str = "gateway", address: str = "127.0.0.1") -> ssl.SSLContext:
    certificate, private = authority.issue(name, address)
    (folder / "pair.pem").write_text(certificate + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    return context


async def test_tls_with_an_authority_of_ones_own(
    opensearch_server: SearchServer, index: str, authority: Authority, tmp_path: Path
):
    async with Gateway(opensearch_server.url, tls=_tls(authority, tmp_path), authorization="ApiKey k") as gateway:
        sink = search_sink(gateway.url, index, ca=authority.pem, api_key=SecretStr("k"))
        await sink.prepare_target()
        writer = sink.writer(OWNER)
        await writer.open()
        await deliver(writer, 1, values(1, 10))
        await writer.close()
        assert await sink.check() == []
    assert await found(opensearch_server, index) == documents(values(1, 10))


@pytest.mark.parametrize("trusted", ["another", "the system's", "another name"])
async def test_a_certificate_that_is_not_trusted_ends_it(
    opensearch_server: SearchServer, index: str, authority: Authority, tmp_path: Path, trusted: str
):
    address = "127.0.0.9" if trusted == "another name" else "127.0.0.1"
    ca = {"another": Authority().pem, "the system's": None, "another name": authority.pem}[trusted]
    async with Gateway(opensearch_server.url, tls=_tls(authority, tmp_path, address=address)) as gateway:
        with pytest.raises(SinkRefused) as caught:
            await search_sink(gateway.url, index, ca=ca).prepare_target()
    assert caught.value.code == "certificate_refused"
    assert "sink.ca" in caught.value.message


async def test_https_to_a_port_that_speaks_http_is_no_tls(opensearch_server: SearchServer, index: str):
    with pytest.raises(SinkError) as caught:
        await search_sink(f"https://127.0.0.1:{opensearch_server.port}", index).prepare_target()
    assert caught.value.code in {"tls_failed", "sink_unreachable"}


async def test_a_writer_that_was_never_opened_sends_nothing(index: str, proxy: FaultProxy):
    writer = search_sink(f"http://{proxy.address}", index).writer(OWNER)
    await writer.stage(batch(values(1, 3)))
    await writer.prepare(cut(1, 3))
    await writer.discard()
    await writer.close()
    assert proxy.accepted == 0
