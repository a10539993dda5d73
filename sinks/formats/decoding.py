"""Files back into records: the other side of `Format.stream`, slice by slice, in constant memory.

For one thread at a time. What is read may be damaged in any way: `Damaged` is raised where nothing more can be told,
and what was told before stands.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import zstandard

from sinks.formats import json_lines
from sinks.reading import Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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


_LAYOUTS: Mapping[str, Callable[[Format], Layout]] = {"json": lambda _: Lines()}

KINDS = frozenset(_LAYOUTS)
"""Formats that can be read back."""


def tokens(form: Format, records: Sequence[bytes], key: Sequence[str]) -> list[bytes | None]:
    """The token of each record (`sinks.reading`), None where no key can be read."""
    del form
    return json_lines.tokens(records, key)


class Decoder:
    """One file, from its first byte to its last."""

    def __init__(self, form: Format, wanted: Wanted) -> None:
        self._form, self._wanted = form, wanted
        self._inner: Decompressor = _Plain() if form.compression == "none" else _Compressed(form.compression)
        self._layout = _LAYOUTS[form.kind](form)

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
        keys = None if key is None else tokens(self._form, records, key)
        return Records(len(records), keys, records if self._wanted.values else None)
