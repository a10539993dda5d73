"""Which rows of two streams have no partner. Pure.

Both streams are read in turns, and a row is held only until its partner comes: streams in nearly the same order are
matched in a few pages of memory, whatever the chunk's size. Where more than `MOST` wait for a partner, the caller
begins the chunk again in parts: in part k of n only rows whose token falls to k are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST: Final = 200_000
FIRST: Final = 100
"""Of what is left over, so many are named."""


class TooMany(Exception):
    """More rows wait for a partner than may be held."""


@dataclass(slots=True)
class Named:
    """How many, and the first of them by name."""

    count: int = 0
    first: list[bytes | None] = field(default_factory=list)

    def add(self, name: bytes | None, count: int = 1) -> None:
        """One more, or several of one name."""
        self.count += count
        if len(self.first) < FIRST:
            self.first.append(name)


@dataclass(slots=True)
class LeftOver:
    """What had no partner, over all parts of a chunk."""

    source: Named = field(default_factory=Named)
    """In the source only; raw keys."""
    doubled: Named = field(default_factory=Named)
    """In the sink once more than in the source; tokens."""
    sink: Named = field(default_factory=Named)
    """In the sink only; tokens, None for a record in which no key can be read."""
    changed: Named = field(default_factory=Named)
    """In both, with different values; raw keys."""


class Matching:
    """One part of a chunk."""

    def __init__(self, parts: int = 1, part: int = 0) -> None:
        self._parts, self._part = parts, part
        self._source: dict[bytes, tuple[bytes, int]] = {}
        self._sink: dict[bytes, list[int]] = {}
        self._held = 0
        self._unreadable = 0
        self.changed = Named()

    def source(self, tokens: Sequence[bytes | None], raw_keys: Sequence[bytes], values: Sequence[bytes] | None) -> None:
        """Rows of the source: the token, the key and, where values are compared, the record of each. Raises TooMany."""
        for index, token in enumerate(tokens):
            assert token is not None, "the source gives every row its key"
            if not self._mine(token):
                continue
            value = 0 if values is None else hash(values[index])
            waiting = self._sink.get(token)
            if waiting is None:
                self._source[token] = raw_keys[index], value
                self._hold()
                continue
            self._compare(raw_keys[index], value, waiting.pop())
            self._held -= 1
            if not waiting:
                del self._sink[token]

    def sink(self, tokens: Sequence[bytes | None], values: Sequence[bytes] | None) -> None:
        """Records of the sink. Raises TooMany."""
        for index, token in enumerate(tokens):
            if token is None:
                self._unreadable += self._part == 0
                continue
            if not self._mine(token):
                continue
            value = 0 if values is None else hash(values[index])
            partner = self._source.pop(token, None)
            if partner is None:
                self._sink.setdefault(token, []).append(value)
                self._hold()
                continue
            self._held -= 1
            self._compare(*partner, value)

    @property
    def lonely(self) -> bool:
        """The sink holds more than the source: whether that is doubled or unknown only the source can tell."""
        return bool(self._sink)

    def known(self, tokens: Iterable[bytes | None]) -> set[bytes]:
        """Of these tokens of the source, those that the sink holds more of."""
        return {token for token in tokens if token is not None and token in self._sink}

    def end(self, left: LeftOver, doubled: set[bytes]) -> None:
        """Add what is left to `left`; `doubled`: the tokens that the source has after all."""
        for raw, _ in self._source.values():
            left.source.add(raw)
        for token, values in self._sink.items():
            (left.doubled if token in doubled else left.sink).add(token, len(values))
        for _ in range(self._unreadable):
            left.sink.add(None)
        left.changed.count += self.changed.count
        left.changed.first = (left.changed.first + self.changed.first)[:FIRST]

    def _mine(self, token: bytes) -> bool:
        return self._parts == 1 or crc32(token) % self._parts == self._part

    def _hold(self) -> None:
        self._held += 1
        if self._held > MOST:
            raise TooMany

    def _compare(self, raw_key: bytes, one: int, other: int) -> None:
        if one != other:
            self.changed.add(raw_key)
