"""Eight writers that commit out of order against continuous jobs that are stopped, aborted, resumed and killed.

Every committed row arrives, once, with the barrier, and without it within a late window that no transaction outlives;
beside them the same jobs with `safety: none` lose rows, or else this could not fail.
`make commit-order SECONDS=600 SEED=7` is the long form; this file alone takes 20 seconds of it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.fault.racers import TABLES, Disturber, Racers
from tests.support.reconcile import kafka_rows
from tests.support.service import ServiceProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.kafka import KafkaServer

SECONDS = float(os.environ.get("ROWFERRY_COMMIT_ORDER_SECONDS") or 20)
SEED = int(os.environ.get("ROWFERRY_FAULT_SEED") or random.randrange(10**6))
CATCHES_UP_SECONDS = 120.0
JOBS: dict[str, dict[str, Any]] = {
    "commit": {"safety": {"kind": "commit"}},
    # more rows than are written while the longest transaction is prepared
    "late": {"safety": {"kind": "none"}, "late_window": 50_000},
    "none": {"safety": {"kind": "none"}},
}

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(300 + 3 * SECONDS)]


class Jobs:
    """For each table one job that waits for commits, one that looks back and one that does neither, on one service."""

    def __init__(self, service: ServiceProcess, kafka: KafkaServer) -> None:
        self._service, self._kafka = service, kafka
        self.topics: dict[tuple[str, str], str] = {}

    async def create(self, dsn: str) -> None:
        async with self._service.client() as api:
            await api.put_datasource("shop", dsn)
            for table in TABLES:
                for safety, how in JOBS.items():
                    topic = self.topics[table, safety] = await asyncio.to_thread(self._kafka.create_topic)
                    sink = {"kind": "kafka", "bootstrap_servers": self._kafka.bootstrap, "topic": topic}
                    options = {**how, "poll_seconds": 0.05, "chunk": {"seconds": 0.1}}
                    spec = {"name": f"{table}-{safety}", "mode": "continuous", "sink": sink, "options": options}
                    source = {"datasource": "shop", "table": f"public.{table}"}
                    await api.create({**spec, "source": source}, start=True)

    async def each(self, verb: str) -> None:
        """Ask it of every job, as soon as the job can take it."""
        async with self._service.client() as api:
            for table, safety in self.topics:
                await until(lambda job=f"{table}-{safety}": _asked(api, job, verb), 60, f"{verb} of {table}-{safety}")

    async def restart(self, verb: str) -> None:
        await self.each(verb)
        await self.each("start")

    async def kill(self) -> None:
        self._service.kill()
        await self._service.start()

    async def all_run(self) -> None:
        """Every job is at work, and has delivered since this was asked."""
        async with self._service.client() as api:

            async def sent() -> list[int]:
                answers = [await api.get(f"{t}-{s}") for t, s in self.topics]
                return [answer["totals"]["rows_sent"] for answer in answers]

            before = await sent()

            async def moved() -> bool:
                return all(now > then for now, then in zip(await sent(), before, strict=True))

            await until(moved, CATCHES_UP_SECONDS, "every job delivers")

    async def caught_up(self, committed: dict[str, set[str]]) -> dict[str, int]:
        """Every job has read to the last key of its table, and who looks back has found every row; how many of them
        late, by table."""
        late: dict[str, int] = {}

        async def reached() -> bool:
            async with self._service.client() as api:
                for table, safety in self.topics:
                    answer = await api.get(f"{table}-{safety}")
                    if answer["last_id"] != max(committed[table], key=int):
                        return False
                    if safety == "late":
                        late[table] = answer["totals"]["rows_late"]
                        if answer["totals"]["rows_sent"] < len(committed[table]):
                            return False
            return True

        await until(reached, CATCHES_UP_SECONDS, "every job has read its table to the end")
        async with self._service.client() as api:
            for table, safety in self.topics:
                answer = await api.get(f"{table}-{safety}")
                assert {"bound", "held_by", "ahead_of_generator"} <= (answer["horizon"] or {}).keys(), answer
                assert ("safety none" in answer["guarantee_note"]) is (safety != "commit"), answer
                assert ("late_window 50000" in answer["guarantee_note"]) is (safety == "late"), answer
        return late

    def delivered(self, table: str, safety: str) -> Counter[str | None]:
        rows = kafka_rows(self._kafka.bootstrap, self.topics[table, safety])
        return Counter(row.key[0] for row in rows)


async def _asked(api: Any, job: str, verb: str) -> bool:
    try:
        answer = await api.call("POST", f"/v1/jobs/{job}/{verb}", 200, 202, 409)
    except (aiohttp.ClientError, TimeoutError):
        return False
    return "id" in answer


async def test_every_committed_row_arrives_once_and_without_the_barrier_rows_are_lost(
    database: str, control_database: str, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    print(f"make commit-order SEED={SEED} SECONDS={SECONDS:g}")  # noqa: T201 -- shown under a failure
    settings = {"ROWFERRY_TEST_LEASE_SECONDS": "3", "ROWFERRY_MAX_SPLITS": "16", "ROWFERRY_RATE_LIMIT": "10000"}
    async with (
        ServiceProcess(
            # nobody listens there: it is the real service, with short leases
            control_database,
            settings=settings,
            signals=tmp_path / "nobody",
            module="tests.support.signalled",
            loaded=True,
        ) as service,
        Racers(database, SEED) as racers,
    ):
        jobs = Jobs(service, kafka_server)
        await jobs.create(database)
        disturber = Disturber(
            SEED, {"stop": lambda: jobs.restart("stop"), "abort": lambda: jobs.restart("abort"), "kill": jobs.kill}
        )
        await disturber.run(SECONDS)
        # a stretch in which every job reads while all write: who does not wait for commits is sure to lose some
        await jobs.all_run()
        undisturbed = racers.transactions + 300
        await until(lambda: racers.transactions >= undisturbed, 120, "300 more transactions")
        committed = await racers.stop()
        late = await jobs.caught_up(committed)
        await jobs.each("stop")
        found = {pair: await asyncio.to_thread(jobs.delivered, *pair) for pair in jobs.topics}
    lost = {}
    for (table, safety), keys in found.items():
        doubled = [key for key, times in keys.items() if times > 1]
        assert not doubled, f"{table}-{safety}: {doubled[:5]} came more than once"
        assert not keys.keys() - committed[table], f"{table}-{safety}: rows that were never committed"
        lost[table, safety] = len(committed[table] - keys.keys())
    print(f"{racers.transactions} transactions, {disturber.done}; late: {late}; lost: {lost}")  # noqa: T201 -- the proof in numbers
    assert [lost[table, safety] for safety in ("commit", "late") for table in TABLES] == [0, 0, 0, 0]
    assert sum(late.values()) > 0, "no row was late: nothing was looked back for"
    assert sum(lost[table, "none"] for table in TABLES) > 0, "the test can not see a lost row: it proves nothing"
