"""Parquet files of rows as Postgres's COPY writes them: types, values, refusals, same bytes for the same rows."""

from __future__ import annotations

import io
import itertools
import os
import random
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as reader

from sinks.base import RowRejected
from sinks.formats import parquet, parquet_schema
from sinks.formats.columns import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPES = {
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "oid": "uint32",
    "xid": "uint32",
    "xid8": "uint64",
    "boolean": "bool",
    "real": "float",
    "double precision": "double",
    "numeric(12,2)": "decimal128(12, 2)",
    "numeric(38,0)": "decimal128(38, 0)",
    "numeric(39,5)": "decimal256(39, 5)",
    "numeric(76,76)": "decimal256(76, 76)",
    "numeric(77,2)": "string",
    "numeric(5,-2)": "decimal128(7, 0)",
    "numeric(3,5)": "decimal128(5, 5)",
    "numeric(70,-10)": "string",
    "numeric": "string",
    "text": "string",
    "character varying(20)": "string",
    "character(5)": "string",
    '"char"': "string",
    "name": "string",
    "date": "date32[day]",
    "time without time zone": "time64[us]",
    "time(3) without time zone": "time64[us]",
    "time with time zone": "string",
    "timestamp without time zone": "timestamp[us]",
    "timestamp(0) without time zone": "timestamp[us]",
    "timestamp with time zone": "timestamp[us, tz=UTC]",
    "timestamp(3) with time zone": "timestamp[us, tz=UTC]",
    "interval": "string",
    "interval day to second(3)": "string",
    "bytea": "binary",
    "uuid": "extension<arrow.uuid>",
    "json": "extension<arrow.json>",
    "jsonb": "extension<arrow.json>",
    "money": "string",
    "int4range": "string",
    "datemultirange": "string",
    "inet": "string",
    "bit(3)": "string",
    "bit varying(5)": "string",
    "xml": "string",
    "tsvector": "string",
    "point": "string",
    "hstore": "string",
    "int2vector": "string",
    "shop.mood": "string",
    '"numeric(3,1)"': "string",
    "public.date": "string",
}


@pytest.mark.parametrize("written", TYPES, ids=str)
def test_a_type_is_kept_by(written: str):
    (field,) = parquet_schema.schema([Column("x", written)])
    assert str(field.type) == TYPES[written]
    assert field.metadata == {b"postgres_type": written.encode()}
    (listed,) = parquet_schema.schema([Column("x", f"{written}[]", dimensions=2)])
    assert str(listed.type) == f"list<element: list<element: {TYPES[written]}>>"


def test_a_column_that_is_never_null_is_required():
    schema = parquet_schema.schema([Column("a", "integer", not_null=True), Column("b", "integer")])
    assert [field.nullable for field in schema] == [False, True]


def record(*values: str | None) -> bytes:
    """As COPY writes it in CSV, for more than one column."""
    return ",".join(field(value) for value in values).encode()


