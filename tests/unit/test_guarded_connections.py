"""A name that leads elsewhere when it is looked up again: what was checked is what is connected to.

The resolver is this test's; the drivers, the sockets and TLS are the real ones.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import pytest
import uvloop

from config.destinations import DestinationRefused, Destinations, parse
from service.domain.datasource import Datasource
from service.domain.errors import Permanent, RowferryError
from sinks.base import SinkError, SinkRefused
from sinks.formats import Format
from sinks.guarded import NamedContext
from sinks.hdfs import HdfsSink
from sinks.s3 import S3Sink
from sinks.specs import HdfsSinkSpec, S3SinkSpec
from tests.support.authority import Authority
from tests.support.kafka_rows import OWNER, kafka_sink
from tests.support.ports import free_port
from tests.support.search_rows import search_sink
from workers.sources.budget import ConnectionBudget
from workers.sources.checks import check_datasource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sinks.base import Sink
    from sinks.guarded import Guard

NAME = "turncoat.example"
ALLOWED, FORBIDDEN = "127.0.0.1", "127.0.0.2"


class Resolver:
    """Answers the allowed address for the first `honest` look-ups of the name, and the forbidden one from then on."""

    def __init__(self) -> None:
        self.honest = 1
        self.asked = 0

    def answer(self) -> str:
        self.asked += 1
        return ALLOWED if self.asked <= self.honest else FORBIDDEN


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Whoever resolves a name in this process asks it; addresses resolve to themselves."""
    resolver = Resolver()
    real = asyncio.BaseEventLoop.getaddrinfo

    async def resolve(self, host, port, **options):
        host = resolver.answer() if host == NAME else host
        return await real(self, host, port, **(options | {"flags": socket.AI_NUMERICHOST}))

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    return resolver


class Listeners:
    """One port on both addresses: counts who connects, and hangs up."""

    def __init__(self) -> None:
        self.port = free_port()
        self.connections: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._servers = [
            await asyncio.start_server(self._counting(address), address, self.port) for address in (ALLOWED, FORBIDDEN)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()

    def _counting(self, address: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections[address] += 1
            writer.close()

        return connected


@pytest.fixture
async def listeners() -> AsyncIterator[Listeners]:
    async with Listeners() as made:
        yield made


def guard_of(kind: str) -> Guard:
    """The real check of destinations, with a sink's errors."""
    destinations = Destinations(parse(f"{kind}={ALLOWED}"))

    async def guard(host: str, port: int) -> list[str]:
        try:
            return await destinations.check(kind, host, port)
        except DestinationRefused as error:
            raise SinkRefused(error.code, error.message) from None

    return guard


def a_sink(kind: str, port: int) -> Sink:
    guard, at = guard_of(kind), f"{NAME}:{port}"
    match kind:
        case "kafka":
            return kafka_sink(at, "orders", guard=guard)
        case "elasticsearch":
            return search_sink(f"http://{at}", "orders", guard=guard)
        case "hdfs":
            spec = HdfsSinkSpec.model_validate({"kind": "hdfs", "url": f"http://{at}", "path": "/a/b", "user": "u"})
            return HdfsSink(spec, Format("json", "none"), guard=guard, patience=5)
        case _:
            spec = {"kind": "s3", "bucket": "orders", "prefix": "p", "endpoint_url": f"http://{at}"}
            keys = {"access_key_id": "k", "secret_access_key": "s"}
            return S3Sink(S3SinkSpec.model_validate(spec | keys), Format("json", "none"), guard=guard, patience=5)


async def opening(kind: str, port: int) -> None:
    """What a worker does first."""
    sink = a_sink(kind, port)
    writer = sink.writer(OWNER)
    try:
        await writer.open()
    finally:
        await writer.close()
        await sink.close()


SINKS = ("kafka", "elasticsearch", "hdfs", "s3")


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("honest", [1, 2, 3])
async def test_a_sink_never_reaches_the_address_that_a_later_look_up_gives(
    kind: str, honest: int, resolver: Resolver, listeners: Listeners
):
    resolver.honest = honest
    for _ in range(4):
        with suppress(SinkError):
            await opening(kind, listeners.port)
    assert resolver.asked > honest
    assert listeners.connections[FORBIDDEN] == 0


@pytest.mark.parametrize("kind", SINKS)
async def test_a_sink_reaches_what_was_checked(kind: str, resolver: Resolver, listeners: Listeners):
    resolver.honest = 100
    with pytest.raises(SinkError) as caught:
        await opening(kind, listeners.port)
    assert caught.value.code in {"sink_unreachable", "sink_unavailable"}
    assert listeners.connections[ALLOWED] > 0


@pytest.mark.parametrize("kind", SINKS)
async def test_a_name_that_turned_is_refused_by_its_destination(kind: str, resolver: Resolver, listeners: Listeners):
    resolver.honest = 0
    with pytest.raises(SinkRefused) as caught:
        await opening(kind, listeners.port)
    assert caught.value.code == "destination_refused"
    assert not listeners.connections


def datasource(port: int, tls_mode: str) -> Datasource:
    return Datasource("default", "shop", NAME, port, "shop", "u", "p", tls_mode)


@pytest.mark.parametrize("tls_mode", ["disable", "prefer"])
async def test_a_source_connects_to_the_address_that_was_checked_and_to_no_other(
    tls_mode: str, resolver: Resolver, listeners: Listeners
):
    guard = Destinations(parse(f"postgres={ALLOWED}")).guard("postgres")
    with pytest.raises(RowferryError) as caught:
        await check_datasource(datasource(listeners.port, tls_mode), connections=ConnectionBudget(), guard=guard)
    assert not isinstance(caught.value, Permanent)
    assert resolver.asked == 1
    assert listeners.connections[ALLOWED] > 0
    assert listeners.connections[FORBIDDEN] == 0


@pytest.fixture
async def certified(tmp_path: Path) -> AsyncIterator[tuple[str, int]]:
    """A TLS server that can prove to be 127.0.0.9 and nothing else: its authority's certificate, and its port."""
    authority = Authority()
    certificate, key = authority.issue("server", address="127.0.0.9")
    (tmp_path / "server.pem").write_text(certificate + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, ALLOWED, 0, ssl=context)
    yield authority.pem, server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def connecting(name: str, ca: str, port: int) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = NamedContext(name)
    context.load_verify_locations(cadata=ca)
    return asyncio.open_connection(ALLOWED, port, ssl=context)


async def test_tls_asks_for_the_name_whatever_address_is_connected_to(certified: tuple[str, int]):
    ca, port = certified
    _, writer = await connecting("127.0.0.9", ca, port)
    writer.close()
    await writer.wait_closed()


async def test_tls_asks_for_the_name_on_the_event_loop_of_the_service_too(certified: tuple[str, int]):
    ca, port = certified

    async def connect_and_leave() -> None:
        _, writer = await connecting("127.0.0.9", ca, port)
        writer.close()
        await writer.wait_closed()

    def on_its_own() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(connect_and_leave())

    await asyncio.to_thread(on_its_own)


@pytest.mark.parametrize("name", [ALLOWED, NAME])
async def test_tls_takes_no_other_names_certificate_for_that_of_the_name(name: str, certified: tuple[str, int]):
    ca, port = certified
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        await connecting(name, ca, port)
