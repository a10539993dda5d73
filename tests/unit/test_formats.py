"""Rows to bytes: readable by other programs, and the same bytes for the same rows."""

from __future__ import annotations

import gzip
import io
import itertools
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest
import pyzipper
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.formats import Format, available
from sinks.formats.columns import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KINDS = [Format("json", compression) for compression in ("none", "gzip", "zstd", "zip")]


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def unzip(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return archive.read("rows.jsonl")


READERS: dict[str, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip.decompress, "zstd": unzstd, "zip": unzip}


def encoded(form: Format, *batches: Sequence[bytes]) -> bytes:
    stream = form.stream()
    return b"".join([*[stream.encode(batch) for batch in batches], stream.end()])


@pytest.mark.parametrize("form", KINDS, ids=lambda form: form.compression)
def test_rows_come_back_line_by_line(form: Format):
    rows = [b'{"id":%d,"text":"gr\xc3\xb6\xc3\x9fe\\n%s"}' % (number, b"x" * (number % 70)) for number in range(20_000)]
    data = encoded(form, rows[:1], rows[1:9000], [], rows[9000:])
    assert READERS[form.compression](data) == b"".join(row + b"\n" for row in rows)


@pytest.mark.parametrize("form", KINDS, ids=lambda form: form.compression)
@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 9_000), max_size=6), seed=st.integers(0, 255))
def test_the_same_rows_give_the_same_bytes_however_they_were_batched(form: Format, cuts: list[int], seed: int):
    rows = [b'{"id":%d,"t":"%d"}' % (number, (number * number * (seed + 1)) % 1_000_003) for number in range(9_000)]
    edges = [0, *sorted(cuts), len(rows)]
    parts = [rows[first:last] for first, last in itertools.pairwise(edges)]
    assert encoded(form, *parts) == encoded(form, rows)


@pytest.mark.parametrize("form", KINDS, ids=lambda form: form.compression)
def test_no_rows_are_a_valid_empty_file(form: Format):
    data = encoded(form)
    assert READERS[form.compression](data) == b""
    assert bool(data) == (form.compression != "none")


def test_gzip_tells_no_time_and_no_name_and_is_one_member():
    data = encoded(KINDS[1], [b"{}"])
    assert data[:4] == b"\x1f\x8b\x08\x00"
    assert data[4:8] == b"\x00" * 4
    assert subprocess.run(["gzip", "-dc"], input=data, capture_output=True, check=True).stdout == b"{}\n"


def test_zstd_carries_a_checksum_that_readers_verify():
    data = encoded(KINDS[2], [b'{"id":1}'])
    assert zstandard.get_frame_parameters(data).has_checksum
    broken = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(zstandard.ZstdError):
        unzstd(broken)


def test_a_record_that_is_two_lines_is_refused_by_index():
    with pytest.raises(ValueError, match="record 1 "):
        Format().stream().encode([b"{}", b"{\n}", b"{}"])


def test_extensions():
    assert [form.extension for form in KINDS] == [".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.zip"]


@pytest.mark.parametrize(("kind", "compression"), [("avro", "none"), ("json", "lz4")])
def test_unknown_formats_are_refused_with_the_known_ones(kind: str, compression: str):
    with pytest.raises(ValueError, match=r"not available.*; choose one of (csv, json, parquet|none, gzip, zstd)"):
        Format(kind, compression)


def test_an_archive_with_a_password_opens_with_it_alone():
    form = Format("csv", "zip", header=False, columns=(Column("id", "bigint"),), password="päss word")
    data = encoded(form, [b"1", b"2"])
    with pyzipper.AESZipFile(io.BytesIO(data)) as archive:
        with pytest.raises(RuntimeError, match="password"):
            archive.read("rows.csv")
        archive.setpassword("päss word".encode())
        assert archive.read("rows.csv") == b"1\n2\n"
        assert archive.infolist()[0].wz_aes_strength == 3
    assert "password" not in str(form.details())
    assert "päss" not in repr(form)


def test_every_available_format_can_be_made():
    for kind, compressions in available().items():
        for compression in compressions:
            assert encoded(Format(kind, compression, columns=(Column("id", "integer"),)), [b"1"])
