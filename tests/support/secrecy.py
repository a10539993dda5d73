"""Every secret that the suite hands to the product, and the check that none of them comes back.

Whoever makes up a password or a token for a test calls `secret`; the client remembers what it sends by itself. Every
answer, every log of a service process and everything a test printed is searched (tests/conftest.py).
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

_SHORTEST = 8
"""A shorter one stands in other words by chance."""
_SECRET_FIELD = re.compile(r"password|secret|private_key|api_key|token")
_known: set[str] = set()


def secret(value: str) -> str:
    """Remember `value`, and return it."""
    if len(value) >= _SHORTEST:
        _known.add(value)
    return value


def remember(sent: Any, name: str = "") -> None:
    """Remember every secret in a JSON document that is sent to the service."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            remember(value, str(key))
    elif isinstance(sent, list):
        for value in sent:
            remember(value, name)
    elif isinstance(sent, str):
        if _SECRET_FIELD.search(name) and not sent.startswith(("env:", "file:", "***")):
            secret(sent)
        elif "://" in sent:
            try:
                password = urlsplit(sent).password
            except ValueError:
                return
            if password:
                secret(unquote(password))


def told(text: str) -> str | None:
    """The first secret that `text` holds, shortened so that saying it tells nobody."""
    found = next((value for value in sorted(_known) if value in text), None)
    return None if found is None else f"{found[:3]}… ({len(found)} characters)"


def assert_silent(text: str, where: str) -> None:
    """AssertionError when `text` holds a secret."""
    found = told(text)
    if found is not None:
        raise AssertionError(f"{where} holds the secret {found}")
