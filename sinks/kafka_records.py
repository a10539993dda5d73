"""Rows as the records of one batch, packed a column at a time.

A record of message format v2 (https://kafka.apache.org/documentation/#record) is its length, a byte of attributes, the
distance of its timestamp, its place in the batch, its key, its value and its headers; every number is a variable
integer. All but key and value are one of few texts, so those are looked up, and one join lays out all rows at once:
half the time of a call of C code a row.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ATTRIBUTES = b"\x00"
_NULL = b"\x01"
"""The length -1: no key, no value."""
_NUMBER_BYTES = 5
"""What a length takes at most."""
_LENGTHS_KEPT = 4096
_PLACES_KEPT = 65_536
"""A batch of more rows than this holds rows of a few bytes."""


def varint(number: int) -> bytes:
    """A variable integer as Kafka has them: zigzag, seven bits a byte, the low ones first."""
    rest = (number << 1) ^ (number >> 63)
    packed = bytearray()
    while rest > 0x7F:
        packed.append(rest & 0x7F | 0x80)
        rest >>= 7
    packed.append(rest)
    return bytes(packed)


@lru_cache(maxsize=64)
def packed_headers(headers: tuple[tuple[str, bytes | None], ...]) -> bytes:
    """The headers as they end a record."""
    parts = [varint(len(headers))]
    for name, value in headers:
        text = name.encode()
        parts += [varint(len(text)), text, _NULL if value is None else varint(len(value)), value or b""]
    return b"".join(parts)


class _Lengths(dict[int, bytes]):
    """A length as it is packed."""

    def __missing__(self, length: int) -> bytes:
        if len(self) >= _LENGTHS_KEPT:
            self.clear()
        self[length] = packed = self.packed(length)
        return packed

    @staticmethod
    def packed(length: int) -> bytes:
        """Also of the key ''."""
        return varint(length)


class _ValueLengths(_Lengths):
    """As it is packed of a value: an empty one is a tombstone, null, which takes as many bytes."""

    @staticmethod
    def packed(length: int) -> bytes:
        return varint(length) if length else _NULL


class _Heads(dict[int, bytes]):
    """What stands between two rows of a batch: the headers that end the one, and how the other begins, by the length of
    that one's value (`keys` false) or of its key and value with their own lengths."""

    def __init__(self, tail: bytes, fixed: int, begin: bytes, *, keys: bool) -> None:
        super().__init__()
        self._tail, self._fixed, self._begin, self._keys = tail, fixed, begin, keys

    def __missing__(self, length: int) -> bytes:
        if len(self) >= _LENGTHS_KEPT:
            self.clear()
        content = length if self._keys else len(_NULL) + len(varint(length)) + length
        self[length] = packed = self._tail + varint(self._fixed + content) + self._begin
        return packed


class _Places(list[bytes]):
    """Places in a batch, counted from 0, each followed by the same bytes."""

    def __init__(self, then: bytes) -> None:
        super().__init__()
        self._then = then

    def run(self, start: int, end: int) -> Sequence[bytes]:
        """From `start` up to `end`."""
        if end > _PLACES_KEPT:
            return [varint(place) + self._then for place in range(start, end)]
        if end > len(self):
            self += [varint(place) + self._then for place in range(len(self), end)]
        return self[start:end]


_lengths, _value_lengths = _Lengths(), _ValueLengths()
_places_before_key, _places_without_key = _Places(b""), _Places(_NULL)


@lru_cache(maxsize=64)
def _heads(tail: bytes, fixed: int, begin: bytes, keys: bool) -> _Heads:
    return _Heads(tail, fixed, begin, keys=keys)


def pack(
    values: Sequence[bytes],
    keys: Sequence[bytes | None] | None,
    headers: bytes,
    *,
    place: int,
    delay: int,
    room: int,
) -> tuple[int, bytes]:
    """
    As many of the rows, from the first on, as surely fit into `room` bytes: how many, and their records.

    The first goes to `place` of the batch, and if that is 0 it is taken whatever its size. `delay` is the distance of
    their timestamp from the batch's, `headers` what `packed_headers` made. Ends where a place takes a byte more, too:
    call again for the rest.
    """
    width = len(varint(place))
    values = values[: (1 << 7 * width - 1) - place]
    time = varint(delay)
    fixed = len(_ATTRIBUTES) + len(time) + width + len(headers)
    lengths = list(map(len, values))
    sizes = lengths
    if keys is not None:
        keys = keys[: len(values)]
        sizes = _sizes(lengths, keys)
    count = _fitting(sizes, fixed, room) or int(place == 0)
    if count == 0:
        return 0, b""
    # A time of 0 goes with the head; any other differs from page to page, and has a column of its own.
    heads = _heads(headers, fixed, _ATTRIBUTES + time if delay == 0 else _ATTRIBUTES, keys is not None)
    columns: list[Iterable[bytes]] = [map(heads.__getitem__, sizes[:count])]
    if delay:
        columns.append([time] * count)
    if keys is None:
        columns.append(_places_without_key.run(place, place + count))
    else:
        columns.append(_places_before_key.run(place, place + count))
        columns += _of_keys(keys[:count])
    columns += [map(_value_lengths.__getitem__, lengths[:count]), values[:count]]
    return count, _woven(columns, count, headers)


def _of_keys(keys: Sequence[bytes | None]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    return [_NULL if key is None else _lengths[len(key)] for key in keys], [key or b"" for key in keys]


def _sizes(lengths: list[int], keys: Sequence[bytes | None]) -> list[int]:
    """Of keys and values together, each with its own length before it."""
    of_values = map(add, lengths, map(len, map(_lengths.__getitem__, lengths)))
    of_keys = [len(key) + len(_lengths[len(key)]) if key else len(_NULL) for key in keys]
    return list(map(add, of_values, of_keys))


def _fitting(sizes: list[int], fixed: int, room: int) -> int:
    """How many rows surely fit: for each the most that its numbers may take is counted."""
    most = fixed + len(_NULL) + 2 * _NUMBER_BYTES
    if sum(sizes) + most * len(sizes) <= room:
        return len(sizes)
    most = fixed + len(_NULL) + 2 * len(varint(max(sizes) + most))
    return bisect_right(list(accumulate(size + most for size in sizes)), room)


def _woven(columns: Sequence[Iterable[bytes]], rows: int, tail: bytes) -> bytes:
    """Row after row. Each head begins with the tail of the row before: the first has none before it, the last's is
    missing."""
    step = len(columns)
    pieces: list[bytes] = [b""] * (rows * step + 1)
    for at, column in enumerate(columns):
        pieces[at : rows * step : step] = column
    pieces[0] = pieces[0][len(tail) :]
    pieces[-1] = tail
    return b"".join(pieces)
