"""Pages of CSV records, as Postgres's own COPY wrote them, without a Python object per value.

The key's columns lead each record and are cut off, whatever they hold; the rest is the value, byte for byte. A record
ends at a line feed that no quotes enclose: where every line has an even number of quotes, each line is a record. And
where there are as many lines as Postgres counts rows: then no quote needs to be looked at.
https://www.postgresql.org/docs/current/sql-copy.html, "CSV Format".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, overload

from workers.sources.page import NULL, TRUE, PageBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUOTE: Final = b'"'
_NEITHER: Final = bytes(set(range(256)) - set(b'"\n'))
"""Every byte but the two that decide where a record ends."""
_PLAIN: Final = bytes(set(range(0x20, 256)) - set(b'"\\'))
"""What stands in a key's text as it is, in CSV and in COPY's text format alike."""
_LONG: Final = 1024 * 1024
"""Longer buffers are taken apart in a thread, so that the event loop goes on."""
_END_OF_DATA: Final = rb"\."
_ESCAPED: Final = re.compile(rb"[\\\n\t\r\x08\x0c\x0b]")
_ESCAPES: Final = {
    b"\\": rb"\\", b"\n": rb"\n", b"\t": rb"\t", b"\r": rb"\r", b"\b": rb"\b", b"\f": rb"\f", b"\v": rb"\v"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dialect:
    """How COPY is asked to write: Postgres's own names for it."""

    delimiter: str = ","
    """One byte, none of quote, carriage return and line feed."""
    null: str = ""
    """What stands, unquoted, for NULL; a text of the same letters is quoted."""