def field(value: str | None) -> str:
    if value is None:
        return ""
    if not value or any(sign in value for sign in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


def columns(*types: str) -> list[Column]:
    return [Column(f"c{number}", one, dimensions=one.count("[]")) for number, one in enumerate(types)]


def filed(made: Sequence[Column], *batches: Sequence[bytes], **options) -> bytes:
    stream = parquet.Stream(made, **options)
    return b"".join([*[stream.encode(batch) for batch in batches], stream.end()])


def read(data: bytes) -> pa.Table:
    return reader.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read()


def kept(written: str, *values: str | None) -> list[object]:
    """What a reader finds of a column of this type."""
    table = read(filed(columns(written, "text"), [record(value, "x") for value in values]))
    table.validate(full=True)
    return table.column("c0").to_pylist()


def test_numbers_and_their_ends():
    assert kept("smallint", "-32768", "32767", None) == [-32768, 32767, None]
    assert kept("bigint", "-9223372036854775808", "9223372036854775807") == [-(2**63), 2**63 - 1]
    assert kept("oid", "4294967295") == [2**32 - 1]
    assert kept("boolean", "t", "f", None) == [True, False, None]
    assert kept("numeric(5,2)", "-999.99", "0.00", None) == [Decimal("-999.99"), Decimal("0.00"), None]
    assert kept("numeric(5,-2)", "9999900", "-100", "0") == [9999900, -100, 0]
    assert kept("numeric(3,5)", "0.00999") == [Decimal("0.00999")]
    long = "9" * 60 + "." + "9" * 16
    assert kept("numeric(76,16)", long, "-" + long, None) == [Decimal(long), Decimal("-" + long), None]
    assert kept("numeric", "NaN", "Infinity", "1" * 200) == ["NaN", "Infinity", "1" * 200]


def test_floats_have_no_other_neighbour():
    doubles = ["5e-324", "1.7976931348623157e+308", "-0", "0.1", "NaN", "Infinity", "-Infinity"]
    assert [repr(one) for one in kept("double precision", *doubles)] == [
        *("5e-324", "1.7976931348623157e+308", "-0.0", "0.1", "nan", "inf", "-inf")
    ]
    floats = ["1e-45", "3.4028235e+38", "1.17549435e-38"]
    assert kept("real", *floats) == [pa.array([float(one)], pa.float32())[0].as_py() for one in floats]


def test_times_to_the_microsecond():
    table = read(
        filed(
            columns("timestamp with time zone", "timestamp without time zone", "date", "time without time zone"),
            [
                record("0001-01-01 00:00:00+00", "0001-01-01 00:00:00", "0001-01-01", "00:00:00"),
                record("9999-12-31 23:59:59.999999+00", "9999-12-31 23:59:59.999999", "9999-12-31", "23:59:59.999999"),
                record("2024-02-29 12:00:00.1+00", "1969-12-31 23:59:59.12345", "1970-01-01", "01:02:03.5"),
            ],
        )
    )
    micros = -62135596800_000000, 253402300799_999999
    for name in ("c0", "c1"):
        assert tuple(table.column(name).cast(pa.int64()).to_pylist()[:2]) == micros
    assert table.column("c0").cast(pa.int64())[2].as_py() == 1709208000_100000
    assert table.column("c1").cast(pa.int64())[2].as_py() == -876550
    assert table.column("c2").cast(pa.int32()).to_pylist() == [-719162, 2932896, 0]
    assert table.column("c3").cast(pa.int64()).to_pylist() == [0, 86399_999999, 3723_500000]


def test_bytes_identifiers_and_documents():
    assert kept("bytea", "\\x00ff", None, "\\x", "\\x5c78", None) == [b"\0\xff", None, b"", b"\\x", None]
    one, two = "00000000-0000-0000-0000-0000000000ff", "ffffffff-ffff-4fff-bfff-ffffffffffff"
    assert kept("uuid", one, None, two) == [UUID(one), None, UUID(two)]
    document = '{"a": "x,\\"y\\"",\n "b": [1.0, null]}'
    assert kept("json", document, None, "null", '""') == [document, None, "null", '""']


def test_a_single_column_may_be_null_in_every_row():
    stream_rows = [b"", b'""', b"", b'"\\."', b" ", "\ufeff".encode()]
    assert read(filed([Column("x", "text")], stream_rows)).column("x").to_pylist() == [
        *(None, "", None, "\\.", " ", "\ufeff")
    ]


TEXTS = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_every_text_comes_back(rows: list[tuple[str | None, str | None]]):
    table = read(filed(columns("text", "character varying(12)"), [record(*row) for row in rows]))
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == rows


def array(value: list | str | None, delimiter: str = ",") -> str:
    """As Postgres's array_out."""
    if isinstance(value, list):
        return "{" + delimiter.join(array(one, delimiter) for one in value) + "}"
    if value is None:
        return "NULL"
    special = not value or value.upper() == "NULL" or any(sign in value for sign in f'{{}}"\\{delimiter} \t\n\r\v\f')
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if special else value


ELEMENTS = st.none() | st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    st.text('{}[],;"\\ \n\r\t=NUL', max_size=6),
    st.sampled_from(["NULL", "null", "", "{}", "}{", '","', "\\", "\\\\", "\ufeff"]),
)
LISTS = st.none() | st.lists(ELEMENTS, max_size=5)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(LISTS, min_size=1, max_size=6), delimiter=st.sampled_from([("text[]", ","), ("box[]", ";")]))
def test_every_array_of_texts_comes_back(rows: list, delimiter: tuple[str, str]):
    texts = [None if row is None else array(row, delimiter[1]) for row in rows]
    assert kept(delimiter[0], *texts) == rows


