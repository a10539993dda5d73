"""Connections to a Kafka cluster: TLS and SASL, brokers, coordinators, and what the cluster says about a topic.

Built on aiokafka's connection (framing, versions, SASL) and nothing above it: aiokafka's own client keeps
background tasks that can not be stopped in bounded time, and asks for topics in a way that makes missing ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from aiokafka.protocol.coordination import FindCoordinatorRequest

from sinks.base import SinkError, SinkRefused
from sinks.guarded import addresses_of
from sinks.kafka_connection import connect, tls_context
from sinks.kafka_errors import Names, from_code, from_exception, unreachable
from sinks.kafka_protocol import Code, TopicMetadataRequest

if TYPE_CHECKING:
    from sinks.guarded import Guard
    from sinks.kafka_connection import Connection
    from sinks.specs import KafkaSinkSpec

CONNECT_SECONDS = 5.0
_CLOSE_SECONDS = 0.2
_BOOTSTRAP = -1
_TRIES = 3


class Purpose(IntEnum):
    """Why a connection is held: a commit must not wait behind megabytes of records."""

    RECORDS = 0
    COORDINATION = 1


class CoordinatorKind(IntEnum):
    """Whose coordinator."""

    GROUP = 0
    TRANSACTION = 1


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; `leader` is -1 while there is none."""

    leader: int
    replicas: int
    in_sync: int


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster describes it."""

    name: str
    id: str
    partitions: dict[int, Partition]
    operations: int
    """Bits of the caller's rights, all zero when they were not asked for."""


