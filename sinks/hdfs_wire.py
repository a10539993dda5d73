"""The way to WebHDFS: which NameNode, which DataNode, and what a broken connection means.

Redirects are followed here and not by aiohttp: every address is asked about before it is connected to. A call goes to
the next NameNode when the one before is in standby or took no connection; after a request was sent, only calls that
read may go on to the next.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp

from sinks.base import SinkError, SinkUnavailable
from sinks.guarded import addresses_of
from sinks.guarded_http import resolver_for
from sinks.hdfs_errors import RETRIABLE, STANDBY, Place, RemoteError, nonsense, translated, unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sinks.guarded import Guard

T = TypeVar("T")

CONNECT_SECONDS: Final = 5.0
DATANODES_TRIED: Final = 3
"""How many DataNodes may refuse a connection before a call is given up."""
_ERROR_BYTES: Final = 1 << 16
_PORTS: Final = {"http": 80, "https": 443}
# No connection was made, so nothing was sent.
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError)


class NameNodes:
    """The NameNodes of one cluster, shared by all who write to it: the one that answered last is asked first."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)

    def in_order(self) -> list[str]:
        """All of them, in the order to ask."""
        return list(self._addresses)

    def failed(self, address: str) -> None:
        """Ask this one last from now on."""
        self._addresses.remove(address)
        self._addresses.append(address)


class _Elsewhere(Exception):
    """The next NameNode may know; `error` is what to say when there is none."""

    def __init__(self, error: SinkError) -> None:
        super().__init__(error.message)
        self.error = error


class _Lost(aiohttp.ClientError):
    """The connection was lost after something may have been sent."""


async def _never_twice(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Aiohttp sends every PUT and DELETE a second time, unasked, when the connection is lost before the answer: a
    RENAME that was executed would then be told as one that found nothing to rename."""
    try:
        return await handler(request)
    except _NOT_CONNECTED:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Lost(str(error) or "the connection was lost") from error


class Wire:
    """Connections of one user. Raises `SinkError`, and RemoteError for what the caller may understand.

    `patience`: seconds that one call may take. `guard` is awaited with host and port before any connection, to
    NameNodes and DataNodes alike.
    """

    def __init__(self, nodes: NameNodes, place: Place, guard: Guard | None, patience: float) -> None:
        self.place = place
        self.patience = patience
        self._nodes = nodes
        self._guard = guard
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Give back connections. Never raises."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):
                await session.close()

    async def on_datanode(
        self,
        method: str,
        op: str,
        path: str,
        what: str,
        parameters: Mapping[str, str],
        work: Callable[[str], Awaitable[T]],
    ) -> T:
        """Ask a NameNode where, and work there; a DataNode that takes no connection is left out the next time."""
        refused: list[str] = []
        while True:
            more = {"excludedatanodes": ",".join(refused)} if refused else {}
            address = "the NameNode"
            try:
                _, url = await self.on_namenode(method, op, path, what, {**parameters, **more})
                if url is None:
                    raise SinkUnavailable(
                        "sink_unavailable", f"{self.place.doing(what)}: the NameNode names no DataNode for {op}"
                    )
                address = urlsplit(url).netloc
                await self._allowed(url)
                return await work(url)
            except RemoteError as error:
                raise translated(self.place, what, error) from error
            except _NOT_CONNECTED as error:
                refused.append(address)
                if len(refused) >= DATANODES_TRIED:
                    raise unreachable(self.place, what, f"DataNode {address}", _cause(error)) from error
            except (*_BROKEN, ValueError, KeyError) as error:
                raise unreachable(self.place, what, f"DataNode {address}", _cause(error)) from error

    async def on_namenode(
        self, method: str, op: str, path: str, what: str, parameters: Mapping[str, str]
    ) -> tuple[Mapping[str, Any], str | None]:
        """What the NameNode says, or where it sends us."""
        last: SinkError | None = None
        for address in self._nodes.in_order():
            try:
                return await self._ask(address, method, op, path, what, parameters)
            except _Elsewhere as elsewhere:
                last = elsewhere.error if last is None or last.code == "namenode_standby" else last
                self._nodes.failed(address)
        assert last is not None
        raise last

    async def _ask(
        self, address: str, method: str, op: str, path: str, what: str, parameters: Mapping[str, str]
    ) -> tuple[Mapping[str, Any], str | None]:
        query = urlencode({"op": op, "user.name": self.place.user, **parameters}, quote_via=quote, safe="/:,")
        url = f"{address}/webhdfs/v1{quote(path)}?{query}"
        try:
            async with asyncio.timeout(self.patience):
                await self._allowed(url)
                async with self.opened().request(method, url, allow_redirects=False) as answer:
                    body = await checked(answer)
                    if answer.status == 307:
                        return {}, answer.headers["Location"]
            found = json.loads(body) if body else {}
            if isinstance(found, dict):
                return found, None
            raise nonsense(self.place, what)
        except RemoteError as error:
            if error.exception == STANDBY:
                text = f"{self.place.doing(what)}: {address} is in standby; name the active NameNode in sink.url too"
                raise _Elsewhere(SinkUnavailable("namenode_standby", text)) from error
            if error.exception == RETRIABLE or not error.exception:
                raise _Elsewhere(translated(self.place, what, error)) from error
            raise
        except SinkUnavailable as error:  # its name does not resolve, or what it says makes no sense
            raise _Elsewhere(error) from error
        except (*_BROKEN, ValueError, KeyError) as error:
            told = unreachable(self.place, what, f"NameNode {address}", _cause(error))
            if method == "GET" or isinstance(error, _NOT_CONNECTED):
                raise _Elsewhere(told) from error
            self._nodes.failed(address)
            raise told from error

    async def _allowed(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise aiohttp.InvalidURL(url, "no http address")
        await addresses_of(self._guard, parts.hostname, parts.port or _PORTS[parts.scheme])

    def opened(self) -> aiohttp.ClientSession:
        """The session, made at the first call."""
        if self._session is None:
            # A connection for each call: a kept one may turn out to be dead, and then nobody knows what was executed.
            connector = aiohttp.TCPConnector(force_close=True, limit=0, resolver=resolver_for(self._guard))
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                middlewares=(_never_twice,),
            )
        return self._session


async def checked(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an answer below 400; RemoteError otherwise."""
    if answer.status < 400:
        return await answer.read()
    body = await answer.content.read(_ERROR_BYTES)
    try:
        found = json.loads(body)["RemoteException"]
        name, message = str(found["exception"]), str(found.get("message") or "")
    except (ValueError, KeyError, TypeError):
        name, message = "", ""
    raise RemoteError(answer.status, name, message)


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error)[:200] or type(error).__name__
