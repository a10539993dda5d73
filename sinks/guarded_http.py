"""The guard as the resolver of aiohttp's clients. A module of its own, so that nobody loads aiohttp for the guard."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    from sinks.guarded import Guard


class GuardedResolver(AbstractResolver):
    """aiohttp's way from a name to addresses, with the guard for a name server. aiohttp never asks a resolver about
    what looks like an address: there the guard is to be asked by the caller."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """What the guard answers. Raises what the guard raises."""
        found = [(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in await self._guard(host, port)]
        return [
            ResolveResult(hostname=host, host=one, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, one in found
            if family in {socket.AF_UNSPEC, kind}
        ]

    async def close(self) -> None:
        """Nothing is held."""


def resolver_for(guard: Guard | None) -> AbstractResolver | None:
    """What an aiohttp connector of a guarded client takes for `resolver`."""
    return None if guard is None else GuardedResolver(guard)
