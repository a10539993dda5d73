"""Rows as Postgres's COPY writes them (CSV) to Arrow, by a fixed schema, exactly or not at all.

The dialect: comma, NULL is nothing without quotes, an empty text is `""`, quotes are doubled, line feeds stand inside
quotes. Arrow's CSV reader makes most values itself, in C++ and without Python's lock: it knows the texts that the
pinned session settings give (ISO dates, UTC, hex) and refuses what it can not hold. What it does not read, or not
exactly, comes as text and is decoded here, a column at a time.
"""

from __future__ import annotations

import binascii
from itertools import islice
from typing import TYPE_CHECKING, Final

from sinks.base import RowRejected
from sinks.formats import parquet_arrays as arrays
from sinks.formats import parquet_schema as types
from sinks.formats.arrow import csv, number, pa, pc, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sinks.formats.columns import Column

CODE: Final = "value_not_representable"
_NAMED: Final = 100
"""Rows that are named at once: it takes about a millisecond each."""
_SHOWN: Final = 60
"""Characters of a value that a message shows."""
_NIL: Final = text(b"00000000-0000-0000-0000-000000000000", pa.binary())
_TWO: Final = number(2)
_ROWS: Final = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)


class Values:
    """Reads rows of these columns. For one thread at a time."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.schema = types.schema(columns)
        self._columns = columns
        self._delimiters = [types.delimiter(column) for column in columns]
        self._read = [_read_as(field.type) for field in self.schema]

    def read(self, values: Sequence[bytes]) -> pa.RecordBatch:
        """The rows. Raises RowRejected with code `value_not_representable` for the first ones that have a value which
        its column can not hold; the messages name column, value and remedy."""
        try:
            return self._batch(values)
        except (pa.ArrowInvalid, arrays.Unfit):
            first, *others = (self._rejected(values, index) for index in islice(self._unfit(values), _NAMED))
            raise RowRejected(first.code, first.message, first.index, others=others) from None

    def _batch(self, values: Sequence[bytes]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(self._arrays(values, self._read), schema=self.schema)

    def _arrays(self, values: Sequence[bytes], read: Sequence[pa.DataType]) -> list[pa.Array]:
        read_columns = _parse([*values, b""], read, _ROWS, null="")
        if len(read_columns[0]) != len(values):
            raise ValueError(f"{len(values)} rows are {len(read_columns[0])} records of CSV")
        return [self._kept(index, column) for index, column in enumerate(read_columns)]

    def _kept(self, index: int, column: pa.Array) -> pa.Array:
        field = self.schema.field(index)
        if column.null_count and not field.nullable:
            raise arrays.Unfit(f"column {field.name!r} has a null")
        depth = types.depth(field.type)
        if not depth:
            return _decoded(column, field.type)
        taken = arrays.take_apart(column, depth, self._delimiters[index])
        elements = self._elements(taken, types.innermost(field.type), self._delimiters[index])
        return arrays.put_together(taken, elements, column.is_null() if column.null_count else None, field.type)

    def _elements(self, taken: arrays.Taken, kept: pa.DataType, delimiter: str) -> pa.Array:
        if not taken.elements:
            return _decoded(pa.nulls(0, _read_as(kept)), kept)
        dialect = csv.ParseOptions(
            delimiter=delimiter,
            double_quote=False,
            escape_char="\\",
            newlines_in_values=True,
            ignore_empty_lines=False,
        )
        (elements,) = _parse([taken.lines], [_read_as(kept)], dialect, null="NULL")
        if len(elements) != taken.elements:
            raise ValueError(f"{taken.elements} elements of arrays were read as {len(elements)}")
        return _decoded(elements, kept)

    def _unfit(self, values: Sequence[bytes], first: int = 0) -> Iterator[int]:
        """Where they are, by halving what holds one: the reader does not say which row it was for every type."""
        if len(values) == 1:
            yield first
            return
        middle = len(values) // 2
        for half, begin in ((values[:middle], first), (values[middle:], first + middle)):
            try:
                self._batch(half)
            except (pa.ArrowInvalid, arrays.Unfit):
                yield from self._unfit(half, begin)

    def _rejected(self, values: Sequence[bytes], index: int) -> RowRejected:
        try:
            texts = _parse([values[index], b""], [pa.binary()] * len(self._columns), _ROWS, null="")
        except pa.ArrowInvalid as error:
            raise ValueError(f"row {index} is not a record of {len(self._columns)} values: {error}") from error
        for position, column in enumerate(self._columns):
            try:
                given = _parse([values[index], b""], self._only(position), _ROWS, null="")
                self._kept(position, given[position])
            except (pa.ArrowInvalid, arrays.Unfit):
                return RowRejected(
                    CODE, _message(column, self.schema.field(position), texts[position][0].as_py()), index
                )
        raise ValueError("a row was refused, and none of its values is")

    def _only(self, position: int) -> list[pa.DataType]:
        """Reads one column by its type and lets every other pass."""
        return [self._read[position] if index == position else pa.binary() for index in range(len(self._columns))]


def _message(column: Column, field: pa.Field, value: bytes | None) -> str:
    if value is None:
        return (
            f"column {column.name!r} ({column.type}) is null here and had a not-null constraint when the generation "
            "was planned; begin a new generation to write it as a column that may be null"
        )
    written = value.decode(errors="backslashreplace")
    shown = repr(written if len(written) <= _SHOWN else written[:_SHOWN] + "…")
    return (
        f"column {column.name!r} ({column.type}) holds {shown}, which Parquet's {field.type} can not hold exactly; "
        f"read the column as text (source.query with {column.name}::text) or leave it out of source.columns"
    )


def _parse(
    lines: Sequence[bytes], read: Sequence[pa.DataType], dialect: csv.ParseOptions, *, null: str
) -> list[pa.Array]:
    """The columns of some CSV lines, each one array. The lines are joined here, once: a row may be a megabyte."""
    names = [str(number) for number in range(len(read))]
    # A line of names goes ahead: the reader would take a byte order mark for one, at the beginning of the first value.
    data = b"\n".join([dialect.delimiter.join(names).encode(), *lines])
    table = csv.read_csv(
        pa.BufferReader(data),
        # One block, one thread: who calls has a thread of its own for each split.
        csv.ReadOptions(use_threads=False, block_size=len(data)),
        dialect,
        csv.ConvertOptions(
            column_types=dict(zip(names, read, strict=True)),
            null_values=[null],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            timestamp_parsers=[csv.ISO8601],
        ),
    )
    return [_one(column) for column in table.columns]


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _read_as(kept: pa.DataType) -> pa.DataType:
    """What Arrow's CSV reader makes of a value, before `_decoded`."""
    if pa.types.is_list(kept) or pa.types.is_decimal256(kept) or kept == pa.json_():
        return pa.string()
    return pa.binary() if kept == pa.uuid() else kept