@settings(max_examples=100, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 3), min_size=2, max_size=3))
def test_every_array_of_more_dimensions_comes_back(data: st.DataObject, shape: list[int]):
    def block(sizes: list[int]) -> st.SearchStrategy:
        return st.lists(block(sizes[1:]) if sizes[1:] else ELEMENTS, min_size=sizes[0], max_size=sizes[0])

    rows = data.draw(st.lists(st.none() | st.just([]) | block(shape), min_size=1, max_size=4))
    made = [Column("c0", "text[]", dimensions=len(shape)), Column("c1", "text")]
    values = [record(None if row is None else array(row), "x") for row in rows]
    assert read(filed(made, values)).column("c0").to_pylist() == rows


def test_arrays_of_other_types():
    assert kept("integer[]", "{1,NULL,-3}", "{}", None, "{4}") == [[1, None, -3], [], None, [4]]
    assert kept("boolean[]", "{t,f,NULL}") == [[True, False, None]]
    assert kept("numeric(4,1)[]", "{1.5,NULL}") == [[Decimal("1.5"), None]]
    assert kept("numeric(40,1)[]", "{1.5,NULL}", "{}") == [[Decimal("1.5"), None], []]
    assert kept("bytea[]", r'{"\\x6162",NULL,"\\x"}') == [[b"ab", None, b""]]
    one = "00000000-0000-0000-0000-0000000000ff"
    assert kept("uuid[]", f"{{{one},NULL}}", None, "{}") == [[UUID(one), None], None, []]
    assert kept("jsonb[]", r'{"{\"a\": [1, 2]}",NULL}') == [['{"a": [1, 2]}', None]]
    (moments,) = kept("timestamp with time zone[]", '{"2024-01-01 00:00:00.25+00",NULL}')
    assert [moments[0].isoformat(), moments[1]] == ["2024-01-01T00:00:00.250000+00:00", None]


UNFIT = [
    ("numeric(5,2)", "NaN"),
    ("numeric(50,2)", "NaN"),
    ("date", "infinity"),
    ("date", "-infinity"),
    ("date", "0044-03-15 BC"),
    ("date", "10000-01-01"),
    ("timestamp without time zone", "infinity"),
    ("timestamp without time zone", "10000-01-01 00:00:00"),
    ("timestamp without time zone", "294276-12-31 23:59:59.999999"),
    ("timestamp with time zone", "-infinity"),
    ("timestamp with time zone", "0044-03-15 00:00:00+00 BC"),
    ("time without time zone", "24:00:00"),
    ("integer[]", "{{1,2},{3,4}}"),
    ("integer[]", "[0:1]={1,2}"),
    ("integer[][]", "{1,2}"),
    ("integer[][]", "{{{1}}}"),
    ("numeric(5,2)[]", "{1.00,NaN}"),
    ("date[]", "{2024-01-01,infinity}"),
]


