"""Files back into records: whole, in any pieces, and damaged in every way."""

from __future__ import annotations

import random

import pytest

from sinks.formats import Format
from sinks.formats.decoding import Damaged, Decoder, tokens
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
