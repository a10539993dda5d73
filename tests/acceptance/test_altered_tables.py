"""A table that is altered under a job: in the middle of a run, while the job is stopped, and between two leases. Every
row arrives once, and the change is named. Three jobs follow one table: into Kafka, CSV and Parquet."""

from __future__ import annotations

import asyncio
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from tests.acceptance.days import says
from tests.support.service import ServiceProcess
from tests.support.signalled import Points
from tests.support.topics import read_topic
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.acceptance.days import Days
    from tests.support.client import Json
    from tests.support.postgres import PostgresServer

ROWS = 30
"""Between two changes."""
INTO = ("kafka", "csv", "parquet")


@pytest.fixture(scope="module")
def signals() -> Iterator[Path]:
    """Where a test may listen to the service's points. (The names of sockets are short.)"""
    with tempfile.TemporaryDirectory(prefix="rowferry-") as folder:
        yield Path(folder) / "signals"


@pytest.fixture(scope="module")
def service(control_server: PostgresServer, signals: Path) -> Iterator[ServiceProcess]:
    """The module's service, its leases short: what it held when it was killed is soon free."""
    with ThreadPoolExecutor(1) as beside:  # fixtures of a module run outside the tests' event loops
        control = beside.submit(asyncio.run, control_server.create_database()).result()
    process = ServiceProcess(
        control,
        settings={"ROWFERRY_MAX_SPLITS": "8", "ROWFERRY_TEST_LEASE_SECONDS": "1.5"},
        signals=signals,
        module="tests.support.signalled",
    )
    try:
        process.launch().wait_ready_blocking()
        yield process
    finally:
        process.close()


