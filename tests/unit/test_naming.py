"""What a definition may call its folder, and what the sinks call their files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks import naming

JOB = "0199a1b2-0000-7000-8000-000000000001"


@pytest.mark.parametrize("path", ["orders", "exports/orders", "exports/2024-01.d/a b", "größe/注文", "a" * 255, "a..b"])
def test_a_path_below_the_folder_is_taken_as_it_is(path: str):
    assert naming.check_path(path) == path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "empty"),
        ("/etc", "absolute"),
        ("..", "'..'"),
        ("a/../b", "'..'"),
        ("a/..", "'..'"),
        (".", "leading dot"),
        ("a/./b", "leading dot"),
        (".ssh", "leading dot"),
        ("a/.rowferry", "leading dot"),
        ("a/...", "leading dot"),
        ("a\x00b", "NUL"),
        ("a\nb", "control"),
        ("a//b", "empty component"),
        ("a/", "empty component"),
        ("a" * 256, "255"),
        ("é" * 128, "255"),
        ("a/" * 600 + "a", "1024"),
        ("day={date}", "templates"),
        ("a\ud800", "Unicode"),
    ],
)
def test_any_other_path_is_refused_with_field_value_and_remedy(path: str, said: str):
    with pytest.raises(ValueError) as caught:
        naming.check_path(path, "sink.path")
    message = str(caught.value)
    assert message.startswith("sink.path ")
    assert said in message
    assert message.encode()
    assert ";" in message


@given(st.text(max_size=30) | st.from_regex(r"[./a]{0,12}", fullmatch=True))
def test_what_is_taken_stays_below_the_folder(path: str):
    try:
        taken = naming.check_path(path)
    except ValueError:
        return
    parts = taken.split("/")
    assert all(part and not part.startswith(".") and "\x00" not in part for part in parts)
    assert naming.HIDDEN not in parts


def test_chunk_names_sort_as_the_chunks_do_and_carry_the_extension():
    names = [
        naming.chunk_name(JOB, generation, split, sequence, "0011aabb", ".jsonl.gz")
        for generation in (1, 2, 10)
        for split in ("0", "2", "11")
        for sequence in (1, 9, 10, 100)
    ]
    assert names == sorted(names)
    assert names[0] == f"{JOB}-g0001-s0000-00000001-0011aabb.jsonl.gz"
    assert len(set(names)) == len(names)
    assert all(naming.check_path(name) for name in names)


def test_one_key_range_has_one_hash_and_no_other_range_has_it():
    ranges = [(None, ("1",)), (None, ("2",)), (("1",), ("2",)), (("1", "2"), ("3",)), (("12",), ("3",)), ((), ("1",))]
    hashes = [naming.range_hash(lower, last) for lower, last in ranges]
    assert hashes == [naming.range_hash(lower, last) for lower, last in ranges]
    assert len(set(hashes)) == len(ranges)
    assert all(len(hashed) == 8 for hashed in hashes)
    assert naming.range_hash(("a\ud800",), ("b",))


def test_the_files_of_a_generation_are_told_from_others():
    mine = naming.planned_files(JOB, 2)
    assert mine.fullmatch(naming.chunk_name(JOB, 2, "0", 1, "0011aabb", ".jsonl"))
    assert not mine.fullmatch(naming.chunk_name(JOB, 3, "0", 1, "0011aabb", ".jsonl"))
    assert not mine.fullmatch(naming.chunk_name(JOB, 2, "retry-1", 1, "0011aabb", ".jsonl"))
    assert not mine.fullmatch(naming.manifest_name(JOB, 2))
    folders = naming.planned_folders(JOB, 2)
    assert folders.fullmatch(naming.split_folder(JOB, 2, "12"))
    assert folders.fullmatch(naming.finish_folder(JOB, 2))
    assert not folders.fullmatch(naming.split_folder(JOB, 2, "retry-1"))
    assert not folders.fullmatch(naming.split_folder(JOB, 20, "1"))


def test_the_epoch_is_read_back_from_a_temporary_name():
    assert naming.epoch_of(naming.temporary_name(123456789, 1, "00ff00ff")) == 123456789
    assert naming.epoch_of("orders.jsonl") is None
    assert naming.epoch_of("e1-c1-.part") is None


@pytest.mark.parametrize(("job", "split"), [("../x", "0"), (JOB, "../1"), (JOB, "a/b"), ("", "0"), (JOB, ".")])
def test_a_name_can_not_be_made_of_parts_that_lead_elsewhere(job: str, split: str):
    with pytest.raises(ValueError, match="can not stand in a name"):
        naming.chunk_name(job, 1, split, 1, "0011aabb", ".jsonl")
