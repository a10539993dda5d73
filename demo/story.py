"""What the demo does with the stage: two jobs, a stop, a kill -9, and the proof that every row came once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import aiohttp

from demo.flights import ROWS
from demo.proof import prove, readers_see
from tests.support.topics import StallWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.screen import Screen
    from demo.stage import Stage
    from tests.support.client import Client

Json = dict[str, Any]

TO_KAFKA, TO_FILES = "flights-to-kafka", "flights-to-files"
_SHORT = {TO_KAFKA: "kafka", TO_FILES: "files"}
TOPIC, PATH = "flights", "flights"
_STOP_AT, _KILL_AT = 0.25, 0.55
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 90.0


@dataclass
class Measured:
    """What is told at the end. Times in seconds."""

    stop: float = 0.0
    first_run_rows: int = 0
    first_run: float = 0.0
    down: float = 0.0
    moving_again: float = 0.0
    cpu: float = 0.0
    peak_rss: int = 0
    stalled: float = 0.0
    rows_sent: int = 0


def definitions(bootstrap: str) -> tuple[Json, Json]:
    """The two jobs, as they are posted."""
    source = {"datasource": "newyork", "table": "public.flights"}
    to_kafka = {
        "name": TO_KAFKA,
        "source": source,
        "sink": {
            "kind": "kafka",
            "bootstrap_servers": bootstrap,
            "topic": TOPIC,
            "key": ["id"],
            "topic_settings": {"create": True, "partitions": 4},
        },
        "options": {"splits": 1, "chunk": {"rows": 20_000}},
    }
    to_files = {
        "name": TO_FILES,
        "source": source,
        "sink": {"kind": "file", "path": PATH},
        "format": {"kind": "json", "compression": "zstd"},
        "options": {"splits": 2, "chunk": {"rows": 20_000}},
    }
    return to_kafka, to_files


async def play(stage: Stage, screen: Screen) -> Measured:
    """The whole story; RuntimeError with the job's own cause chain when something does not happen."""
    assert stage.kafka is not None
    assert stage.service is not None
    # The start of a Python program costs as much as 100,000 rows: only the work since it was ready counts.
    measured = Measured(cpu=-stage.service.cpu_seconds())
    async with stage.client() as api:
        screen.step("Two jobs")
        await _create(stage, screen, api)
        with StallWatch(stage.kafka.bootstrap, TOPIC, interval=0.25) as watch:
            screen.step("Start the Kafka job, stop it in the middle")
            await _stop_in_the_middle(stage, screen, api, measured)
            screen.step("Resume it, start the file job beside it, kill -9 the service")
            await _kill_in_the_middle(stage, screen, api, measured)
        measured.stalled = watch.longest_seconds
        jobs = {name: await api.get(name) for name in (TO_KAFKA, TO_FILES)}
        measured.rows_sent = sum(job["totals"]["rows_sent"] for job in jobs.values())
        screen.step("Proof: every row once, read back by other programs")
        await prove(stage, screen, api, TOPIC, {"kafka": jobs[TO_KAFKA], "files": jobs[TO_FILES]})
    return measured


async def _create(stage: Stage, screen: Screen, api: Client) -> None:
    assert stage.kafka is not None
    await api.put_datasource("newyork", stage.datasource_url)
    for definition in definitions(stage.kafka.bootstrap):
        job = await api.create(definition)
        target = f"topic {TOPIC}" if job["name"] == TO_KAFKA else f"files below {PATH}/"
        screen.say(f"{job['name']}   {target}   {job['guarantee']}: {job['guarantee_note']}")


