"""CSV files: headers that read as COPY's, the same bytes however rows were batched, options kept and refused."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.api.models import JobDefinition
from service.api.problems import Problem
from service.api.validation import validate
from sinks.base import SinkRefused
from sinks.format_spec import FormatSpec
from sinks.formats import Format
from sinks.formats.columns import Column
from sinks.registry import DefinitionRefused, parse

COLUMNS = (Column("id", "bigint"), Column('odd "na,me', "text"))
HEAD = b'id,"odd ""na,me"\n'
PLAIN = Format("csv", columns=COLUMNS)
READERS = {
    "none": bytes,
    "gzip": gzip.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
TEXT = st.none() | st.text(alphabet=st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=9)


def encoded(form: Format, *batches: list[bytes]) -> bytes:
    stream = form.stream()
    return b"".join([*[stream.encode(batch) for batch in batches], stream.end()])


@pytest.mark.parametrize("compression", READERS)
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 3_000), max_size=5))
def test_the_same_rows_give_the_same_bytes_however_they_were_batched(compression: str, cuts: list[int]) -> None:
    form = Format("csv", compression, columns=COLUMNS)
    rows = [b'%d,"%d\n"' % (number, number * number % 1009) for number in range(3_000)]
    edges = [0, *sorted(cuts), len(rows)]
    data = encoded(form, *[rows[first:last] for first, last in itertools.pairwise(edges)])
    assert data == encoded(form, rows)
    assert READERS[compression](data) == HEAD + b"".join(row + b"\n" for row in rows)


@pytest.mark.parametrize("compression", READERS)
def test_a_file_without_rows_has_its_header_alone(compression: str) -> None:
    assert READERS[compression](encoded(Format("csv", compression, columns=COLUMNS))) == HEAD
    assert READERS[compression](encoded(Format("csv", compression, header=False))) == b""


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=20))
def test_a_csv_reader_reads_every_text(rows: list[tuple[str | None, str | None]]) -> None:
    def field(value: str | None) -> str:
        if value is None:
            return ""
        return '"' + value.replace('"', '""') + '"' if not value or set(value) & set(',"\n') else value

    data = encoded(PLAIN, [",".join(map(field, row)).encode() for row in rows])
    found = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert found == [["id", 'odd "na,me'], *[[value or "" for value in row] for row in rows]]


def test_a_name_is_quoted_where_it_would_read_as_something_else() -> None:
    columns = tuple(Column(name, "text") for name in ("a;b", "NULL", "c,d", "\\."))
    assert encoded(Format("csv", delimiter=";", null="NULL", columns=columns)) == b'"a;b";"NULL";c,d;\\.\n'
    assert encoded(Format("csv", columns=(Column("\\.", "text"),))) == b'"\\."\n'


def test_extensions_tell_layout_and_compression() -> None:
    assert [Format("csv", compression).extension for compression in READERS] == [".csv", ".csv.gz", ".csv.zst"]


def test_a_header_without_known_columns_is_refused_before_a_row_is_taken() -> None:
    with pytest.raises(SinkRefused, match="start from the beginning"):
        Format("csv").stream()


def test_a_repeat_has_the_options_it_was_prepared_with() -> None:
    before = Format("csv", "gzip", header=False, delimiter=";", null="-", columns=COLUMNS)
    now = Format("csv", "none", header=True, delimiter=";", null="-", columns=COLUMNS)
    assert now.again(before.details()) == before
    assert now.again({}) == now


@pytest.mark.parametrize("before", [Format("json"), Format("csv", delimiter=";"), Format("csv", null="-")], ids=str)
def test_rows_read_in_another_way_are_no_repeat(before: Format) -> None:
    with pytest.raises(ValueError, match=f"prepared as {before.kind}, and rows are read for csv now"):
        PLAIN.again(before.details())


def test_what_is_left_out_is_written_out_in_what_is_stored() -> None:
    stored = {"kind": "csv", "compression": "none", "header": True, "delimiter": ",", "null": ""}
    assert FormatSpec.model_validate({"kind": "csv"}).model_dump(mode="json") == stored
    assert FormatSpec.model_validate(stored).model_dump(mode="json") == stored
    assert FormatSpec.model_validate({"kind": "csv", "header": None}).model_dump(mode="json") == stored
    groups = {"row_group_rows": 131_072, "row_group_bytes": 4 << 20}
    assert FormatSpec.model_validate({"kind": "parquet"}).model_dump(mode="json") == {
        "kind": "parquet",
        "compression": "zstd",
        **groups,
    }
    assert FormatSpec().model_dump(mode="json") == {"kind": "json", "compression": "none"}


@pytest.mark.parametrize(
    ("form", "pointer", "said"),
    [
        ({"kind": "csv", "delimiter": ",,"}, "/format/delimiter", "one ASCII character"),
        ({"kind": "csv", "delimiter": ""}, "/format/delimiter", "one ASCII character"),
        ({"kind": "csv", "delimiter": '"'}, "/format/delimiter", "no quote"),
        ({"kind": "csv", "delimiter": "\n"}, "/format/delimiter", "line feed"),
        ({"kind": "csv", "delimiter": "ß"}, "/format/delimiter", "ASCII"),
        ({"kind": "csv", "null": "a,b"}, "/format/null", "not the delimiter"),
        ({"kind": "csv", "null": 'a"'}, "/format/null", "no quote"),
        ({"kind": "csv", "null": "\n"}, "/format/null", "no line end"),
        ({"kind": "csv", "header": 1}, "/format/header", "boolean"),
        ({"kind": "csv", "compression": "lz4"}, "/format/compression", "lz4"),
        ({"kind": "json", "delimiter": ","}, "/format/delimiter", "belongs to format.kind csv, not to json"),
        ({"header": True}, "/format/header", "belongs to format.kind csv, not to json"),
        ({"kind": "csv", "compression": "snappy"}, "/format/compression", "does not go with format.kind csv"),
        ({"compression": "snappy"}, "/format/compression", "does not go with format.kind json"),
        ({"kind": "parquet", "compression": "lz4"}, "/format/compression", "lz4"),
        ({"kind": "parquet", "delimiter": ";"}, "/format/delimiter", "belongs to format.kind csv, not to parquet"),
        ({"kind": "csv", "row_group_rows": 5000}, "/format/row_group_rows", "belongs to format.kind parquet"),
        ({"kind": "parquet", "row_group_bytes": 1}, "/format/row_group_bytes", "65536"),
        ({"kind": "parquet", "row_group_rows": 1.5}, "/format/row_group_rows", "integer"),
        ({"kind": "csv", "level": 3}, "/format/level", "unknown field"),
    ],
)
def test_options_that_can_not_be_are_refused_at_their_field(form: dict[str, Any], pointer: str, said: str) -> None:
    job = {"name": "a", "source": {"datasource": "d", "table": "t"}, "sink": {"kind": "file", "path": "x"}}
    with pytest.raises(Problem) as refused:
        validate(JobDefinition, {**job, "format": form})
    assert [entry.pointer for entry in refused.value.errors] == [pointer]
    assert said in refused.value.errors[0].message
    with pytest.raises(ValidationError):
        FormatSpec.model_validate(form)


@pytest.mark.parametrize(
    "sink",
    [
        {"kind": "kafka", "bootstrap_servers": "127.0.0.1:9092", "topic": "orders"},
        {"kind": "elasticsearch", "url": "http://127.0.0.1:9200", "index": "orders"},
    ],
    ids=lambda sink: str(sink["kind"]),
)
def test_sinks_of_documents_take_no_files(sink: dict[str, Any]) -> None:
    with pytest.raises(DefinitionRefused) as refused:
        parse(sink, {"kind": "csv"})
    assert (refused.value.pointer, refused.value.code) == ("/format/kind", "format_not_supported")
    assert "one JSON document" in refused.value.message
