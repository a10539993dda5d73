"""Files back into records: the other side of `Format.stream`, slice by slice, in constant memory.

For one thread at a time. What is read may be damaged in any way: `Damaged` is raised where nothing more can be told,
and what was told before stands.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import zstandard

from sinks.formats import columns_unknown, csv_reading, json_lines
from sinks.reading import Records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.formats import Format
    from sinks.reading import Wanted

BLOCK = 64 * 1024
"""Compressed bytes that are taken at once: what comes out of them is bounded too."""
_GZIP_CONTAINER = 31
LONGEST_RECORD = 1 << 30
"""A record is at most as long as Postgres lets a value be."""


class Damaged(ValueError):
    """The bytes are not what a writer of this format makes; the rest of them can not be read."""


class Decompressor(Protocol):
    """The one thing asked of a decompressor."""

    def decompress(self, data: bytes) -> bytes:
        """What comes out of `data`. Raises Damaged."""

    def check_end(self) -> None:
        """Raises Damaged when the stream has not ended, or something follows its end."""


class _Plain:
    def decompress(self, data: bytes) -> bytes:
        return data

    def check_end(self) -> None:
        """Any end is one."""


class _Compressed:
    """One gzip member or one zstd frame."""

    def __init__(self, kind: str) -> None:
        gzip = kind == "gzip"
        self._inner = zlib.decompressobj(_GZIP_CONTAINER) if gzip else zstandard.ZstdDecompressor().decompressobj()

    def decompress(self, data: bytes) -> bytes:
        if self._inner.eof:
            raise Damaged("bytes follow the end of the compressed stream")
        try:
            found: bytes = self._inner.decompress(data)
        except (zlib.error, zstandard.ZstdError) as error:
            raise Damaged(f"it can not be decompressed: {error}") from error
        return found

    def check_end(self) -> None:
        if not self._inner.eof:
            raise Damaged("the compressed stream has no end")
        if self._inner.unused_data:
            raise Damaged("bytes follow the end of the compressed stream")


class Layout(Protocol):
    """Records out of plain bytes."""

    def feed(self, data: bytes) -> list[bytes]:
        """The records that are whole now. Raises Damaged."""

    def end(self) -> list[bytes]:
        """The rest, at the end of the bytes. Raises Damaged."""


class Lines:
    """Records that end with a line feed and hold none."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """See `Layout`."""
        self._begun.append(data)
        self._size += len(data)
        if b"\n" not in data:
            if self._size > LONGEST_RECORD:
                raise Damaged("a record has no end")
            return []
        lines = b"".join(self._begun).split(b"\n")
        rest = lines.pop()
        self._begun, self._size = [rest], len(rest)
        return lines

    def end(self) -> list[bytes]:
        """See `Layout`."""
        if self._size:
            raise Damaged("the last record has no end")
        return []


class CsvRecords(Lines):
    """Records of CSV: a line feed inside quotes ends none."""

    def __init__(self, *, header: bool) -> None:
        super().__init__()
        self._records = csv_reading.Records(header=header)

    def columns(self, delimiter: str) -> list[str] | None:
        """What the file itself says its columns are: a generation may have files with others. None: it does not."""
        return None if self._records.header is None else csv_reading.fields(self._records.header, delimiter)

    def feed(self, data: bytes) -> list[bytes]:
        """See `Layout`."""
        records = self._records.of(super().feed(data))
        if self._records.held > LONGEST_RECORD:
            raise Damaged("a quote has no end")
        return records

    def end(self) -> list[bytes]:
        """See `Layout`."""
        if self._records.held:
            raise Damaged("a quote has no end")
        return super().end()


def tokens(form: Format, records: Sequence[bytes], key: Sequence[str]) -> list[bytes | None]:
    """The token of each record of a file (`sinks.reading`), None where no key can be read."""
    if form.kind == "csv":
        if not form.columns:
            raise columns_unknown()
        return csv_reading.tokens(records, key, [column.name for column in form.columns], form.delimiter)
    return json_lines.tokens(records, key)


def source_tokens(form: Format, records: Sequence[bytes], wanted: Wanted) -> list[bytes | None]:
    """The token of each record as the source gives it: the key's columns alone, or the whole with `wanted.values`."""
    key = wanted.key or ()
    if wanted.values or form.kind == "json":
        return tokens(form, records, key)
    if form.kind == "csv":
        return csv_reading.tokens(records, key, key, form.delimiter)
    # pyarrow costs some 50 MB, so whoever reads no Parquet never loads it.
    from sinks.formats import parquet_reading  # noqa: PLC0415 - see above

    by_name = {column.name: column for column in form.columns}
    if not by_name.keys() >= set(key):
        raise columns_unknown()
    return parquet_reading.source_tokens(records, [by_name[name] for name in key])


