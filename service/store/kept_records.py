"""Records as they were read last, kept for as long as the database says that they are still the same.

Nothing is answered from memory alone: every read asks for the record's mark, which changes with everything that the
record is made of, whoever changes it. What is saved is to fetch and decode again what is known already. A record whose
mark is the same is given out as the very same object: whoever makes something of it may keep that beside it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

V = TypeVar("V")

_AROUND = 500
"""What a record takes beside itself: its key, its mark, its place here."""


class KeptRecords(Generic[V]):
    """At most so many bytes of records by key, each with its mark; who was not asked for longest goes first."""

    def __init__(self, largest: int) -> None:
        """`largest`: bytes, as `weight` counts them."""
        self._largest = largest
        self._kept: OrderedDict[str, tuple[str, V, int]] = OrderedDict()
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes that are kept now."""
        return self._bytes

    def get(self, key: str, mark: str) -> V | None:
        """The record with this mark; None where another one is kept, or none."""
        kept = self._kept.get(key)
        if kept is None or kept[0] != mark:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def keep(self, key: str, mark: str, record: V, weight: int) -> None:
        """From now on the record of this key. One that would take the place of all others is not kept."""
        self._forget(key)
        if weight + _AROUND > self._largest // 8:
            return
        self._kept[key] = (mark, record, weight + _AROUND)
        self._bytes += weight + _AROUND
        while self._bytes > self._largest:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: str) -> None:
        if (gone := self._kept.pop(key, None)) is not None:
            self._bytes -= gone[2]


def weight(value: Any) -> int:
    """The bytes that a record and everything in it take; what stands in it twice counts twice."""
    if is_dataclass(value):
        parts = [getattr(value, one.name) for one in fields(value)]
    elif isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = []
    return sys.getsizeof(value) + sum(map(weight, parts))
