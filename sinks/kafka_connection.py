"""One connection to one broker: its TLS, its first steps, and what is used of it."""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka.conn import create_conn

from sinks.base import SinkRefused
from sinks.guarded import NamedContext

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Sequence

    from sinks.specs import KafkaSecurity

REQUEST_SECONDS = 10.0


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


async def connect(
    addresses: Sequence[str], port: int, security: KafkaSecurity, tls: ssl.SSLContext | None
) -> Connection:
    """A connection to the first of `addresses`, all of one broker, that takes one. Raises what aiokafka and sockets
    raise."""
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
