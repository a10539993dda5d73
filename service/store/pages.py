"""Keyset paging: the token of the next page says where the last one ended, not how many rows were before it.

So a page neither repeats nor leaves out a row that was there all the time, whatever was inserted or removed meanwhile.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from service.store.rows import is_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REMEDY = "give it exactly as `next` of the page before had it, with the same sort and filters, or leave it out"


def encode(order: str, *values: object) -> str:
    """An opaque token: the order that it belongs to, and the last row's values in it."""
    texts = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps([order, *texts], separators=(",", ":")).encode()).decode().rstrip("=")


def decode(token: str, order: str, *readers: Callable[[Any], object]) -> Sequence[Any]:
    """The values of a token, each read by its reader. Raises ValueError that begins with `after` for any other text,
    also for a token of another order."""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        values = json.loads(base64.urlsafe_b64decode(padded))
        if not isinstance(values, list) or len(values) != len(readers) + 1 or values[0] != order:
            raise ValueError(order)
        return [read(value) for read, value in zip(readers, values[1:], strict=True)]
    except (ValueError, TypeError):
        raise ValueError(f"after {token[:80]!r} is no page token of this list: {_REMEDY}") from None


def moment(value: str) -> datetime:
    """A reader of times. Raises ValueError for one without a zone: Postgres would take it for another."""
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError(value)
    return found


def text(value: object) -> str:
    """A reader of texts. Raises ValueError for anything else, and for what Postgres can not store."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("text")
    return value


def identity(value: object) -> str:
    """A reader of ids."""
    if not isinstance(value, str) or not is_id(value):
        raise ValueError("id")
    return value


def whole(value: object) -> int:
    """A reader of whole numbers that fit into Postgres's integer."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**31:
        raise ValueError("whole")
    return value


def big(value: object) -> int:
    """A reader of whole numbers that fit into Postgres's bigint."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ValueError("big")
    return value
