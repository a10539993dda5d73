"""The servers, and one lap of each contender over them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from bench import table, watch
from tests.support.kafka import KafkaServer
from tests.support.postgres import PostgresServer
from tests.support.service import ServiceProcess
from tests.support.topics import topic_ends

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_LONGEST_LAP_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Lap:
    """One lap. `cpu_micros`, `peak_rss` and `resting_rss` are the service's alone, None for the pipe."""

    rows_per_second: float
    longest: watch.Longest
    cpu_micros: float | None = None
    peak_rss: int | None = None
    resting_rss: int | None = None
    """Before the job began."""


class Course:
    """An async context manager around Postgres, with a table of `rows` rows in it, and Kafka where it is wanted; all
    gone afterwards."""

    def __init__(
        self, rows: int, *, kafka: bool = True, make: Callable[[str, int], Awaitable[float]] = table.make
    ) -> None:
        """`make` makes the table of so many rows in a database, under the name that all of them have."""
        self.rows = rows
        self._make = make
        self._with_kafka = kafka
        self.row_bytes = 0.0
        self.folder = Path(tempfile.mkdtemp(prefix="rowferry-bench-"))
        self.folder.chmod(0o711)  # Postgres runs as another user when we are root
        self._laps = 0
        # As a production server would keep the service's own tables.
        self._postgres = PostgresServer(
            folder=self.folder / "postgres",
            fsync=True,
            settings={"shared_buffers": "256MB", "max_wal_size": "4GB", **watch.SETTINGS},
        )
        self._kafka = KafkaServer(folder=self.folder / "kafka")
        self.source = ""

    async def __aenter__(self) -> Self:
        """Start both and fill the table."""
        try:
            self._postgres.start()
            if self._with_kafka:
                await self._kafka.start_async()
            self.source = await self._postgres.create_database("bench")
            self.row_bytes = await self._make(self.source, self.rows)
            await self._log_statements()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the servers and remove their data."""
        self._kafka.close()
        self._postgres.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def pipe(self) -> Lap:
        """The command `psql -c "COPY (SELECT row_to_json…) TO STDOUT" | kcat -P`."""
        topic = await asyncio.to_thread(self._kafka.create_topic)
        log = self._log()
        seconds = await asyncio.to_thread(self._pipe, topic)
        ends = await asyncio.to_thread(topic_ends, self._kafka.bootstrap, topic)
        self._require(sum(end.high for end in ends.values()))
        await asyncio.to_thread(self._kafka.delete_topic, topic)
        return Lap(self.rows / seconds, log.longest())

    async def kafka(self, splits: int) -> Lap:
        """Our job, exactly once."""
        topic = await asyncio.to_thread(self._kafka.create_topic)
        sink = {"kind": "kafka", "bootstrap_servers": self._kafka.bootstrap, "topic": topic, "delivery": "exactly_once"}
        lap = await self.job(sink, splits)
        await asyncio.to_thread(self._kafka.delete_topic, topic)
        return lap

    async def file(self, splits: int, form: Mapping[str, Any] | None = None) -> Lap:
        """Our job into files; JSON lines, unless `form` is another format of a job."""
        return await self.job({"kind": "file", "path": "bench"}, splits, form)

    async def command(self, *arguments: str | Path, into: Path | None = None) -> Lap:
        """A program that copies the table, timed from its start to its end; its output goes to `into`."""
        log, began = self._log(), time.monotonic()
        await asyncio.to_thread(_run, arguments, into)
        return Lap(self.rows / (time.monotonic() - began), log.longest())

    async def database(self) -> str:
        """A new and empty one beside the table's."""
        return await self._postgres.create_database()

    def psql(self, copy: str) -> tuple[str | Path, ...]:
        """The command that runs a COPY … TO STDOUT of the table."""
        return (self._postgres.program("psql"), "-X", "-q", "-d", self.source, "-c", copy)

    async def job(self, sink: Mapping[str, Any], splits: int, form: Mapping[str, Any] | None = None) -> Lap:
        """Our job. A service of its own for each lap: its peak memory is then the lap's."""
        self._laps += 1
        control = await self.database()
        folder = self.folder / f"service-{self._laps}"
        spec: dict[str, Any] = {
            "name": "bench",
            "source": {"datasource": "bench", "table": table.NAME},
            "sink": dict(sink),
            "options": {"splits": splits},
        }
        if form is not None:
            spec["format"] = dict(form)
        try:
            async with ServiceProcess(control, folder=folder) as service, service.client() as api:
                await api.put_datasource("bench", self.source)
                await api.create(spec)
                log, cpu, resting, began = self._log(), service.cpu_seconds(), service.rss_bytes(), time.monotonic()
                await api.start("bench", wait=60)  # answered when the run has ended, or then
                job = await api.wait_for_state("bench", "successful", timeout=_LONGEST_LAP_SECONDS)
                seconds = time.monotonic() - began
                cpu, peak = service.cpu_seconds() - cpu, service.peak_rss_bytes()
                self._require(job["totals"]["rows_sent"])
            return Lap(self.rows / seconds, log.longest(), cpu * 1e6 / self.rows, peak, resting)
        finally:
            await self._postgres.drop_database(control)
            shutil.rmtree(folder, ignore_errors=True)

    def _pipe(self, topic: str) -> float:
        copy = f"COPY (SELECT row_to_json(t) FROM {table.NAME} t) TO STDOUT"
        began = time.monotonic()
        with subprocess.Popen(self.psql(copy), stdout=subprocess.PIPE) as reader:
            kcat = ["kcat", "-P", "-q", "-b", self._kafka.bootstrap, "-t", topic]
            subprocess.run(kcat, stdin=reader.stdout, check=True, timeout=_LONGEST_LAP_SECONDS)
        if reader.returncode:
            raise RuntimeError(f"psql ended with {reader.returncode}")
        return time.monotonic() - began

    def _log(self) -> watch.SourceLog:
        return watch.SourceLog(self._postgres.log, table.NAME)

    def _require(self, rows: int) -> None:
        if rows != self.rows:
            raise RuntimeError(f"{rows:,} rows arrived instead of {self.rows:,}: nothing was measured")

    async def _log_statements(self) -> None:
        connection = await asyncpg.connect(self._postgres.dsn())
        try:
            for name, value in watch.DATABASE_SETTINGS.items():
                await connection.execute(f"ALTER DATABASE {table.NAME} SET {name} = {value}")
        finally:
            await connection.close()


def _run(arguments: Sequence[str | Path], into: Path | None) -> None:
    with contextlib.ExitStack() as stack:
        output = subprocess.DEVNULL if into is None else stack.enter_context(into.open("wb"))
        done = subprocess.run(
            arguments, stdout=output, stderr=subprocess.PIPE, check=False, timeout=_LONGEST_LAP_SECONDS
        )
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"{Path(arguments[0]).name} ended with {done.returncode}: {said}")