async def _stop_in_the_middle(stage: Stage, screen: Screen, api: Client, measured: Measured) -> None:
    assert stage.kafka is not None
    await api.start(TO_KAFKA)
    await _watch(api, screen, (TO_KAFKA,), lambda jobs: _share(jobs[TO_KAFKA]) >= _STOP_AT)
    began = time.monotonic()
    job = await api.stop(TO_KAFKA, wait=60)
    measured.stop = time.monotonic() - began
    if job["state"] != "stopped":
        raise RuntimeError(f"{TO_KAFKA} was to stop in the middle and is {job['state']}: {job['errors']}")
    run = job["run"] or (await api.runs(TO_KAFKA))[0]
    measured.first_run_rows = run["rows_sent"]
    measured.first_run = _seconds_between(run["started_at"], run["ended_at"])
    screen.say(f"stopped {measured.stop:.2f} s after the call, last_id {job['last_id']}")
    seen, largest = await asyncio.to_thread(readers_see, stage.kafka.bootstrap, TOPIC)
    screen.say(f"a read_committed reader finds {seen:,} rows, the largest id is {largest}")
    if not str(seen) == str(largest) == job["last_id"]:
        raise RuntimeError(f"last_id is {job['last_id']}, but readers see {seen} rows up to id {largest}")


async def _kill_in_the_middle(stage: Stage, screen: Screen, api: Client, measured: Measured) -> None:
    service = stage.service
    assert service is not None
    both = (TO_KAFKA, TO_FILES)
    for name in both:
        await api.start(name)
    await _watch(api, screen, both, lambda jobs: _share(jobs[TO_KAFKA]) >= _KILL_AT)
    measured.cpu += service.cpu_seconds()
    measured.peak_rss = service.peak_rss_bytes()
    killed = time.monotonic()
    service.kill()
    await service.start()
    measured.down = time.monotonic() - killed
    measured.cpu -= service.cpu_seconds()
    screen.say(f"kill -9; ready again after {measured.down:.1f} s; the leases of the dead run out within 10 s")
    # Read after the kill: the last look before it may have missed a chunk, which must not count as moving again.
    sent = _rows({name: await api.get(name) for name in both})
    await _watch(api, screen, both, lambda jobs: _rows(jobs) > sent)
    measured.moving_again = time.monotonic() - killed
    await _watch(api, screen, both, lambda jobs: all(job["state"] == "successful" for job in jobs.values()))
    screen.say(f"both are successful; rows moved again {measured.moving_again:.1f} s after the kill, by themselves")
    measured.cpu += service.cpu_seconds()
    measured.peak_rss = max(measured.peak_rss, service.peak_rss_bytes())


async def _watch(
    api: Client, screen: Screen, names: tuple[str, ...], done: Callable[[dict[str, Json]], bool]
) -> dict[str, Json]:
    """Draw the progress until `done`; RuntimeError on an error state, or when nothing moves for long."""
    sent, moved = -1, time.monotonic()
    while True:
        try:
            jobs = {name: await api.get(name) for name in names}
        except aiohttp.ClientError as error:
            raise RuntimeError(f"the service does not answer: {error}") from error
        parts = [(_SHORT[name], _share(job), job["totals"]["rows_sent"]) for name, job in jobs.items()]
        screen.progress(parts, _note(jobs))
        for name, job in jobs.items():
            if job["state"] == "error":
                causes = "; ".join(f"{cause['code']}: {cause['message']}" for cause in job["errors"])
                raise RuntimeError(f"{name} ended in error: {causes}")
        if done(jobs):
            screen.settle()
            return jobs
        if _rows(jobs) != sent:
            sent, moved = _rows(jobs), time.monotonic()
        elif time.monotonic() - moved > _PATIENCE_SECONDS:
            raise RuntimeError(f"no row moved for {_PATIENCE_SECONDS:.0f} s: {jobs}")
        await asyncio.sleep(_POLL_SECONDS)


def _note(jobs: dict[str, Json]) -> str:
    for job in jobs.values():
        if job["retrying"]:
            return f"retrying: {job['retrying']['cause']['code']}"
    return ""


def _share(job: Json) -> float:
    return float(job["totals"]["rows_sent"]) / ROWS


def _rows(jobs: dict[str, Json]) -> int:
    return sum(int(job["totals"]["rows_sent"]) for job in jobs.values())


def _seconds_between(start: str, end: str) -> float:

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
