"""What the differences of one chunk mean: matching, and the verdict on what has no partner."""

from __future__ import annotations

from collections import Counter

import pytest

from service.domain.steps import ChunkRecord
from service.domain.verification import FIRST, Difference, DifferenceKind, Findings, SplitCounts
from sinks.reading import Flaw
from workers import matching
from workers.comparing import Comparison
from workers.matching import LeftOver, Matching, TooMany
from workers.verdicts import Judge, Seen

FLAW = Flaw("checksum", "t", 1, 2)
SILENT = Flaw("not_verifiable", "t", 1, 2)


def tokens(*numbers: int) -> list[bytes | None]:
    return [b'["%d"]' % number for number in numbers]


def raws(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def chunk(rows: int) -> ChunkRecord:
    return ChunkRecord(1, 1, 1, rows, 10, ("1",), ("9",), None, "t", None, {}, "run")


def verdict(delivered: int, source: list[int], sink: list[int], *flaws: Flaw, unreadable: int = 0) -> dict[str, int]:
    """The differences by kind, of a chunk of so many rows with these on either side."""
    match, left = Matching(), LeftOver()
    match.source(tokens(*source), raws(*source), None)
    match.sink([*tokens(*sink), *[None] * unreadable], None)
    match.end(left, match.known(tokens(*source)))
    seen = Seen(True, len(source), len(sink) + unreadable, list(flaws), left)
    judge = Judge(0, chunk(delivered), Comparison.read_key, Comparison.read_token)
    found: Counter[str] = Counter()
    for one in judge.judge(seen):
        found[one.kind.value] += one.count
    return dict(found)


def test_the_same_on_both_sides_is_no_difference_in_any_order():
    assert verdict(3, [1, 2, 3], [3, 1, 2]) == {}


def test_an_intact_chunk_lays_every_difference_to_the_source():
    assert verdict(3, [1, 2, 4, 5], [1, 2, 3]) == {"source_changed": 3}


def test_a_damaged_chunk_over_an_unchanged_source_misses_and_has_foreign_rows():
    assert verdict(3, [1, 2, 3], [1, 9], FLAW) == {"checksum": 1, "missing": 2, "foreign": 1}
    assert verdict(3, [1, 2, 3], [1, 2, 3, 3], FLAW) == {"checksum": 1, "doubled": 1}
    assert verdict(3, [1, 2, 3], [1, 2], FLAW, unreadable=1) == {"checksum": 1, "missing": 1, "foreign": 1}
    assert verdict(3, [1, 2, 3], [1, 2]) == {"missing": 1}


def test_where_both_have_changed_only_what_the_numbers_prove_is_missing():
    """Of 4 delivered rows the sink has 2; in the source 7 and 8 came later, so of 3, 4, 7 and 8 two are missing."""
    found = verdict(4, [1, 2, 3, 4, 7, 8], [1, 2], FLAW)
    assert found == {"checksum": 1, "missing": 2, "source_changed": 2}
    assert verdict(4, [1], [1, 2], FLAW) == {"checksum": 1, "missing": 2, "source_changed": 3}


def test_what_can_not_be_told_any_more_is_not_called_missing():
    assert verdict(3, [1, 2, 3], [1], SILENT) == {"not_verifiable": 1}


def test_rows_looked_up_by_key_are_missing_as_far_as_they_were_delivered():
    def looked_up(delivered: int, source: int, absent: list[int]) -> dict[str, int]:
        seen = Seen(True, source, source - len(absent), by_key=True)
        for number in absent:
            seen.left.source.add(b"%d" % number)
        found: Counter[str] = Counter()
        for one in Judge(0, chunk(delivered), Comparison.read_key, Comparison.read_token).judge(seen):
            found[one.kind.value] += one.count
        return dict(found)

    assert looked_up(3, 3, []) == {}
    assert looked_up(3, 3, [2]) == {"missing": 1}
    assert looked_up(3, 5, [7, 8]) == {"source_changed": 2}
    assert looked_up(3, 2, []) == {"source_changed": 1}
    assert looked_up(3, 5, [6, 7, 8]) == {"missing": 1, "source_changed": 2}, "two of the three came later"


def test_rows_that_were_dead_letters_once_are_not_missed():
    seen = Seen(True, 5, 3, forgotten=2)
    for number in (4, 5):
        seen.left.source.add(b"%d" % number)
    judge = Judge(0, chunk(3), Comparison.read_key, Comparison.read_token)
    assert judge.judge(seen) == []
    seen.left.source.add(b"6")
    assert {one.kind.value for one in judge.judge(seen)} == {"source_changed"}
    short = Seen(True, 5, 2, forgotten=2)
    for number in (3, 4, 5):
        short.left.source.add(b"%d" % number)
    assert [(one.kind.value, one.count) for one in judge.judge(short)] == [("missing", 1)]


def test_of_very_many_each_is_counted_and_the_first_are_named():
    many = matching.FIRST + 50
    assert verdict(many, list(range(many)), [], FLAW) == {"checksum": 1, "missing": many}
    # The source has lost one meanwhile: of what it still has, no more can be missing than the sink is short of.
    short = verdict(many + 1, list(range(many + 21)), list(range(many + 20, many + 40)), FLAW)
    assert short == {"checksum": 1, "missing": many - 19, "source_changed": 20}


def test_without_keys_only_the_numbers_are_compared():
    judge = Judge(0, chunk(5), Comparison.read_key, Comparison.read_token)
    kinds = {sink: [one.kind.value for one in judge.judge(Seen(False, 5, sink))] for sink in (4, 5, 6)}
    assert kinds == {4: ["missing"], 5: [], 6: ["foreign"]}
    assert [one.kind.value for one in judge.judge(Seen(False, 7, 5))] == ["source_changed"]


def test_values_that_differ_are_told_by_key():
    match, left = Matching(), LeftOver()
    match.source(tokens(1, 2), raws(1, 2), [b"a", b"b"])
    match.sink(tokens(2, 1), [b"x", b"a"])
    match.end(left, set())
    assert (left.changed.count, left.changed.first, left.source.count) == (1, [b"2"], 0)


def test_a_chunk_in_parts_is_matched_as_in_one(monkeypatch: pytest.MonkeyPatch):
    source, sink = list(range(1000)), [*range(5, 1000), 7, 4000]
    monkeypatch.setattr(matching, "MOST", 300)
    whole = Matching()
    with pytest.raises(TooMany):
        whole.source(tokens(*source), raws(*source), None)
    left = LeftOver()
    for part in range(8):
        match = Matching(8, part)
        match.source(tokens(*source), raws(*source), None)
        match.sink([*tokens(*sink), None], None)
        match.end(left, match.known(tokens(*source)))
    assert sorted(map(int, (name for name in left.source.first if name))) == [0, 1, 2, 3, 4]
    assert left.doubled.first == [b'["7"]']
    assert Counter(left.sink.first) == Counter([b'["4000"]', None]), "a record without a key is of no part: told once"


def test_findings_keep_the_first_of_each_kind_count_all_and_survive_the_store():
    found = Findings()
    found.add(Difference(DifferenceKind.MISSING, 0, 1, (str(number),)) for number in range(FIRST + 50))
    found.add([Difference(DifferenceKind.GONE, 1, 2, target="t", expected=3, found=None, note="n", count=2)])
    split = SplitCounts(1, None, ("9", "a"))
    found.compared(split, upto=("5", "b"), chunks=1, recorded=3, source=4, sink=5, dead=1)
    found.compared(split, upto=None, source=1)
    found.note("said")
    found.note("said")
    assert found.counts == {DifferenceKind.MISSING: FIRST + 50, DifferenceKind.GONE: 2}
    assert len(found.differences) == FIRST + 1
    assert found.splits[1] == SplitCounts(1, None, ("9", "a"), ("5", "b"), 1, 3, 5, 5, 1)
    again = Findings.from_json(found.as_json())
    assert (again.splits, again.counts, again.differences, again.notes) == (
        found.splits,
        found.counts,
        found.differences,
        ["said"],
    )
