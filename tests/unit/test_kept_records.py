"""Records and answers that are kept for as long as they are the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from config.redaction import REDACTOR, Redactor
from service.api import rendered
from service.api.rendered import Rendered
from service.store.kept_records import KeptRecords, weight

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Thing:
    id: str
    body: str = ""


def test_a_record_is_given_out_under_its_mark_alone() -> None:
    kept: KeptRecords[Thing] = KeptRecords(1_000_000)
    first, second = Thing("a", "1"), Thing("a", "2")
    assert kept.get("a", "m1") is None
    kept.keep("a", "m1", first, 10)
    assert kept.get("a", "m1") is first
    assert kept.get("a", "m2") is None
    kept.keep("a", "m2", second, 10)
    assert kept.get("a", "m1") is None
    assert kept.get("a", "m2") is second
    assert kept.get("b", "m2") is None


def test_records_take_no_more_than_they_may_and_who_was_asked_for_stays() -> None:
    kept: KeptRecords[Thing] = KeptRecords(100_000)
    for number in range(1000):
        kept.keep(str(number), "m", Thing(str(number)), 1000)
        assert kept.get("0", "m") is not None
        assert kept.size <= 100_000
    assert kept.size > 90_000
    assert kept.get("1", "m") is None
    assert kept.get("999", "m") is not None
    for number in range(1000):
        kept.keep(str(number), "m2", Thing(str(number)), 20)
    assert kept.size <= 100_000


def test_a_record_that_would_take_the_place_of_all_others_is_not_kept() -> None:
    kept: KeptRecords[Thing] = KeptRecords(100_000)
    kept.keep("a", "m", Thing("a"), 100)
    kept.keep("b", "m", Thing("b"), 50_000)
    assert kept.get("b", "m") is None
    assert kept.get("a", "m") is not None
    kept.keep("a", "m2", Thing("a"), 50_000)
    assert kept.get("a", "m2") is None
    assert kept.size == 0


def test_what_a_record_weighs_counts_what_is_in_it() -> None:
    small, large = Thing("a", "x"), Thing("a", "x" * 10_000)
    assert 10_000 <= weight(large) - weight(small) + 1 <= 10_100
    assert weight({"a": [large, {"b": ("x" * 5000,)}]}) > 15_000


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Redactor:
    own = Redactor()
    monkeypatch.setattr(rendered, "REDACTOR", own)
    assert REDACTOR is not own
    return own


class Writer:
    """Writes one answer after the other, none like the one before."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return b"%d" % self.count


def test_an_answer_is_written_once_for_a_record_and_a_form(secrets: Redactor) -> None:
    answers, write = Rendered(), Writer()
    of: Callable[..., bytes] = answers.of
    job: Any = Thing("a")
    assert [of(job, "v1", write), of(job, "v1", write), of(job, "devo", write), of(job, "v1", write)] == [
        *(b"1", b"1", b"2", b"1")
    ]
    again: Any = replace(job)
    assert again == job
    assert of(again, "v1", write) == b"3", "an equal record is not the same one: it was read anew"
    assert of(again, "devo", write) == b"4"
    secrets.register("a secret that was not known")
    assert of(again, "v1", write) == b"5", "it may have to be masked"


def test_answers_take_no_more_than_they_may(secrets: Redactor) -> None:
    secrets.register()
    answers = Rendered(100_000)
    jobs: list[Any] = [Thing(str(number)) for number in range(500)]
    for job in jobs:
        assert answers.of(job, "v1", lambda: b"x" * 1000) == b"x" * 1000
        assert answers.size <= 100_000
    assert answers.size > 90_000
    write = Writer()
    assert answers.of(jobs[-1], "v1", write) == b"x" * 1000
    assert answers.of(jobs[0], "v1", write) == b"1"
    assert answers.of(jobs[-2], "huge", lambda: b"x" * 50_000) == b"x" * 50_000
    assert answers.of(jobs[-1], "v1", write) == b"x" * 1000, "one answer does not take the place of all"
