"""Pages cut out of a COPY stream, without a Python object per value.

Postgres sends whole rows: a message is one line of COPY text, its columns apart by tabs, with line breaks, tabs and
backslashes inside values escaped. So one buffer splits into all its fields in two passes of C code, and only fields
that hold a backslash are looked at again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workers.sources.base import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from workers.sources.ahead import Part
    from workers.sources.base import Key

_ESCAPES = ((b"\\n", b"\n"), (b"\\t", b"\t"), (b"\\r", b"\r"), (b"\\b", b"\b"), (b"\\f", b"\f"), (b"\\v", b"\v"))
_SLICE = 1024 * 1024
"""Longer values are unescaped in a thread, this much at a time, so that the event loop goes on."""
NULL = b"\\N"
TRUE = b"t"


def unescape(field: bytes) -> bytes:
    """A COPY text field as it was. Escaped backslashes stand aside as NUL, which no Postgres text holds."""
    if b"\\" not in field:
        return field
    field = field.replace(b"\\\\", b"\0")
    if b"\\" in field:
        for escaped, plain in _ESCAPES:
            field = field.replace(escaped, plain)
    return field.replace(b"\0", b"\\")


def unescape_line(field: bytes) -> bytes:
    """JSON texts, one a line, each kept on its line: white space that type json kept raw becomes one space a
    character."""
    if b"\\" not in field:
        return field
    field = field.replace(b"\\\\", b"\0")
    if b"\\" in field:
        for escaped, _ in _ESCAPES:
            field = field.replace(escaped, b" ")
    return field.replace(b"\0", b"\\")


def unescape_long_line(field: bytes) -> bytes:
    """As `unescape_line`, a slice at a time; cut only where no escape is open."""
    parts = []
    start = 0
    while start < len(field):
        end = start + _SLICE
        while end < len(field) and field[end - 1 : end] == b"\\":
            end += 1
        parts.append(unescape_line(field[start:end]))
        start = end
    return b"".join(parts)


def _fields(buffer: bytes) -> list[bytes]:
    """All fields of whole lines. asyncpg hands out a bytearray, whose parts would be bytearrays too."""
    fields = bytes(buffer).replace(b"\n", b"\t").split(b"\t")
    fields.pop()
    return fields


class PageBuilder:
    """Takes the buffers of one COPY and keeps whole rows up to `page_bytes`.

    Columns of the stream: the key's, the value, then the message key and the mark of a repeated key where asked for.
    """

    def __init__(self, *, key_columns: int, message_key: bool, marks_repeats: bool, page_bytes: int) -> None:
        self._keys = key_columns
        self._width = key_columns + 1 + message_key + marks_repeats
        self._message_key = message_key
        self._marks = marks_repeats
        self._page_bytes = page_bytes
        self.raw_keys: Sequence[bytes] = []
        self.values: list[bytes] = []
        self.message_keys: list[bytes | None] | None = [] if message_key else None
        self.repeats: list[bytes] = []
        self.bytes = 0
        self.oversized: list[int] = []
        """Indexes of the rows whose values were left out for their size, in order."""

    async def feed(self, buffer: bytes) -> bool:
        """One buffer of whole rows. True when the page is full: nothing more of the stream is wanted."""
        long = len(buffer) > _SLICE
        fields = await asyncio.to_thread(_fields, buffer) if long else _fields(buffer)
        width = self._width
        values = fields[self._keys :: width]
        if NULL in values:
            self.oversized += [place for place, value in enumerate(values, len(self.values)) if value == NULL]
        if b"\\" in buffer:
            if long:
                values = await asyncio.to_thread(lambda: [unescape_long_line(value) for value in values])
            else:  # all at once: a call a value would cost more than the work
                values = unescape_line(b"\n".join(values)).split(b"\n")
        self._take_keys(fields)
        if self.message_keys is not None:
            texts = fields[self._keys + 1 :: width]
            self.message_keys += [None if text == NULL else unescape(text) for text in texts]
        if self._marks:
            self.repeats += fields[width - 1 :: width]
        self.values += values
        self.bytes += sum(map(len, values))
        return self.bytes > self._page_bytes and len(self.values) > self._marks

    async def whole(self, counted: int | None) -> None:
        """The statement has ended: by itself with so many rows as Postgres counted, or early (None)."""

    def _take_keys(self, fields: list[bytes]) -> None:
        assert isinstance(self.raw_keys, list)
        if self._keys == 1:
            self.raw_keys += fields[0 :: self._width]
        else:
            columns = [fields[index :: self._width] for index in range(self._keys)]
            self.raw_keys += map(b"\t".join, zip(*columns, strict=True))

    def keep(self, rows: int) -> None:
        """Let go of what comes after the first `rows` rows."""
        if rows >= len(self.values):
            return
        self.bytes -= sum(map(len, self.values[rows:]))
        del self.values[rows:]
        self.oversized = [place for place in self.oversized if place < rows]
        if isinstance(self.raw_keys, list):
            del self.raw_keys[rows:]
        if self.message_keys is not None:
            del self.message_keys[rows:]

    def fit(self) -> bool:
        """Keep to `page_bytes`, but for a first row. True when rows were let go."""
        rows, size = len(self.values), self.bytes
        while size > self._page_bytes and rows > 1:
            rows -= 1
            size -= len(self.values[rows])
        cut = rows < len(self.values)
        self.keep(rows)
        return cut

    def page(self, scanned_to: Key | None, *, end: bool, decode: Callable[[bytes], Key]) -> Page:
        """What was kept."""
        return Page(self.values, self.raw_keys, self.message_keys, self.bytes, scanned_to, end, decode)

    def parts(
        self, after: Key | None, scanned_to: Key | None, *, end: bool, decode: Callable[[bytes], Key]
    ) -> Iterator[Part]:
        """What was kept, as `page`, cut around the rows that were left out for their size; each behind a key."""
        begin = 0
        for place in self.oversized:
            if place > begin:
                last = decode(self.raw_keys[place - 1])
                yield after, self._part(begin, place, last, decode)
                after = last
            key = decode(self.raw_keys[place])
            yield after, key
            after, begin = key, place + 1
        if end or begin < len(self.values):
            rest = self._part(begin, len(self.values), scanned_to, decode)
            rest.end = end
            yield after, rest

    def _part(self, begin: int, stop: int, scanned_to: Key | None, decode: Callable[[bytes], Key]) -> Page:
        values = self.values[begin:stop]
        keys = self.message_keys
        told = None if keys is None else keys[begin:stop]
        size = sum(map(len, values))
        return Page(values, self.raw_keys[begin:stop], told, size, scanned_to, end=False, decode=decode)


def decode_key(raw: bytes) -> Key:
    """Key columns of one row, as they stood in the stream, as texts."""
    if b"\\" not in raw:
        return tuple(raw.decode().split("\t"))
    return tuple(unescape(field).decode() for field in raw.split(b"\t"))
