"""The contract of `sinks.base`, on every sink: implementations plug in through `sink_cases.CASES`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import time
from dataclasses import asdict, replace
from datetime import date
from typing import TYPE_CHECKING

import pytest

from sinks import registry
from sinks.base import Batch, Cut, Guarantee, ListsDays, Mark, Owner, RowRejected, Shows, SinkError, TargetGone
from tests.contract.sink_cases import CASES, SinkCase
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable

    from sinks.base import Prepared, Sink, Writer

OWNER = Owner(account="default", job_id="0199a1b2", job_name="orders", run_id="r1", generation=3, split="0", epoch=5)
VERSIONS = itertools.count(1)
"""As the store draws them: each larger than every one before."""
MANY_ROWS = int(os.environ.get("ROWFERRY_TEST_ROWS") or 100_000)
CHUNK_ROWS = 50_000
MOMENT = 1.3
"""A second, and what a busy machine adds."""


@pytest.fixture(params=sorted(CASES))
async def case(request: pytest.FixtureRequest) -> AsyncIterator[SinkCase]:
    made = CASES[request.param](request)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def sink(case: SinkCase) -> AsyncIterator[Sink]:
    made = case.sink()
    await made.prepare_target()
    yield made
    await made.close()


def rows(case: SinkCase, first: int, last: int) -> list[bytes]:
    return [case.row(number) for number in range(first, last + 1)]


def cut(sequence: int, first: int, last: int, *, attempt: int = 1, repeat_of: Prepared | None = None) -> Cut:
    return Cut(
        sequence=sequence,
        attempt=attempt,
        rows=last - first + 1,
        first_key=(str(first),),
        last_key=(str(last),),
        lower=(str(first - 1),) if first > 1 else None,
        repeat_of=repeat_of,
        version=next(VERSIONS),
    )


def batch(values: list[bytes]) -> Batch:
    """The rows with their keys, which only a sink that upserts looks at."""
    found = [json.loads(value)["id"] for value in values] if values[0].startswith(b"{") else []
    return Batch(values, ids=[b'["%d"]' % number for number in found] or None)


async def prepare(case: SinkCase, writer: Writer, sequence: int, first: int, last: int, **more: object) -> Prepared:
    """Stage the rows in three batches and prepare the chunk."""
    values = rows(case, first, last)
    third = max(1, len(values) // 3)
    for start in range(0, len(values), third):
        part = values[start : start + third]
        await writer.stage(batch(part))
    return await writer.prepare(cut(sequence, first, last, **more))  # type: ignore[arg-type]


async def opened(sink: Sink, owner: Owner, *, anchor: int | None = 0) -> Writer:
    writer = sink.writer(owner)
    await writer.open()
    if anchor is not None and sink.needs_anchor and await writer.visible([]) is None:
        await writer.anchor(anchor)
    return writer


async def shows(case: SinkCase, expected: list[bytes], *, any_order: bool = False) -> None:
    """Exactly these rows are visible; a target may take a moment after it said yes (Kafka's commit markers)."""
    seen: list[bytes] = []

    async def as_expected() -> bool:
        seen[:] = await case.read()
        return (sorted(seen) == sorted(expected)) if any_order else (seen == expected)

    with contextlib.suppress(TimeoutError):
        await until(as_expected, 10, "the rows are visible")
    assert (sorted(seen) if any_order else seen) == (sorted(expected) if any_order else expected)


async def settled(prepared: Iterable[Prepared]) -> AsyncIterator[Prepared]:
    for chunk in prepared:
        yield chunk


async def test_nothing_is_visible_before_make_visible_and_all_of_it_after(case: SinkCase, sink: Sink):
    writer = await opened(sink, OWNER)
    prepared = await prepare(case, writer, 1, 1, 100)
    if case.keeps_rows and sink.shows is not Shows.NOTHING:
        assert await case.read() == []
    receipt = await writer.make_visible(prepared)
    assert receipt.target == prepared.target
    if case.keeps_rows:
        await shows(case, rows(case, 1, 100))
    await writer.close()


async def test_a_rejected_row_takes_nothing_along_and_the_writer_goes_on(case: SinkCase, sink: Sink):
    if case.rejected is None:
        pytest.skip("whatever is one record can be staged")
    writer = await opened(sink, OWNER)
    await writer.stage(batch(rows(case, 1, 10)))
    wrong = rows(case, 11, 20)
    wrong[3] = wrong[7] = case.rejected
    with pytest.raises(RowRejected) as caught:
        await writer.stage(batch(wrong))
    assert [caught.value.index, *(one.index for one in caught.value.others)] == [3, 7]
    await writer.stage(batch([value for value in wrong if value != case.rejected]))
    prepared = await writer.prepare(replace(cut(1, 1, 20), rows=18))
    await writer.make_visible(prepared)
    await shows(case, [value for value in rows(case, 1, 10) + wrong if value != case.rejected])
    await writer.make_visible(await prepare(case, writer, 2, 21, 25))
    await writer.close()
    await shows(case, [value for value in rows(case, 1, 10) + wrong + rows(case, 21, 25) if value != case.rejected])


async def test_chunks_follow_each_other_in_order(case: SinkCase, sink: Sink):
    writer = await opened(sink, OWNER)
    for sequence in range(1, 6):
        await writer.make_visible(await prepare(case, writer, sequence, sequence * 10 - 9, sequence * 10))
    await writer.close()
    if case.keeps_rows:
        await shows(case, rows(case, 1, 50))


async def test_prepared_says_what_the_runner_must_store(case: SinkCase, sink: Sink):
    writer = await opened(sink, OWNER)
    prepared = await prepare(case, writer, 1, 1, 9, attempt=2)
    assert (prepared.sequence, prepared.epoch, prepared.attempt, prepared.rows) == (1, OWNER.epoch, 2, 9)
    assert (prepared.first_key, prepared.last_key, prepared.lower) == (("1",), ("9",), None)
    assert prepared.bytes > 0
    assert prepared.target
    assert json.loads(json.dumps(asdict(prepared)))["details"] == prepared.details
    await writer.discard()
    await writer.close()


async def test_a_new_owner_learns_what_its_predecessor_made_visible(case: SinkCase, sink: Sink):
    first = await opened(sink, OWNER)
    await first.make_visible(await prepare(case, first, 1, 1, 10))
    second_chunk = await prepare(case, first, 2, 11, 20)
    await first.make_visible(second_chunk)
    await first.close()
    other = case.sink()
    writer = other.writer(replace(OWNER, epoch=6))
    await writer.open()
    mark = await writer.visible([second_chunk])
    if sink.shows is Shows.NOTHING:
        assert mark is None
    else:
        assert mark is not None
        assert (mark.generation, mark.epoch, mark.sequence) == (OWNER.generation, OWNER.epoch, 2)
        assert mark.attempt in {1, None}
    await writer.close()
    await other.close()


async def test_a_prepared_chunk_that_was_left_is_not_shown(case: SinkCase, sink: Sink):
    first = await opened(sink, OWNER)
    await first.make_visible(await prepare(case, first, 1, 1, 10))
    left = await prepare(case, first, 2, 11, 20)
    other = case.sink()
    writer = other.writer(replace(OWNER, epoch=6))
    await writer.open()
    mark = await writer.visible([left])
    if sink.shows is Shows.POSITION:
        assert mark is not None
        assert (mark.epoch, mark.sequence) == (OWNER.epoch, 1)
    else:
        assert mark is None or mark.sequence == 1
    await first.close()
    if sink.shows is Shows.NAMES:
        again = await prepare(case, writer, 2, 11, 20, attempt=2, repeat_of=left)
        assert again.target == left.target
    else:
        again = await prepare(case, writer, 2, 11, 20)
    await writer.make_visible(again)
    if case.keeps_rows and sink.shows is not Shows.NOTHING:
        await shows(case, rows(case, 1, 20))
    await writer.close()
    await other.close()


async def test_an_older_owner_can_make_nothing_visible(case: SinkCase, sink: Sink):
    if sink.shows is Shows.NOTHING:
        pytest.skip("a sink that shows nothing can not fence")
    old = await opened(sink, OWNER)
    prepared = await prepare(case, old, 1, 1, 10)
    other = case.sink()
    new = await opened(other, replace(OWNER, epoch=6))
    with pytest.raises(SinkError):
        await old.make_visible(prepared)
    await old.discard()
    await old.close()
    assert await case.read() == []
    more = {"attempt": 2, "repeat_of": prepared} if sink.shows is Shows.NAMES else {}
    await new.make_visible(await prepare(case, new, 1, 1, 10, **more))
    await shows(case, rows(case, 1, 10))
    await new.close()
    await other.close()


async def test_discard_drops_what_is_staged_and_what_is_prepared(case: SinkCase, sink: Sink):
    for prepared in (False, True):
        writer = await opened(sink, OWNER)
        await writer.stage(batch(rows(case, 1, 50)))
        if prepared:
            await writer.prepare(cut(1, 1, 50))
        began = time.monotonic()
        await writer.discard()
        assert time.monotonic() - began < MOMENT
        await writer.close()
    if case.keeps_rows and sink.shows is not Shows.NOTHING:
        assert await case.read() == []
        writer = await opened(sink, replace(OWNER, epoch=6))
        await writer.make_visible(await prepare(case, writer, 1, 1, 50))
        await writer.close()
        await shows(case, rows(case, 1, 50))


async def test_discard_leaves_a_chunk_that_was_made_visible(case: SinkCase, sink: Sink):
    writer = await opened(sink, OWNER)
    await writer.make_visible(await prepare(case, writer, 1, 1, 10))
    await writer.discard()
    await writer.close()
    if case.keeps_rows:
        await shows(case, rows(case, 1, 10))


async def test_splits_do_not_disturb_each_other(case: SinkCase, sink: Sink):
    one = await opened(sink, OWNER)
    first = await prepare(case, one, 1, 1, 10)
    two = await opened(sink, replace(OWNER, split="1"))
    second = await prepare(case, two, 1, 101, 110)
    await two.make_visible(second)
    await one.make_visible(first)
    await one.close()
    await two.close()
    if case.keeps_rows:
        await shows(case, rows(case, 1, 10) + rows(case, 101, 110), any_order=True)


async def test_a_position_counts_only_in_its_own_generation(case: SinkCase, sink: Sink):
    writer = await opened(sink, OWNER)
    await writer.make_visible(await prepare(case, writer, 1, 1, 10))
    await writer.close()
    writer = sink.writer(replace(OWNER, generation=4))
    await writer.open()
    assert await writer.visible([]) is None
    await writer.close()
    writer = await opened(sink, replace(OWNER, generation=4))
    await writer.make_visible(await prepare(case, writer, 1, 1, 10))
    await writer.close()
    if case.keeps_rows:
        # By another key it would be another document; by the same it is the one that is there.
        await shows(case, rows(case, 1, 10) * (1 if sink.upserts else 2), any_order=True)


async def test_an_anchor_is_a_position_without_a_row(case: SinkCase, sink: Sink):
    if not sink.needs_anchor:
        pytest.skip("this sink needs no anchor")
    writer = await opened(sink, OWNER, anchor=None)
    assert await writer.visible([]) is None
    await writer.anchor(7)
    assert await writer.visible([]) == Mark(OWNER.generation, OWNER.epoch, 7)
    await writer.make_visible(await prepare(case, writer, 8, 1, 10))
    mark = await writer.visible([])
    assert mark is not None
    assert mark.sequence == 8
    await writer.close()
    await shows(case, rows(case, 1, 10))


async def test_close_and_discard_may_be_called_at_any_time_and_twice(case: SinkCase, sink: Sink):
    never_opened = sink.writer(OWNER)
    await never_opened.discard()
    await never_opened.close()
    writer = await opened(sink, OWNER)
    await writer.stage(batch(rows(case, 1, 10)))
    await writer.close()
    await writer.close()
    await writer.discard()


async def test_a_lost_target_is_an_error_in_time_and_nobody_hangs(case: SinkCase, sink: Sink):
    if not case.can_be_lost:
        pytest.skip("this target can not be away")
    writer = await opened(sink, OWNER)
    await writer.stage(batch(rows(case, 1, 10)))
    await case.lose()
    for step in (writer.discard, writer.close):
        began = time.monotonic()
        await step()
        assert time.monotonic() - began < MOMENT, step
    fresh = sink.writer(replace(OWNER, epoch=6))
    with pytest.raises(SinkError) as caught:
        await fresh.open()
    assert caught.value.code
    assert caught.value.message
    await fresh.close()
    findings = await sink.check()
    assert [finding for finding in findings if finding.severity == "error"]
    await case.mend()
    writer = await opened(case.sink(), replace(OWNER, epoch=7))
    await writer.make_visible(await prepare(case, writer, 1, 1, 10))
    await writer.close()
    if case.keeps_rows and sink.shows is not Shows.NOTHING:
        await shows(case, rows(case, 1, 10))


async def test_a_target_that_was_deleted_is_gone_for_good_and_says_so(case: SinkCase, sink: Sink):
    if not case.can_be_lost:
        pytest.skip("this target can not be away")
    writer = await opened(sink, OWNER)
    await writer.make_visible(await prepare(case, writer, 1, 1, 10))
    await writer.close()
    code = await case.destroy()
    fresh = sink.writer(replace(OWNER, epoch=6))
    with pytest.raises(TargetGone) as caught:
        await fresh.open()
    assert (caught.value.code, caught.value.retryable) == (code, False)
    await fresh.close()


async def test_a_target_without_room_says_so_and_goes_on_once_there_is_some(case: SinkCase, sink: Sink):
    case.needs_a_limit()
    writer = await opened(sink, OWNER)
    await writer.make_visible(await prepare(case, writer, 1, 1, 10))
    await case.fill()
    with pytest.raises(SinkError) as caught:
        await writer.make_visible(await prepare(case, writer, 2, 11, 5_000))
    assert (caught.value.code, caught.value.retryable) == ("no_space", True), caught.value.message
    await writer.discard()
    await writer.close()
    await case.make_room()
    writer = await opened(case.sink(), replace(OWNER, epoch=6))
    assert await writer.visible([]) is None or sink.shows is Shows.POSITION
    await writer.make_visible(await prepare(case, writer, 2, 11, 5_000))
    await writer.close()
    await shows(case, rows(case, 1, 5_000))


async def test_check_finds_no_error_in_a_good_target_and_changes_nothing(case: SinkCase, sink: Sink):
    findings = await sink.check()
    assert [finding for finding in findings if finding.severity == "error"] == []
    if case.keeps_rows:
        assert await case.read() == []


async def test_the_promise_is_a_guarantee_and_a_sentence(sink: Sink):
    promise = sink.promise()
    assert isinstance(promise.guarantee, Guarantee)
    assert promise.note
    assert (sink.shows is Shows.POSITION) <= (promise.guarantee is Guarantee.EXACTLY_ONCE)


async def test_the_target_is_prepared_finished_and_cleaned_up_as_often_as_asked(case: SinkCase, sink: Sink):
    first, second = await sink.prepare_target(), await sink.prepare_target()
    assert json.loads(json.dumps(dict(first))) == second
    writer = await opened(sink, OWNER)
    chunks = []
    for sequence in (1, 2):
        chunks.append(await prepare(case, writer, sequence, sequence * 10 - 9, sequence * 10))
        await writer.make_visible(chunks[-1])
    await writer.close()
    finisher = replace(OWNER, split="finish", epoch=1)
    for _ in range(2):
        await sink.finish(finisher, settled(chunks))
    for _ in range(2):
        await sink.clean_up([OWNER])
    if case.keeps_rows:
        await shows(case, rows(case, 1, 20))


async def test_cleaning_up_fences_a_writer_that_was_left(case: SinkCase, sink: Sink):
    if sink.shows is Shows.NOTHING:
        pytest.skip("a sink that shows nothing can not fence")
    left = await opened(sink, OWNER)
    prepared = await prepare(case, left, 1, 1, 10)
    other = case.sink()
    await other.clean_up([OWNER])
    with pytest.raises(SinkError):
        await left.make_visible(prepared)
    await left.close()
    await other.close()
    assert await case.read() == []


async def test_many_rows_go_through_in_one_chunk(case: SinkCase, sink: Sink):
    writer = await opened(sink, OWNER)
    values = [case.row(number, "x" * 280) for number in range(60_000)]
    for start in range(0, len(values), 5_000):
        await writer.stage(batch(values[start : start + 5_000]))
    prepared = await writer.prepare(cut(1, 1, len(values)))
    await writer.make_visible(prepared)
    await writer.close()
    assert prepared.rows == len(values)
    if case.keeps_rows:
        await shows(case, values)


@pytest.mark.timeout(900)
async def test_a_million_rows_go_through_in_chunks(case: SinkCase, sink: Sink):
    """A tenth of it, but for `make faults`."""
    writer = await opened(sink, OWNER)
    for sequence, first in enumerate(range(1, MANY_ROWS + 1, CHUNK_ROWS), start=1):
        last = first + CHUNK_ROWS - 1
        for start in range(first, last, 5_000):
            await writer.stage(batch([case.row(number, "x" * 280) for number in range(start, start + 5_000)]))
        await writer.make_visible(await writer.prepare(cut(sequence, first, last)))
    await writer.close()
    if case.keeps_rows:
        found = await case.read()
        assert (len(found), len(set(found))) == (MANY_ROWS, MANY_ROWS)
        assert (found[0], found[-1]) == (case.row(1, "x" * 280), case.row(MANY_ROWS, "x" * 280))


async def to_repeat(case: SinkCase, sink: Sink, rows: int) -> tuple[Writer, Prepared]:
    """A chunk that its owner left prepared, and the next owner's writer, which is to repeat it under its name."""
    if sink.shows is not Shows.NAMES:
        pytest.skip("only files and objects are repeated under their name")
    left = await opened(sink, OWNER)
    prepared = await prepare(case, left, 1, 1, rows)
    await left.close()
    writer = sink.writer(replace(OWNER, epoch=6))
    await writer.open()
    assert await writer.visible([prepared]) is None
    return writer, prepared


async def test_a_repeat_of_the_same_rows_has_the_same_bytes(case: SinkCase, sink: Sink):
    writer, prepared = await to_repeat(case, sink, 100)
    values = rows(case, 1, 100)
    for value in values:
        await writer.stage(batch([value]))
    again = await writer.prepare(cut(1, 1, 100, attempt=2, repeat_of=prepared))
    assert (again.bytes, again.checksum) == (prepared.bytes, prepared.checksum)
    await writer.make_visible(again)
    await writer.close()
    await shows(case, values)


async def test_a_repeat_that_finds_no_row_left_is_a_valid_file_without_rows(case: SinkCase, sink: Sink):
    writer, prepared = await to_repeat(case, sink, 10)
    empty = replace(cut(1, 1, 10, attempt=2, repeat_of=prepared), rows=0, first_key=None)
    await writer.make_visible(await writer.prepare(empty))
    await writer.close()
    assert await case.read() == []


async def test_a_very_large_row_goes_through(case: SinkCase, sink: Sink):
    if not case.takes_large_rows:
        pytest.skip("this target's own limit is smaller")
    writer = await opened(sink, OWNER)
    values = [case.row(1, "x" * 20_000_000), case.row(2)]
    for value in values:
        await writer.stage(batch([value]))
    await writer.make_visible(await writer.prepare(cut(1, 1, 2)))
    await writer.close()
    if case.keeps_rows:
        await shows(case, values)


DAY = date(2026, 3, 29)
OF_THE_DAY = "_manifest-0199a1b2-g0003-2026-03-29.json"


@pytest.fixture
async def listing(case: SinkCase, sink: Sink) -> ListsDays:
    if not isinstance(sink, ListsDays):
        pytest.skip("writes no manifests")
    return sink


async def two_chunks(case: SinkCase, sink: Sink) -> list[Prepared]:
    writer = await opened(sink, OWNER)
    made = []
    for sequence in (1, 2):
        made.append(await prepare(case, writer, sequence, sequence * 10 - 9, sequence * 10))
        await writer.make_visible(made[-1])
    await writer.close()
    return made


async def test_the_manifest_of_a_day_names_what_became_final_on_it(case: SinkCase, sink: Sink, listing: ListsDays):
    made = await two_chunks(case, sink)
    await listing.list_day(OWNER, DAY, settled(made))
    found = await case.manifest(OF_THE_DAY)
    assert found is not None
    told = json.loads(found[0])
    assert (told["day"], told["file_count"], told["rows"]) == ("2026-03-29", 2, 20)
    assert told["bytes"] == sum(chunk.bytes for chunk in made)
    listed = [(f["rows"], f["bytes"], f["checksum"], f["first_key"], f["last_key"]) for f in told["files"]]
    assert listed == [(c.rows, c.bytes, c.checksum, list(c.first_key or ()), list(c.last_key)) for c in made]
    assert [made[n].target.endswith(told["files"][n]["file"].lstrip("/")) for n in (0, 1)] == [True, True]
    await shows(case, rows(case, 1, 20))


async def test_a_day_is_listed_again_without_a_trace(case: SinkCase, sink: Sink, listing: ListsDays):
    made = await two_chunks(case, sink)
    await listing.list_day(OWNER, DAY, settled(made))
    first = await case.manifest(OF_THE_DAY)
    for owner in (OWNER, replace(OWNER, split="1", epoch=9, run_id="r2")):
        await listing.list_day(owner, DAY, settled(made))
    assert await case.manifest(OF_THE_DAY) == first, "left as it is"


async def test_a_manifest_of_a_day_that_was_changed_is_written_anew(case: SinkCase, sink: Sink, listing: ListsDays):
    made = await two_chunks(case, sink)
    await listing.list_day(OWNER, DAY, settled(made))
    first = await case.manifest(OF_THE_DAY)
    assert first is not None
    await case.manifest(OF_THE_DAY, first[0].replace(b"orders", b"others"))
    await listing.list_day(OWNER, DAY, settled(made))
    again = await case.manifest(OF_THE_DAY)
    assert again is not None
    assert again[0] == first[0]


async def test_who_takes_files_away_after_the_day_stops_no_manifest(case: SinkCase, sink: Sink, listing: ListsDays):
    made = [replace(chunk, target=f"{chunk.target}-gone") for chunk in await two_chunks(case, sink)]
    await listing.list_day(OWNER, DAY, settled(made))
    assert await case.manifest(OF_THE_DAY) is not None


async def test_several_owners_may_list_a_day_at_once(case: SinkCase, sink: Sink, listing: ListsDays):
    made = await two_chunks(case, sink)

    async def list_it(split: int) -> None:
        # One that loses its upload to another's look round says so, and finds the manifest at its next look.
        with contextlib.suppress(SinkError):
            await listing.list_day(replace(OWNER, split=str(split)), DAY, settled(made))

    await asyncio.gather(*map(list_it, range(4)))
    await listing.list_day(OWNER, DAY, settled(made))
    found = await case.manifest(OF_THE_DAY)
    assert found is not None
    assert json.loads(found[0])["rows"] == 20


async def test_a_row_that_the_format_can_not_hold_is_named_and_the_others_go_on(case: SinkCase, sink: Sink):
    if case.unfit_row is None:
        pytest.skip("the format takes every record")
    writer = await opened(sink, OWNER)
    await writer.stage(batch(rows(case, 1, 10)))
    for place in (0, 3, 5):
        mixed = rows(case, 11, 15)
        mixed.insert(place, case.unfit_row)
        with pytest.raises(RowRejected) as caught:
            await writer.stage(batch(mixed))
        assert caught.value.index == place
        assert "id" in caught.value.message
    await writer.stage(batch(rows(case, 11, 15)))
    await writer.make_visible(await writer.prepare(cut(1, 1, 15)))
    await writer.close()
    await shows(case, rows(case, 1, 15))


def marked(case: SinkCase, numbers: Iterable[int], gone: Container[int] = ()) -> Batch:
    """The rows with message keys and ids; those that are `gone` are tombstones."""
    numbers = list(numbers)
    return Batch(
        [b"" if number in gone else case.row(number) for number in numbers],
        [b"%d" % number for number in numbers],
        [b'["%d"]' % number for number in numbers],
    )


@pytest.mark.parametrize("case", sorted(name for name in CASES if CASES[name].takes_tombstones), indirect=True)  # type: ignore[attr-defined]
async def test_a_tombstone_takes_its_row_back_and_what_was_never_there_is_as_good_as_gone(case: SinkCase):
    sink = case.sink(**({"key": ["id"]} if case.__class__.__name__.startswith("Kafka") else {}))
    await sink.prepare_target()
    writer = await opened(sink, OWNER)
    late = replace(cut(2, 1, 3), version=next(VERSIONS))  # drawn before those that follow
    await writer.stage(marked(case, range(1, 6)))
    await writer.make_visible(await writer.prepare(cut(1, 1, 5)))
    await writer.stage(marked(case, range(2, 8), gone={2, 3, 7}))
    prepared = await writer.prepare(cut(2, 2, 7))
    assert prepared.rows == 6, "a tombstone is a row like any other"
    receipt = await writer.make_visible(prepared)
    assert not receipt.rejected
    live = {number: case.row(number) for number in (1, 4, 5, 6)}

    async def as_expected() -> bool:
        return {number: value for number, value in (await case.last()).items() if value} == live

    await until(as_expected, 10, "rows 2 and 3 are gone")
    await writer.close()
    if sink.upserts:  # a bulk of an owner that was frozen: it carries an older version
        writer = await opened(sink, replace(OWNER, epoch=6))
        await writer.stage(marked(case, range(1, 4)))
        assert not (await writer.make_visible(await writer.prepare(replace(late, sequence=3)))).rejected
        await sink.prepare_target()
        assert await as_expected(), await case.last()
        await writer.close()
    else:
        gone = {number for number, value in (await case.last()).items() if value is None}
        assert gone == {2, 3, 7}, "null values, and not empty ones"
    await sink.close()


def test_every_kind_of_sink_takes_tombstones_or_is_refused_with_them():
    """What `source.soft_delete` is refused for is what can not take a row back (tests/integration/test_tombstones)."""
    taking = {name for name in CASES if CASES[name].takes_tombstones}  # type: ignore[attr-defined]
    assert taking == {"kafka", "kafka-at-least-once", "opensearch", "elasticsearch"}
    assert set(registry.TAKES_TOMBSTONES) == {"kafka", "elasticsearch"}
    assert set(registry.KINDS) - set(registry.TAKES_TOMBSTONES) == {"file", "s3", "hdfs", "donothing"}
