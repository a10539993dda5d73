from __future__ import annotations

import asyncio
import socket

import pytest

from config.destinations import DestinationRefused, Destinations, loopback_only, parse

NAMES = {
    "db.example": ["10.1.2.3"],
    "two.example": ["10.1.2.3", "192.168.0.1"],
    "meta.example": ["169.254.169.254"],
    "localhost": ["127.0.0.1", "::1"],
}


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of this test; addresses resolve to themselves, as the real resolver does."""
    real = asyncio.BaseEventLoop.getaddrinfo

    async def resolve(self, host, port, **options):
        if host in NAMES:
            return [(0, 0, 0, "", (address, port)) for address in NAMES[host]]
        if host.endswith(".example"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return await real(self, host, port, flags=socket.AI_NUMERICHOST, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)


async def allowed(rules: str, host: str, port: int = 5432, kind: str = "postgres") -> bool:
    try:
        await Destinations(parse(rules)).guard(kind)(host, port)
    except DestinationRefused:
        return False
    return True


@pytest.mark.parametrize(
    ("rules", "host", "port", "yes"),
    [
        ("postgres=10.0.0.0/8", "db.example", 5432, True),
        ("postgres=10.0.0.0/8:5432", "10.9.9.9", 5433, False),
        ("postgres=10.0.0.0/8:5432-5440", "10.9.9.9", 5440, True),
        ("postgres=*.example", "db.example", 1, True),
        ("postgres=DB.Example", "db.example.", 1, True),
        ("postgres=*.example:5432", "db.example", 1, False),
        ("postgres=other.example", "db.example", 1, False),
        ("kafka=10.0.0.0/8", "db.example", 5432, False),
        ("*=10.0.0.0/8", "db.example", 5432, True),
        ("postgres=10.0.0.0/8", "two.example", 5432, False),
        ("postgres=10.0.0.0/8,192.168.0.1", "two.example", 5432, True),
        ("postgres=[::1]:5432", "::1", 5432, True),
        ("postgres=[fd00::/8]", "fd12::1", 5432, True),
        ("postgres=10.0.0.0/8", "::ffff:10.0.0.1", 5432, True),
        ("postgres=127.0.0.0/8", "::ffff:10.0.0.1", 5432, False),
        ("", "127.0.0.1", 5432, False),
    ],
)
async def test_rules(rules: str, host: str, port: int, yes: bool) -> None:
    assert await allowed(rules, host, port) is yes


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "meta.example", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254",
        "100.100.100.200", "0.0.0.0", "::", "224.0.0.1",
    ],
)  # fmt: skip
async def test_link_local_and_metadata_are_refused_whatever_the_rules_say(host: str) -> None:
    assert not await allowed("*", host)
    assert not await allowed("*=*,169.254.0.0/16,[::/0]", host)


async def test_a_refusal_reads_the_same_whatever_is_there() -> None:
    destinations = Destinations(parse("postgres=10.0.0.0/8"))
    texts = set()
    for host in ("nobody.example", "meta.example", "192.168.0.1"):
        with pytest.raises(DestinationRefused) as refused:
            await destinations.check("postgres", host, 1)
        texts.add(str(refused.value).replace(host, "HOST"))
    assert len(texts) == 1


async def test_only_who_may_connect_hears_that_a_name_does_not_exist() -> None:
    with pytest.raises(OSError, match="no such name"):
        await Destinations(parse("postgres=*.example")).check("postgres", "nobody.example", 1)


@pytest.mark.parametrize("host", ["", "a/b", "a\0b", "x" * 300])
async def test_what_is_no_host_name_is_not_looked_up(host: str) -> None:
    with pytest.raises(OSError):
        await Destinations(parse("*")).check("kafka", host, 1)
    with pytest.raises(DestinationRefused):
        await Destinations(loopback_only()).check("kafka", host, 1)


async def test_the_default_is_this_machine_only() -> None:
    destinations = Destinations(loopback_only())
    assert await destinations.check("kafka", "localhost", 9092) == ["127.0.0.1", "::1"]
    with pytest.raises(DestinationRefused):
        await destinations.check("kafka", "db.example", 9092)


@pytest.mark.parametrize(
    ("rules", "word"),
    [
        ("10.0.0.0/8", "no kind"),
        ("ftp=*", "unknown kind"),
        ("postgres=10.0.0.1/8", "no network"),
        ("postgres=10.0.0.300", "no network"),
        ("postgres=10.*", "no network"),
        ("postgres=a:99999", "no port"),
        ("postgres=a:9-1", "no port"),
        ("postgres=fd00::/8", "brackets"),
        ("postgres=[fd00::/8", "brackets"),
        ("postgres=a b", "no host name"),
    ],
)
def test_what_is_wrong_is_named(rules: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse(rules)