class CsvPageBuilder(PageBuilder):
    """As its base, for records in CSV. Columns of the stream: the key's, the marks of a repeated key and of a row that
    is too large where asked for, then the value's. Keys are kept as the base keeps them, in COPY's text format. With
    `key_leads` the value begins with the key anyway: it travels once, and is looked at only where it is asked for;
    lines are joined at the end, and only where they are more than the rows."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        key_columns: int,
        value_columns: int,
        marks_repeats: bool,
        page_bytes: int,
        max_row_bytes: int,
        key_leads: bool = False,
        marks_large: bool = False,
    ) -> None:
        super().__init__(key_columns=key_columns, message_key=False, marks_repeats=marks_repeats, page_bytes=page_bytes)
        assert not (key_leads and marks_repeats), "a key that is not proven is compared row by row"
        self._delimiter = dialect.delimiter.encode()
        self._null = dialect.null.encode()
        self._alone = value_columns == 1 and not key_leads
        self._max_row_bytes = max_row_bytes
        self._key_leads = key_leads
        self._marks_large = marks_large
        if key_leads:
            self.raw_keys = _LeadingKeys(self.values, key_columns, self._delimiter)

    async def feed(self, buffer: bytes) -> bool:
        """See the base."""
        data = bytes(buffer)
        heads, values = await asyncio.to_thread(self._parse, data) if len(data) > _LONG else self._parse(data)
        if isinstance(self.raw_keys, list):
            keys = [self._as_text(column) for column in heads[: self._keys]]
            self.raw_keys += keys[0] if len(keys) == 1 else map(b"\t".join, zip(*keys, strict=True))
        if self._marks:
            self.repeats += heads[self._keys]
        if self._marks_large and TRUE in heads[-1]:
            self.oversized += [place for place, mark in enumerate(heads[-1], len(self.values)) if mark == TRUE]
        if len(data) > self._max_row_bytes:
            await self.whole(None)  # a row has its place only then
            self._leave_out_long(values)
        self.values += values
        self.bytes += sum(map(len, values))
        return self.bytes > self._page_bytes and len(self.values) > self._marks

    async def whole(self, counted: int | None) -> None:
        """See the base."""
        if self._key_leads and counted != len(self.values):
            data = b"\n".join([*self.values, b""])
            self.values[:] = await asyncio.to_thread(_records, data) if len(data) > _LONG else _records(data)
            self.bytes = sum(map(len, self.values))

    def _leave_out_long(self, values: list[bytes]) -> None:
        for index, value in enumerate(values):
            if len(value) > self._max_row_bytes:
                self.oversized.append(len(self.values) + index)
                kept = _cut(value, self._keys, self._delimiter)[1] if self._key_leads else 0
                values[index] = value[:kept]
        self.oversized.sort()

    def _parse(self, data: bytes) -> tuple[list[Sequence[bytes]], list[bytes]]:
        """The leading columns, each as a sequence of fields as they stand in the records, and the values."""
        if self._key_leads and len(data) <= self._max_row_bytes:
            lines = data.split(b"\n")
            lines.pop()
            return [], lines
        records = _records(data)
        if self._key_leads:
            return [], records
        heads, values = self._split(records, self._keys + self._marks + self._marks_large)
        if self._alone and _END_OF_DATA in values:
            # As the only column of its own COPY it would have been quoted: on a line by itself it ends the data.
            values = [b'"\\."' if value == _END_OF_DATA else value for value in values]
        return heads, values

    def _split(self, records: list[bytes], leading: int) -> tuple[list[Sequence[bytes]], list[bytes]]:
        delimiter = self._delimiter
        if leading == 1:
            parts = [record.partition(delimiter) for record in records]
            heads: list[Sequence[bytes]] = [[part[0] for part in parts]]
            values = [part[2] for part in parts]
        else:
            columns = list(zip(*[record.split(delimiter, leading) for record in records], strict=True))
            heads, values = list(columns[:leading]), list(columns[leading]) if columns else []
            heads = heads or [()] * leading
        if any(_QUOTE in b"".join(column) for column in heads):
            # A quoted field may hold the delimiter: these records are read a letter at a time.
            cut = [_cut(record, leading, delimiter) for record in records]
            heads = list(zip(*[fields for fields, _ in cut], strict=True))
            values = [record[end:] for record, (_, end) in zip(records, cut, strict=True)]
        return heads, values

    def _as_text(self, column: Sequence[bytes]) -> Sequence[bytes]:
        """A key's column in COPY's text format."""
        if self._null not in column and not b"".join(column).translate(None, _PLAIN):
            return column
        return [NULL if field == self._null else _escaped(_unquoted(field)) for field in column]


class _LeadingKeys(Sequence[bytes]):
    """The keys that records begin with, each made when it is asked for; none of them is null."""

    def __init__(self, records: list[bytes], columns: int, delimiter: bytes) -> None:
        self._records, self._columns, self._delimiter = records, columns, delimiter

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._key(record) for record in self._records[index]]
        return self._key(self._records[index])

    def _key(self, record: bytes) -> bytes:
        fields, _ = _cut(record, self._columns, self._delimiter)
        return b"\t".join(_escaped(_unquoted(field)) for field in fields)


def _records(data: bytes) -> list[bytes]:
    """Whole records, each ended by a line feed, one by one."""
    records = data.split(b"\n")
    records.pop()
    if _QUOTE in data and _encloses_line_ends(data):
        return list(_joined(records))
    return records


def _encloses_line_ends(data: bytes) -> bool:
    """Whether some line has an odd number of quotes."""
    return _QUOTE in data.translate(None, _NEITHER).replace(b'""', b"")


def _joined(lines: Iterable[bytes]) -> Iterable[bytes]:
    """Lines that quotes hold together as one record each."""
    open_lines: list[bytes] = []
    for line in lines:
        uneven = line.count(_QUOTE) & 1
        if not open_lines and not uneven:
            yield line
            continue
        open_lines.append(line)
        if uneven and len(open_lines) > 1:
            yield b"\n".join(open_lines)
            open_lines = []
    if open_lines:
        raise AssertionError("Postgres sends whole records only")


def _cut(record: bytes, count: int, delimiter: bytes) -> tuple[list[bytes], int]:
    """The first fields, quotes and all, and where what follows them begins."""
    fields, at = [], 0
    for _ in range(count):
        begin = at
        if record.startswith(_QUOTE, at):
            at = record.index(_QUOTE, at + 1) + 1
            while record.startswith(_QUOTE, at):  # doubled: it stands for itself
                at = record.index(_QUOTE, at + 1) + 1
        else:
            end = record.find(delimiter, at)
            at = len(record) if end < 0 else end
        fields.append(record[begin:at])
        at += 1
    return fields, at


def _unquoted(field: bytes) -> bytes:
    return field[1:-1].replace(b'""', _QUOTE) if field.startswith(_QUOTE) else field


def _escaped(text: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: _ESCAPES[found[0]], text)
