"""One source table, a service (or two), jobs over the table, and the proof at the end: the stage of every fault test.

Knows nothing of the kind of sink; a `Target` makes the sink part of a definition and reads back what readers see.

    job = await scenario.create("orders")
    hold = scenario.points.hold("visible", job_id=job.id, skip=2)
    await scenario.start(job)
    await happened(hold.reached, 20, "the third chunk is visible")
    scenario.service.kill()
    await scenario.service.start()
    await scenario.finish_and_reconcile(job)
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg

from tests.support.client import FINAL, Client
from tests.support.reconcile import Delivered, Key, expected_rows, reconcile, split_uppers
from tests.support.service import ServiceProcess
from tests.support.signalled import Hold, Points
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.proxy import FaultProxy
    from tests.support.reconcile import Report

LEASE_SECONDS = 3.0
ROWS = 1200
CHUNK_ROWS = 200
REACHED_SECONDS = 60.0
FINISH_SECONDS = 90.0
Json = dict[str, Any]


class Target(Protocol):
    """Where the jobs of a scenario deliver to."""

    def sink(self, job: str) -> Json:
        """The `sink` of a definition, with a place of its own for each job; watching begins here."""

    def rows(self, job: str) -> Sequence[Delivered]:
        """What readers see, in their order. Blocks."""

    def check_outputs(self, job: str, outputs: Sequence[Json], *, finished: bool = True) -> None:
        """Every output names a place whose rows are its rows, and no row is without one; else AssertionError.
        `finished`: the finish step of the last generation is done. It blocks."""

    def check_watch(self, job: str) -> None:
        """What was watched all the time was as promised; AssertionError else."""


@dataclass(eq=False)
class FaultJob:
    """A job of the scenario."""

    name: str
    id: str
    spec: Json
    table: str = "orders"
    uppers: set[Key] = field(default_factory=set)
    """Where the splits of all its generations end, as far as they were seen."""


class Scenario:
    """`async with Scenario(...)`: the table is there and the service runs."""

    def __init__(
        self,
        source_dsn: str,
        control_dsn: str,
        target: Target,
        *,
        rows: int = ROWS,
        lease_seconds: float = LEASE_SECONDS,
        datasource_dsn: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`datasource_dsn` is how the service reaches the source, where that is not `source_dsn`. `settings`: more of
        the service's."""
        self.source_dsn, self.target, self.row_count = source_dsn, target, rows
        self._datasource_dsn = datasource_dsn or source_dsn
        # A short path: a unix socket's name has 108 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="rowferry-fault-"))
        self.points = Points(self._folder / "signals")
        self.service = ServiceProcess(
            control_dsn,
            settings={
                "ROWFERRY_TEST_LEASE_SECONDS": str(lease_seconds),
                "ROWFERRY_MAX_RUNS": "64",
                "ROWFERRY_MAX_SPLITS": "64",
                "ROWFERRY_MAX_CONNECTIONS_PER_DATASOURCE": "48",
                "ROWFERRY_MEMORY_BYTES": str(4 * 1024**3),
                "ROWFERRY_RATE_LIMIT": "10000",
                **(settings or {}),
            },
            signals=self.points.path,
            module="tests.support.signalled",
            loaded=True,
        )
        self._others: list[ServiceProcess] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Make the table, listen to the points, start the service."""
        try:
            await self._fill()
            await self._stack.enter_async_context(self.points)
            await self.service.start()
            async with self.service.client() as api:
                await api.put_datasource("shop", self._datasource_dsn)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every service."""
        for service in [*self._others, self.service]:
            service.close()
        await self._stack.aclose()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _fill(self) -> None:
        connection = await asyncpg.connect(self.source_dsn)
        try:
            await connection.execute(
                "CREATE TABLE orders "
                "(id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, amount numeric, note text)"
            )
            await connection.execute(
                "INSERT INTO orders (amount, note) SELECT n * 1.25, 'note ' || n FROM generate_series(1, $1::int) n",
                self.row_count,
            )
            await connection.execute("ANALYZE orders")
        finally:
            await connection.close()

    # -- services and jobs --------------------------------------------------------------------------------------

    def second(self) -> ServiceProcess:
        """Another service on the same database; not started."""
        other = self.service.twin()
        self._others.append(other)
        return other

    async def create(
        self, name: str, *, splits: int = 1, chunk_rows: int = CHUNK_ROWS, table: str = "orders", **changes: Any
    ) -> FaultJob:
        """A job over a table, not started; `changes` replace top-level fields, `options` and `sink` are merged."""
        options = {"splits": splits, "page_bytes": 65536, "chunk": {"rows": chunk_rows}, **changes.pop("options", {})}
        spec = {
            "name": name,
            "source": {"datasource": "shop", "table": f"public.{table}"},
            "sink": {**self.target.sink(name), **changes.pop("sink", {})},
            "options": options,
            **changes,
        }
        async with self.client() as api:
            made = await api.create(spec)
        return FaultJob(name, made["id"], spec, table)

    def client(self, service: ServiceProcess | None = None) -> Client:
        """A client of the first service that runs and is not frozen, or of the given one."""
        return (service or self.service).client()

    async def start(self, *jobs: FaultJob, **how: Any) -> None:
        """Start all of them."""
        async with self.client() as api:
            await asyncio.gather(*(api.start(job.name, **how) for job in jobs))

    async def reach(self, *holds: Hold) -> None:
        """Wait until somebody stands at each of the held points."""
        await asyncio.gather(
            *(happened(h.reached, REACHED_SECONDS, f"{h.point} is reached by job {h.job_id}") for h in holds)
        )

    async def visible(self, *jobs: FaultJob) -> dict[str, list[Delivered]]:
        """What readers see now, by name of the job."""
        return {job.name: list(await asyncio.to_thread(self.target.rows, job.name)) for job in jobs}

    async def restart_after_kill(self) -> None:
        """kill -9 and start again, same data."""
        self.service.kill()
        await self.service.start()

    async def wait_for_state(self, job: FaultJob, *states: str, service: ServiceProcess | None = None) -> Json:
        """The job, once it is in one of these states; AssertionError when it ends otherwise."""
        async with self.client(service) as api:
            return await api.wait_for_state(job.name, *states, timeout=FINISH_SECONDS, ride_out_restarts=True)

    async def note_splits(self, *jobs: FaultJob) -> None:
        """Remember where the splits of the current generation end: the next one may cut elsewhere."""
        async with self.client() as api:
            for job in jobs:
                job.uppers.update(split_uppers(await api.get(job.name)))

    # -- the proof ----------------------------------------------------------------------------------------------

    async def finish_and_reconcile(
        self, *jobs: FaultJob, times: int = 1, service: ServiceProcess | None = None
    ) -> list[Json]:
        """Wait until every job is successful, then `reconcile`; the jobs as answered."""
        answers = await asyncio.gather(*(self.wait_for_state(job, "successful", service=service) for job in jobs))
        for job in jobs:
            await self.reconcile(job, times=times, service=service)
        return list(answers)

    async def reconcile(self, job: FaultJob, *, times: int = 1, service: ServiceProcess | None = None) -> None:
        """Every key `times` times, values exact, in order within its split, and the service's own books agree."""
        report = await self.compare(job, times=times, service=service)
        assert report.exact, f"{job.name}: {report.describe()}"
        await self.check_books(job, report.rows, service=service)

    async def compare(self, job: FaultJob, *, times: int = 1, service: ServiceProcess | None = None) -> Report:
        """What readers see, against what the table holds now."""
        async with self.client(service) as api:
            answer = await api.get(job.name)
        job.uppers.update(split_uppers(answer))
        expected = await expected_rows(self.source_dsn, job.table, values=True, uppers=sorted(job.uppers))
        delivered = await asyncio.to_thread(self.target.rows, job.name)
        return await asyncio.to_thread(reconcile, delivered, expected, times=times)

    async def reconcile_with(self, job: FaultJob, before: Sequence[Delivered], *, where: str) -> None:
        """As `reconcile`, after a generation that began elsewhere: what readers saw `before` is still there, and then
        came the rows that match `where`, each once."""
        answer = await self.wait_for_state(job, "successful")
        expected = await expected_rows(self.source_dsn, "orders", values=True, where=where, uppers=split_uppers(answer))
        delivered = await asyncio.to_thread(self.target.rows, job.name)
        old, new = split_off(delivered, before)
        assert old == list(before), f"{job.name}: what was visible before has changed"
        report = reconcile(new, expected)
        assert report.exact, f"{job.name}: {report.describe()}"
        await self.check_books(job, len(delivered))

    async def check_books(
        self, job: FaultJob, rows: int, *, service: ServiceProcess | None = None, finished: bool = True
    ) -> None:
        """Totals, runs and outputs say what readers see, and nobody was held up."""
        async with self.client(service) as api:
            answer, runs, outputs = await api.get(job.name), await api.runs(job.name), await api.outputs(job.name)
        assert answer["totals"]["rows_sent"] == rows, f"{job.name}: {answer['totals']} and {rows} rows visible"
        assert sum(run["rows_sent"] for run in runs) == rows, f"{job.name}: {runs}"
        assert sum(output["rows"] for output in outputs) == rows, f"{job.name}: {outputs}"
        sequences = Counter((o["generation"], o["split"], o["sequence"]) for o in outputs)
        assert max(sequences.values(), default=1) == 1, f"{job.name}: a sequence was settled twice: {sequences}"
        await asyncio.to_thread(self.target.check_outputs, job.name, outputs, finished=finished)
        self.target.check_watch(job.name)

    async def ended(self, job: FaultJob) -> Json | None:
        """The job if its run has ended."""
        try:
            async with self.client() as api:
                answer = await api.get(job.name)
        except (aiohttp.ClientError, TimeoutError):
            return None
        return answer if answer["state"] in FINAL else None

    async def logged(self, service: ServiceProcess, event: str, job: FaultJob, **fields: Any) -> Json:
        """Wait for a line of a service's log about a job."""

        def found() -> Json | None:
            for line in service.log_events(event):
                if line.get("job_id") == job.id and all(line.get(name) == value for name, value in fields.items()):
                    return line
            return None

        line: Json | None = await until(found, REACHED_SECONDS, f"{service.name} logs {event} of {job.name}")
        assert line is not None
        return line


def through(proxy: FaultProxy, dsn: str) -> str:
    """The same database by way of the proxy."""
    parts = urlsplit(dsn)
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}{proxy.address}"))


def split_off(delivered: Iterable[Delivered], before: Sequence[Delivered]) -> tuple[list[Delivered], list[Delivered]]:
    """The rows of `before` as they stand at the head of each lane now, and all others."""
    left = Counter(row.lane for row in before)
    old: list[Delivered] = []
    new: list[Delivered] = []
    for row in delivered:
        if left[row.lane] > 0:
            left[row.lane] -= 1
            old.append(row)
        else:
            new.append(row)
    return old, new
