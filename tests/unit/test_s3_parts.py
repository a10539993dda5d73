"""How a stream of bytes is cut into parts."""

from __future__ import annotations

import hashlib

import pytest

from sinks import s3_upload
from sinks.s3_upload import PART_BYTES, PARTS_OF_A_SIZE, Cutter, part_bytes

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
    monkeypatch.setattr(s3_upload, "PART_BYTES", 100)
    data = bytes(number % 251 for number in range(total))
    cutter, parts = Cutter(), []
    for at in range(0, total, piece):
        parts += cutter.put(data[at : at + piece])
    assert all(len(part.data) == 100 for part in parts)
    parts.append(cutter.end())
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert b"".join(part.data for part in parts) == data
    assert len(parts) == max(1, -(-total // 100)), "never an empty part behind a full one"
    assert cutter.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert cutter.size == total
    for part in parts:
        assert part.sha256 == hashlib.sha256(part.data).digest()
