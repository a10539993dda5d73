"""
What arrived against what the table holds: every key once, in order within its split, values exact.

Independent of the product: keys are ordered by Postgres, topics are read by librdkafka, files by the standard
library and zstandard.

    expected = await expected_rows(dsn, "flights", ("id",), values=True)
    report = reconcile(kafka_rows(kafka.bootstrap, topic, ("id",)), expected)
    assert report.exact, report.describe()
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import zstandard
from pyarrow.parquet import ParquetFile

from tests.support.topics import iterate_topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

Key = tuple[str | None, ...]
_SHOWN = 5
# Pinned as the product pins them (workers/sources/connection.py): the text of a value depends on them.
_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}


class Delivered(NamedTuple):
    """One row as a reader of the target found it. Order counts within a `lane` (a partition, or the files)."""

    lane: str
    key: Key
    value: bytes


@dataclass(frozen=True)
class Expected:
    """The table: the rank of each key in Postgres's order, the digest of each row, the ranks where splits end."""

    ranks: dict[Key, int]
    digests: list[bytes] | None
    ends: tuple[int, ...]


@dataclass
class Report:
    """The comparison. `doubled` maps a key to how often it came; lists hold every case, `describe` a few."""

    rows: int = 0
    expected: int = 0
    missing: list[Key] = field(default_factory=list)
    doubled: dict[Key, int] = field(default_factory=dict)
    unknown: list[Key] = field(default_factory=list)
    out_of_order: list[Key] = field(default_factory=list)
    wrong_values: list[Key] = field(default_factory=list)
    values_compared: bool = False

    @property
    def complete(self) -> bool:
        """Every key as often as it should be, no other key, values as in the table where compared."""
        return not (self.missing or self.doubled or self.unknown or self.wrong_values)

    @property
    def exact(self) -> bool:
        """Complete, and in order within each split."""
        return self.complete and not self.out_of_order

    def describe(self) -> str:
        """One line with counts and the first few of each kind."""
        parts = [f"{self.rows} rows delivered, {self.expected} expected"]
        for name in ("missing", "unknown", "out_of_order", "wrong_values"):
            cases: list[Key] = getattr(self, name)
            parts.append(f"{name} {len(cases)} {cases[:_SHOWN] or ''}".rstrip())
        parts.insert(2, f"doubled {len(self.doubled)} {dict(list(self.doubled.items())[:_SHOWN]) or ''}".rstrip())
        return "; ".join(parts)


async def expected_rows(
    dsn: str,
    table: str,
    key: Sequence[str] = ("id",),
    *,
    where: str = "true",
    values: bool = False,
    uppers: Sequence[Key] = (),
) -> Expected:
    """
    What the table holds now, in key order. Names and `where` are trusted SQL.

    `uppers`: the largest key of each split but the last, as the job's `position` shows them. `values`: keep a
    digest of `row_to_json` of each row, raw line breaks and tabs as blanks.
    """
    columns = ", ".join(f"to_json(source_.{name}) #>> '{{}}'" for name in key)
    order = ", ".join(f"source_.{name}" for name in key)
    value = "row_to_json(source_)::text" if values else "NULL"
    connection = await asyncpg.connect(dsn, server_settings=_SETTINGS)
    ranks: dict[Key, int] = {}
    digests: list[bytes] = []
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            query = f"SELECT {columns}, {value} FROM {table} source_ WHERE {where} ORDER BY {order}"
            async for row in connection.cursor(query, prefetch=5000):
                ranks[tuple(row[:-1])] = len(ranks)
                if values:
                    digests.append(_digest(re.sub("[\n\r\t]", " ", row[-1]).encode()))
            ends = []
            for upper in sorted_unique(uppers):
                literals = ", ".join("'" + str(part).replace("'", "''") + "'" for part in upper)
                below = f"SELECT count(*) FROM {table} source_ WHERE ({where}) AND ({order}) <= ({literals})"
                ends.append(int(await connection.fetchval(below)))
    finally:
        await connection.close()
    return Expected(ranks, digests if values else None, tuple(sorted(ends)))


def sorted_unique(keys: Iterable[Key]) -> list[Key]:
    """Each key once, in a stable order (not the order of the database)."""
    return sorted(set(keys), key=str)


