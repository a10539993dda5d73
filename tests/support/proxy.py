"""
A TCP proxy that injects faults between a client and a real server.

Switches, changeable at any time: `stall`, `refuse`, `delay_seconds`, `bytes_per_second`, `swallow_replies`,
`swallow_requests`; `cut()` closes what is open. With `framing="kafka"` a rule can hit one request by its API
key: `rule = proxy.on_request(api_key=END_TXN, action="swallow_reply")`.

| action of a rule | the server | the client |
|---|---|---|
| `hold_request` | sees the request after `rule.release()` | waits |
| `drop_request` | never sees it | gets nothing more on this connection |
| `cut_before` | never sees it | is disconnected |
| `hold_reply` | executes it | gets the reply after `rule.release()` |
| `swallow_reply` | executes it | gets nothing more on this connection |
| `cut_after` | executes it | is disconnected instead of answered |
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

#: Kafka's API keys that faults are aimed at (https://kafka.apache.org/protocol#protocol_api_keys).
PRODUCE, METADATA, OFFSET_FETCH, INIT_PRODUCER_ID = 0, 3, 9, 22
ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = 24, 25, 26, 28

Action = Literal["hold_request", "drop_request", "cut_before", "hold_reply", "swallow_reply", "cut_after"]
_READ_BYTES = 65536


@dataclass(eq=False)
class Rule:
    """
    A fault for the next `count` requests that match.

    `triggered` is set when a request was stopped or, for actions on the reply, when the server had answered:
    then it has executed the request. `hits` counts them.
    """

    action: Action
    predicate: Callable[[bytes], bool]
    count: int = 1
    hits: int = 0
    triggered: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let held requests and replies go on."""
        self.released.set()

    def hit(self) -> None:
        """Count one and tell who waits."""
        self.hits += 1
        self.triggered.set()


@dataclass(eq=False)
class _Link:
    """One client's connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    awaited: dict[int, Rule] = field(default_factory=dict)
    dumb: bool = False  # replies are read and thrown away
    deaf: bool = False  # requests are read and thrown away

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class FaultProxy:
    """Listens on a loopback port and forwards to `target_port`; an async context manager."""

    def __init__(
        self, target_port: int, *, port: int = 0, framing: Literal["raw", "kafka"] = "raw", host: str = LOOPBACK
    ) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay_seconds = 0.0
        self.bytes_per_second: float | None = None
        self.swallow_replies = False
        self.swallow_requests = False
        self.accepted = 0
        self.port = port
        self._target = (host, target_port)
        self._framing = framing
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rules: list[Rule] = []

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def stall(self) -> bool:
        """True: connections are accepted, nothing is forwarded until it is False again."""
        return not self._flowing.is_set()

    @stall.setter
    def stall(self, stalled: bool) -> None:
        if stalled:
            self._flowing.clear()
        else:
            self._flowing.set()

    @property
    def open_connections(self) -> int:
        """How many clients are connected through it now."""
        return len(self._links)

    async def start(self) -> Self:
        """Listen; OSError when the port is taken."""
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def refuse(self) -> None:
        """Close the listener: new connections are refused, open ones stay (see `cut`)."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)

    async def accept_again(self) -> None:
        """End of `refuse`, on the same port."""
        if self._listener is None:
            await self.start()

    def cut(self) -> int:
        """Reset every open connection, both sides; returns how many there were."""
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def heal(self) -> None:
        """Take back every switch and rule; connections that a rule made silent are cut."""
        self.stall = self.swallow_replies = self.swallow_requests = False
        self.delay_seconds, self.bytes_per_second = 0.0, None
        for rule in self._rules:
            rule.release()
        self._rules.clear()
        for link in self._links:
            if link.dumb or link.deaf:
                link.cut()

    def on_request(
        self,
        action: Action,
        *,
        api_key: int | None = None,
        predicate: Callable[[bytes], bool] | None = None,
        count: int = 1,
    ) -> Rule:
        """
        Apply `action` to the next `count` requests of a Kafka `api_key`, or that `predicate` says yes to.

        The predicate sees one request without its length prefix (kafka), or what one read returned (raw).
        """
        if api_key is not None and self._framing != "kafka":
            raise ValueError("an api_key needs framing='kafka'")

        def matches(request: bytes) -> bool:
            key_fits = api_key is None or struct.unpack_from(">h", request)[0] == api_key
            return key_fits and (predicate is None or predicate(request))

        rule = Rule(action, matches, count)
        self._rules.append(rule)
        return rule

    async def close(self) -> None:
        """Stop listening, cut everything, wait for the own tasks."""
        await self.refuse()
        self.heal()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        """Start."""
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a connection's end is the point of this program
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        link = _Link(writer, server_writer)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump_requests(link, reader)),
            asyncio.create_task(self._pump_replies(link, server_reader)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._links.discard(link)
            link.cut()

    async def _pump_requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await self._read(reader):
            rule = self._matching(data)
            if rule is not None and not await self._apply_to_request(link, rule, data):
                continue
            if self.swallow_requests or link.deaf:
                continue
            await self._forward(link.server, data)

    async def _pump_replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await self._read(reader):
            rule = link.awaited.pop(self._correlation(data, at=4), None)
            if rule is not None:
                rule.hit()
                if rule.action == "hold_reply":
                    await rule.released.wait()
                elif rule.action == "cut_after":
                    return
                else:
                    link.dumb = True
            if self.swallow_replies or link.dumb:
                continue
            await self._forward(link.client, data)

    def _matching(self, data: bytes) -> Rule | None:
        request = data[4:] if self._framing == "kafka" else data
        for rule in self._rules:
            if rule.count > 0 and rule.predicate(request):
                rule.count -= 1
                return rule
        return None

    async def _apply_to_request(self, link: _Link, rule: Rule, data: bytes) -> bool:
        """Whether the request is to be forwarded."""
        if rule.action in {"hold_reply", "swallow_reply", "cut_after"}:
            link.awaited[self._correlation(data, at=8)] = rule
            return True
        rule.hit()
        if rule.action == "hold_request":
            await rule.released.wait()
            return True
        if rule.action == "cut_before":
            link.cut()
        link.deaf = link.dumb = True
        return False

    def _correlation(self, data: bytes, *, at: int) -> int:
        """Which request a reply belongs to; without frames, the next reply is the one."""
        return struct.unpack_from(">i", data, at)[0] if self._framing == "kafka" else 0

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        if self._framing == "kafka":
            with contextlib.suppress(asyncio.IncompleteReadError):
                head = await reader.readexactly(4)
                return head + await reader.readexactly(struct.unpack(">i", head)[0])
            return b""
        limit = _READ_BYTES if self.bytes_per_second is None else max(1, int(self.bytes_per_second / 20))
        return await reader.read(min(limit, _READ_BYTES))

    async def _forward(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self._flowing.wait()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        step = len(data) if self.bytes_per_second is None else max(1, int(self.bytes_per_second / 20))
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if self.bytes_per_second is not None:
                await asyncio.sleep(min(step, len(data)) / self.bytes_per_second)
