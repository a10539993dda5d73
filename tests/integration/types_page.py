"""docs/types.md: each type of PostgreSQL with a value of it, and what JSON, CSV and Parquet make of that value.

`python -m tests.integration.types_page` writes the page from a PostgreSQL of its own; a test compares it.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from sinks.base import RowRejected
from sinks.formats import Format
from sinks.formats.parquet_schema import schema
from tests.integration.parquet_types import BEYOND, CASES, OWN_TYPES
from tests.integration.source_cases import read_all, source
from tests.support.postgres import PostgresServer
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from tests.integration.parquet_types import Case

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "types.md"
_HEAD: Final = """\
<!-- Made from tests/integration/parquet_types.py by `python -m tests.integration.types_page`; do not edit. -->

# Types: what a value of each looks like in JSON, CSV and Parquet

Each line was read from PostgreSQL 16 as a job reads it; a test makes this page again and compares. Other tests take
every type through each format and back, at the ends of its range and with generated values, and JSON on the oldest and
the newest PostgreSQL there is. What the formats do beyond that stands in [formats.md](formats.md).

NULL is `null` in JSON, nothing at all in CSV (or `format.null`) and null in Parquet; the empty text is `""` in CSV. An
array is an array in JSON, Postgres's own text (`{1,NULL}`) in CSV, and in Parquet a LIST of the element's type, as deep
as declared. A composite is an object in JSON, text elsewhere. A domain is what it is made of.

| PostgreSQL | value | JSON | CSV | Parquet (Arrow type) | DuckDB reads |
|---|---|---|---|---|---|
"""
_MORE: Final = """
xml, which not every server is built with, and types that extensions bring (citext, ltree) are text in all three; but
what has a cast to json, as hstore has, is that JSON in JSON.

## What JSON and CSV keep and Parquet refuses

| PostgreSQL | value | JSON | CSV | Parquet |
|---|---|---|---|---|
"""
_TAIL: Final = """
Such a row is a dead letter with the code `value_not_representable`; [formats.md](formats.md) has the whole list and the
remedy.

## What a reader has to know

- JSON has one null: a column of type json or jsonb that holds the document `null` looks like one that is NULL. In CSV
  and Parquet the first is the text `null`.
- JSON lines keep a record on one line: line breaks and tabs between the tokens of type json become blanks. Numbers keep
  all their digits; a reader that takes them for 64-bit floats rounds them, so let it read decimals.
- DuckDB has no decimal of more than 38 digits and reads such a column of Parquet as doubles.
- A cast that users made from a type of theirs to json is what JSON has, as in `row_to_json`.
"""
_LONGEST: Final = 40


async def text(dsn: str) -> str:
    """The page, from a database that is empty."""
    client = await asyncpg.connect(dsn)
    try:
        await client.execute(OWN_TYPES)
        kept = [await _cells(client, dsn, case.type, _shortest(case)) for case in CASES if case.type != "xml"]
        drawn = [(case.type, value) for case in CASES for value in BEYOND.get(case.type, ())]
        beyond = [await _cells(client, dsn, kind, value) for kind, value in drawn]
    finally:
        await client.close()
    read = {case.type: case.duckdb for case in CASES}
    lines = [_line(*cells, read[cells[0]]) for cells in kept]
    return _HEAD + "".join(lines) + _MORE + "".join(_line(*cells) for cells in beyond) + _TAIL


def _shortest(case: Case) -> str:
    return next((one for one in case.values if one and len(one) <= _LONGEST and one.isprintable()), case.values[0])


async def _cells(client: asyncpg.Connection, dsn: str, kind: str, value: str) -> tuple[str, str, str, str, str]:
    """Type, value, and what becomes of it in each format."""
    await client.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (n int PRIMARY KEY, v {kind})")
    await client.execute(f"INSERT INTO t VALUES (1, $x${value}$x$::{kind})")
    async with source(dsn, "t", columns=["v"]) as made:
        (line,) = await read_all(made)
    async with source(dsn, "t", columns=["v"], csv=Dialect()) as made:
        (record,) = await read_all(made)
        columns = await made.columns()
    try:
        Format("parquet", "none", columns=tuple(columns)).stream().encode([record])
    except RowRejected:
        arrow = "refused"
    else:
        arrow = str(schema(columns).field("v").type)
    return kind, value, line.decode().removeprefix('{"v":').removesuffix("}"), record.decode(), arrow


def _line(*cells: str) -> str:
    kind, value, json, csv, *others = cells
    return f"| {' | '.join([kind, *map(_code, (value, json, csv)), *others])} |\n"


def _code(text: str) -> str:
    """As code in a table's cell."""
    if not text:
        return ""
    text = text.replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        server = PostgresServer(folder=Path(folder) / "postgres").start()
        try:
            made = asyncio.run(text(server.dsn("postgres")))
        finally:
            server.close()
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