@pytest.mark.parametrize(("written", "value"), UNFIT, ids=[" ".join(one) for one in UNFIT])
def test_what_can_not_be_held_is_refused_by_row_and_the_others_are_kept(written: str, value: str):
    made = [Column("id", "integer"), Column("tëxt", written.removesuffix("[]"), dimensions=written.count("[]"))]
    good = [record(str(number), None) for number in range(5)]
    bad = record("7", value)
    for place in range(6):
        stream = parquet.Stream(made)
        done = stream.encode(good[:2])
        with pytest.raises(RowRejected) as caught:
            stream.encode([*good[:place], bad, *good[place:]])
        assert (caught.value.code, caught.value.index) == ("value_not_representable", place)
        for told in ("'tëxt'", written.removesuffix("[]"), repr(value), "source.columns"):
            assert told in caught.value.message
        assert done + stream.encode(good) + stream.end() == filed(made, good[:2], good)


def test_the_first_of_several_is_refused_wherever_a_piece_ends():
    made = columns("integer", "numeric(5,2)")
    rows = [record(str(number), "1.00") for number in range(2 * parquet.PIECE_ROWS + 10)]
    whole = filed(made, rows)
    for place in (0, 1, 4095, parquet.PIECE_ROWS - 1, parquet.PIECE_ROWS, 2 * parquet.PIECE_ROWS, len(rows) - 1):
        wrong = [*rows]
        wrong[place] = wrong[-1] = record("1", "NaN")
        stream = parquet.Stream(made)
        with pytest.raises(RowRejected) as caught:
            stream.encode(wrong)
        assert caught.value.index == place
        assert stream.encode(rows) + stream.end() == whole


def test_rows_of_a_piece_are_refused_together():
    rows = [record(str(number), "NaN" if number % 100 == 7 else "1.00") for number in range(3000)]
    stream = parquet.Stream(columns("integer", "numeric(5,2)"))
    with pytest.raises(RowRejected) as caught:
        stream.encode([record("1", "1.00")] * parquet.PIECE_ROWS + rows)
    named = [one.index - parquet.PIECE_ROWS for one in (caught.value, *caught.value.others)]
    assert named == list(range(7, 3000, 100))
    every = [record("1", "NaN")] * parquet.PIECE_ROWS
    with pytest.raises(RowRejected) as caught:
        stream.encode(every)
    assert [one.index for one in caught.value.others] == list(range(1, 100))


def test_a_null_in_a_column_that_was_never_null_is_refused():
    made = [Column("id", "integer", not_null=True), Column("x", "integer")]
    with pytest.raises(RowRejected, match=r"'id'.* is null here") as caught:
        parquet.Stream(made).encode([b"1,", b",2"])
    assert caught.value.index == 1


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(RowRejected) as caught:
        parquet.Stream(columns("integer[]", "text")).encode([record("{{" + "1," * 10_000 + "1}}", "x")])
    assert len(caught.value.message) < 400


def test_a_row_that_is_no_record_of_these_columns_is_a_fault_of_the_source():
    for rows in ([b"1,2", b"1,2,3"], [b"1"], [b'1,"2', b'3,4"']):
        with pytest.raises(ValueError, match=r"not a record of 2 values|2 rows are 1 records"):
            parquet.Stream(columns("integer", "text")).encode(rows)


MANY = [
    record(
        str(number),
        f"{number * 7919 % 1000}.5",
        f"text {number * number % 97}, and more",
        "{1,2}" if number % 3 else None,
    )
    for number in range(9000)
]
MADE = columns("integer", "numeric(6,1)", "text", "integer[]")


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, len(MANY)), max_size=6), group=st.sampled_from([1000, 4096, 131_072]))
def test_the_same_rows_give_the_same_bytes_however_they_were_batched(cuts: list[int], group: int):
    edges = [0, *sorted(cuts), len(MANY)]
    parts = [MANY[first:last] for first, last in itertools.pairwise(edges)]
    assert filed(MADE, *parts, group_rows=group) == filed(MADE, MANY, group_rows=group)


