"""How long a committed row takes until a `read_committed` reader of Kafka has it, while others write.

Writers are pgbench's, so that they cost little; when a row was committed is the server's own word
(`track_commit_timestamp`), when it could be read is that of a reader in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final, Self

import asyncpg
from confluent_kafka import Consumer

from tests.support.kafka import KafkaServer
from tests.support.postgres import PostgresServer
from tests.support.service import ServiceProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

POLL_SECONDS: Final = 0.05
WRITERS: Final = 8
COMMITS_PER_SECOND: Final = 2000
HOLDERS: Final = 4
LONGEST_HOLD: Final = 0.4
_WARM_UP_SECONDS: Final = 2.0
_CATCH_UP_SECONDS: Final = 120.0
_TABLES: Final = {"commit": "rows", "none": "other"}
"""By the safety of the job that follows it."""
_TABLE: Final = "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind int, note text)"
_SHORT: Final = """\
\\set pause random(0, 2)
BEGIN;
INSERT INTO rows (kind, note) VALUES (0, repeat('x', 100));
\\sleep :pause ms
COMMIT;
"""
_HOLD: Final = f"""\
\\set pause random(0, {int(LONGEST_HOLD * 1000)})
BEGIN;
INSERT INTO rows (kind, note) VALUES (1, repeat('x', 100));
\\sleep :pause ms
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds from commit to reader, over all rows of a lap but the first two seconds'."""

    rows: int
    commits_per_second: float
    median: float
    p99: float
    longest: float


class Latency:
    """An async context manager around Postgres, Kafka and the service, with a job of each safety on a table."""

    def __init__(self) -> None:
        self.topics: dict[str, str] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="rowferry-latency-"))
        self._folder.chmod(0o711)  # Postgres runs as another user when we are root
        settings = {"track_commit_timestamp": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}
        self._postgres = PostgresServer(fsync=True, settings=settings)
        self._kafka = KafkaServer()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Everything runs and the job is at the table's end."""
        try:
            self._stack.callback(self._postgres.close)
            self._postgres.start()
            self._stack.callback(self._kafka.close)
            await self._kafka.start_async()
            self.source = await self._postgres.create_database("rows")
            self.connection = await asyncpg.connect(self.source)
            self._stack.push_async_callback(self.connection.close)
            for table in _TABLES.values():
                await self.connection.execute(f"{_TABLE.format(table)}; INSERT INTO {table} (kind) VALUES (0)")
            control = await self._postgres.create_database()
            self.service = await self._stack.enter_async_context(ServiceProcess(control))
            for safety in _TABLES:
                await self._follow(safety)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        await self._stack.aclose()

    async def _follow(self, safety: str) -> None:
        self.topics[safety] = await asyncio.to_thread(self._kafka.create_topic)
        spec = {
            "name": safety,
            "mode": "continuous",
            "source": {"datasource": "rows", "table": f"public.{_TABLES[safety]}"},
            "sink": {"kind": "kafka", "bootstrap_servers": self._kafka.bootstrap, "topic": self.topics[safety]},
            "options": {"safety": {"kind": safety}, "poll_seconds": POLL_SECONDS, "chunk": {"seconds": 0.05}},
        }
        async with self.service.client() as api:
            await api.put_datasource("rows", self.source)
            await api.create(spec, start=True)
            await api.wait_for_rows(safety, 1, timeout=_CATCH_UP_SECONDS)

    async def delays(self, seconds: float, *, holders: int = 0) -> Delays:
        """Write for so long and read beside; `holders` more writers keep each row for up to 0.4 s."""
        before = await self.connection.fetchval("SELECT max(id) FROM rows")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        reader = multiprocessing.get_context("spawn").Process(
            target=_read, args=(self._kafka.bootstrap, self.topics["commit"], theirs), daemon=True
        )
        reader.start()
        try:
            assert await asyncio.to_thread(ours.recv) == "ready"
            began = time.time()
            await asyncio.gather(
                self._write(_SHORT, WRITERS, seconds, COMMITS_PER_SECOND), self._hold(holders, seconds)
            )
            last = await self.connection.fetchval("SELECT max(id) FROM rows")
            ours.send(last)
            arrived: dict[int, float] = await asyncio.wait_for(asyncio.to_thread(ours.recv), _CATCH_UP_SECONDS)
        finally:
            reader.terminate()
            reader.join()
        committed = await self.connection.fetch(
            "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM rows WHERE id > $1",
            before,
        )
        missing = [row["id"] for row in committed if row["id"] not in arrived]
        if missing:
            raise RuntimeError(f"{len(missing)} rows did not arrive, the first {missing[0]}: nothing was measured")
        late = sorted(arrived[row["id"]] - row["at"] for row in committed if row["at"] > began + _WARM_UP_SECONDS)
        return Delays(len(late), len(committed) / seconds, median(late), quantiles(late, n=100)[98], late[-1])

    async def burst(self, safety: str, rows: int) -> float:
        """Rows a second, of many that come with one commit."""
        async with self.service.client() as api:
            sent = (await api.get(safety))["totals"]["rows_sent"]
            await self.connection.execute(
                f"INSERT INTO {_TABLES[safety]} (kind, note) SELECT 2, repeat('x', 100)"
                " FROM generate_series(1, $1::int)",
                rows,
            )
            began = time.monotonic()

            async def arrived() -> bool:
                return bool((await api.get(safety))["totals"]["rows_sent"] >= sent + rows)

            await until(arrived, _CATCH_UP_SECONDS, "the burst is delivered")
        return rows / (time.monotonic() - began)

    async def _hold(self, holders: int, seconds: float) -> None:
        if holders:
            await self._write(_HOLD, holders, seconds, None)

    async def _write(self, script: str, clients: int, seconds: float, rate: int | None) -> None:
        path = self._folder / f"{clients}.sql"
        path.write_text(script)
        # one thread for each client: a thread that sleeps holds up nobody else's commit
        command = ["-n", "-c", str(clients), "-j", str(clients), "-T", str(max(1, round(seconds))), "-f", str(path)]
        if rate is not None:
            command += ["-R", str(rate)]
        process = await asyncio.create_subprocess_exec(
            self._postgres.program("pgbench"),
            *command,
            self.source,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"pgbench ended with {process.returncode}: {said.decode()[-500:]}")


