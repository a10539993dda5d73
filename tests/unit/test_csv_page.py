"""CSV records of COPY into pages: where records end, and which part of one is the value."""

from __future__ import annotations

import csv
import io
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.sources.csv_page import CsvPageBuilder, Dialect
from workers.sources.page import decode_key

if TYPE_CHECKING:
    from workers.sources.base import Page

TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NASTY = st.text(alphabet=',;"\n\r\\.N\tx ', max_size=12)
FIELDS = st.none() | NASTY | TEXT
DIALECTS = [Dialect(), Dialect(";", "NULL"), Dialect("\t", "\\N"), Dialect("x", "."), Dialect("|", "x")]


def field(value: str | None, dialect: Dialect, *, alone: bool = False) -> bytes:
    """As COPY writes it (CopyAttributeOutCSV in Postgres's copyto.c)."""
    if value is None:
        return dialect.null.encode()
    quoted = value == dialect.null or (alone and value == "\\.")
    if quoted or any(special in value for special in (dialect.delimiter, '"', "\n", "\r")):
        value = '"' + value.replace('"', '""') + '"'
    return value.encode()


def record(values: list[str | None], dialect: Dialect) -> bytes:
    return dialect.delimiter.encode().join(field(value, dialect) for value in values)


def builder(dialect: Dialect = DIALECTS[0], **changes: int) -> CsvPageBuilder:
    arguments = {"key_columns": 1, "value_columns": 2, "marks_repeats": False, "page_bytes": 1 << 20}
    return CsvPageBuilder(dialect, **(arguments | {"max_row_bytes": 1 << 20} | changes))  # type: ignore[arg-type]


async def fed(built: CsvPageBuilder, *buffers: bytes, counted: int | None = None) -> Page:
    for buffer in buffers:
        await built.feed(buffer)
    await built.whole(counted)
    return built.page(None, end=True, decode=decode_key)


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
@pytest.mark.parametrize("keys", [1, 2])
@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(NASTY | TEXT, TEXT | NASTY, FIELDS, FIELDS), min_size=1, max_size=12), cut=st.integers(0)
)
async def test_rows_come_apart_as_they_were(
    dialect: Dialect, keys: int, rows: list[tuple[str, str, str | None, str | None]], cut: int
) -> None:
    lines = [record(list(row[:keys]) + list(row[2:]), dialect) + b"\n" for row in rows]
    cut %= len(lines) + 1
    page = await fed(builder(dialect, key_columns=keys), *filter(None, [b"".join(lines[:cut]), b"".join(lines[cut:])]))
    assert page.values == [record(list(row[2:]), dialect) for row in rows]
    assert [page.key(index) for index in range(len(rows))] == [row[:keys] for row in rows]
    assert page.size == sum(map(len, page.values))


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(NASTY | TEXT, TEXT | NASTY, FIELDS), min_size=1, max_size=12),
    values=st.integers(0, 1),
    told=st.booleans(),
)
async def test_a_key_that_leads_the_value_is_read_where_it_stands(
    dialect: Dialect, rows: list[tuple[str, str, str | None]], values: int, told: bool
) -> None:
    records = [record(list(row[: 2 + values]), dialect) for row in rows]
    built = builder(dialect, key_columns=2, value_columns=2 + values, key_leads=True)
    buffers = [one + b"\n" for one in records]
    page = await fed(built, b"".join(buffers[:5]), b"".join(buffers[5:]), counted=len(rows) if told else None)
    assert page.values == records
    assert page.size == sum(map(len, records))
    assert [page.key(index) for index in range(len(rows))] == [row[:2] for row in rows]
    built.keep(1)
    assert len(page.raw_keys) == len(page.values) == 1


async def test_a_row_over_the_limit_keeps_the_key_that_it_begins_with() -> None:
    built = builder(max_row_bytes=10, key_leads=True)
    assert not await built.feed(b'1,"\n",\n')
    assert not await built.feed(b'"2,\n",abcdefghijkl,\n3,def,\n')
    assert built.oversized == [1]
    await built.whole(None)
    assert decode_key(built.raw_keys[1]) == ("2,\n",)
    assert built.values == [b'1,"\n",', b'"2,\n",', b"3,def,"]


