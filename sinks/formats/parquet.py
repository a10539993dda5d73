"""Parquet: rows of CSV to one file with the source's types. https://parquet.apache.org/docs/file-format/

Row groups, and the pieces that one is written in, are cut by rows and bytes of the data alone, so that the same rows
give the same bytes, however they were batched: a page of the file ends where a piece does. Until its row group is full
a row waits as Arrow columns: that, and what the writer makes of a column, is what a stream holds.
"""

from __future__ import annotations

from bisect import bisect_right
from copy import copy
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from sinks.base import RowRejected
from sinks.formats import GROUP_BYTES, GROUP_ROWS
from sinks.formats.arrow import allocate_for, pa, parquet
from sinks.formats.parquet_values import Values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sinks.formats.columns import Column

COMPRESSIONS: Final[Mapping[str, str]] = {"none": "NONE", "gzip": "GZIP", "snappy": "SNAPPY", "zstd": "ZSTD"}
"""By the API's words. Pages are compressed inside the file; its name does not tell."""
PIECE_ROWS: Final = 8192
"""Rows that are converted at once."""
PIECE_BYTES: Final = 1 << 20
"""Bytes of CSV in a piece of more than one row."""
_FEW: Final = 16
"""Rows in a piece below which they are large, or few altogether."""


class Stream:
    """Turns rows into the bytes of one Parquet file. For one thread at a time; heavy work leaves Python's lock free.
    Raises KeyError for an unknown compression."""

    def __init__(
        self,
        columns: Sequence[Column],
        compression: str = "zstd",
        *,
        group_rows: int = GROUP_ROWS,
        group_bytes: int = GROUP_BYTES,
    ) -> None:
        self._values = Values(columns)
        self._file = _Written()
        self._compression = COMPRESSIONS[compression]
        self._writer: parquet.ParquetWriter | None = None
        self._cutter = _Cutter(group_rows, group_bytes)
        self._group: list[pa.RecordBatch] = []
        """Pieces that are whole."""
        self._piece: list[pa.RecordBatch] = []
        """Parts of the next one."""

    def encode(self, values: Sequence[bytes]) -> bytes:
        """The bytes that are ready after these rows, mostly none. Raises RowRejected for the first row with a value
        that the file can not hold exactly, and for others that are known: then none of these rows is in the file."""
        cutter = copy(self._cutter)
        cuts = list(cutter.cuts(values))
        allocate_for(large=len(values) < _FEW * len(cuts))
        batches = [self._read(values, cut) for cut in cuts]
        self._cutter = cutter
        for cut, batch in zip(cuts, batches, strict=True):
            if cut.begins_piece:
                self._end_piece()
            if cut.begins_group:
                self._end_group()
            self._piece.append(batch)
        return self._file.take()

    def end(self) -> bytes:
        """The last bytes, of a file without rows all of them. Nothing may be encoded after it."""
        self._end_piece()
        self._end_group()
        self._begun().close()
        return self._file.take()

    def _begun(self) -> parquet.ParquetWriter:
        """With the first row group: it keeps the allocator that it finds."""
        if self._writer is None:
            self._writer = parquet.ParquetWriter(
                pa.PythonFile(self._file, mode="w"),
                self._values.schema,
                compression=self._compression,
                write_page_index=True,
                write_page_checksum=True,
            )
        return self._writer

    def _read(self, values: Sequence[bytes], cut: _Cut) -> pa.RecordBatch:
        try:
            return self._values.read(values[cut.first : cut.last])
        except RowRejected as rejected:
            found = [RowRejected(one.code, one.message, cut.first + one.index) for one in (rejected, *rejected.others)]
            raise RowRejected(found[0].code, found[0].message, found[0].index, others=found[1:]) from None

    def _end_piece(self) -> None:
        parts, self._piece = self._piece, []
        if len(parts) > 1:
            columns = zip(*(part.columns for part in parts), strict=True)
            whole = [pa.concat_arrays(column) for column in columns]
            parts = [pa.RecordBatch.from_arrays(whole, schema=self._values.schema)]
        self._group += parts

    def _end_group(self) -> None:
        pieces, self._group = self._group, []
        if pieces:
            self._begun().write_table(pa.Table.from_batches(pieces))


class _Cut(NamedTuple):
    first: int
    last: int
    """Not included."""
    begins_piece: bool
    begins_group: bool


class _Cutter:
    """Where pieces and row groups end: known by the rows before, in this batch and in earlier ones."""

    def __init__(self, group_rows: int, group_bytes: int) -> None:
        self._most = group_rows, group_bytes
        self._group = 0, 0
        """Rows and bytes so far."""
        self._piece = 0, 0

    def cuts(self, values: Sequence[bytes]) -> Iterator[_Cut]:
        """The parts of pieces that these rows are, in order."""
        first = 0
        while first < len(values):
            size = len(values[first])
            begins_group = self._full(self._group, self._most, size)
            if begins_group:
                self._group = 0, 0
            begins_piece = begins_group or self._full(self._piece, (PIECE_ROWS, PIECE_BYTES), size)
            if begins_piece:
                self._piece = 0, 0
            last, taken = self._fitting(values, first)
            self._group = self._group[0] + last - first, self._group[1] + taken
            self._piece = self._piece[0] + last - first, self._piece[1] + taken
            yield _Cut(first, last, begins_piece, begins_group)
            first = last

    def _fitting(self, values: Sequence[bytes], first: int) -> tuple[int, int]:
        """Up to where rows from `first` on belong to the same piece, and their bytes. The first one always does."""
        rows = min(self._most[0] - self._group[0], PIECE_ROWS - self._piece[0])
        room = min(self._most[1] - self._group[1], PIECE_BYTES - self._piece[1])
        sizes = list(accumulate(map(len, values[first : first + rows])))
        count = max(1, bisect_right(sizes, room))
        return first + count, sizes[count - 1]

    @staticmethod
    def _full(held: tuple[int, int], most: tuple[int, int], size: int) -> bool:
        return held[0] > 0 and (held[0] >= most[0] or held[1] + size > most[1])


class _Written:
    """What the Parquet writer takes for a file."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def take(self) -> bytes:
        """What was written since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data

    def write(self, data: bytes) -> int:
        """Keep it."""
        self._parts.append(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    def flush(self) -> None:
        """Nothing is behind it."""

    def close(self) -> None:
        """Nothing is behind it."""
