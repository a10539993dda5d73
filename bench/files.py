"""`python -m bench.files [--rows N] [--repeat N] [--only NAME,…] [--peers | --memory]`: jobs into files and S3 beside
psql's COPY.

Each of ours is compared with the reference of its format: psql's own COPY into a file, with `--peers` also sling and
dlt with connectorx, which are installed for it.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench import memory, table
from bench.course import Course, Lap
from bench.peers import NoPeers, Peers
from tests.support.s3 import NoGo, S3Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

JSON_COPY: Final = f"COPY (SELECT row_to_json(t) FROM {table.NAME} t) TO STDOUT"
CSV_COPY: Final = f"COPY {table.NAME} TO STDOUT (FORMAT csv, HEADER)"
PSQL_JSON: Final = "psql COPY row_to_json"
PSQL_CSV: Final = "psql COPY csv"
PSQL_GZIP: Final = "psql COPY csv | gzip"
SLING_CSV: Final = "sling csv"
DLT_PARQUET: Final = "dlt connectorx parquet"
FILES_JSON: Final = "files, JSON lines"
S3_JSON: Final = "S3, JSON lines"
TWO: Final = ", 2 splits"

OURS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    FILES_JSON: (PSQL_JSON, {"kind": "json"}),
    FILES_JSON + TWO: (PSQL_JSON, {"kind": "json"}),
    "files, CSV": (PSQL_CSV, {"kind": "csv"}),
    "files, CSV" + TWO: (PSQL_CSV, {"kind": "csv"}),
    "files, CSV, gzip": (PSQL_GZIP, {"kind": "csv", "compression": "gzip"}),
    "files, Parquet": (DLT_PARQUET, {"kind": "parquet"}),
}
"""What it is compared with, and the format of the job. One split where the name says nothing else."""
OBJECTS: Final[Mapping[str, str]] = {S3_JSON: FILES_JSON, S3_JSON + TWO: FILES_JSON + TWO}
"""Jobs into S3, each with the job into files that it is compared with."""


class Contenders:
    """Everything that can run on a course, by name."""

    def __init__(self, course: Course, store: S3Server | None, peers: Peers | None) -> None:
        self._course, self._store = course, store
        self._folder = course.folder / "out"
        psql, file = course.psql, self._folder / "table"
        gzip = " ".join(f"'{part}'" for part in psql(CSV_COPY)) + f" | gzip > {file}.gz"
        self.known: dict[str, Callable[[], Awaitable[Lap]]] = {
            PSQL_JSON: lambda: course.command(*psql(JSON_COPY), into=file),
            PSQL_CSV: lambda: course.command(*psql(CSV_COPY), into=file),
            PSQL_GZIP: lambda: course.command("sh", "-c", gzip),
        }
        if peers is not None:
            sling = peers.sling(course.source, table.NAME, file.with_suffix(".csv"))
            self.known[SLING_CSV] = partial(course.command, *sling)
            self.known[DLT_PARQUET] = partial(course.command, *peers.dlt(course.source, table.NAME, self._folder))
        for name, (_, form) in OURS.items():
            self.known[name] = partial(course.file, _splits(name), form)
        if store is not None:
            self.known |= {name: partial(self._s3, store, _splits(name)) for name in OBJECTS}

    async def lap(self, name: str) -> Lap:
        """One lap in an empty folder."""
        self._folder.mkdir()
        try:
            return await self.known[name]()
        finally:
            await asyncio.to_thread(shutil.rmtree, self._folder)

    async def _s3(self, store: S3Server, splits: int) -> Lap:
        bucket = await asyncio.to_thread(store.create_bucket)
        try:
            return await self._course.job(store.definition(bucket), splits)
        finally:
            await asyncio.to_thread(shutil.rmtree, store.data / bucket, ignore_errors=True)


def _splits(name: str) -> int:
    return 2 if name.endswith(TWO) else 1


async def _race(given: argparse.Namespace, store: S3Server | None, peers: Peers | None) -> dict[str, list[Lap]]:
    async with Course(given.rows, kafka=False) as course:
        contenders = Contenders(course, store, peers)
        parts = [part.strip().lower() for part in given.only.split(",") if part.strip()]
        names = [name for name in contenders.known if not parts or any(part in name.lower() for part in parts)]
        print(f"{given.rows:,} rows of {course.row_bytes:.0f} bytes as JSON, {given.repeat} laps each, interleaved\n")
        laps: dict[str, list[Lap]] = {name: [] for name in names}
        for number in range(1, given.repeat + 1):
            for name in names:
                lap = await contenders.lap(name)
                laps[name].append(lap)
                print(f"  lap {number}  {name:32} {lap.rows_per_second:>9,.0f} rows/s", flush=True)
        return laps


def _rates(laps: Mapping[str, Sequence[Lap]]) -> dict[str, float]:
    return {name: median(lap.rows_per_second for lap in each) for name, each in laps.items() if each}


def _table(laps: Mapping[str, Sequence[Lap]]) -> None:
    rates = _rates(laps)
    print(f"\n{'medians':32} {'rows/s':>9} {'CPU µs/row':>10} {'peak RSS':>9}   compared")
    for name, each in laps.items():
        cpu = [lap.cpu_micros for lap in each if lap.cpu_micros is not None]
        peak = [lap.peak_rss for lap in each if lap.peak_rss is not None]
        ours = f"{median(cpu):>10.2f} {median(peak) / 1e6:>6.0f} MB" if cpu and peak else f"{'-':>10} {'-':>9}"
        print(f"{name:32} {rates[name]:>9,.0f} {ours}   {_compared(name, rates)}")
    print("\nCPU and memory: the service's alone.")


def _compared(name: str, rates: Mapping[str, float]) -> str:
    others = [OURS[name][0]] if name in OURS else [OBJECTS[name]] if name in OBJECTS else []
    if name in {"files, CSV", "files, Parquet"}:
        others.append(SLING_CSV)
    return ", ".join(f"{rates[name] / rates[other]:.2f} of {other}" for other in others if other in rates)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.files", description="Our jobs beside psql's COPY.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default 1,000,000)")
    parser.add_argument("--repeat", type=int, default=3, help="laps of each, interleaved; medians count (default 3)")
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--memory", action="store_true", help="peak memory instead, over tables that are hard on it")
    parser.add_argument("--peers", action="store_true", help="also sling and dlt with connectorx, installed for it")
    given = parser.parse_args()
    if given.rows < 1 or given.repeat < 1:
        parser.error("--rows and --repeat are at least 1")
    return given


def _store(folder: Path | None = None) -> S3Server | None:
    server = S3Server(folder)
    try:
        return server.start()
    except NoGo as error:
        print(f"S3 is skipped: {error}")
        return None


def main() -> int:
    """Run it; see the module's first lines."""
    given = _arguments()
    store = None
    try:
        store = _store()
        if given.memory:
            parts = [part.strip().lower() for part in given.only.split(",") if part.strip()]
            measured = asyncio.run(memory.measure(given.rows, store, parts))
            return 0 if measured and all(one.fits for one in measured) else 1
        peers = Peers() if given.peers else None
        _table(asyncio.run(_race(given, store, peers)))
    except KeyboardInterrupt:
        print("\nInterrupted. Everything that was started is gone.")
        return 130
    except (NoPeers, RuntimeError, AssertionError, OSError, subprocess.SubprocessError) as error:
        print(f"\nNothing was measured: {error}", file=sys.stderr)
        return 1
    finally:
        if store is not None:
            store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