class Cluster:
    """
    One client's connections to a cluster, opened when used. Not safe for use after `close`.

    Every method is bounded in time and raises SinkError only: SinkUnavailable where trying again may help,
    SinkRefused otherwise. `guard` says where to connect to: for the bootstrap servers as the definition has them, and
    for every broker that the cluster advertises.
    """

    def __init__(self, spec: KafkaSinkSpec, names: Names, guard: Guard | None = None) -> None:
        self.names = names
        self._spec = spec
        self._guard = guard
        self._tls: dict[str, ssl.SSLContext | None] = {}
        self._brokers: dict[int, tuple[str, int]] = {}
        self._connections: dict[tuple[int, Purpose], Connection] = {}
        self._coordinators: dict[tuple[CoordinatorKind, str], int] = {}
        self._connecting: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._closed = False

    async def bootstrap(self) -> None:
        """Learn the brokers from the first bootstrap server that answers."""
        doing = "connecting to Kafka"
        last: SinkError | None = None
        for address in self._spec.bootstrap_servers.split(","):
            host, _, port = address.strip().rpartition(":")
            self._brokers[_BOOTSTRAP] = (host.strip("[]"), int(port))
            try:
                await self._learn_brokers(_BOOTSTRAP)
            except SinkRefused:
                raise
            except SinkError as error:
                last = error
            else:
                return
            finally:
                self._disconnect(_BOOTSTRAP)
        raise last or unreachable(self.names, doing, "no server given")

    async def connection(self, node: int, purpose: Purpose) -> Connection:
        """A live connection to a broker; SinkError when there is none to be had."""
        held = self._connections.get((node, purpose))
        if held is not None and held.connected():
            return held
        async with self._connecting[node]:
            held = self._connections.get((node, purpose))
            if held is None or not held.connected():
                held = await self._connect(node)
                self._connections[node, purpose] = held
            return held

    async def send(self, node: int, request: Any, purpose: Purpose = Purpose.COORDINATION) -> Any:
        """One request, one answer within REQUEST_SECONDS. A connection that failed or timed out is dropped."""
        connection = await self.connection(node, purpose)
        try:
            return await connection.send(request)
        except Exception as error:
            connection.close()
            raise from_exception(self.names, f"asking Kafka ({type(request).__name__})", error) from error

    async def send_to_any(self, request: Any) -> Any:
        """One request to whichever of three known brokers answers."""
        last: SinkError | None = None
        connected_first = sorted(
            self._brokers, key=lambda node: ((node, Purpose.COORDINATION) not in self._connections, node)
        )
        for node in connected_first[:_TRIES]:
            try:
                return await self.send(node, request)
            except SinkRefused:
                raise
            except SinkError as error:
                last = error
        raise last or unreachable(self.names, "asking Kafka", "no broker is known")

    async def coordinator(self, kind: CoordinatorKind, key: str) -> int:
        """The broker that coordinates a group or a transactional id; remembered until `forget_coordinator`."""
        if (kind, key) not in self._coordinators:
            answer = await self.send_to_any(FindCoordinatorRequest(key, kind))
            if answer.error_code:
                raise from_code(self.names, f"looking for the coordinator of {key!r}", answer.error_code)
            if answer.coordinator_id not in self._brokers:
                self._brokers[answer.coordinator_id] = (answer.host, answer.port)
            self._coordinators[kind, key] = answer.coordinator_id
        return self._coordinators[kind, key]

    def forget_coordinator(self, kind: CoordinatorKind, key: str) -> None:
        """Look for it anew next time."""
        self._coordinators.pop((kind, key), None)

    async def describe_topic(self, name: str, *, rights: bool = False) -> Topic | None:
        """The topic as any broker knows it, None where it does not exist; never makes it."""
        answer = await self.send_to_any(TopicMetadataRequest([name], rights=rights))
        self._note_brokers(answer)
        (code, _, topic_id, _, partitions, operations, _) = answer.topics[0]
        if code == Code.UNKNOWN_TOPIC_OR_PARTITION:
            return None
        if code not in {Code.NONE, Code.LEADER_NOT_AVAILABLE}:
            raise from_code(self.names, f"describing topic {name!r}", code)
        return Topic(
            name,
            topic_id,
            {
                number: Partition(leader, len(replicas), len(isr))
                for _, number, leader, _, replicas, isr, *_ in partitions
            },
            operations if rights else 0,
        )

    @property
    def any_broker(self) -> int:
        """A broker's id."""
        return min(self._brokers)

    def drop(self, purpose: Purpose) -> None:
        """Close the connections of one purpose at once; requests on them fail."""
        for (node, held_for), connection in list(self._connections.items()):
            if held_for is purpose:
                del self._connections[node, held_for]
                connection.close()

    async def close(self) -> None:
        """Close everything. Never raises, a fifth of a second at most."""
        self._closed = True
        closing = [done for held in self._connections.values() if (done := held.close()) is not None]
        self._connections.clear()
        if closing:
            with contextlib.suppress(Exception):
                await asyncio.wait(closing, timeout=_CLOSE_SECONDS)

    async def _learn_brokers(self, node: int) -> None:
        self._note_brokers(await self.send(node, TopicMetadataRequest()))
        if len(self._brokers) > 1:
            del self._brokers[_BOOTSTRAP]

    def _note_brokers(self, answer: Any) -> None:
        for node, host, port, *_ in answer.brokers:
            if self._brokers.get(node) != (host, port):
                self._disconnect(node)
                self._brokers[node] = (host, port)

    def _disconnect(self, node: int) -> None:
        for purpose in Purpose:
            if (held := self._connections.pop((node, purpose), None)) is not None:
                held.close()

    async def _connect(self, node: int) -> Connection:
        doing = "connecting to Kafka"
        if self._closed:
            raise unreachable(self.names, doing, "this client was closed")
        if node not in self._brokers:
            raise unreachable(self.names, doing, f"broker {node} is not known")
        host, port = self._brokers[node]
        addresses = await addresses_of(self._guard, host, port)
        if host not in self._tls:
            self._tls[host] = tls_context(self._spec.security, host)
        security = self._spec.security
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await connect(addresses, port, self._spec.security, self._tls[host])
        except Exception as error:
            if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
                # SCRAM: the server could not prove that it knows the password.
                raise SinkRefused(
                    "authentication_failed", f"{doing}: the broker's part of {security.mechanism} is wrong."
                ) from error
            raise from_exception(self.names, doing, error) from error
