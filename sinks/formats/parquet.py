"""Parquet: rows of CSV to one file with the source's types. https://parquet.apache.org/docs/file-format/

A row group is cut by rows and bytes of the data alone and written as one piece, so that the same rows give the same
bytes, however they were batched. Until then its rows wait as Arrow columns: that, and one column more while the group
is written, is what a stream holds.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from sinks.base import RowRejected
from sinks.formats import GROUP_BYTES, GROUP_ROWS
from sinks.formats.arrow import pa, parquet
from sinks.formats.parquet_values import Values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sinks.formats.columns import Column

EXTENSION: Final = ".parquet"
COMPRESSIONS: Final[Mapping[str, str]] = {"none": "NONE", "gzip": "GZIP", "snappy": "SNAPPY", "zstd": "ZSTD"}
"""By the API's words. Pages are compressed inside the file; its name does not tell."""
SLICE_ROWS: Final = 8192
"""Rows that are converted at once."""
SLICE_BYTES: Final = 1 << 20


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
        self._writer = parquet.ParquetWriter(
            pa.PythonFile(self._file, mode="w"),
            self._values.schema,
            compression=COMPRESSIONS[compression],
            write_page_index=True,
            write_page_checksum=True,
        )
        self._group_rows = group_rows
        self._group_bytes = group_bytes
        self._group: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def encode(self, values: Sequence[bytes]) -> bytes:
        """The bytes that are ready after these rows, mostly none. Raises RowRejected for the first row with a value
        that the file can not hold exactly: then none of these rows is in the file, and it takes others."""
        cuts = list(self._cuts(values))
        batches = [self._read(values, first, last) for first, last, _ in cuts]
        for (first, last, begins), batch in zip(cuts, batches, strict=True):
            if begins:
                self._end_group()
            self._group.append(batch)
            self._rows += last - first
            self._bytes += sum(map(len, values[first:last]))
        return self._file.take()

    def end(self) -> bytes:
        """The last bytes, of a file without rows all of them. Nothing may be encoded after it."""
        self._end_group()
        self._writer.close()
        return self._file.take()

    def _read(self, values: Sequence[bytes], first: int, last: int) -> pa.RecordBatch:
        try:
            return self._values.read(values[first:last])
        except RowRejected as rejected:
            raise RowRejected(rejected.code, rejected.message, first + rejected.index) from None

    def _cuts(self, values: Sequence[bytes]) -> Iterator[tuple[int, int, bool]]:
        """First and last row (not included) of each slice, and whether a new row group begins with it."""
        rows, size, first, begins = self._rows, self._bytes, 0, False
        while first < len(values):
            window = values[first : first + min(SLICE_ROWS, self._group_rows - rows)]
            sizes = list(accumulate(map(len, window)))
            if rows and (not window or size + sizes[0] > self._group_bytes):
                rows, size, begins = 0, 0, True
                continue
            count = max(1, bisect_right(sizes, min(SLICE_BYTES, self._group_bytes - size)))
            yield first, first + count, begins
            rows, size, first, begins = rows + count, size + sizes[count - 1], first + count, False

    def _end_group(self) -> None:
        if not self._group:
            return
        columns = [list(chunks) for chunks in zip(*(batch.columns for batch in self._group), strict=True)]
        self._group, self._rows, self._bytes = [], 0, 0
        whole: list[pa.Array] = []
        for chunks in columns:
            # One piece: where pages end depends on the pieces, and those on how the rows were batched.
            whole.append(pa.concat_arrays(chunks))
            chunks.clear()
        self._writer.write_table(pa.Table.from_arrays(whole, schema=self._values.schema))


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
