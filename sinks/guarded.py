"""Connect where the guard has looked, and nowhere else.

A name that is checked and then resolved again by a driver may lead elsewhere the second time (DNS rebinding). So a
guard answers addresses, every one of them allowed, and the drivers are given these; TLS still speaks of the name.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

Guard = Callable[[str, int], Awaitable[Sequence[str]]]
"""Awaited with host and port before any connection. Answers the addresses of the host, at least one, every one allowed;
raises SinkRefused (or what the caller of a source understands) for a destination that is not."""


async def addresses_of(guard: Guard | None, host: str, port: int) -> Sequence[str]:
    """Where to connect to for `host`: what the guard answers, or without a guard the host as it is."""
    return [host] if guard is None else await guard(host, port)


class NamedContext(ssl.SSLContext):
    """A client's TLS context of one server: whatever address is connected to, the server is asked for, and has to
    certify, `name`."""

    name: str

    def __new__(cls, name: str) -> Self:
        """As `ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)`: names and certificates are checked, nobody is trusted yet."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.name = name
        return made

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,  # noqa: ARG002 - the address that the driver knows
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As the parent's, for `name`: what asyncio calls for each connection."""
        return super().wrap_bio(incoming, outgoing, server_side, self.name, session)
