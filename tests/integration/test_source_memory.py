"""What reading holds in memory, seen by the process that reads: wide tables, long rows, and one that is far too long.

The long form, over as many rows as ROWFERRY_TEST_WIDE_MB says, reads gigabytes in the same memory.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.integration.source_cases import connected

MIB = 1024 * 1024
ROOT = Path(__file__).resolve().parents[2]
WIDE_MB = int(os.environ.get("ROWFERRY_TEST_WIDE_MB", "150"))
MOST_RSS = 200 * MIB
READ = """
import asyncio, sys
from pathlib import Path
from service.domain.errors import RowsRejected
from tests.integration.source_cases import source

def peak():
    # Not ru_maxrss: a child begins with its parent's, and the suite itself is larger by then.
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

async def main():
    rows = size = 0
    dead, after = [], None
    async with source(sys.argv[1], "t") as made:
        reader = made.reader()
        while True:
            try:
                page = await reader.read(after, None)
            except RowsRejected as error:
                dead.append((error.code, error.key[0]))
                after = error.key
                continue
            rows, size = rows + len(page.values), size + page.size
            if page.end:
                break
            after = page.scanned_to
    print(rows, size, peak(), *(f"{code}:{key}" for code, key in dead))

asyncio.run(main())
"""
TABLES: dict[str, tuple[str, list[str]]] = {
    "a hundred columns": (
        (
            f"CREATE TABLE t (id int PRIMARY KEY, {', '.join(f'c{n} int' for n in range(99))});"
            f"INSERT INTO t SELECT i{', i' * 99} FROM generate_series(1, {WIDE_MB * 150}) AS i"
        ),
        [],
    ),
    "rows of a megabyte after narrow ones": (
        (
            "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;"
            "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 20000) AS i;"
            f"INSERT INTO t SELECT 20000 + i, repeat('x', 1000000) FROM generate_series(1, {WIDE_MB}) AS i"
        ),
        [],
    ),
    "one row of 300 MB among others": (
        (
            "CREATE TABLE t (id int PRIMARY KEY, v text);"
            "INSERT INTO t SELECT i, CASE i WHEN 500 THEN repeat('z', 300000000) ELSE repeat('x', 1000) END"
            " FROM generate_series(1, 1000) AS i"
        ),
        ["row_too_large:500"],
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TABLES)
async def test_reading_stays_under_200_mb(database: str, name: str) -> None:
    setup, dead = TABLES[name]
    async with connected(database) as connection:
        await connection.execute(setup)
        expected = await connection.fetchval("SELECT count(*) FROM t") - len(dead)
        longest = await connection.fetchval("SELECT sum(octet_length(t::text)) FROM t WHERE id <> 500")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READ, database,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, failed = await child.communicate()
    assert child.returncode == 0, failed.decode()
    rows, size, peak, *rejected = said.decode().split()
    assert (int(rows), rejected) == (expected, dead)
    assert int(size) > longest
    assert int(peak) < MOST_RSS, f"{int(peak) / MIB:.0f} MiB"
