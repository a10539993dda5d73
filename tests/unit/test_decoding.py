"""Files back into records: whole, in any pieces, and damaged in every way."""

from __future__ import annotations

import random

import pytest

from sinks.formats import Format
from sinks.formats.columns import Column
from sinks.formats.csv_reading import fields
from sinks.formats.decoding import Damaged, Decoder, decoder, source_tokens, tokens
from sinks.reading import Wanted

ROWS = [b'{"id":%d,"text":"%s"}' % (number, b"x" * (number % 700)) for number in range(3000)]
WANTED = Wanted(("id",), values=True)


def written(form: Format) -> bytes:
    stream = form.stream()
    return stream.encode(ROWS) + stream.end()


def read(form: Format, pieces: list[bytes], wanted: Wanted = WANTED) -> tuple[list[bytes | None], list[bytes]]:
    decoder = Decoder(form, wanted)
    keys: list[bytes | None] = []
    values: list[bytes] = []
    found = [one for piece in pieces for one in decoder.feed(piece)]
    for records in [*found, *decoder.end()]:
        assert records.rows == len(records.keys or []) == len(records.values or [])
        keys += records.keys or []
        values += records.values or []
    return keys, values


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_every_record_comes_back_however_the_bytes_are_cut(compression: str):
    form = Format("json", compression)
    data = written(form)
    cuts = sorted(random.Random(7).sample(range(len(data)), 40))
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    keys, values = read(form, pieces)
    assert values == ROWS
    assert keys == [b'["%d"]' % number for number in range(3000)]


ZIPS = [Format("json", "zip"), Format("json", "zip", password="of-the-archive-0123")]


@pytest.mark.parametrize("form", ZIPS)
def test_the_one_entry_of_an_archive_comes_back_and_whatever_is_wrong_with_it_is_said(form: Format):
    def of(data: bytes, by: Format = form) -> list[bytes]:
        reading = decoder(by, WANTED)
        assert [*reading.feed(data[:100]), *reading.feed(data[100:])] == [], "an archive tells nothing before its end"
        return [value for records in reading.end() for value in records.values or []]

    data = written(form)
    assert of(data) == ROWS
    middle = len(data) // 2
    for wrong in (b"", data[:-30], data[:middle] + b"\xff\xff\xff" + data[middle + 3 :], b"x" * 1000):
        with pytest.raises(Damaged):
            of(wrong)
    if form.password is not None:
        for other in (None, "of-another-archive"):
            with pytest.raises(Damaged):
                of(data, Format("json", "zip", password=other))


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "longer", "flipped"])
def test_what_is_damaged_is_said_and_never_passed_over(compression: str, damage: str):
    form = Format("json", compression)
    data = written(form)
    middle = len(data) // 2
    wrong = {
        "cut": data[:-5],
        "longer": data + b"more",
        "flipped": data[:middle] + b"\xff\xff\xff" + data[middle + 3 :],
    }
    if compression == "none" and damage == "flipped":
        assert read(form, [wrong[damage]])[1] != ROWS
    else:
        with pytest.raises(Damaged):
            read(form, [wrong[damage]])


def test_a_record_of_many_blocks_is_one_record():
    row = b'{"id":1,"text":"%s"}' % (b"y" * 3_000_000)
    assert read(Format(), [row + b"\n"])[1] == [row]


def test_an_empty_file_holds_nothing():
    form = Format("json", "gzip")
    assert read(form, [form.stream().end()]) == ([], [])


def test_tokens_are_equal_for_equal_keys_whatever_stands_around_them():
    key = ("b", "a")
    same = [b'{"a":1,"b":"x","c":[1]}', b'{"b": "x", "a": 1}']
    assert len(set(tokens(Format(), same, key))) == 1
    other = [b'{"a":1.0,"b":"x"}', b'{"a":12345678901234567890123456789,"b":"x"}', b'{"a":true,"b":"\xc3\xa9"}']
    found = tokens(Format(), other, key)
    assert found == [b'["x","1.0"]', b'["x","12345678901234567890123456789"]', '["é",true]'.encode()]


@pytest.mark.parametrize("record", [b"", b"[]", b"7", b'{"a":1}', b'{"id":', b"\xff\xfe", b'{"id":1'])
def test_a_record_without_the_key_has_no_token(record: bytes):
    assert tokens(Format(), [record], ("id",)) == [None]


def test_without_a_key_records_are_counted_alone():
    decoder = Decoder(Format(), Wanted(None))
    (found,) = decoder.feed(b"not json\nat all\n")
    assert (found.rows, found.keys, found.values) == (2, None, None)


COLUMNS = (Column("note", "text"), Column("at", "timestamp(3) with time zone"), Column("id", "numeric(12,2)"))
KEY = Wanted(("id", "at"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_keys_of_files_with_columns_are_those_that_the_source_gives_alone(kind: str):
    form = Format(kind, "zstd", columns=COLUMNS)
    rows = [
        b'"a ""quoted"", one\nwith a line feed",2026-01-01 10:00:00.5+00,7.10',
        b",2026-06-30 00:00:00+00,-0.05",
        b'"",1999-12-31 23:59:59.999+00,1234567890.00',
    ]
    alone = [
        b"7.10,2026-01-01 10:00:00.5+00",
        b"-0.05,2026-06-30 00:00:00+00",
        b"1234567890.00,1999-12-31 23:59:59.999+00",
    ]
    stream = form.stream()
    data = stream.encode(rows) + stream.end()
    reading = decoder(form, KEY)
    pieces = [data[at : at + 7] for at in range(0, len(data), 7)]
    found = [one for piece in pieces for one in reading.feed(piece)]
    found += reading.end()
    keys = [key for one in found for key in one.keys or []]
    assert sum(one.rows for one in found) == len(keys) == 3
    assert len({*keys}) == 3
    assert None not in keys
    assert keys == source_tokens(form, alone, KEY)


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no parquet at all"])
def test_what_is_no_parquet_is_said(damage: bytes):
    reading = decoder(Format("parquet", "zstd", columns=COLUMNS), KEY)
    assert list(reading.feed(damage)) == []
    with pytest.raises(Damaged):
        list(reading.end())


def test_fields_of_a_csv_record_as_copy_writes_it():
    assert fields(b'a;"b;""c""\nd";;"";e', ";") == ["a", 'b;"c"\nd', "", "", "e"]
    assert fields(b'"a', ";") is None
    assert fields(b'"a"b;c', ";") is None
    assert fields(b"\xff", ";") is None


def test_a_csv_file_that_ends_inside_quotes_is_damaged():
    reading = decoder(Format("csv", "none", columns=COLUMNS), KEY)
    list(reading.feed(b'note,at,id\n"open,2026-01-01,1\n'))
    with pytest.raises(Damaged):
        list(reading.end())
