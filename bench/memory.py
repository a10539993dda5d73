"""`python -m bench.files --memory [--rows N] [--only NAME,…]`: the service's peak memory, whatever the table holds.

Jobs into S3 and files over four tables: many rows, rows of a megabyte, small rows before rows of a megabyte, and many
columns. Each job has a service of its own; over `MOST_BYTES` is a failure.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bench import table
from bench.course import Course

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bench.course import Lap
    from tests.support.s3 import S3Server

MOST_BYTES: Final = 200 * 10**6
"""What one job may take, the service itself included."""
LARGE_ROWS: Final = 300
WIDE_ROWS: Final = 200_000
TARGETS: Final[Mapping[str, tuple[bool, dict[str, Any]]]] = {
    "S3 JSON lines": (True, {"kind": "json"}),
    "S3 JSON lines gzip": (True, {"kind": "json", "compression": "gzip"}),
    "S3 CSV": (True, {"kind": "csv"}),
    "S3 Parquet": (True, {"kind": "parquet"}),
    "files JSON lines": (False, {"kind": "json"}),
    "files Parquet": (False, {"kind": "parquet"}),
}
"""Whether it is in S3, and the job's format."""


class Measured(NamedTuple):
    """One job over one table."""

    table: str
    target: str
    lap: Lap

    @property
    def fits(self) -> bool:
        """Within what one job may take."""
        return (self.lap.peak_rss or 0) < MOST_BYTES


def tables(rows: int) -> dict[str, tuple[int, Callable[[str, int], Awaitable[float]]]]:
    """Each table by what is hard about it: how many rows, and what makes it."""
    return {
        f"{rows:,} rows": (rows, table.make),
        "rows of 1 MB": (LARGE_ROWS, table.make_large),
        f"{table.SMALL_BEFORE:,} small rows, then 1 MB": (table.SMALL_BEFORE + LARGE_ROWS, table.make_mixed),
        "100 columns": (min(rows, WIDE_ROWS), table.make_wide),
    }


async def measure(rows: int, store: S3Server | None, parts: list[str]) -> list[Measured]:
    """Every job whose table or target holds one of `parts` in its name, all without any; printed as they come."""
    found: list[Measured] = []
    for name, (count, make) in tables(rows).items():
        chosen = [
            target
            for target in TARGETS
            if (store is not None or not TARGETS[target][0])
            and (not parts or any(part in f"{name}: {target}".lower() for part in parts))
        ]
        if not chosen:
            continue
        async with Course(count, kafka=False, make=make) as course:
            for target in chosen:
                lap = await lap_of(course, store, target)
                found.append(Measured(name, target, lap))
                rate = f"{lap.rows_per_second:>9,.0f} rows/s, {(lap.cpu_micros or 0) * count / 1e6:>6.1f} s of CPU"
                print(f"  {name:32} {target:22} {(lap.peak_rss or 0) / 1e6:>6.1f} MB  {rate}", flush=True)
    return found


async def lap_of(course: Course, store: S3Server | None, target: str) -> Lap:
    """One job over the course's table into one of `TARGETS`, which is emptied afterwards."""
    objects, form = TARGETS[target]
    if not objects:
        try:
            return await course.file(1, form)
        finally:
            await asyncio.to_thread(shutil.rmtree, course.folder / "out", ignore_errors=True)
    assert store is not None, "chosen only then"
    bucket = await asyncio.to_thread(store.create_bucket)
    try:
        return await course.job(store.definition(bucket), 1, form)
    finally:
        await asyncio.to_thread(shutil.rmtree, store.data / bucket, ignore_errors=True)
