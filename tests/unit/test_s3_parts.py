"""How a stream of bytes is cut into parts."""

from __future__ import annotations

import hashlib
import io

import pytest

from sinks import s3_parts
from sinks.s3_parts import PART_BYTES, PARTS_OF_A_SIZE, Body, Cutter, Part, part_bytes

LARGEST_PARTS = 10_000
SMALLEST_BYTES = 5 << 20


def test_ten_thousand_parts_hold_more_than_any_chunk_and_none_is_too_small():
    sizes = [part_bytes(number) for number in range(1, LARGEST_PARTS + 1)]
    assert sizes == sorted(sizes)
    assert sizes[0] == PART_BYTES >= SMALLEST_BYTES
    assert len(set(sizes[:PARTS_OF_A_SIZE])) == 1
    assert sum(sizes) > 400 << 30
    assert sizes[-1] <= 80 << 20


@pytest.mark.parametrize("total", [0, 1, 99, 100, 101, 199, 200, 201, 1234])
@pytest.mark.parametrize("piece", [1, 7, 100, 450])
def test_parts_are_full_but_for_the_last_and_give_the_bytes_again(
    monkeypatch: pytest.MonkeyPatch, total: int, piece: int
):
    monkeypatch.setattr(s3_parts, "PART_BYTES", 100)
    data = bytes(number % 251 for number in range(total))
    cutter, parts = Cutter(), []
    for at in range(0, total, piece):
        parts += cutter.put(data[at : at + piece])
    assert all(part.size == 100 for part in parts)
    parts.append(cutter.end())
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert b"".join(piece for part in parts for piece in part.pieces) == data
    assert len(parts) == max(1, -(-total // 100)), "never an empty part behind a full one"
    assert cutter.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert cutter.size == total
    for part in parts:
        whole = b"".join(part.pieces)
        assert part.sha256 == hashlib.sha256(whole).digest()
        assert part.md5() == hashlib.md5(whole, usedforsecurity=False).digest()
        assert len(whole) == part.size


def test_a_part_holds_what_was_put_and_no_copy_of_it():
    rows = [bytes([number]) * (2 << 20) for number in range(4)]
    cutter = Cutter()
    parts = [part for row in rows for part in cutter.put(row)]
    (first,) = parts
    assert (first.pieces[0] is rows[0], first.pieces[1] is rows[1]) == (True, True)
    assert len(first.pieces[2]) == 1 << 20
    last = cutter.end()
    assert (last.size, last.pieces[-1] is rows[3]) == (3 << 20, True)


def test_many_small_pieces_become_few():
    cutter = Cutter()
    for _ in range(30_000):
        assert cutter.put(b"a row of a quiet table;") == []
    part = cutter.end()
    assert part.size == 30_000 * 23
    assert len(part.pieces) <= 11


@pytest.mark.parametrize("block", [1, 3, 100, -1, None])
def test_a_body_is_read_and_read_again_as_a_file_is(block: int | None):
    body = Body(Part(1, (b"abc", b"defgh", b"i"), hashlib.sha256(b"abcdefghi").digest()))
    for _ in range(2):
        assert body.seek(0) == 0
        assert b"".join(iter(lambda: body.read(block), b"")) == b"abcdefghi"
        assert (body.tell(), body.read(block)) == (9, b"")
    assert body.seek(4) == 4
    assert body.read(2) == b"ef"
    assert body.seek(0, io.SEEK_END) == 9
    assert body.sha256 == hashlib.sha256(b"abcdefghi").hexdigest()
    assert (body.readable(), body.seekable()) == (True, True)
    empty = Body(Part(1, (), hashlib.sha256(b"").digest()))
    assert (empty.seek(0, io.SEEK_END), empty.read(block)) == (0, b"")
