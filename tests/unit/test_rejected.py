"""Batches with rows that a writer rejects: what is left is staged in order, and what is wasted stays bounded."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from service.domain.options import ChunkOptions, DeadLetterOptions
from sinks.base import Batch, RowRejected
from workers import chunks
from workers.chunks import OpenChunk
from workers.rejected import FEWEST_ROWS, PAYLOAD_BYTES, letter, named, stage_what_can_be
from workers.sources.base import Page

if TYPE_CHECKING:
    from collections.abc import Callable


class Picky:
    """The staging side of a writer that takes no value that begins with `bad`, and names `most` of them at once."""

    def __init__(self, most: int = 1) -> None:
        self.staged: list[tuple[bytes, bytes | None, bytes | None]] = []
        self.most = most
        self.seen = 0

    async def stage(self, batch: Batch) -> None:
        self.seen += batch.rows
        wrong = [place for place, value in enumerate(batch.values) if value.startswith(b"bad")][: self.most]
        if wrong:
            errors = [RowRejected("row_wrong", f"row {place} is wrong", place) for place in wrong]
            raise RowRejected("row_wrong", errors[0].message, wrong[0], others=errors[1:])
        keys, ids = batch.keys or [None] * batch.rows, batch.ids or [None] * batch.rows
        self.staged += zip(batch.values, keys, ids, strict=True)


def batch(rows: int, is_bad: Callable[[int], bool]) -> Batch:
    values = [b"bad %d" % n if is_bad(n) else b"row %d" % n for n in range(rows)]
    return Batch(values, [b"k%d" % n for n in range(rows)], [b"[%d]" % n for n in range(rows)])


CASES: dict[str, Callable[[int], bool]] = {
    "none": lambda _: False,
    "first": lambda n: n == 0,
    "last": lambda n: n == 999,
    "two-in-a-row": lambda n: n in {500, 501},
    "every-third": lambda n: n % 3 == 0,
    "first-half": lambda n: n < 500,
    "all": lambda _: True,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("most", [1, 7, 1000])
async def test_what_can_be_staged_is_staged_once_in_order_and_the_rest_is_named(name: str, most: int) -> None:
    given, writer = batch(1000, CASES[name]), Picky(most)
    refused = await stage_what_can_be(writer, given)  # type: ignore[arg-type]
    assert sorted(refused) == [n for n in range(1000) if CASES[name](n)]
    kept = [n for n in range(1000) if not CASES[name](n)]
    assert writer.staged == [(given.values[n], b"k%d" % n, b"[%d]" % n) for n in kept]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 1.0])
async def test_thousands_of_rejected_rows_cost_a_few_times_the_batch_not_its_square(share: float) -> None:
    chance = random.Random(7)
    given, writer = batch(20_000, lambda _: chance.random() < share), Picky()
    await stage_what_can_be(writer, given)  # type: ignore[arg-type]
    assert writer.seen <= (FEWEST_ROWS + 4) * given.rows


async def test_a_batch_without_a_rejected_row_is_handed_over_as_it_is() -> None:
    taken: list[Batch] = []

    class Taking(Picky):
        async def stage(self, batch: Batch) -> None:
            taken.append(batch)

    given = batch(10, lambda _: False)
    assert await stage_what_can_be(Taking(), given) == {}  # type: ignore[arg-type]
    assert taken == [given]
    assert taken[0] is given


def test_a_payload_is_kept_to_its_bound_and_told_by_its_size() -> None:
    short, long = letter(("1",), "c", "m", b"x" * 10), letter(("2",), "c", "m", b"y" * (PAYLOAD_BYTES + 1))
    assert (short.payload, short.payload_bytes) == (b"x" * 10, 10)
    assert long.payload is not None
    assert (len(long.payload), long.payload_bytes) == (PAYLOAD_BYTES, PAYLOAD_BYTES + 1)
    unread = letter(("3",), "c", "m")
    assert (unread.payload, unread.payload_bytes) == (None, None)
    assert "yyy" not in repr(long)
    assert "1" in named(short).message
    assert named(letter(("1", "a"), "c", "m")).key == ("1", "a")


def page(rows: int) -> Page:
    return Page(
        [b"x" * 10] * rows, [b"%d" % n for n in range(rows)], None, 10 * rows, None, end=True,
        decode=lambda raw: (raw.decode(),),
    )  # fmt: skip


def test_a_chunk_closes_on_rows_that_were_read_whether_they_were_staged_or_not() -> None:
    chunk = OpenChunk(ChunkOptions(rows=6), None)
    refused = {n: RowRejected("row_wrong", "wrong", n) for n in (0, 3)}
    chunk.add(page(5), 0, chunks.batch(page(5), 0, 5), 0.0, refused)
    assert (chunk.rows, chunk.read, chunk.full) == (3, 5, False)
    assert (chunk.first_key, chunk.last_key) == (("1",), ("4",))
    assert [one.key for one in chunk.dead] == [("0",), ("3",)]
    assert chunk.cut(page(5), 0, None) == 1
    chunk.pass_over(letter(("9",), "row_too_large", "never read"), 1.0)
    assert (chunk.full, chunk.last_key, chunk.closes_at) == (True, ("9",), 5.0)


def test_a_chunk_of_rejected_rows_alone_has_a_range_and_no_first_row() -> None:
    chunk = OpenChunk(ChunkOptions(), None)
    chunk.add(page(2), 0, chunks.batch(page(2), 0, 2), 0.0, {n: RowRejected("row_wrong", "wrong", n) for n in range(2)})
    assert (chunk.rows, chunk.read, chunk.first_key, chunk.last_key) == (0, 2, None, ("1",))
    assert chunk.closes_at == 5.0


def test_a_ratio_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="max_ratio needs max_rows"):
        DeadLetterOptions(max_ratio=0.1)
    assert DeadLetterOptions(max_rows=5, max_ratio=0.1).max_ratio == 0.1