def decoder(form: Format, wanted: Wanted) -> Decoder | ZipDecoder | ParquetDecoder:
    """What reads one file of this format."""
    if form.kind == "parquet":
        return ParquetDecoder(wanted)
    return ZipDecoder(form, wanted) if form.compression == "zip" else Decoder(form, wanted)


class Decoder:
    """One file of lines, from its first byte to its last."""

    def __init__(self, form: Format, wanted: Wanted) -> None:
        self._form, self._wanted = form, wanted
        self._inner: Decompressor = _Plain() if form.compression == "none" else _Compressed(form.compression)
        self._layout: Layout = CsvRecords(header=form.header) if form.kind == "csv" else Lines()

    def feed(self, data: bytes) -> Iterator[Records]:
        """What is whole after `data`. Raises Damaged."""
        view = memoryview(data)
        for start in range(0, len(data), BLOCK):
            records = self._layout.feed(self._inner.decompress(bytes(view[start : start + BLOCK])))
            if records:
                yield self._told(records)

    def end(self) -> Iterator[Records]:
        """The rest. Raises Damaged when the bytes do not end as they should."""
        self._inner.check_end()
        records = self._layout.end()
        if records:
            yield self._told(records)

    def _told(self, records: list[bytes]) -> Records:
        key = self._wanted.key
        keys = None if key is None else self._tokens(records, key)
        return Records(len(records), keys, records if self._wanted.values else None)

    def _tokens(self, records: list[bytes], key: Sequence[str]) -> list[bytes | None]:
        names = self._layout.columns(self._form.delimiter) if isinstance(self._layout, CsvRecords) else None
        if names is None:
            return tokens(self._form, records, key)
        if not set(key) <= set(names):
            raise Damaged(f"its first line does not name the key's columns: {', '.join(names)[:200]}")
        return csv_reading.tokens(records, key, names, self._form.delimiter)


class ZipDecoder:
    """One archive of lines, which tells nothing before its end."""

    def __init__(self, form: Format, wanted: Wanted) -> None:
        from sinks.formats import zip_reading  # noqa: PLC0415 - as its writer: few need it

        self._spooled = zip_reading.Spooled(form.password)
        self._inner = Decoder(replace(form, compression="none"), wanted)

    def feed(self, data: bytes) -> Iterator[Records]:
        """Nothing yet."""
        self._spooled.write(data)
        return iter(())

    def end(self) -> Iterator[Records]:
        """Every record. Raises Damaged."""
        try:
            for block in self._spooled.read():
                yield from self._inner.feed(block)
        except Damaged:
            raise
        except ValueError as error:
            raise Damaged(str(error)) from error
        yield from self._inner.end()


class ParquetDecoder:
    """One Parquet file, which tells nothing before its end."""

    def __init__(self, wanted: Wanted) -> None:
        from sinks.formats import parquet_reading  # noqa: PLC0415 - see `source_tokens`

        self._spooled = parquet_reading.Spooled(wanted.key)

    def feed(self, data: bytes) -> Iterator[Records]:
        """Nothing yet."""
        self._spooled.write(data)
        return iter(())

    def end(self) -> Iterator[Records]:
        """Every row. Raises Damaged."""
        try:
            yield from self._spooled.read()
        except ValueError as error:
            raise Damaged(str(error)) from error
