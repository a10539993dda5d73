"""`python -m bench [--rows N] [--repeat N] [--only NAME,…] [--cold] [--memory | --search | --latency] [--json FILE]`: 0
if it measured."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from bench.course import Course, Lap
from bench.latency import latency
from bench.search import search
from bench.watch import Longest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

PIPE: Final = "psql | kcat"
KAFKA: Final = "Kafka, exactly once"
FILES: Final = "files"
_CONTENDERS: Final[Mapping[str, Callable[[Course], Awaitable[Lap]]]] = {
    PIPE: lambda course: course.pipe(),
    f"{KAFKA}, 1 split": lambda course: course.kafka(1),
    f"{KAFKA}, 2 splits": lambda course: course.kafka(2),
    f"{FILES}, 1 split": lambda course: course.file(1),
}
_MEMORY_FACTOR: Final = 5


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Our jobs beside psql | kcat.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default 1,000,000)")
    parser.add_argument("--repeat", type=int, default=3, help="laps of each, interleaved; medians count (default 3)")
    parser.add_argument("--only", default="", help="parts of names, separated by commas: pipe is 'psql'")
    parser.add_argument("--cold", action="store_true", help="without the lap of each that does not count")
    parser.add_argument("--memory", action="store_true", help=f"peak memory for --rows and {_MEMORY_FACTOR} times that")
    parser.add_argument("--search", action="store_true", help="pages of the job log over --rows stored runs")
    parser.add_argument("--latency", action="store_true", help="delay from commit to a reader of Kafka, beside writers")
    parser.add_argument("--seconds", type=float, default=20, help="of each lap of --latency (default 20)")
    parser.add_argument("--json", type=Path, help="write every lap to this file")
    given = parser.parse_args()
    if given.rows < 1 or given.repeat < 1:
        parser.error("--rows and --repeat are at least 1")
    return given


def _chosen(only: str) -> list[str]:
    parts = [part.strip().lower() for part in only.split(",") if part.strip()]
    names = [name for name in _CONTENDERS if not parts or any(part in name.lower() for part in parts)]
    if PIPE in names and shutil.which("kcat") is None:
        names.remove(PIPE)
        print(
            "kcat is not installed (Debian: apt-get install kcat): the pipe is skipped, and nothing compared with it."
        )
    return names


async def _race(rows: int, repeat: int, names: Sequence[str], *, cold: bool) -> dict[str, list[Lap]]:
    async with Course(rows) as course:
        print(f"{rows:,} rows of {course.row_bytes:.0f} bytes as JSON, {repeat} laps each, interleaved; medians\n")
        laps: dict[str, list[Lap]] = {name: [] for name in names}
        if not cold:
            print("  first a lap each that does not count: a broker compiles its code while it runs", flush=True)
            for name in names:
                await _CONTENDERS[name](course)
        for number in range(1, repeat + 1):
            for name in names:
                lap = await _CONTENDERS[name](course)
                laps[name].append(lap)
                print(f"  lap {number}  {name:32} {lap.rows_per_second:>9,.0f} rows/s", flush=True)
        return laps


def _medians(laps: Sequence[Lap]) -> Lap:
    cpu = [lap.cpu_micros for lap in laps if lap.cpu_micros is not None]
    peak = [lap.peak_rss for lap in laps if lap.peak_rss is not None]
    # The source is protected always or not at all: here the worst counts.
    worst = Longest(max(lap.longest.statement for lap in laps), max(lap.longest.transaction for lap in laps))
    rate = median(lap.rows_per_second for lap in laps)
    return Lap(rate, worst, median(cpu) if cpu else None, int(median(peak)) if peak else None)


def _table(results: Mapping[str, Lap]) -> None:
    pipe = results.get(PIPE)
    print(
        f"\n{'':32} {'rows/s':>9} {'of the pipe':>11} {'CPU µs/row':>10} {'peak RSS':>9}"
        f" {'statement':>10} {'transaction':>11}"
    )
    for name, lap in results.items():
        ratio = f"{lap.rows_per_second / pipe.rows_per_second:.2f}" if pipe is not None else "-"
        cpu = f"{lap.cpu_micros:.2f}" if lap.cpu_micros is not None else "-"
        peak = f"{lap.peak_rss / 1e6:.0f} MB" if lap.peak_rss is not None else "-"
        print(
            f"{name:32} {lap.rows_per_second:>9,.0f} {ratio:>11} {cpu:>10} {peak:>9}"
            f" {lap.longest.statement:>8.2f} s {lap.longest.transaction:>9.2f} s"
        )
    print("\nCPU and memory: the service's alone. Statement and transaction: the longest of all laps on the source.")


async def _memory(rows: int) -> dict[str, list[Lap]]:
    print(f"Peak memory of the service with one split, for {rows:,} and {_MEMORY_FACTOR * rows:,} rows\n")
    laps: dict[str, list[Lap]] = {}
    for count in (rows, _MEMORY_FACTOR * rows):
        async with Course(count) as course:
            lap = await course.kafka(1)
        laps[f"{count:,} rows"] = [lap]
        print(
            f"  {count:>12,} rows  {(lap.peak_rss or 0) / 1e6:>6.1f} MB  {lap.rows_per_second:>9,.0f} rows/s",
            flush=True,
        )
    few, many = (one[0].peak_rss or 0 for one in laps.values())
    print(f"\n  {many / few - 1:+.1%} with {_MEMORY_FACTOR} times the rows")
    return laps


async def _run(given: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if given.search:
        times = await search(given.rows)
        if given.json is not None:
            given.json.write_text(json.dumps({"runs": given.rows, "milliseconds": times}, indent=1) + "\n")
        return
    if given.latency:
        delays = await latency(given.seconds, laps=given.repeat)
        if given.json is not None:
            given.json.write_text(json.dumps(delays, indent=1) + "\n")
        return
    if given.memory:
        laps = await _memory(given.rows)
    else:
        laps = await _race(given.rows, given.repeat, _chosen(given.only), cold=given.cold)
        _table({name: _medians(each) for name, each in laps.items()})
    if given.json is not None:
        facts = {"python": platform.python_version(), "cores": os.cpu_count(), "rows": given.rows}
        each = {name: [asdict(lap) for lap in several] for name, several in laps.items()}
        given.json.write_text(json.dumps({**facts, "laps": each}, indent=1) + "\n")


def main() -> int:
    """Run it; see the module's first line."""
    given = _arguments()
    try:
        asyncio.run(_run(given))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nInterrupted. Everything that was started is gone.")
        return 130
    except (RuntimeError, AssertionError, OSError, subprocess.SubprocessError) as error:
        print(f"\nNothing was measured: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
