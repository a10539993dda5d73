"""`python -m bench.requests [--jobs N] [--seconds S] [--repeat N]`: how many status requests a second the service
answers in each of its languages over many stored jobs, beside an aiohttp handler that does nothing, each alone on the
same core.

Every request is signed: a Bearer token for /v1, signed headers for Devo's language, Basic for Siren's. Who asks has the
other cores, and so has the control database. On a machine that does other things too the rates say little: what counts
then is the processor time of the quietest lap, with more and shorter laps (`--seconds 1 --repeat 12`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from bench.course import Course
from service.api.dialects.devo_auth import signature
from tests.support.ports import free_port
from tests.support.processes import ChildProcess
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.client import Client

_EMPTY: Final = "an empty handler"
_CONNECTIONS: Final = 32
_RUN_JOBS: Final = 50
"""So many of the jobs have run and are asked about, one after the other."""
_AT_ONCE: Final = 16
_FLOOR: Final = 0.3
_CORE: Final = 0
_HANDLER: Final = """
import sys, uvloop
from aiohttp import web

async def nothing(request):
    return web.Response(text="{}", content_type="application/json")

app = web.Application()
app.router.add_get("/", nothing)
uvloop.install()
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
"""


class _Asker(asyncio.Protocol):
    """One connection that asks the next thing when the last is answered."""

    def __init__(self, following: Callable[[], bytes], answered: Callable[[int], None]) -> None:
        self._following = following
        self._answered = answered
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._following())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        self._answered(int(head[9:12]))
        self._transport.write(self._following())


async def rate(port: int, requests: Sequence[bytes], seconds: float, counted: Callable[[int], None]) -> float:
    """Answers a second to these requests, asked in turn over some connections; `counted` is told how many there were
    in all, those before the clock ran too. Raises RuntimeError when one is not a 200: then nothing was measured."""
    count, at = 0, 0
    failures: list[int] = []

    def following() -> bytes:
        nonlocal at
        at += 1
        return requests[at % len(requests)]

    def answered(status: int) -> None:
        nonlocal count
        count += 1
        if status != 200:
            failures.append(status)

    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Asker(following, answered), "127.0.0.1", port)
        for _ in range(_CONNECTIONS)
    ]
    await asyncio.sleep(seconds / 4)
    began, before = time.monotonic(), count
    await asyncio.sleep(seconds)
    found = (count - before) / (time.monotonic() - began)
    for transport, _ in made:
        transport.abort()
    counted(count)
    if failures:
        raise RuntimeError(f"{len(failures)} of {count} answers were no 200 but {sorted(set(failures))}")
    return found


@dataclass(frozen=True, slots=True)
class Lap:
    """One lap: answers a second, and the processor time of each in the process that answers."""

    rate: float
    cpu_micros: float


async def measure(process: ChildProcess, port: int, requests: Sequence[bytes], seconds: float) -> Lap:
    """One lap over what a process answers."""
    count = 0

    def counted(answers: int) -> None:
        nonlocal count
        count = answers

    before = process.cpu_seconds()
    found = await rate(port, requests, seconds, counted)
    return Lap(found, (process.cpu_seconds() - before) / count * 1e6)


def request(path: str, headers: dict[str, str]) -> bytes:
    """A GET as it travels."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def languages(service: ServiceProcess, api: Client, jobs: Sequence[tuple[str, str]]) -> dict[str, list[bytes]]:
    """The status request of each language for each of these jobs (id, name)."""
    made = await api.call("POST", "/v1/keys", 201, json={"name": "bench", "role": "viewer"})
    stamp = str(time.time_ns() // 1_000_000)
    signed = {
        "x-logtrust-apikey": made["key"],
        "x-logtrust-timestamp": stamp,
        "x-logtrust-sign": signature(made["key"], made["secret"], b"", stamp),
    }
    basic = base64.b64encode(f"admin:{service.admin_token}".encode()).decode()
    bearer, siren = {"Authorization": f"Bearer {service.admin_token}"}, {"Authorization": f"Basic {basic}"}
    return {
        "/v1": [request(f"/v1/jobs/{job}", bearer) for job, _ in jobs],
        "Devo": [request(f"/search/job/{job}", signed) for job, _ in jobs],
        "Siren": [request(f"/_siren/connector/jobs/ingestion/{name}", siren) for _, name in jobs],
    }


async def store(api: Client, source: str, count: int) -> list[tuple[str, str]]:
    """Make the jobs; run some, and return these."""
    await api.put_datasource("bench", source)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def make(number: int) -> tuple[str, str]:
        spec = {
            "name": f"job-{number}",
            "source": {"datasource": "bench", "table": "bench"},
            "sink": {"kind": "donothing"},
            "labels": {"team": f"team-{number % 100}"},
        }
        async with gate:
            job = await api.create(spec)
            if number < _RUN_JOBS:
                await api.start(job["id"], wait=60)
            return job["id"], job["name"]

    return (await asyncio.gather(*(make(number) for number in range(count))))[:_RUN_JOBS]


async def settled(control: str) -> None:
    """The control database as one is that has stood for a while: what autovacuum would do in the middle of a lap."""
    connection = await asyncpg.connect(control)
    try:
        await connection.execute("VACUUM ANALYZE", timeout=120)
    finally:
        await connection.close()


def pin(pid: int, cores: set[int]) -> None:
    """Keep every thread of a process on these cores."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


async def race(count: int, seconds: float, repeat: int) -> dict[str, list[Lap]]:
    """Every contender's laps, interleaved."""
    others = os.sched_getaffinity(0) - {_CORE}
    settings = {"ROWFERRY_RATE_LIMIT": "1000000", "ROWFERRY_LOG_LEVEL": "warning"}
    async with Course(100, kafka=False) as course:
        control = await course.database()
        async with ServiceProcess(control, folder=course.folder / "service", settings=settings) as service:
            async with service.client() as api:
                jobs = await store(api, course.source, count)
                asked = await languages(service, api, jobs)
            await settled(control)
            port = free_port()
            empty = ChildProcess(_EMPTY, [sys.executable, "-c", _HANDLER, str(port)], log=course.folder / "empty.log")
            empty.launch()
            try:
                empty.wait_ready(lambda: empty.listens_on(port), 20)
                for process in (empty, service.process):
                    pin(process.pid, {_CORE})
                pin(os.getpid(), others)
                laps: dict[str, list[Lap]] = {}
                for number in range(1, repeat + 1):
                    for name, process, there, requests in (
                        (_EMPTY, empty, port, [request("/", {})]),
                        *((language, service.process, service.port, some) for language, some in asked.items()),
                    ):
                        lap = await measure(process, there, requests, seconds)
                        laps.setdefault(name, []).append(lap)
                        print(f"  lap {number}  {name:18} {lap.rate:>8,.0f} requests/s", flush=True)
                return laps
            finally:
                empty.stop()


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.requests", description=(__doc__ or "").partition(":")[2])
    parser.add_argument("--jobs", type=int, default=10_000, help="stored jobs (default 10,000)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a lap (default 4)")
    parser.add_argument("--repeat", type=int, default=3, help="laps of each, interleaved; medians count (default 3)")
    given = parser.parse_args()
    if given.jobs < _RUN_JOBS or given.repeat < 1 or given.seconds <= 0:
        parser.error(f"--jobs is at least {_RUN_JOBS}, --repeat at least 1, --seconds above 0")
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for who answers, one for who asks")
    print(f"{given.jobs:,} stored jobs, {_CONNECTIONS} connections; the one that answers has one core\n")
    laps = asyncio.run(race(given.jobs, given.seconds, given.repeat))
    medians = {name: median(lap.rate for lap in found) for name, found in laps.items()}
    print()
    for name, found in medians.items():
        of = found / medians[_EMPTY]
        cpu = [min(lap.cpu_micros for lap in laps[one]) for one in (name, _EMPTY)]
        print(
            f"{name:18} {found:>8,.0f} requests/s   {of:.2f} of the empty handler   "
            f"{cpu[0]:>6,.0f} µs of processor each at best ({cpu[1] / cpu[0]:.2f})"
        )
    print(f"\nasked: {_FLOOR} in every language")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