def split_uppers(job: dict[str, object]) -> list[Key]:
    """The upper bounds of a job's splits, from its answer's `position`, for `expected_rows`."""
    position = job.get("position")
    splits = position.get("splits", []) if isinstance(position, dict) else []
    uppers = [split["upper"] for split in splits if split["upper"] is not None]
    return [tuple(upper) if isinstance(upper, list) else (str(upper),) for upper in uppers]


def reconcile(delivered: Iterable[Delivered], expected: Expected, *, times: int = 1) -> Report:
    """
    Compare; `times` is how often each key should have come (2 after one `from=beginning`).

    Out of order is a row whose key is not above the one before it in its lane and split, but for the
    `times - 1` new beginnings.
    """
    report = Report(expected=len(expected.ranks) * times, values_compared=expected.digests is not None)
    counts: Counter[Key] = Counter()
    last: dict[tuple[str, int], int] = {}
    beginnings: Counter[tuple[str, int]] = Counter()
    for row in delivered:
        report.rows += 1
        rank = expected.ranks.get(row.key)
        if rank is None:
            report.unknown.append(row.key)
            continue
        counts[row.key] += 1
        if expected.digests is not None and _digest(row.value) != expected.digests[rank]:
            report.wrong_values.append(row.key)
        lane = (row.lane, sum(rank >= end for end in expected.ends))
        if last.get(lane, -1) >= rank:
            beginnings[lane] += 1
            if beginnings[lane] >= times:
                report.out_of_order.append(row.key)
        last[lane] = rank
    report.missing = [key for key in expected.ranks if counts[key] < times]
    report.doubled = {key: count for key, count in counts.items() if count > times}
    return report


def kafka_rows(
    bootstrap: str, topic: str, key: Sequence[str] = ("id",), *, isolation: str = "read_committed", timeout: float = 120
) -> Iterator[Delivered]:
    """Every committed record, its key taken from the JSON value, in the order of its partition."""
    for record in iterate_topic(bootstrap, topic, isolation=isolation, timeout=timeout, headers=False):
        value = record.value or b""
        yield Delivered(f"partition {record.partition}", _key_of(value, key), value)


def file_rows(folder: Path, key: Sequence[str] = ("id",)) -> Iterator[Delivered]:
    """Every line of every visible file below `folder` by order of name (plain, .gz, .zst); `_` and `.` are hidden."""
    for path in visible_files(folder):
        for line in file_lines(path):
            yield Delivered("files", _key_of(line, key), line)


def visible_files(folder: Path) -> list[Path]:
    """The files that a reader of the folder takes, by order of name."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    hidden = ("_", ".")
    return sorted(p for p in found if not any(part.startswith(hidden) for part in p.relative_to(folder).parts))


def file_lines(path: Path) -> Iterator[bytes]:
    """The lines of one file without their ends; ValueError when the last one is cut off. Of a Parquet file its rows,
    as `row_to_json` would write them."""
    if path.suffix == ".parquet":
        yield from parquet_lines(path.read_bytes())
        return
    with path.open("rb") as raw:
        source: io.BufferedIOBase
        if path.suffix == ".gz":
            source = gzip.GzipFile(fileobj=raw)
        elif path.suffix == ".zst":
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            source = io.BufferedReader(reader)
        else:
            source = raw
        for line in source:
            if not line.endswith(b"\n"):
                raise ValueError(f"{path}: the last line has no end")
            yield line[:-1]


def lines_of(name: str, content: bytes) -> Iterable[bytes]:
    """The rows of one file that is not compressed, JSON lines or Parquet by its name."""
    return parquet_lines(content) if name.endswith(".parquet") else content.splitlines()


def parquet_lines(content: bytes) -> Iterator[bytes]:
    """The rows of a Parquet file of integers, texts and numerics (those without precision are texts there)."""
    table = ParquetFile(io.BytesIO(content), page_checksum_verification=True).read()
    names = [json.dumps(field.name) for field in table.schema]
    bare = [field.metadata[b"postgres_type"].startswith(b"numeric") for field in table.schema]
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        values = [str(value) if is_bare else json.dumps(value) for value, is_bare in zip(row, bare, strict=True)]
        yield ("{" + ",".join(map(":".join, zip(names, values, strict=True))) + "}").encode()


def _key_of(value: bytes, key: Sequence[str]) -> Key:
    row = json.loads(value, parse_int=str, parse_float=str)
    return tuple(str(part).lower() if isinstance(part, bool) else part for part in (row[name] for name in key))


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=8).digest()
