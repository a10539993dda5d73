"""Which NameNodes and which folder a definition of an HDFS sink may name. Pure."""

from __future__ import annotations

import re

from sinks import naming


def addresses(value: str) -> list[str]:
    """Each NameNode's address with its scheme; one without takes the scheme of the one before."""
    found: list[str] = []
    scheme = ""
    for part in value.split(","):
        given, sign, rest = part.strip().rpartition("://")
        scheme = {"webhdfs": "http", "swebhdfs": "https"}.get(given, given) if sign else scheme
        # The value is not shown: it may hold a password.
        if scheme not in {"http", "https"} or not re.fullmatch(
            r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?", rest
        ):
            raise ValueError(
                "give http://host:port of a NameNode's HTTP address (https://, webhdfs:// or swebhdfs://), without "
                "user, path and query; several separated by commas"
            )
        port = rest.rstrip("/").rpartition("]")[2].partition(":")[2]
        if port and not 0 < int(port) < 65536:
            raise ValueError(f"{port} is no port; give one from 1 to 65535")
        found.append(f"{scheme}://{rest.rstrip('/')}" + ("" if port else {"http": ":9870", "https": ":9871"}[scheme]))
    if len(set(found)) != len(found):
        raise ValueError("an address is given twice; name each NameNode once")
    return found


def check_url(value: str) -> str:
    """Return `value` when it names NameNodes. Raises ValueError naming the remedy, never the value."""
    addresses(value)
    return value


def check_path(value: str) -> str:
    """Return `value` when it may be a job's folder. Raises ValueError naming the remedy."""
    if not value.startswith("/") or value.startswith("//") or value == "/":
        raise ValueError("give an absolute folder of HDFS below /, such as /exports/orders")
    if ":" in value:
        raise ValueError("a path in HDFS holds no colon; remove it")
    try:
        naming.check_path(value[1:])
    except ValueError as error:
        raise ValueError(str(error).replace("the account's folder", "/")) from None
    return value
