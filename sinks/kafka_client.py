"""Connections to a Kafka cluster: TLS and SASL, brokers, coordinators, and what the cluster says about a topic.

Built on aiokafka's connection (framing, versions, SASL) and nothing above it: aiokafka's own client keeps
background tasks that can not be stopped in bounded time, and asks for topics in a way that makes missing ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka.conn import create_conn
from aiokafka.protocol.coordination import FindCoordinatorRequest

from sinks.base import SinkError, SinkRefused
from sinks.guarded import NamedContext, addresses_of
from sinks.kafka_errors import Names, from_code, from_exception, unreachable
from sinks.kafka_protocol import Code, TopicMetadataRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from sinks.guarded import Guard
    from sinks.specs import KafkaSecurity, KafkaSinkSpec

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 10.0
_CLOSE_SECONDS = 0.2
_BOOTSTRAP = -1
_TRIES = 3


class _NoRequestsInLogs(logging.Filter):
    """At DEBUG aiokafka's connection logs whole requests: passwords and rows."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG


logging.getLogger("aiokafka.conn").addFilter(_NoRequestsInLogs())


class Connection(Protocol):
    """What is used of aiokafka's connection. `send` writes before it returns, so calls keep their order."""

    def connected(self) -> bool:
        """Whether the socket is open."""

    def send(self, request: Any) -> Awaitable[Any]:
        """The answer; TimeoutError after REQUEST_SECONDS."""

    def close(self) -> asyncio.Future[None] | None:
        """Fail what waits for an answer and close the socket."""


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


def tls_context(security: KafkaSecurity, host: str) -> ssl.SSLContext | None:
    """The context for the protocols with TLS, else None, of the broker that calls itself `host`; SinkRefused names the
    PEM that can not be read."""
    if security.protocol not in {"SSL", "SASL_SSL"}:
        return None
    context = NamedContext(host)
    try:
        if security.ca:
            context.load_verify_locations(cadata=security.ca)
        else:
            context.load_default_certs()
    except (ssl.SSLError, ValueError):
        raise SinkRefused("security_invalid", "security.ca holds no readable PEM certificate.") from None
    if security.certificate is not None and security.private_key is not None:
        _load_client_certificate(context, security.certificate, security.private_key.get_secret_value())
    return context


def _load_client_certificate(context: ssl.SSLContext, certificate: str, private_key: str) -> None:
    # The ssl module reads keys from files only; an anonymous memory file never touches a disk.
    memory = os.memfd_create("certificate")
    try:
        os.write(memory, f"{certificate}\n{private_key}\n".encode())
        # The empty password keeps OpenSSL from asking a terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{memory}", password="")
    except (ssl.SSLError, OSError, ValueError):
        raise SinkRefused(
            "security_invalid",
            "security.certificate and security.private_key are no matching PEM pair, or the key is encrypted.",
        ) from None
    finally:
        os.close(memory)


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
                return await self._connect_to_one(addresses, port, self._tls[host])
        except Exception as error:
            if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
                # SCRAM: the server could not prove that it knows the password.
                raise SinkRefused(
                    "authentication_failed", f"{doing}: the broker's part of {security.mechanism} is wrong."
                ) from error
            raise from_exception(self.names, doing, error) from error

    async def _connect_to_one(self, addresses: Sequence[str], port: int, tls: ssl.SSLContext | None) -> Connection:
        """A connection to the first of `addresses`, all of one broker, that takes one."""
        security = self._spec.security
        for last, address in enumerate(addresses, 1 - len(addresses)):
            try:
                made: Connection = await create_conn(  # type: ignore[no-untyped-call]
                    address,
                    port,
                    client_id="rowferry",
                    request_timeout_ms=int(REQUEST_SECONDS * 1000),
                    max_idle_ms=None,
                    ssl_context=tls,
                    security_protocol=security.protocol,
                    sasl_mechanism=security.mechanism,
                    sasl_plain_username=security.username,
                    sasl_plain_password=security.password.get_secret_value() if security.password else "",
                )
            except OSError as error:
                if last == 0 or isinstance(error, ssl.SSLError):
                    raise
            else:
                return made
        raise AssertionError