def test_pages_do_not_end_where_batches_did():
    chance = random.Random(3)
    rows = [record(str(number), chance.randbytes(chance.choice([9, 700])).hex()) for number in range(9000)]
    parts = [rows[:1], rows[1:1400], rows[1400:1407], rows[1407:7777], rows[7777:]]
    made = columns("bigint", "text")
    assert filed(made, *parts, compression="none") == filed(made, rows, compression="none")


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 99))
def test_row_groups_by_bytes_do_not_depend_on_batches_either(cuts: list[int], seed: int):
    chance = random.Random(seed)
    rows = [record("1", "0.0", "x" * chance.choice([1, 50, 9000, 70_000]), None) for _ in range(300)]
    parts = [rows[first:last] for first, last in itertools.pairwise([0, *sorted(cuts), len(rows)])]
    whole = filed(MADE, rows, group_bytes=100_000)
    assert filed(MADE, *parts, group_bytes=100_000) == whole
    groups = reader.ParquetFile(io.BytesIO(whole)).metadata
    sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    assert sum(sizes) == len(rows)
    first = 0
    for size in sizes:
        held = sum(map(len, rows[first : first + size]))
        assert held <= 100_000
        first += size
        assert first == len(rows) or held + len(rows[first]) > 100_000


def test_row_groups_are_as_large_as_asked():
    found = reader.ParquetFile(io.BytesIO(filed(MADE, MANY, group_rows=4000))).metadata
    assert [found.row_group(number).num_rows for number in range(found.num_row_groups)] == [4000, 4000, 1000]


@pytest.mark.parametrize(
    ("compression", "codec"), [("none", "UNCOMPRESSED"), ("gzip", "GZIP"), ("snappy", "SNAPPY"), ("zstd", "ZSTD")]
)
def test_pages_are_compressed_and_described(compression: str, codec: str):
    found = reader.ParquetFile(io.BytesIO(filed(MADE, MANY, compression=compression)))
    chunk = found.metadata.row_group(0).column(0)
    assert chunk.compression == codec
    assert (chunk.statistics.min, chunk.statistics.max, chunk.statistics.null_count) == (0, 8999, 0)
    assert chunk.has_offset_index
    assert chunk.has_column_index
    assert found.read().column("c0").to_pylist() == list(range(9000))


def test_no_rows_are_a_valid_file_with_its_schema():
    made = [Column("a", "numeric(5,2)", not_null=True), Column("b", "text[]", dimensions=1)]
    table = read(filed(made))
    assert table.num_rows == 0
    assert table.schema.equals(parquet_schema.schema(made), check_metadata=True)


def in_a_process_of_its_own(script: str, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_imports_pyarrow_before_a_parquet_file_is_written():
    in_a_process_of_its_own(
        "import sys, service.app, workers.app, sinks.registry, sinks.file, sinks.s3, sinks.hdfs\n"
        "assert 'pyarrow' not in sys.modules"
    )


MEMORY = """
import random, sys
from sinks.formats import parquet
from sinks.formats.columns import Column

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) >> 10

made = [Column("id", "bigint"), Column("t", "text"), Column("b", "bytea"), Column("a", "integer[]", 1)]
size, rows, batches = (int(word) for word in sys.argv[1:])
random.seed(1)
texts = [random.randbytes(size // 4).hex().encode() for _ in range(7)]
batch = [
    b'%d,%s,\\\\x%s,"{1,NULL,%d}"' % (number, texts[number % 7], texts[number % 6], number)
    for number in range(rows)
]
stream = parquet.Stream(made)
before = peak()
for _ in range(batches):
    stream.encode(batch)
stream.end()
assert "pandas" not in sys.modules
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("size", "rows", "batches"), [(300, 10_000, 60), (1_000_000, 4, 40)], ids=["300 bytes", "a megabyte"]
)
def test_memory_is_bounded_by_a_row_group_whatever_the_size_of_rows_and_file(size: int, rows: int, batches: int):
    grown = int(in_a_process_of_its_own(MEMORY, str(size), str(rows), str(batches)))
    assert grown < 60, f"{grown} MB for {size * rows * batches >> 20} MB of rows"
