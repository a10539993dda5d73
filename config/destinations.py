"""Where outgoing connections may go: `ROWFERRY_ALLOWED_DESTINATIONS`, checked by resolved address.

Syntax of the setting: `kind=pattern,pattern;kind=pattern`, or `*` alone for everything. A pattern is a host name (`*`
stands for any characters), an address or a network, with `:port`, `:first-last` or nothing (any port) behind it; IPv6
in brackets: `postgres=*.db.example:5432,10.0.0.0/8:5432-5440;kafka=[fd00::/8]`. The kind `*` is every kind.
In TOML the same is a table: `allowed_destinations = { postgres = ["10.0.0.0/8:5432"] }`.

Link-local and metadata addresses, unspecified and multicast ones are refused whatever the setting says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Guard = Callable[[str, int], Awaitable[list[str]]]
"""What a source or a sink is given: see `Destinations.guard`."""

KINDS: Final = ("postgres", "kafka", "s3", "hdfs", "elasticsearch", "webhook")
SETTING: Final = "ROWFERRY_ALLOWED_DESTINATIONS"
RESOLVE_SECONDS: Final = 5.0

_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
# What clouds answer credentials on, beside the link-local 169.254.169.254: AWS over IPv6, Google over IPv6, Alibaba,
# Oracle's old address.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192")
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_HOST_PATTERN = re.compile(r"[A-Za-z0-9*_.-]+")


class DestinationRefused(Exception):
    """A destination that the setting does not allow. The text depends on nothing but what was asked for."""

    code = "destination_refused"
    retryable = False

    def __init__(self, kind: str, host: str, port: int) -> None:
        self.message = (
            f"{kind} destination {host}:{port} is not allowed here; an administrator of the service can allow it in "
            f"{SETTING}"
        )
        super().__init__(self.message)


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern: a network or a host name, and ports."""

    network: Network | None
    host: re.Pattern[str] | None
    """None for a network; and for `*`, which is any host, both are None."""
    first_port: int = 0
    last_port: int = 65535

    def takes_name(self, host: str, port: int) -> bool:
        """Whether the rule allows this host by its name, whatever it resolves to."""
        if self.network is not None or not self.first_port <= port <= self.last_port:
            return False
        return self.host is None or self.host.fullmatch(host) is not None

    def takes_address(self, address: Address, port: int) -> bool:
        """Whether the rule allows this resolved address."""
        return self.network is not None and self.first_port <= port <= self.last_port and address in self.network


def parse(text: str) -> Mapping[str, Sequence[Rule]]:
    """The rules of each kind. Raises ValueError naming the pattern and the remedy."""
    if text.strip() == "*":
        return {kind: (Rule(None, None),) for kind in KINDS}
    given: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in re.split(r"[;\n]", text))):
        kind, sign, patterns = part.partition("=")
        if not sign:
            raise ValueError(f"{part!r} has no kind: write kind=pattern,pattern;kind=…, or * alone for everything")
        given.setdefault(kind.strip(), []).extend(filter(None, (p.strip() for p in patterns.split(","))))
    return parse_table(given)


def parse_table(given: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[Rule]]:
    """As `parse`, from {kind: patterns}."""
    rules: dict[str, list[Rule]] = {kind: [] for kind in KINDS}
    for kind, patterns in given.items():
        if kind not in {*KINDS, "*"}:
            raise ValueError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)} and * for all of them")
        for one in KINDS if kind == "*" else (kind,):
            rules[one].extend(_rule(pattern) for pattern in patterns)
    return rules


def loopback_only() -> Mapping[str, Sequence[Rule]]:
    """The default when the service listens on loopback only."""
    return {kind: tuple(Rule(network, None) for network in _LOOPBACK) for kind in KINDS}


class Destinations:
    """The setting, ready to be asked."""

    def __init__(self, rules: Mapping[str, Sequence[Rule]]) -> None:
        self._rules = rules

    def guard(self, kind: str) -> Guard:
        """The check of one kind. Called with host and port it answers the addresses that the name resolves to, every
        one allowed; connect to one of these rather than resolve again. Raises `DestinationRefused`, or `OSError` when
        an allowed name can not be resolved."""

        async def check(host: str, port: int) -> list[str]:
            return await self.check(kind, host, port)

        return check

    async def check(self, kind: str, host: str, port: int) -> list[str]:
        """As `guard`."""
        name = host.rstrip(".").lower()
        rules = self._rules.get(kind, ())
        by_name = any(rule.takes_name(name, port) for rule in rules)
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                addresses = await _resolve(name, port)
        except OSError:
            # Whether a name exists is told only to those who may connect to it.
            if by_name:
                raise
            raise DestinationRefused(kind, host, port) from None
        for text in addresses:
            address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
            allowed = by_name or any(rule.takes_address(address, port) for rule in rules)
            if _never(address) or not allowed:
                raise DestinationRefused(kind, host, port)
        return addresses


async def _resolve(host: str, port: int) -> list[str]:
    if not host or "/" in host or "\0" in host:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label over 63 characters, or one that IDNA refuses
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside, where an IPv6 address is only a wrapping of one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _never(address: Address) -> bool:
    return address.is_link_local or address.is_unspecified or address.is_multicast or address in _METADATA


def _rule(pattern: str) -> Rule:
    host, ports = _split_ports(pattern)
    first, last = 0, 65535
    if ports not in {"", "*"}:
        match = _PORTS.fullmatch(ports)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 < first <= last <= 65535:
            raise ValueError(f"{pattern!r}: {ports!r} is no port or range of ports; write :5432 or :5432-5440")
    if host == "*":
        return Rule(None, None, first, last)
    try:
        return Rule(ipaddress.ip_network(host), None, first, last)
    except ValueError as error:
        # Bits behind the prefix, or a number too large: it was meant as a network, and would never match as a name.
        if "/" in host or ":" in host or re.fullmatch(r"[\d.*]+", host):
            raise ValueError(f"{pattern!r} is no network: {error}") from None
    if not _HOST_PATTERN.fullmatch(host):
        raise ValueError(f"{pattern!r} is no host name, address or network; IPv6 stands in brackets")
    text = re.escape(host.rstrip(".").lower()).replace(r"\*", r".*")
    return Rule(None, re.compile(text), first, last)


def _split_ports(pattern: str) -> tuple[str, str]:
    if pattern.startswith("["):
        host, sign, rest = pattern[1:].partition("]")
        if not sign or (rest and not rest.startswith(":")):
            raise ValueError(f"{pattern!r}: an IPv6 address or network stands in brackets: [fd00::/8]:5432")
        return host, rest[1:]
    host, _, ports = pattern.partition(":")
    if ":" in ports:
        raise ValueError(f"{pattern!r}: an IPv6 address or network stands in brackets: [fd00::/8]:5432")
    return host, ports
