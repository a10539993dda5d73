"""How rows become bytes: a layout (JSON lines, CSV, Parquet) and a compression, around it or, for Parquet, within.

`Stream` is what a sink of files or objects writes through. The same rows give the same bytes, however they were
batched: a repeat can be told from another content by size and checksum.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from sinks.base import SinkRefused
from sinks.formats import compression, csv_records, json_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.formats.columns import Column

GROUP_ROWS: Final = 131_072
"""Rows of a row group: readers share out their work by them."""
GROUP_BYTES: Final = 4 << 20
"""Bytes of CSV in a row group of more than one row: this bounds a stream's memory."""

_TEXT: Final = (*compression.SUFFIXES, "zip")
COMPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "json": _TEXT,
    "csv": _TEXT,
    "parquet": ("zstd", "none", "gzip", "snappy"),
}
"""Each kind with the compressions it can have; the first is what it has when nothing is said."""
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "json": (),
    "csv": ("header", "delimiter", "null"),
    "parquet": ("row_group_rows", "row_group_bytes"),
}
"""Each kind's own options: fields of `Format`, kept with every chunk."""
DIALECT: Final = ("delimiter", "null")
"""Those that say how the source has to write a row."""


class Stream(Protocol):
    """Turns rows into the bytes of one file. For one thread at a time; heavy work leaves Python's lock free."""

    def encode(self, values: Sequence[bytes]) -> bytes:
        """The bytes that are ready after these rows; may be empty. Raises ValueError for a row that is not one record
        of the layout, and RowRejected, where `Format.rejects`, for one that it can not hold: then nothing was taken,
        and the stream is as it was."""

    def end(self) -> bytes:
        """The last bytes. Nothing may be encoded after it."""


@dataclass(frozen=True, slots=True)
class Format:
    """A layout with its options and a compression, by the API's words. Raises ValueError when they can not be."""

    kind: str = "json"
    compression: str = "none"
    header: bool = True
    delimiter: str = ","
    null: str = ""
    row_group_rows: int = GROUP_ROWS
    row_group_bytes: int = GROUP_BYTES
    password: str | None = field(default=None, repr=False)
    """Of a zip: never kept with a chunk."""
    columns: tuple[Column, ...] = field(default=(), repr=False)
    """The generation's: what a header names and a schema is made of."""

    def __post_init__(self) -> None:
        if self.kind not in COMPRESSIONS:
            known = ", ".join(sorted(COMPRESSIONS))
            raise ValueError(f"format.kind {self.kind!r} is not available; choose one of {known}")
        if self.compression not in COMPRESSIONS[self.kind]:
            known = ", ".join(COMPRESSIONS[self.kind])
            raise ValueError(
                f"format.compression {self.compression!r} is not available for {self.kind}; choose one of {known}"
            )
        if self.kind == "csv":
            csv_records.check_options(self.delimiter, self.null)

    @property
    def extension(self) -> str:
        """With the dot in front: `.jsonl`, `.jsonl.gz`, `.csv.zst`, `.parquet`."""
        if self.kind == "parquet":
            return ".parquet"
        return self.layout + (".zip" if self.compression == "zip" else compression.SUFFIXES[self.compression])

    @property
    def layout(self) -> str:
        """The extension without that of the compression."""
        return {"json": json_lines.EXTENSION, "csv": csv_records.EXTENSION}[self.kind]

    @property
    def rejects(self) -> bool:
        """Whether a stream may reject single rows."""
        return self.kind == "parquet"

    def stream(self) -> Stream:
        """A new stream: one gzip member, one zstd frame or one Parquet file, from first byte to last. Raises
        SinkRefused where the layout needs the columns and they are not known."""
        if self.kind != "parquet":
            return _Lines(self)
        if not self.columns:
            raise columns_unknown()
        return _Parquet(self)

    def details(self) -> dict[str, object]:
        """What a chunk's record keeps of it; `again` reads it. Not the columns: those are the generation's."""
        options = {name: getattr(self, name) for name in OPTIONS[self.kind]}
        return {"format": self.kind, "compression": self.compression, **options}

    def again(self, details: Mapping[str, object]) -> Format:
        """The format that `details` tell of, with these columns. Raises ValueError where it is one for which the
        source has to write rows in another way than for this one."""
        kind = str(details.get("format", self.kind))
        known: dict[str, Any] = {name: details[name] for name in OPTIONS.get(kind, ()) if name in details}
        found = replace(self, kind=kind, compression=str(details.get("compression", self.compression)), **known)
        if any(getattr(found, name) != getattr(self, name) for name in ("kind", *DIALECT)):
            raise ValueError(f"it was prepared as {kind}, and rows are read for {self.kind} now")
        return found


def _compressor(form: Format) -> compression.Compressor:
    if form.compression != "zip":
        return compression.compressor(form.compression)
    # Few jobs make archives: the others never load a cipher.
    from sinks.formats.zip_archive import ZipCompressor  # noqa: PLC0415 - see above

    return ZipCompressor(form.layout, form.password)


class _Lines:
    """Records, one after the other, through a compressor."""

    def __init__(self, form: Format) -> None:
        self._compressor = _compressor(form)
        self._encode = {"json": json_lines.encode, "csv": csv_records.encode}[form.kind]
        self._head = b""
        if form.kind == "csv" and form.header:
            if not form.columns:
                raise columns_unknown()
            names = [column.name for column in form.columns]
            self._head = csv_records.header(names, form.delimiter, form.null)

    def encode(self, values: Sequence[bytes]) -> bytes:
        return self._compressor.compress(self._headed(self._encode(values)))

    def end(self) -> bytes:
        return self._compressor.compress(self._headed(b"")) + self._compressor.flush()

    def _headed(self, data: bytes) -> bytes:
        if not self._head:
            return data
        head, self._head = self._head, b""
        return head + data


class _Parquet:
    """A Parquet file. Begun by the first call, in the thread of that call: the library takes half a second to load,
    and 40 MB, so whoever writes no Parquet never loads it, and the event loop never does."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._stream: Stream | None = None

    def encode(self, values: Sequence[bytes]) -> bytes:
        return self._begun().encode(values)

    def end(self) -> bytes:
        return self._begun().end()

    def _begun(self) -> Stream:
        if self._stream is None:
            from sinks.formats import parquet  # noqa: PLC0415 - see the class

            form = self._form
            self._stream = parquet.Stream(
                form.columns, form.compression, group_rows=form.row_group_rows, group_bytes=form.row_group_bytes
            )
        return self._stream


def columns_unknown() -> SinkRefused:
    """The layout is made of columns, and nobody kept them when the generation was planned."""
    message = "the columns of this generation are not known: an earlier version planned it; start from the beginning"
    return SinkRefused("columns_unknown", message)


def available() -> dict[str, tuple[str, ...]]:
    """Each kind of format with the compressions it can have, as the API lists them."""
    return dict(COMPRESSIONS)
