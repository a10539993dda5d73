"""Where jobs deliver to, as what can be broken: real servers, a fault proxy before each, and the target's readers.

One implementation for each kind of sink; `OPENERS` makes one out of pytest's fixtures. Jobs go through the proxies,
readers never do.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from tests.fault.file_target import FileTarget
from tests.fault.hdfs_target import HdfsTarget
from tests.fault.kafka_target import KafkaTarget
from tests.fault.s3_target import S3Target
from tests.fault.search_target import SearchTarget
from tests.support.disk import fill, make_room, mounted, unmounted
from tests.support.hdfs import HdfsProxies
from tests.support.proxy import END_TXN, FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import pytest

    from tests.fault.scenario import Target
    from tests.support.elasticsearch import SearchServer
    from tests.support.hdfs import HdfsServer
    from tests.support.kafka import KafkaServer
    from tests.support.processes import ChildProcess
    from tests.support.s3 import S3Server
    from tests.support.service import ServiceProcess


class Server(Protocol):
    """A real process that can be killed, started again and frozen."""

    def kill(self) -> None:
        """SIGKILL."""

    async def start_async(self) -> Any:
        """Start again on the same data, and wait until it takes work."""

    def freeze(self) -> None:
        """SIGSTOP."""

    def thaw(self) -> None:
        """SIGCONT."""


class Place:
    """What a fault suite knows of a kind of sink."""

    kind: str
    target: Target
    away_code = "sink_unreachable"
    """What a job says that waits for it."""
    same_documents = False
    """Rows that are delivered again replace themselves."""

    def __init__(self) -> None:
        self.proxies: Mapping[str, FaultProxy] = {}
        self.servers: Mapping[str, Server] = {}
        """By the names that `schedule.SINKS` gives them."""

    def shows(self, request: bytes) -> bool:
        """Whether this request makes a chunk visible."""
        raise NotImplementedError

    @property
    def shown_through(self) -> FaultProxy:
        """The proxy that such requests pass."""
        return next(iter(self.proxies.values()))

    async def lose(self) -> None:
        """Out of reach: no new connection, and the open ones are cut."""
        for proxy in self.proxies.values():
            await proxy.refuse()
            proxy.cut()

    async def mend(self) -> None:
        """End of `lose`."""
        for proxy in self.proxies.values():
            await proxy.accept_again()

    def before_start(self, service: ServiceProcess) -> None:
        """The service's folders are there, the service does not run yet."""

    def close(self) -> None:
        """After everything."""


class KafkaPlace(Place):
    """One broker."""

    kind = "kafka"

    def __init__(self, server: KafkaServer, proxy: FaultProxy) -> None:
        super().__init__()
        self.target: KafkaTarget = KafkaTarget(server, server.proxied_bootstrap)
        self.proxies, self.servers = {"broker": proxy}, {"broker": server}

    def shows(self, request: bytes) -> bool:
        return bool(struct.unpack_from(">h", request)[0] == END_TXN)

    def close(self) -> None:
        self.target.close()


class S3Place(Place):
    """One store."""

    kind = "s3"

    def __init__(self, server: S3Server, proxy: FaultProxy) -> None:
        super().__init__()
        self.target: S3Target = S3Target(server, f"http://{proxy.address}")
        self.proxies, self.servers = {"store": proxy}, {"store": server}

    def shows(self, request: bytes) -> bool:
        return request.startswith(b"POST ") and b"uploadId=" in request.partition(b"\r\n")[0]


class _HdfsPart:
    """The NameNode or the DataNode of a cluster."""

    def __init__(self, server: HdfsServer, process: ChildProcess) -> None:
        self._server, self._process = server, process
        self.kill, self.freeze, self.thaw = process.kill, process.freeze, process.thaw

    async def start_async(self) -> object:
        return await self._server.start_async()


class HdfsPlace(Place):
    """A NameNode and a DataNode."""

    kind = "hdfs"

    def __init__(self, server: HdfsServer, proxies: HdfsProxies) -> None:
        super().__init__()
        self.target: HdfsTarget = HdfsTarget(server, proxies.url)
        self.proxies = {"namenode": proxies.namenode, "datanode": proxies.datanode}
        self.servers = {
            "namenode": _HdfsPart(server, server.namenode),
            "datanode": _HdfsPart(server, server.datanode),
        }

    def shows(self, request: bytes) -> bool:
        return b"op=RENAME" in request


class SearchPlace(Place):
    """One node of OpenSearch."""

    kind = "elasticsearch"
    same_documents = True

    def __init__(self, server: SearchServer, proxy: FaultProxy) -> None:
        super().__init__()
        self.target: SearchTarget = SearchTarget(server, f"http://{proxy.address}")
        self.proxies, self.servers = {"node": proxy}, {"node": server}

    def shows(self, request: bytes) -> bool:
        return b"/_bulk" in request[:200]


class FilePlace(Place):
    """A folder, on a small disk of its own where we may make one."""

    kind = "file"
    away_code = "no_space"

    def __init__(self) -> None:
        super().__init__()
        self.target: FileTarget = FileTarget()
        self._disk: Path | None = None

    def before_start(self, service: ServiceProcess) -> None:
        self.target.root = service.files()
        disk = service.data_dir / "files"
        disk.mkdir(parents=True, exist_ok=True)
        if mounted(disk):
            self._disk = disk

    @property
    def can_be_full(self) -> bool:
        """Whether the disk is one of our own."""
        return self._disk is not None

    async def lose(self) -> None:
        assert self._disk is not None
        await asyncio.to_thread(fill, self._disk)

    async def mend(self) -> None:
        assert self._disk is not None
        make_room(self._disk)

    def close(self) -> None:
        if self._disk is not None:
            unmounted(self._disk)
            shutil.rmtree(self._disk.parents[1], ignore_errors=True)  # the service's folder, which it could not remove


@asynccontextmanager
async def _kafka(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    server: KafkaServer = request.getfixturevalue("kafka_server")
    async with FaultProxy(server.proxied_port, port=server.proxy_port, framing="kafka") as proxy:
        yield KafkaPlace(server, proxy)


@asynccontextmanager
async def _s3(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    server: S3Server = request.getfixturevalue("s3_server")
    async with FaultProxy(server.port) as proxy:
        yield S3Place(server, proxy)


@asynccontextmanager
async def _hdfs(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    server: HdfsServer = request.getfixturevalue("hdfs_server")
    async with HdfsProxies(server) as proxies:
        yield HdfsPlace(server, proxies)


@asynccontextmanager
async def _search(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    server: SearchServer = request.getfixturevalue("opensearch_server")
    async with FaultProxy(server.port) as proxy:
        yield SearchPlace(server, proxy)


@asynccontextmanager
async def _file(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    del request
    yield FilePlace()


_OPENERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Place]]] = {
    "kafka": _kafka,
    "s3": _s3,
    "hdfs": _hdfs,
    "elasticsearch": _search,
    "file": _file,
}
KINDS = tuple(_OPENERS)


@asynccontextmanager
async def place(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """The place of a kind of sink, its proxies open, on the servers of pytest's fixtures."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(_OPENERS[kind](request))
        stack.callback(made.close)
        yield made