def _read(bootstrap: str, topic: str, told: Connection) -> None:
    """When each id could first be read; ends when it has the id that it is told."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"latency-{time.time_ns()}",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.subscribe([topic])
    arrived: dict[int, float] = {}
    wanted: int | None = None
    ready = False
    while wanted is None or wanted not in arrived:
        for message in consumer.consume(500, timeout=0.02):
            if message.error() is None:
                arrived.setdefault(int(json.loads(message.value() or b"")["id"]), time.time())
        if not ready and arrived:
            ready = True
            told.send("ready")
        if told.poll():
            wanted = told.recv()
    told.send(arrived)
    consumer.close()


async def latency(seconds: float, *, burst_rows: int = 200_000, laps: int = 3) -> dict[str, dict[str, float]]:
    """Print what was measured; the same by name."""
    found: dict[str, dict[str, float]] = {}
    print(
        f"Delay from commit to reader, {POLL_SECONDS * 1000:.0f} ms polls, {WRITERS} writers, up to "
        f"{COMMITS_PER_SECOND:,} commits/s, {seconds:.0f} s each\n"
    )
    print(f"{'':34} {'rows':>8} {'commits/s':>10} {'median':>8} {'p99':>8} {'longest':>8}")
    rates: dict[str, list[float]] = {safety: [] for safety in _TABLES}
    async with Latency() as course:
        for name, holders in ((f"{WRITERS} writers", 0), (f"and {HOLDERS} that hold up to 0.4 s", HOLDERS)):
            delays = await course.delays(seconds, holders=holders)
            shown = " ".join(f"{1000 * each:>5.0f} ms" for each in (delays.median, delays.p99, delays.longest))
            print(f"{name:34} {delays.rows:>8,} {delays.commits_per_second:>10,.0f} {shown}", flush=True)
            found[name] = {"median": delays.median, "p99": delays.p99, "longest": delays.longest}
        for _ in range(laps):
            for safety, each in rates.items():
                each.append(await course.burst(safety, burst_rows))
    for safety, each in rates.items():
        found[f"burst, safety {safety}"] = {"rows_per_second": max(each)}
    with_it, without = max(rates["commit"]), max(rates["none"])
    print(
        f"\nA burst of {burst_rows:,} rows, best of {laps}, interleaved: {with_it:,.0f} rows/s with the barrier,"
        f" {without:,.0f} without: it costs {1 - with_it / without:+.1%}"
    )
    return found