class Altered:
    """Jobs that follow the table `orders`, and how many rows were written into it so far."""

    def __init__(self, days: Days, into: Sequence[str] = INTO) -> None:
        """They are not made yet."""
        self.days, self.into, self.rows, self.policy = days, into, ROWS, "fail"

    def spec(self, into: str, **options: Any) -> Json:
        """A job; its name is that of its target."""
        sink: Json = {"kind": "file", "path": f"{self.days.name}-{into}"}
        if into == "kafka":
            sink = self.days.into_kafka(topic_settings={"create": True})
        quickly = {"poll_seconds": 0.05, "chunk": {"rows": 10, "seconds": 0.1}, "safety": {"kind": "none"}}
        form = {} if into == "kafka" else {"format": {"kind": into}}
        return {
            **self.days.spec(sink=sink, options={"schema_change": self.policy, **quickly, **options}),
            "name": f"{self.days.name}-{into}",
            "mode": "continuous",
            **form,
        }

    async def each(
        self, method: str, path: str, *status: int, specs: bool = False, body: Json | None = None
    ) -> list[Any]:
        """One request for each job: without a body, with its definition, or with `body`."""
        return await asyncio.gather(
            *(
                self.days.api.call(
                    method,
                    f"/v1/jobs{path.format(f'{self.days.name}-{into}')}",
                    *status,
                    **({"json": self.spec(into)} if specs else {} if body is None else {"json": body}),
                )
                for into in self.into
            )
        )

    async def begin(self, policy: str) -> None:
        """Create the jobs and start them; the table's first rows arrive."""
        await self.days.orders(ROWS)
        self.policy = policy
        await self.each("POST", "?start=true", 201, specs=True)
        await self.arrives()

    async def start(self) -> None:
        """Start all."""
        await self.each("POST", "/{}/start", 202)

    async def stop(self) -> None:
        """Stop all."""
        jobs = await self.each("POST", "/{}/stop?wait=20", 200)
        assert {job["state"] for job in jobs} == {"stopped"}, jobs

    async def give(self, policy: str) -> None:
        """Give the jobs another policy."""
        self.policy = policy
        await self.each("PUT", "/{}", 200, specs=True)

    async def write(self, statement: str = "") -> None:
        """Change the table, and write rows into it in the same transaction: they are read after the change."""
        await self.days.sql(
            f"BEGIN; {statement}; INSERT INTO orders (amount) SELECT 1 FROM generate_series(1, {ROWS}); COMMIT"
        )
        self.rows += ROWS

    async def arrives(self) -> None:
        """Wait until everything written so far was sent."""

        async def look() -> bool:
            jobs = await self.each("GET", "/{}", 200)
            assert [job["errors"] for job in jobs if job["state"] not in {"queued", "running"}] == []
            return all(job["totals"]["rows_sent"] >= self.rows for job in jobs)

        await until(look, 30, f"{self.rows} rows")

    async def told(self) -> list[list[str]]:
        """What the events in the log say of changes, by job, in order."""
        answers = await self.each("GET", "/{}/log?q=schema_changed&limit=100", 200)
        return [
            [line["fields"]["cause"] for line in one["lines"] if line["event"] == "schema_changed"] for one in answers
        ]

    async def tell(self, *words: str) -> None:
        """Wait until the events name all of `words`, of each job."""

        async def look() -> bool:
            return all(any(all(word in said for word in words) for said in told) for told in await self.told())

        await until(look, 20, f"events that say {words}")

    async def end(self, *words: str) -> None:
        """Wait until the runs have ended by a change that names all of `words`."""

        async def look() -> list[Json]:
            jobs = await self.each("GET", "/{}", 200)
            return jobs if all(job["state"] == "error" for job in jobs) else []

        for job in await until(look, 30, "the runs end"):
            says(job["errors"][0], "schema_changed", *words)

    def delivered(self, into: str) -> list[dict[str, Any]]:
        """The rows as a reader finds them, in key order."""
        if into == "kafka":
            records = read_topic(self.days.kafka.bootstrap, self.days.name)
            rows = [json.loads(one.value or b"") for one in records]
        else:
            rows = []
            for file in sorted(self.days.service.files(f"{self.days.name}-{into}").glob(f"*.{into}")):
                read = f"read_csv('{file}', all_varchar = true)" if into == "csv" else f"read_parquet('{file}')"
                found = duckdb.sql(f"FROM {read}")
                rows += [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
        return sorted(rows, key=lambda row: int(row["id"]))

    async def each_once(self) -> dict[str, list[dict[str, Any]]]:
        """Every row came once, as a reader finds it and as the job's own verification does; the rows by target."""
        found = {into: await asyncio.to_thread(self.delivered, into) for into in self.into}
        for into, rows in found.items():
            assert [int(row["id"]) for row in rows] == list(range(1, self.rows + 1)), into
        made = await self.each("POST", "/{}/verify", 202, body={})
        for into, one in zip(self.into, made, strict=True):
            path = f"/v1/jobs/{self.days.name}-{into}/verify/{one['id']}"

            async def look(path: str = path) -> Json | None:
                verification: Json = await self.days.api.call("GET", path, 200)
                return verification if verification["ended_at"] is not None else None

            verified = await until(look, 30, "the verification's end")
            kinds = ("missing", "doubled", "foreign", "checksum", "gone", "not_verifiable")
            assert {kind: verified[kind] for kind in kinds if verified[kind]} == {}, (into, verified)
        return found


async def test_a_job_that_continues_takes_the_rows_as_they_are_from_the_change_on(days: Days) -> None:
    jobs = Altered(days)
    await jobs.begin("continue")
    seen = {0: {"id", "amount", "note"}}

    async def write(statement: str, columns: str) -> None:
        seen[jobs.rows] = set(columns.split())
        await jobs.write(statement)

    # in the middle of the run
    await write("ALTER TABLE orders ADD more int DEFAULT 7", "id amount note more")
    await jobs.tell("'more' (integer) was added")
    await jobs.arrives()
    await write("ALTER TABLE orders DROP note, ALTER more TYPE text", "id amount more")
    await jobs.tell("'note' was dropped or renamed", "'more' is text now, not integer")
    await jobs.arrives()
    # while it is stopped
    await jobs.stop()
    await write("ALTER TABLE orders RENAME more TO less", "id amount less")
    await jobs.start()
    await jobs.tell("'less' (text) was added", "'more' was dropped or renamed")
    await jobs.arrives()
    # between two leases
    days.service.kill()
    await write("ALTER TABLE orders DROP less", "id amount")
    await days.service.restart()
    await jobs.tell("'less' was dropped or renamed")
    await jobs.arrives()
    await jobs.stop()

    for into, rows in (await jobs.each_once()).items():
        for after, columns in seen.items():
            assert {frozenset(row) for row in rows[after : after + ROWS]} == {frozenset(columns)}, (into, after)
        typed = {"csv": ("7", "7")}.get(into, (7, "7"))
        assert ({row["more"] for row in rows[ROWS : 2 * ROWS]}, {row["more"] for row in rows[2 * ROWS : 3 * ROWS]}) == (
            {typed[0]},
            {typed[1]},
        ), into
    assert all(4 <= len(told) <= 6 for told in await jobs.told()), "a change is told of by a lease, not by each page"


async def test_a_job_that_fails_at_a_change_goes_on_after_each_remedy(days: Days) -> None:
    jobs = Altered(days)
    await jobs.begin("fail")
    # in the middle of the run; remedy: as it was
    await jobs.write("ALTER TABLE orders RENAME note TO remark")
    await jobs.end("'note' was dropped or renamed", "'remark' (text) was added")
    await days.sql("ALTER TABLE orders RENAME remark TO note")
    await jobs.start()
    await jobs.arrives()
    await days.sql("ALTER TABLE orders RENAME TO old_orders")
    await jobs.end("it was renamed to old_orders")
    await days.sql("ALTER TABLE old_orders RENAME TO orders")
    await jobs.write()
    # while it is stopped; remedy: as it was, and another time `continue`, after which what is there counts
    await jobs.write("ALTER TABLE orders ADD more int DEFAULT 7")
    await jobs.start()
    await jobs.end("'more' (integer) was added", "put the column or table back")
    await days.sql("ALTER TABLE orders DROP more, ALTER note TYPE int USING 5")
    await jobs.start()
    await jobs.end("'note' is integer now, not text", "schema_change: continue")
    await jobs.give("continue")
    await jobs.start()
    await jobs.arrives()
    await jobs.stop()
    await jobs.give("fail")
    await jobs.start()
    await jobs.write()
    await jobs.arrives()
    # between two leases
    days.service.kill()
    await jobs.write("ALTER TABLE orders DROP note")
    await days.service.restart()
    await jobs.end("'note' was dropped or renamed")
    await days.sql("ALTER TABLE orders ADD note int DEFAULT 6")
    await jobs.start()
    await jobs.arrives()
    await jobs.stop()

    for into, rows in (await jobs.each_once()).items():
        assert {frozenset(row) for row in rows} == {frozenset({"id", "amount", "note"})}, into


@pytest.mark.parametrize("beginning", [False, True], ids=["continue", "from=beginning"])
async def test_a_prepared_file_whose_column_is_gone_is_no_obstacle(days: Days, signals: Path, beginning: bool) -> None:
    """A repeat of it has the columns of now, under its own name."""
    jobs = Altered(days, ["csv", "parquet"])
    await jobs.begin("fail" if beginning else "continue")
    await jobs.stop()
    async with Points(signals) as points:
        holds = [points.hold("prepared", job_id=job["id"]) for job in await jobs.each("GET", "/{}", 200)]
        await jobs.start()
        await jobs.write()
        for hold in holds:
            await asyncio.wait_for(hold.reached.wait(), 20)
        days.service.kill()
    await days.sql("ALTER TABLE orders DROP note")
    await days.service.restart()
    if beginning:
        await jobs.end("'note' was dropped or renamed")
        await jobs.each("POST", "/{}/start?from=beginning", 202)
        jobs.rows += ROWS
        await jobs.arrives()
        for job in await jobs.each("GET", "/{}", 200):
            assert job["generation"] == 2
        return
    await jobs.arrives()
    await jobs.stop()
    for rows in (await jobs.each_once()).values():
        assert {frozenset(row) for row in rows[ROWS:]} == {frozenset({"id", "amount"})}