@settings(deadline=None)
@given(st.lists(st.tuples(NASTY, st.booleans(), NASTY), min_size=1, max_size=12))
async def test_the_mark_of_a_repeat_stands_behind_the_key(rows: list[tuple[str, bool, str]]) -> None:
    plain = Dialect()
    built = builder(value_columns=1, marks_repeats=True)
    lines = [record([key, "t" if mark else "f", value, "end"], plain) + b"\n" for key, mark, value in rows]
    page = await fed(built, b"".join(lines))
    assert built.repeats == [b"t" if mark else b"f" for _, mark, _ in rows]
    assert page.values == [record([value, "end"], plain) for _, _, value in rows]


async def test_the_mark_of_a_row_that_is_too_large_stands_behind_that_of_a_repeat() -> None:
    built = builder(marks_repeats=True, marks_large=True, max_row_bytes=10)
    assert not await built.feed(b"1,f,f,a,\n2,f,t,,\n3,f,f,abcdefghijkl,\n")
    assert not await built.feed(b"4,t,t,,\n")
    assert (built.repeats, built.oversized) == ([b"f", b"f", b"f", b"t"], [1, 2, 3])
    assert built.values == [b"a,", b",", b"", b","]


@settings(deadline=None)
@given(st.lists(FIELDS, min_size=1, max_size=12))
async def test_a_value_of_one_column_stands_alone_as_in_a_copy_of_its_own(values: list[str | None]) -> None:
    plain = Dialect()
    lines = [record([str(index), value], plain) + b"\n" for index, value in enumerate(values)]
    page = await fed(builder(value_columns=1), b"".join(lines))
    assert page.values == [field(value, plain, alone=True) for value in values]


async def test_what_ends_data_is_quoted_on_a_line_of_its_own() -> None:
    page = await fed(builder(value_columns=1), b"1,\\.\n2,\\.x\n")
    assert page.values == [b'"\\."', b"\\.x"]


async def test_a_null_in_a_key_is_told_from_a_text_that_looks_like_it() -> None:
    built = builder(Dialect(",", "none"), key_columns=2, value_columns=1)
    await fed(built, b'none,"none",a\nx,none,b\n')
    assert built.raw_keys == [b"\\N\tnone", b"x\t\\N"]


async def test_any_csv_reader_reads_the_same() -> None:
    chance = random.Random(7)
    rows = [[str(n), *("".join(chance.choices('ab,"\n\r ', k=5)) for _ in range(3))] for n in range(500)]
    page = await fed(builder(value_columns=3), b"".join(record([*row], Dialect()) + b"\n" for row in rows))
    text = b"\n".join(page.values).decode()
    assert list(csv.reader(io.StringIO(text, newline=""))) == [row[1:] for row in rows]


async def test_a_full_page_is_cut_at_whole_rows_and_never_empty() -> None:
    built = builder(page_bytes=10)
    assert await built.feed(b'1,"a\nb",c\n2,ghijkl,\n3,mnopqr,\n')
    assert built.fit()
    assert built.values == [b'"a\nb",c']


async def test_rows_over_the_limit_keep_their_keys_alone() -> None:
    built = builder(max_row_bytes=10)
    assert not await built.feed(b"1,abc,\n2,abcdefghijkl,\n3,def,\n4,abcdefghijkl,\n")
    assert built.oversized == [1, 3]
    assert [decode_key(built.raw_keys[place]) for place in built.oversized] == [("2",), ("4",)]
    assert built.values == [b"abc,", b"", b"def,", b""]
    built.keep(1)
    assert (built.values, built.raw_keys, built.bytes) == ([b"abc,"], [b"1"], 4)


async def test_long_buffers_are_read_as_short_ones() -> None:
    value = 'x"\n' * 700_000
    page = await fed(builder(page_bytes=1 << 30, max_row_bytes=1 << 30), record(["1", value, None], Dialect()) + b"\n")
    assert page.values == [record([value, None], Dialect())]
