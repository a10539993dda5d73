"""A control database with jobs in it, for tests of the step side: jobs are written by SQL, started by `transition`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.dead_letters import DeadLetter
from service.domain.errors import Cause, Permanent
from service.domain.records import Actor
from service.domain.states import Event
from service.domain.steps import ChunkRecord, OpenRange, Settlement, StepKind
from service.store.dead_letters import DeadLetters
from service.store.ids import uuid7
from service.store.pool import Pool
from service.store.steps import PostgresStepStore
from service.store.transitions import NewRun, transition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from datetime import datetime

    from service.domain.ports import StepStore
    from service.domain.steps import Lease, Step
    from service.store.transitions import Moved
    from tests.support.postgres import PostgresServer

ANA = Actor("ana", "127.0.0.1", "request-1")
LEASE_SECONDS = 30.0
LIMIT = "UPDATE jobs SET spec = jsonb_set(spec, '{options,dead_letters}', $2) WHERE id = $1"
"""`options.dead_letters` of a job, as a PATCH sets it."""
RUN_KINDS = (StepKind.PLAN, StepKind.SPLIT, StepKind.FINISH)


@pytest.fixture(scope="module")
def control_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """One control database for the tests of a module: making one takes longer than most of them."""
    dsn = asyncio.run(postgres_server.create_control_database())
    yield dsn
    if postgres_server.process.running:
        asyncio.run(postgres_server.drop_database(dsn))


@pytest.fixture
async def control(control_dsn: str) -> AsyncIterator[Control]:
    """The control database, empty."""
    opened = await Control.open(control_dsn)
    yield opened
    await opened.pool.close()


class PlainBox:
    """Secrets as `name=value` in reverse, so that a column read without the box does not look right."""

    def seal(self, values: Mapping[str, str]) -> bytes | None:
        return ";".join(f"{k}={v}" for k, v in values.items()).encode()[::-1] or None

    def open(self, sealed: bytes | None) -> dict[str, str]:
        if sealed is None:
            return {}
        if sealed == b"lost":
            raise Permanent("secret_key_wrong", "none of the keys opens a stored secret")
        return dict(pair.split("=") for pair in sealed[::-1].decode().split(";"))


@dataclass(slots=True)
class Control:
    """The store under test, and a way around it."""

    pool: Pool
    store: StepStore
    account: str

    @classmethod
    async def open(cls, dsn: str) -> Control:
        """A store on an empty control database, whatever an earlier test has left in it."""
        pool = await Pool.open(dsn, size=12)
        async with pool.connection() as connection:
            await connection.execute("TRUNCATE accounts, jobs, runs, events RESTART IDENTITY CASCADE")
        control = cls(pool, PostgresStepStore(pool, PlainBox()), uuid7())
        await control.sql("INSERT INTO accounts (id, name) VALUES ($1, 'default')", control.account)
        return control

    async def sql(self, statement: str, *arguments: object) -> list[Any]:
        async with self.pool.connection() as connection:
            return list(await connection.fetch(statement, *arguments))

    async def value(self, statement: str, *arguments: object) -> Any:
        async with self.pool.connection() as connection:
            return await connection.fetchval(statement, *arguments)

    async def row(self, table: str, job_id: str) -> Any:
        rows = await self.sql(f"SELECT * FROM {table} WHERE {'id' if table == 'jobs' else 'job_id'} = $1", job_id)
        assert len(rows) == 1, f"{len(rows)} rows in {table}"
        return rows[0]

    async def job(
        self, *, options: Mapping[str, object] | None = None, secrets: Mapping[str, str] | None = None
    ) -> str:
        """A job in `created` with its first generation, whose plan step is ready."""
        job_id = uuid7()
        spec = {
            "name": f"job-{job_id[-12:]}",
            "source": {"datasource": "shop", "table": "orders"},
            "sink": {"kind": "donothing"},
            "options": dict(options or {}),
            "labels": {"team": "shop"},
        }
        sealed = PlainBox().seal(secrets or {})
        await self.sql(
            "INSERT INTO jobs (id, account_id, name, owner, spec, secrets, guarantee, guarantee_note)"
            " VALUES ($1, $2, $3, 'ana', $4, $5, 'counts', '')",
            *(job_id, self.account, spec["name"], spec, sealed),
        )
        await self.generation(job_id, 1, "beginning")
        return job_id

    async def generation(self, job_id: str, number: int, begins: str) -> None:
        await self.sql(
            "INSERT INTO generations (job_id, number, begins, spec, secrets)"
            " SELECT id, $2, $3, spec, secrets FROM jobs WHERE id = $1",
            *(job_id, number, begins),
        )
        await self.sql(
            "INSERT INTO steps (job_id, generation, kind, state) VALUES ($1, $2, 'plan', 'ready')", job_id, number
        )
        await self.sql("UPDATE jobs SET generation = $2 WHERE id = $1", job_id, number)

    async def verb(self, job_id: str, event: Event) -> Moved | None:
        run = NewRun(uuid7(), "api") if event is Event.START else None
        async with self.pool.transaction() as connection:
            return await transition(connection, job_id, event, ANA, run=run)

    async def claimed(self, *kinds: StepKind, owner: str = "one") -> Step:
        step = await self.store.claim(owner, kinds or RUN_KINDS, lease_seconds=LEASE_SECONDS)
        assert step is not None, "nothing to claim"
        return step

    async def planned(self, *, splits: int = 2, tail: bool = False, options: Mapping[str, object] | None = None) -> str:
        """A running job whose plan is made; its splits are ready."""
        job_id = await self.job(options=options)
        await self.verb(job_id, Event.START)
        await self.plan(splits=splits, tail=tail)
        return job_id

    async def plan(self, *, splits: int = 2, tail: bool = False) -> Lease:
        lease = (await self.claimed(StepKind.PLAN)).lease
        bounds = [None, *((str(100 * n),) for n in range(1, splits)), None if tail else ("999",)]
        ranges = [OpenRange(low, high) for low, high in pairwise(bounds)] if splits else []
        await self.store.save_plan(lease, ranges, bound=None if tail else ("999",), tail=tail, estimated_rows=42)
        return lease

    async def leases(self, count: int, *, owner: str = "one") -> list[Lease]:
        return [(await self.claimed(StepKind.SPLIT, owner=owner)).lease for _ in range(count)]

    async def set_aside(self, *letters: DeadLetter) -> str:
        """A stopped job whose one split has these dead letters."""
        job_id = await self.planned(splits=1, options={"dead_letters": {"max_rows": 1000}})
        (lease,) = await self.leases(1)
        await self.store.bury(lease, letters, last_key=letters[-1].key)
        await self.verb(job_id, Event.STOP)
        await self.store.park(lease)
        return job_id

    @property
    def letters(self) -> DeadLetters:
        """What the HTTP side asks of the same store."""
        return DeadLetters(self.pool, PlainBox())

    async def retrying(self, *keys: str, origin: str = "payload") -> Lease:
        """The leased retry of these rows, all dead letters of a job."""
        job_id = await self.set_aside(*dead(*keys or ("7", "8", "9")))
        await self.letters.retry_dead_letters("default", ANA, job_id, ids=None, origin=origin)
        return (await self.claimed(StepKind.RETRY)).lease

    async def run_out(self, job_id: str) -> None:
        """The database's clock passes every lease of the job."""
        await self.sql(
            "UPDATE steps SET leased_until = clock_timestamp() - interval '1 ms'"
            " WHERE job_id = $1 AND state = 'leased'",
            job_id,
        )

    async def state(self, job_id: str) -> str:
        found: str = await self.value("SELECT state FROM jobs WHERE id = $1", job_id)
        return found

    async def moves(self, job_id: str) -> list[tuple[str, str, str]]:
        rows = await self.sql(
            "SELECT state_from, event, state_to FROM events WHERE job_id = $1 AND state_to IS NOT NULL ORDER BY seq",
            job_id,
        )
        return [tuple(row) for row in rows]

    async def step(self, lease: Lease) -> Any:
        rows = await self.sql(
            "SELECT * FROM steps WHERE job_id = $1 AND generation = $2 AND kind = $3 AND ordinal = $4",
            *(lease.job_id, lease.generation, lease.kind.value, lease.ordinal),
        )
        return rows[0]

    async def now(self) -> datetime:
        at: datetime = await self.value("SELECT clock_timestamp()")
        return at


