"""How the text (or TOML value) of a setting becomes a value. Each function raises `Invalid` with the remedy; the name
and the value stand before it, put there by whoever knows whether it is a secret."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from config import destinations as _destinations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SIZES: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
SHORTEST_TOKEN: Final = 16
SHORTEST_KEY: Final = 32


class Invalid(ValueError):
    """A value that can not stand; the text is the remedy."""


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def text(value: object) -> str:
    """Any non-empty text."""
    if not isinstance(value, str) or not value.strip():
        raise Invalid("give a text that is not empty")
    return value.strip()


def listen(value: object) -> Listen | None:
    """`host:port`, or `off`."""
    given = text(value)
    if given.lower() == "off":
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\s]+)):(\d{1,5})", given)
    if match is None or int(match[3]) > 65535:
        raise Invalid("write host:port (an IPv6 address in brackets, port 0 for any free one), or off")
    return Listen(match[1] or match[2], int(match[3]))


def integer(least: int, most: int) -> Callable[[object], int]:
    """A whole number within limits."""

    def parse(value: object) -> int:
        number = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str) and re.fullmatch(r"\s*\d{1,15}\s*", value, re.ASCII):
            number = int(value)
        if number is None or not least <= number <= most:
            raise Invalid(f"give a whole number from {least} to {most}")
        return number

    return parse


def number(least: float, most: float) -> Callable[[object], float]:
    """A number within limits."""

    def parse(value: object) -> float:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        if isinstance(value, str) and re.fullmatch(r"\s*\d{1,15}(\.\d{1,9})?\s*", value, re.ASCII):
            found = float(value)
        if found is None or not least <= found <= most:
            raise Invalid(f"give a number from {least:g} to {most:g}")
        return found

    return parse


def size(least: int, most: int) -> Callable[[object], int]:
    """Bytes, with KiB, MiB, GiB or TiB behind it where wanted."""

    def parse(value: object) -> int:
        found = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str):
            match = re.fullmatch(r"\s*(\d{1,15})\s*(?:([kmgt])(?:i?b)?|b)?\s*", value.lower(), re.ASCII)
            found = int(match[1]) * _SIZES[match[2] or ""] if match else None
        if found is None or not least <= found <= most:
            raise Invalid(f"give bytes from {least} to {most}, as 536870912 or 512MiB")
        return found

    return parse


def boolean(value: object) -> bool:
    """Yes or no, as true and false."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    found = known.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise Invalid("give true or false")
    return found


def choice(*choices: str) -> Callable[[object], str]:
    """One of a few words."""

    def parse(value: object) -> str:
        found = value.strip().lower() if isinstance(value, str) else ""
        if found not in choices:
            raise Invalid(f"give one of {', '.join(choices)}")
        return found

    return parse


def engine(value: object) -> str:
    """Which engine; only those that exist."""
    if isinstance(value, str) and value.strip() == "temporal":
        raise Invalid("the temporal engine is not available yet; use local")
    return choice("local")(value)


def path(value: object) -> Path:
    """A path that need not exist."""
    given = text(value)
    if "\0" in given:
        raise Invalid("a path holds no NUL")
    return Path(given).expanduser()


def place(value: object) -> Path:
    """A folder that need not exist, at a place where one can be made."""
    given = path(value)
    nearest = next(one for one in (given, *given.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise Invalid(f"{str(nearest)!r} is a file; name a folder, which need not exist")
    return given


def readable_file(value: object) -> Path:
    """A file that exists and can be read."""
    given = path(value)
    if not given.is_file() or not os.access(given, os.R_OK):
        raise Invalid("name a file that the service can read")
    return given


def folder(value: object) -> Path:
    """A folder that exists."""
    given = path(value)
    if not given.is_dir() or not os.access(given, os.R_OK | os.X_OK):
        raise Invalid("name a folder that the service can read")
    return given


def postgres_url(value: object) -> str:
    """A Postgres URL."""
    given = text(value)
    try:
        parts = urlsplit(given)
        fits = parts.scheme in {"postgres", "postgresql"} and bool(parts.hostname or "host=" in parts.query)
        _ = parts.port
    except ValueError:
        fits = False
    if not fits:
        raise Invalid("give postgresql://user:password@host:port/database")
    return given


def url_password(url: str | None) -> str | None:
    """The password inside a URL."""
    if not url:
        return None
    parts = urlsplit(url)
    if parts.password:
        return unquote(parts.password)
    return dict(parse_qsl(parts.query)).get("password")


def token(value: object) -> str:
    """A bearer token that can not be guessed."""
    given = text(value)
    if len(given) < SHORTEST_TOKEN or not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", given):
        raise Invalid(
            f"give at least {SHORTEST_TOKEN} characters of A-Z a-z 0-9 . _ ~ + / = -; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return given


def secret_keys(value: object) -> tuple[str, ...]:
    """Keys, newest first, parted by commas or line breaks; a TOML list too."""
    parts = value if isinstance(value, list) else re.split(r"[,\r\n]+", text(value))
    keys = tuple(str(part).strip() for part in parts if str(part).strip())
    short = [place for place, key in enumerate(keys, start=1) if len(key) < SHORTEST_KEY]
    if not keys or short or any(re.search(r"[,\r\n]", key) for key in keys):
        which = f"key {short[0]} is too short: " if short else ""
        raise Invalid(
            f"{which}give keys of at least {SHORTEST_KEY} characters, newest first, parted by commas; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return keys


def destinations(value: object) -> Mapping[str, Any]:
    """The rules of `config.destinations`."""
    try:
        if isinstance(value, dict):
            table = {kind: [item] if isinstance(item, str) else item for kind, item in value.items()}
            if not all(isinstance(item, list) and all(isinstance(one, str) for one in item) for item in table.values()):
                raise Invalid('in TOML, give a table of kind = ["pattern", …]')
            return _destinations.parse_table(table)
        return _destinations.parse(text(value))
    except Invalid:
        raise
    except ValueError as error:
        raise Invalid(str(error)) from None


def bucket_names(value: object) -> frozenset[str]:
    """Names separated by commas, or a list of them; `*` is not one of them: each bucket is allowed by its name."""
    names = value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", name):
            raise Invalid(f"{name!r} is no bucket's name: write names separated by commas, without s3:// and patterns")
    return frozenset(names)


def bucket_name(value: object) -> str:
    """One of them."""
    (name, *more) = bucket_names(value)
    if more:
        raise Invalid("name one bucket")
    return name


def http_url(value: object) -> str:
    """Scheme, host and port; nothing behind them."""
    url = text(value).rstrip("/")
    if not re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", url):
        raise Invalid("give http://host:port or https://host:port, without user, path and query")
    return url


def origins(value: object) -> frozenset[str]:
    """Origins as browsers send them, separated by commas, or a list of them; `*` is every one."""
    given = value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]
    return frozenset(one if one == "*" else http_url(one) for one in given)


def addresses_by_cluster(value: object) -> Mapping[str, str]:
    """`hdfs://host:port=http://host:port`, several separated by semicolons; in TOML a table."""
    pairs = value.items() if isinstance(value, dict) else (part.partition("=")[::2] for part in text(value).split(";"))
    found: dict[str, str] = {}
    for cluster, address in pairs:
        if not re.fullmatch(r"hdfs://[A-Za-z0-9._-]+(:\d{1,5})?", cluster.strip()) or not isinstance(address, str):
            raise Invalid("give hdfs://host:port=http://host:port, several separated by semicolons")
        found[cluster.strip()] = ",".join(http_url(one.strip()) for one in address.split(","))
    return found


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that `name` most likely meant."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return found[0] if found else None