def _decoded(column: pa.Array, kept: pa.DataType) -> pa.Array:
    if kept == pa.binary():
        return _bytea(column)
    if kept == pa.uuid():
        return _uuid(column)
    if kept == pa.json_():
        return pa.ExtensionArray.from_storage(kept, column)
    return column.cast(kept) if pa.types.is_decimal256(kept) else column


def _bytea(column: pa.Array) -> pa.Array:
    """From a backslash, an x, and two hexadecimal digits a byte."""
    data = binascii.unhexlify(arrays.text_bytes(column).replace(b"\\x", b""))
    sizes = pc.divide(pc.subtract(pc.fill_null(pc.binary_length(column), _TWO), _TWO), _TWO)
    edges = arrays.offsets_of(sizes).buffers()[1]
    return pa.Array.from_buffers(pa.binary(), len(column), [_validity(column), edges, pa.py_buffer(data)])


def _uuid(column: pa.Array) -> pa.Array:
    """From 32 hexadecimal digits and four hyphens."""
    texts = pc.fill_null(column, _NIL) if column.null_count else column
    data = binascii.unhexlify(arrays.text_bytes(texts).replace(b"-", b""))
    storage = pa.Array.from_buffers(pa.binary(16), len(column), [_validity(column), pa.py_buffer(data)])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def _validity(column: pa.Array) -> pa.Buffer | None:
    """Which values are there, from bit 0 on."""
    return None if not column.null_count else pc.is_valid(column).buffers()[1]