def chunk(
    lease: Lease, sequence: int = 1, *, attempt: int = 1, rows: int = 10, last: str = "50", **other: Any
) -> ChunkRecord:
    """A chunk that the holder of `lease` has made."""
    given: dict[str, Any] = {
        "epoch": lease.epoch,
        "bytes": rows * 10,
        "first_key": ("1",),
        "last_key": (last,),
        "lower": None,
        "target": f"part-{sequence}",
        "checksum": f"sha256:{lease.epoch}-{attempt}",
        # Numbers that only a store of exact ones gives back: of a file and of the nanosecond of its last write.
        "details": {"format": "json", "identity": [12_469_527, 1_795_352_834_144_038_767]},
        "run_id": lease.run_id,
    }
    return ChunkRecord(sequence=sequence, attempt=attempt, rows=rows, **{**given, **other})


def settlement(record: ChunkRecord, **other: Any) -> Settlement:
    return Settlement(chunk=record, **other)


def dead(*keys: str, code: str = "row_too_large", **other: Any) -> list[DeadLetter]:
    """Rejected rows as a worker hands them over."""
    given: dict[str, Any] = {"payload": b'{"id":0}', "payload_bytes": 8, **other}
    return [DeadLetter((key,), code, f"row {key} is too large", **given) for key in keys]


def causes(code: str, at: datetime) -> Sequence[Cause]:
    return [Cause(code, f"it was {code}", at, retryable=False), Cause("root", "the reason", at, retryable=False)]
