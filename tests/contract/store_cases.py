"""The whole store on a fresh control database, for tests of the HTTP side: jobs come into each state the real way."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.records import Actor, Key
from service.domain.states import Event, State
from service.domain.steps import OpenRange, StepKind
from service.store.secrets import SecretBox
from service.store.store import Store
from tests.contract.control_jobs import RUN_KINDS, causes, chunk, settlement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from service.domain.records import Job
    from service.domain.steps import Lease

ACCOUNT = "default"
ANA = Actor("ana", "127.0.0.1", "request-1")
KEY = "a sentence that only this test suite knows"


def definition(name: str, *, mode: str = "once", sink: str = "donothing", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "source": {"datasource": "shop", "table": "public.orders", "columns": ["*"]},
        "mode": mode,
        "sink": {"kind": sink},
        "options": {"stop_timeout_seconds": 30, "rate": {"rows_per_second": None}},
        "labels": {},
        **more,
    }


class StoreCase:
    """A store with one account, and ways to bring a job somewhere."""

    def __init__(self, store: Store, dsn: str) -> None:
        self.store = store
        self.dsn = dsn
        self._made = 0

    @classmethod
    async def open(cls, dsn: str, *, key: str = KEY) -> StoreCase:
        store = await Store.open(dsn, box=SecretBox(key), size=6)
        await store.ensure_account(ACCOUNT)
        return cls(store, dsn)

    async def sql(self, statement: str, *arguments: object) -> list[Any]:
        async with self.store._pool.connection() as connection:
            return list(await connection.fetch(statement, *arguments))

    async def create(
        self, name: str | None = None, *, account: str = ACCOUNT, secrets: Mapping[str, str] | None = None, **more: Any
    ) -> Job:
        self._made += 1
        spec = definition(name or f"job-{self._made}", **more)
        return await self.store.create(account, ANA, spec, secrets or {}, guarantee="counts", guarantee_note="note")

    async def get(self, job_id: str) -> Job:
        job = await self.store.get(ACCOUNT, job_id)
        assert job is not None
        return job

    async def verb(self, job: Job, event: Event, *, from_beginning: bool = False) -> tuple[Job, bool]:
        return await self.store.verb(ACCOUNT, ANA, job.id, event, trigger="api", from_beginning=from_beginning)

    async def start(self, job: Job) -> Job:
        return (await self.verb(job, Event.START))[0]

    async def lease(self, job: Job, *kinds: StepKind) -> Lease:
        """The next step of `job`; steps of other jobs are taken on the way."""
        for _ in range(100):
            step = await self.store.claim("one", kinds or RUN_KINDS, lease_seconds=60)
            assert step is not None, f"no step of {job.name} to lease"
            if step.lease.job_id == job.id:
                return step.lease
        raise AssertionError(f"no step of {job.name} among a hundred")

    async def plan(self, job: Job, *bounds: Key | None, tail: bool = False) -> None:
        """Lease the plan step and settle it with the splits between `bounds`."""
        lease = await self.lease(job, StepKind.PLAN)
        ranges = [OpenRange(low, high) for low, high in pairwise(bounds)]
        await self.store.save_plan(lease, ranges, bound=bounds[-1] if bounds else None, tail=tail, estimated_rows=100)

    async def settle(self, lease: Lease, sequence: int, last: str, *, rows: int = 10) -> None:
        record = chunk(lease, sequence, last=last, rows=rows)
        await self.store.prepare(lease, record)
        await self.store.settle(lease, settlement(record))

    async def fail(self, lease: Lease, code: str = "sink_refused") -> None:
        await self.store.fail(lease, causes(code, datetime(2026, 1, 1, tzinfo=UTC)))

    async def finish(self, job: Job) -> Job:
        """Run a queued job to its end, in one split without a row where its plan is still to be made."""
        lease = await self.lease(job)
        if lease.kind is StepKind.PLAN:
            await self.store.save_plan(lease, [], bound=None, tail=False, estimated_rows=0)
            lease = await self.lease(job)
        while lease.kind is StepKind.SPLIT:
            await self.store.finish_split(lease, ("999",))
            lease = await self.lease(job)
        await self.store.finish_run(lease)
        return await self.get(job.id)

    async def in_state(self, state: State, **more: Any) -> Job:
        """A fresh job in `state`."""
        job = await self.create(**more)
        if state is not State.CREATED:
            await self.start(job)
        match state:
            case State.RUNNING | State.STOPPING | State.ABORTING | State.ERROR:
                lease = await self.lease(job)
                if state is State.ERROR:
                    await self.fail(lease)
            case State.FAILING:
                await self.plan(job, ("0",), ("50",), ("99",))
                first, _ = await self.lease(job), await self.lease(job)
                await self.fail(first)
            case State.SUCCESSFUL:
                await self.finish(job)
            case _:
                pass
        if state in {State.STOPPING, State.STOPPED}:
            await self.verb(job, Event.STOP)
        if state in {State.ABORTING, State.ABORTED}:
            await self.verb(job, Event.ABORT)
        job = await self.get(job.id)
        assert job.state is state
        return job


@pytest.fixture
async def case(control_database: str) -> AsyncIterator[StoreCase]:
    """The store on a database of the test's own."""
    opened = await StoreCase.open(control_database)
    yield opened
    await opened.store.close()
