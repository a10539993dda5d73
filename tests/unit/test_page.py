"""COPY text into pages: unescaping, cutting, keys."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from workers.sources import page as page_module
from workers.sources.base import Page
from workers.sources.page import PageBuilder, decode_key, unescape, unescape_line, unescape_long_line

TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_COPY = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"}


def copy_text(value: str | None) -> bytes:
    """A field as COPY writes it (the protocol's page "COPY", text format)."""
    if value is None:
        return b"\\N"
    return "".join(_COPY.get(character, character) for character in value).encode()


def builder(**changes: object) -> PageBuilder:
    arguments = {"key_columns": 1, "message_key": False, "marks_repeats": False, "page_bytes": 1 << 20} | changes
    return PageBuilder(**arguments)


@given(TEXT)
def test_unescape_is_the_inverse_of_copy(value: str) -> None:
    assert unescape(copy_text(value)).decode() == value


@given(st.text(alphabet="\\ntr\n\t\r x", max_size=40))
def test_dense_escapes(value: str) -> None:
    assert unescape(copy_text(value)).decode() == value


@given(st.text(alphabet="\\nt\n x", max_size=200))
def test_a_long_line_in_slices_is_the_line(value: str) -> None:
    field = copy_text(value)
    before = page_module._SLICE
    page_module._SLICE = 7
    try:
        assert unescape_long_line(field) == unescape_line(field)
    finally:
        page_module._SLICE = before


@given(TEXT)
def test_a_line_is_one_line_and_the_same_json(value: str) -> None:
    document = json.dumps({"a": value}, ensure_ascii=False, indent=1)
    line = unescape_line(copy_text(document))
    assert b"\n" not in line
    assert b"\t" not in line
    assert json.loads(line) == {"a": value}


@given(st.lists(st.tuples(TEXT, TEXT, st.none() | TEXT), min_size=1, max_size=20))
async def test_rows_come_apart_as_they_were(rows: list[tuple[str, str, str | None]]) -> None:
    built = builder(key_columns=2, message_key=True)
    lines = [
        b"\t".join((copy_text(one), copy_text(two), copy_text(json.dumps(one)), copy_text(message))) + b"\n"
        for one, two, message in rows
    ]
    await built.feed(b"".join(lines[: len(lines) // 2])) if len(lines) > 1 else None
    await built.feed(bytearray(b"".join(lines[len(lines) // 2 :])))
    page = built.page(None, end=True, decode=decode_key)
    assert [page.key(index) for index in range(len(rows))] == [row[:2] for row in rows]
    assert [json.loads(value) for value in page.values] == [row[0] for row in rows]
    assert page.message_keys == [None if row[2] is None else row[2].encode() for row in rows]
    assert page.size == sum(map(len, page.values))


async def test_a_full_page_is_cut_at_whole_rows_and_never_empty() -> None:
    built = builder(page_bytes=10)
    assert await built.feed(b"1\tabcdef\n2\tghijkl\n3\tmnopqr\n")
    assert built.fit()
    assert built.values == [b"abcdef"]
    large = builder(page_bytes=3)
    assert await large.feed(b"1\tabcdef\n")
    assert not large.fit()
    assert large.values == [b"abcdef"]


async def test_a_page_that_watches_for_repeats_is_not_cut_before_its_second_row() -> None:
    built = builder(page_bytes=3, marks_repeats=True)
    assert not await built.feed(b"1\tabcdef\tf\n")
    assert await built.feed(b"1\tghijkl\tt\n")
    assert built.repeats == [b"f", b"t"]


async def test_around_rows_left_out_for_their_size_are_pages_of_their_own() -> None:
    built = builder()
    for buffer in (b"1\tabc\n2\t\\N\n3\tdef\n4\tg\n", b"5\t\\N\n6\t\\N\n"):
        assert not await built.feed(buffer)
    assert built.oversized == [1, 4, 5]
    parts = list(built.parts(("0",), ("9",), end=True, decode=decode_key))
    assert [after for after, _ in parts] == [("0",), ("1",), ("2",), ("4",), ("5",), ("6",)]
    assert [part for _, part in parts if isinstance(part, tuple)] == [("2",), ("5",), ("6",)]
    pages = [part for _, part in parts if isinstance(part, Page)]
    assert [(page.values, page.raw_keys, page.size) for page in pages] == [
        ([b"abc"], [b"1"], 3),
        ([b"def", b"g"], [b"3", b"4"], 4),
        ([], [], 0),
    ]
    assert [(page.scanned_to, page.end) for page in pages] == [(("1",), False), (("4",), False), (("9",), True)]
    built.keep(5)
    assert built.oversized == [1, 4]
    assert list(built.parts(("0",), ("5",), end=False, decode=decode_key))[-1] == (("4",), ("5",))


def test_a_key_text_that_looks_like_null_is_a_text() -> None:
    assert decode_key(copy_text("\\N")) == ("\\N",)
