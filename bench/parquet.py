"""`python -m bench.parquet [--rows N] [--compression zstd]`: CSV rows to Parquet alone, on a core, without a source."""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Final

from sinks.formats import parquet
from sinks.formats.columns import Column

_COLUMNS: Final = [
    Column("id", "bigint", not_null=True),
    Column("customer", "integer"),
    Column("status", "character varying(20)"),
    Column("amount", "numeric(12,2)"),
    Column("created", "timestamp with time zone"),
    Column("updated", "timestamp without time zone"),
    Column("email", "text"),
    Column("note", "text"),
    Column("paid", "boolean"),
    Column("score", "double precision"),
]
_PAGE: Final = 10_000
_PAGES: Final = 5
"""Different pages; they are used again and again."""


def _page(first: int, chance: random.Random) -> list[bytes]:
    words = [f"{chance.getrandbits(40):x}" for _ in range(5000)]
    return [
        (
            f"{number},{chance.randrange(100_000)},{chance.choice(('new', 'paid', 'shipped'))},"
            f"{chance.randrange(100_000)}.{number % 100:02},"
            f"2024-{number % 12 + 1:02}-{number % 28 + 1:02} 12:{number % 60:02}:00.{number % 1_000_000:06}+00,"
            f"2024-01-{number % 28 + 1:02} 01:02:{number % 60:02},user{number}@example.com,"
            f'"{" ".join(chance.choices(words, k=8))}, {" ".join(chance.choices(words, k=7))}",'
            f"{'tf'[number % 2]},{chance.random()!r}"
        ).encode()
        for number in range(first, first + _PAGE)
    ]


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    """Run it; see the module's first line."""
    parser = argparse.ArgumentParser(prog="python -m bench.parquet")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--compression", choices=tuple(parquet.COMPRESSIONS), default="zstd")
    given = parser.parse_args()
    chance = random.Random(1)  # noqa: S311 - the same rows every time
    pages = [_page(_PAGE * number, chance) for number in range(_PAGES)]
    stream = parquet.Stream(_COLUMNS, given.compression)
    before, cpu, clock = _peak(), time.process_time(), time.perf_counter()
    size = sum(len(stream.encode(pages[number % _PAGES])) for number in range(max(1, given.rows // _PAGE)))
    size += len(stream.end())
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    rows = _PAGE * max(1, given.rows // _PAGE)
    row_bytes = sum(len(row) for page in pages for row in page) / (_PAGE * _PAGES)
    print(
        f"{rows:,} rows of {row_bytes:.0f} bytes as CSV, {given.compression}: {rows / cpu:,.0f} rows/s of CPU, "
        f"{rows / clock:,.0f} rows/s by the clock, {size / rows:.0f} bytes a row, "
        f"+{(_peak() - before) / 1e6:.0f} MB at its peak"
    )


if __name__ == "__main__":
    main()
