"""Checks what a list is filtered by before it becomes an argument of a query."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def checked(
    filters: Mapping[str, Any],
    *,
    known: Collection[str] | None = None,
    texts: Collection[str] = (),
    times: Collection[str] = (),
) -> dict[str, Any]:
    """The filters that are given (None is not). Raises ValueError that begins with the name of the one that is
    unknown or wrong."""
    given = {name: value for name, value in filters.items() if value is not None}
    for name, value in given.items():
        if known is not None and name not in known:
            raise ValueError(f"{name} is no filter of this list; there are {', '.join(sorted(known))}")
        if name in texts and (not isinstance(value, str) or "\0" in value):
            raise ValueError(f"{name} {value!r}: give a text without NUL")
        if name in times and (not isinstance(value, datetime) or value.tzinfo is None):
            raise ValueError(f"{name} {value!r}: give a time with its zone")
    return given


def pattern(text: str) -> str:
    """An ILIKE pattern that finds `text` itself anywhere."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
