"""Values that nobody thought of, through the reader to JSON, CSV and Parquet: another client makes the same values of
each, or the format refuses the row and says so. `ROWFERRY_TYPE_EXAMPLES` makes the search longer."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sinks.base import RowRejected
from sinks.formats import Format
from tests.integration.source_cases import oracle, read_all, source
from tests.integration.test_parquet_types import SETTINGS, WRITTEN
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = int(os.environ.get("ROWFERRY_TYPE_EXAMPLES", "4"))
ENDLESS = st.sampled_from(["infinity", "-infinity"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,120})(\.[0-9]{1,80})?", fullmatch=True)
CLOCK = st.builds(
    "{:02}:{:02}:{:02}.{:06}".format, st.integers(0, 23), *[st.integers(0, 59)] * 2, st.integers(0, 999_999)
)
ZONE = st.builds("{}{:02}:{:02}".format, st.sampled_from("+-"), st.integers(0, 14), st.sampled_from([0, 30, 45, 59]))


def _moments(last_year: int, clock: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Days of both eras, up to the last that the type has, most of them of ours."""
    years = st.integers(1, 9999) | st.sampled_from([1, 1582, 1900, 9999, 10000, last_year]) | st.integers(1, last_year)
    written = st.builds("{:04}-{:02}-{:02} {}".format, years, st.integers(1, 12), st.integers(1, 28), clock)
    ancient = st.builds("{:04}-{:02}-{:02} {} BC".format, st.integers(1, 4712), *[st.integers(1, 12)] * 2, clock)
    return written | written | ancient | ENDLESS


def _documents(numbers: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON as text, with white space of any kind between its tokens."""
    blank = st.text(" \t\n\r", max_size=2)
    string = TEXTS.map(json.dumps) | TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False))
    leaf = st.sampled_from(["true", "false", "null", "{}", "[ ]", '"\\/"']) | numbers | string

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        spaced = st.builds("{}{}{}".format, blank, inner, blank)
        pair = st.builds("{}{}:{}".format, string, blank, spaced)
        return st.lists(spaced, min_size=1, max_size=3).map(lambda all_of: f"[{','.join(all_of)}]") | st.lists(
            pair, min_size=1, max_size=3
        ).map(lambda all_of: f"{{{','.join(all_of)}}}")

    return st.recursive(leaf, grown, max_leaves=6)


def _array(value: Any) -> str:
    if isinstance(value, list):
        return f"{{{','.join(map(_array, value))}}}"
    return "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _arrays(element: st.SearchStrategy[str], dimensions: int) -> st.SearchStrategy[str]:
    one: st.SearchStrategy[Any] = st.none() | element
    sizes = [st.integers(1, 3)] * dimensions

    def shaped(size: tuple[int, ...]) -> st.SearchStrategy[Any]:
        inner = one
        for length in size:
            inner = st.lists(inner, min_size=length, max_size=length)
        return inner

    return st.tuples(*sizes).flatmap(shaped).map(_array) | st.just("{}")


def _floats(width: int) -> st.SearchStrategy[str]:
    return st.floats(width=width).map(lambda value: str(value).replace("inf", "Infinity"))  # type: ignore[arg-type]


_BOUNDS = st.lists(st.integers(-(2**31), 2**31 - 2), min_size=2, max_size=2, unique=True).map(sorted)
_RANGES = _BOUNDS.map("[{0[0]},{0[1]})".format)
COLUMNS = {
    "num": ("numeric", NUMBERS | st.sampled_from(["NaN", "Infinity", "-Infinity", "1e-16383", "-0.000", "1e1000"])),
    "dec": ("numeric(12,2)", st.decimals(-9999999999, 9999999999, places=2).map(str) | st.just("NaN")),
    "wide": ("numeric(60,20)", st.decimals(-(10**39), 10**39, places=20, allow_nan=False).map(str)),
    "f8": ("float8", _floats(64)),
    "f4": ("float4", _floats(32)),
    "t": ("text", TEXTS),
    "c": ("char(12)", TEXTS),
    "d": ("date", _moments(5874897, st.just(""))),
    "ts": ("timestamp", _moments(294276, CLOCK)),
    "tz": ("timestamptz", _moments(294276, CLOCK)),
    "tm": ("time", CLOCK | st.just("24:00:00")),
    "tt": ("timetz", st.builds("{}{}".format, CLOCK, ZONE)),
    "iv": (
        "interval",
        st.builds(
            "{} years {} mons {} days {} microseconds".format,
            *(st.integers(-1000, 1000), st.integers(-11, 11)),
            *(st.integers(-(10**6), 10**6), st.integers(-(2**53), 2**53)),
        ),
    ),
    "m": ("money", st.integers(-(2**63), 2**63 - 1).map(lambda cents: str(Decimal(cents) / 100))),
    "by": ("bytea", st.binary(max_size=20).map(lambda value: f"\\x{value.hex()}")),
    "j": ("json", _documents(NUMBERS | st.sampled_from(["1E400", "-0", "1.00e-500"]))),
    "jb": ("jsonb", _documents(NUMBERS)),
    "ai": ("int[]", _arrays(st.integers(-(2**31), 2**31 - 1).map(str), 1)),
    "at": ("text[][]", _arrays(TEXTS, 2)),
    "an": ("numeric[][][]", _arrays(NUMBERS, 3)),
    "r": ("int4range", _RANGES | st.just("empty")),
    "tr": ("tsrange", _moments(9999, CLOCK).map(lambda begin: f'["{begin}",)')),
    "mr": ("int4multirange", st.lists(_RANGES, max_size=3).map(",".join).map("{{{}}}".format)),
    "u": ("uuid", st.uuids().map(str)),
    "ip": ("inet", st.ip_addresses().map(str)),
    "vb": ("varbit", st.text("01", max_size=40)),
    "p": ("point", st.builds("({},{})".format, _floats(64), _floats(64))),
}  # fmt: skip
BEYOND = """
SELECT n FROM given WHERE dec = 'NaN' OR tm = '24:00' OR NOT isfinite(d) OR NOT isfinite(ts) OR NOT isfinite(tz)
   OR d NOT BETWEEN '0001-01-01' AND '9999-12-31'
   OR ts NOT BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'
   OR tz NOT BETWEEN '0001-01-01 00:00+00' AND '9999-12-31 23:59:59.999999+00'
"""
"""Rows that Parquet can not hold: docs/formats.md."""
OWN = ("dec", "wide", "f8", "f4", "d", "ts", "tz", "tm", "by", "u", "ai")
"""Columns that Parquet keeps with a type of their own; of arrays those of integers."""
ROWS = st.lists(
    st.tuples(*[st.none() | strategy if number else strategy for number, (_, strategy) in enumerate(COLUMNS.values())]),
    min_size=1,
    max_size=12,
)


def exact(value: Any) -> Any:
    """Equal only where nothing of it is different."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack(">d", value)
    if isinstance(value, UUID):
        return value.int  # asyncpg has a class of its own
    return value.as_tuple() if isinstance(value, Decimal) else value


async def check(database: str, rows: Sequence[tuple[str | None, ...]]) -> None:
    client = await asyncpg.connect(database, server_settings=SETTINGS)
    try:
        await client.execute("DROP TABLE IF EXISTS given, again")
        columns = ", ".join(f"{name} {kind}" for name, (kind, _) in COLUMNS.items())
        await client.execute(f"CREATE TABLE given (n int PRIMARY KEY, {columns}); CREATE TABLE again (LIKE given)")
        values = ", ".join(f"${number}::text::{kind}" for number, (kind, _) in enumerate(COLUMNS.values(), 2))
        await client.executemany(
            f"INSERT INTO given VALUES ($1, {values})", [(number, *row) for number, row in enumerate(rows)]
        )
        await in_json(database, client)
        await in_csv(database, client)
        await in_parquet(database, client)
    finally:
        await client.close()


async def texts(client: asyncpg.Connection, table: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
    written = ", ".join(WRITTEN.format(name) for name in names)
    return [tuple(row) for row in await client.fetch(f"SELECT {written} FROM {table} ORDER BY n")]


async def in_json(database: str, client: asyncpg.Connection) -> None:
    async with source(database, "given") as made:
        lines = await read_all(made)
    assert lines == await oracle(database, "SELECT row_to_json(g)::text FROM given g ORDER BY n")
    await client.execute(
        "INSERT INTO again SELECT r.*"
        " FROM unnest($1::text[]) AS line, json_populate_record(NULL::given, line::json) AS r",
        [line.decode() for line in lines],
    )
    names = [name for name in ("n", *COLUMNS) if name not in {"j", "jb"}]
    assert await texts(client, "again", names) == await texts(client, "given", names)
    documents = await client.fetch("SELECT j, jb FROM given ORDER BY n")
    for line, row in zip(lines, documents, strict=True):
        found = json.loads(line, parse_int=str, parse_float=str)
        for name, text in row.items():
            assert found[name] == (text and json.loads(text, parse_int=str, parse_float=str))
    await client.execute("TRUNCATE again")


async def in_csv(database: str, client: asyncpg.Connection) -> None:
    async with source(database, "given", csv=Dialect()) as made:
        stream = Format("csv", columns=tuple(await made.columns())).stream()
        data = stream.encode(await read_all(made)) + stream.end()
    await client.copy_to_table("again", source=io.BytesIO(data), format="csv", header=True)
    assert await texts(client, "again", ["n", *COLUMNS]) == await texts(client, "given", ["n", *COLUMNS])


async def in_parquet(database: str, client: asyncpg.Connection) -> None:
    refused, data = [], b""
    async with source(database, "given", csv=Dialect()) as made:
        stream = Format("parquet", "zstd", columns=tuple(await made.columns())).stream()
        for number, row in enumerate(await read_all(made)):
            try:
                data += stream.encode([row])
            except RowRejected as error:
                refused.append((number, error.code))
    table = parquet.read_table(io.BytesIO(data + stream.end()))
    table.validate(full=True)
    beyond = [row[0] for row in await client.fetch(BEYOND + "ORDER BY n")]
    assert refused == [(number, "value_not_representable") for number in beyond]
    kept = f"SELECT {', '.join(OWN)} FROM given WHERE n <> ALL ($1) ORDER BY n"
    for row, found in zip(await client.fetch(kept, beyond), table.select(OWN).to_pylist(), strict=True):
        assert {name: exact(value) for name, value in found.items()} == {name: exact(row[name]) for name in OWN}
    names = [name for name in COLUMNS if name not in {*OWN, "at", "an"}]
    expected = [row for number, row in enumerate(await texts(client, "given", names)) if number not in beyond]
    assert [tuple(row.values()) for row in table.select(names).to_pylist()] == expected
    lists = await client.fetch("SELECT at, an::text[] AS an FROM given WHERE n <> ALL ($1) ORDER BY n", beyond)
    assert table.select(["at", "an"]).to_pylist() == [dict(row) for row in lists]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],  # to make it smaller would take longer than to look at it
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(rows=ROWS)
def test_generated_values_come_back_from_every_format(database: str, rows: list[tuple[str | None, ...]]) -> None:
    asyncio.run(check(database, rows))
