"""Two services, three jobs that never rest, and one fault after the other from a schedule; then the reconciler.

After every moment of faults each job must deliver something by itself; while something is away each job must say what
it waits for; at the end another client than ours reads the target and every key is there as often as it should be.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.fault.breaking import ENDS_SECONDS, Breaker
from tests.fault.scenario import Scenario, through
from tests.fault.schedule import CONTROL, LEASE_SECONDS, SOURCE, STREAMS, Kind
from tests.fault.streams import AT_WORK, Stream, Stuck, Usable, Watch
from tests.fault.summary import Result
from tests.fault.writers import TABLE, Writers
from tests.support.proxy import FaultProxy
from tests.support.waiting import until
from workers.signals import Point

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.fault.places import Place, Server
    from tests.fault.schedule import Fault, Moment
    from tests.support.postgres import PostgresServer
    from tests.support.service import ServiceProcess

ONCE_ROWS = 400
REACHED_SECONDS = 90.0
SAYS_SECONDS = 40.0
MOST_STOPS = 12
RECOVERS_SECONDS = 60.0
FINISH_SECONDS = 180.0
LONGEST_SILENCE = 60.0
SETTINGS = {"ROWFERRY_SHUTDOWN_TIMEOUT_SECONDS": "5"}
_CHUNK = {"rows": 50, "seconds": 0.4}
_STOP = {"stop_timeout_seconds": 5}
JOBS: dict[str, dict[str, Any]] = {
    "once": {"splits": 2, "options": {"rate": {"rows_per_second": 200}, "chunk": _CHUNK, **_STOP}},
    "incremental": {"table": TABLE, "options": {"chunk": _CHUNK, **_STOP}},
    "continuous": {"table": TABLE, "splits": 2, "options": {"chunk": _CHUNK, "poll_seconds": 0.2, **_STOP}},
}
"""`once` reads a small table again and again from the beginning; the others read one that grows meanwhile."""


class Run:
    """One run over one place. `source` and `control` are servers that nobody else uses: they are killed."""

    def __init__(
        self,
        place: Place,
        source: PostgresServer,
        control: PostgresServer,
        seed: int,
        moments: Sequence[Moment],
        seconds: float = math.inf,
    ) -> None:
        """After `seconds` no new moment begins: what was met by then is the beginning of the same schedule."""
        self._place, self._source, self._control = place, source, control
        self._seed, self._moments, self._seconds = seed, moments, seconds
        self.result = Result(place.kind, seed)
        self._usable = Usable()
        self._services: list[ServiceProcess] = []

    async def __call__(self) -> Result:
        """The result. Raises AssertionError (Stuck among them) for whatever was not as promised."""
        began = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                try:
                    for moment in self._moments:
                        if time.monotonic() - began > self._seconds:
                            break
                        await self._meet(moment)
                    await self._finish()
                except Exception as error:
                    # The services' logs go with their folders.
                    for service in self._services:
                        error.add_note(service.process.log_tail())
                    raise
        finally:
            self.result.seconds = time.monotonic() - began
        return self.result

    async def _open(self, stack: AsyncExitStack) -> None:
        proxies = {
            SOURCE: await stack.enter_async_context(FaultProxy(self._source.port)),
            CONTROL: await stack.enter_async_context(FaultProxy(self._control.port)),
        }
        source, control = await self._source.create_database(), await self._control.create_database()
        self._scenario = Scenario(
            source,
            through(proxies[CONTROL], control),
            self._place.target,
            rows=ONCE_ROWS,
            lease_seconds=LEASE_SECONDS,
            datasource_dsn=through(proxies[SOURCE], source),
            settings=SETTINGS,
        )
        self._place.before_start(self._scenario.service)
        await stack.enter_async_context(self._scenario)
        self._writers = await stack.enter_async_context(Writers(source, self._seed))
        self._services = [self._scenario.service, await self._scenario.second().start()]
        jobs = {mode: await self._scenario.create(mode, mode=mode, **JOBS[mode]) for mode in STREAMS}
        self._streams = [Stream(job, mode) for mode, job in jobs.items()]
        self._watch = await stack.enter_async_context(Watch(self._streams, self._services, self._usable))
        servers: Mapping[str, Server] = {SOURCE: self._source, CONTROL: self._control, **self._place.servers}
        self._breaker = Breaker(
            self._place, {**proxies, **self._place.proxies}, servers, self._services, self._watch, self._usable
        )
        await self._watch.moved(self._streams, RECOVERS_SECONDS)

    # -- one moment -------------------------------------------------------------------------------------------------

    async def _meet(self, moment: Moment) -> None:
        async with AsyncExitStack() as lift:
            at_work, go = await self._reach(moment, lift)
            for fault in moment.faults:
                kind = await self._breaker.inject(fault, at_work, go, lift)
                self.result.faults[f"{kind} {fault.where}"] += 1
            go()
            if moment.can_be_asked:
                for fault in moment.faults:
                    await self._says(fault)
            await asyncio.sleep(max(fault.seconds for fault in moment.faults))
        lifted = time.monotonic()
        await self._watch.moved(self._streams, RECOVERS_SECONDS)
        self.result.recoveries.append(time.monotonic() - lifted)
        faults = " and ".join(str(fault) for fault in moment.faults)
        at = f"at {moment.point}" if moment.point else "somewhere"
        print(f"{moment.number:4} {at}: {faults}; went on after {self.result.recoveries[-1]:.1f} s", flush=True)  # noqa: T201

    async def _reach(self, moment: Moment, lift: AsyncExitStack) -> tuple[int | None, Callable[[], None]]:
        """Wait until it is time; the pid of the service that is at work, and what lets it go on."""
        points = self._scenario.points
        if not moment.point:
            passed = len(points.seen) + moment.skip + 1
            await self._watch.until(lambda: len(points.seen) >= passed, REACHED_SECONDS, "points are passed")
            return _pid(points.seen[-1]), lambda: None
        hold = points.hold(moment.point, skip=moment.skip)
        lift.callback(hold.release)
        if moment.point == Point.PARKED:
            await self._park_somebody(moment.number, hold.reached, lift)
        if moment.point == Point.CLOSED:
            await self._leave_a_generation()
        await self._watch.until(hold.reached.is_set, REACHED_SECONDS, f"{moment.point} is reached")
        return _pid(hold.question), hold.release

    async def _park_somebody(self, first: int, parked: asyncio.Event, lift: AsyncExitStack) -> None:
        """Nobody parks by itself, and a job that is stopped between two steps has nothing to park: ask the next."""
        for number in range(first, first + MOST_STOPS):
            stream = self._streams[number % len(self._streams)]
            async with AsyncExitStack() as until_parked:
                await self._watch.until(partial(_is_in, stream, AT_WORK), REACHED_SECONDS, "it runs")
                await self._breaker.end(stream, Kind.STOP, until_parked)
                await self._watch.fresh(REACHED_SECONDS)
                await self._watch.until(
                    partial(_is_in, stream, "stopped", "successful", unless=parked),
                    REACHED_SECONDS,
                    "it is parked, or has nothing to park",
                )
                if parked.is_set():
                    lift.push_async_callback(until_parked.pop_all().aclose)
                    return

    async def _leave_a_generation(self) -> None:
        """Only a generation that was left in the middle is closed by the next one: abort, and plan anew from there."""
        stream = next(one for one in self._streams if one.mode == "incremental")
        async with AsyncExitStack() as until_aborted:
            opened = self._scenario.points.hold("opened", job_id=stream.job.id)
            until_aborted.callback(opened.release)
            await self._watch.until(opened.reached.is_set, REACHED_SECONDS, "it has begun to read")
            await self._breaker.end(stream, Kind.ABORT, until_aborted)
            opened.release()
            await self._watch.fresh(REACHED_SECONDS)
            await self._watch.until(lambda: stream.state == "aborted", ENDS_SECONDS, "it is aborted")
            await self._breaker.ask("PUT", f"/v1/jobs/{stream.job.name}?position=keep", json=stream.job.spec)

    async def _says(self, fault: Fault) -> None:
        """While something is away, every job that does not go on says so, and a service without its control database
        is not ready."""
        if fault.where == CONTROL and fault.kind in {Kind.REFUSE, Kind.KILL}:
            await until(self._nobody_is_ready, SAYS_SECONDS, "no service says that it is ready")
        elif fault.where in {SOURCE, *self._place.servers} and fault.kind in {Kind.REFUSE, Kind.KILL}:
            await self._watch.fresh(SAYS_SECONDS)
            rows = {stream: stream.rows for stream in self._streams}
            await self._watch.until(
                lambda: all(one.says() is not None or one.rows > rows[one] for one in self._streams),
                SAYS_SECONDS,
                f"every job says what it waits for while there is {fault}",
            )

    async def _nobody_is_ready(self) -> bool:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            for service in self._services:
                if not self._usable(service):
                    continue
                try:
                    async with session.get(f"{service.url}/readyz") as answer:
                        if answer.status != 503:
                            return False
                except (aiohttp.ClientError, TimeoutError):
                    continue  # it is just being started, or too busy to say yes
        return True

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Let every job read to the end, stop the endless one, and compare."""
        await asyncio.gather(*(service.wait_ready(RECOVERS_SECONDS) for service in self._services))
        written = await self._writers.stop()
        once, incremental, continuous = self._streams
        once.last = True
        await self._watch.fresh(FINISH_SECONDS)
        await self._watch.until(
            lambda: incremental.rows >= written and continuous.rows >= written, FINISH_SECONDS, "all rows are delivered"
        )
        incremental.last = True
        await self._watch.until(
            lambda: once.state == incremental.state == "successful", FINISH_SECONDS, "both runs have ended"
        )
        async with AsyncExitStack() as lift:
            await self._breaker.end(continuous, Kind.STOP, lift)
            await self._watch.until(lambda: continuous.state == "stopped", ENDS_SECONDS, "the endless one is stopped")
            await self._compare()

    async def _compare(self) -> None:
        wrong = []
        for stream in self._streams:
            generations = stream.generation if stream.mode == "once" else 1
            times = 1 if self._place.same_documents else generations
            report = await self._scenario.compare(stream.job, times=times)
            self.result.rows += report.rows
            self.result.missing += len(report.missing)
            self.result.doubled += len(report.doubled)
            self.result.runs += int(stream.answer["totals"]["runs"])
            self.result.said |= stream.said
            self.result.silence = max(self.result.silence, stream.longest_silence)
            if not report.exact:
                wrong.append(f"{stream.job.name}: {report.describe()}")
                continue
            sent = report.rows * generations // times
            finished = stream.mode != "continuous"
            await self._scenario.check_books(stream.job, sent, finished=finished)
        assert not wrong, "\n".join(wrong)
        if self.result.silence > LONGEST_SILENCE:
            raise Stuck(f"a job was silent for {self.result.silence:.0f} s")


def _is_in(stream: Stream, *states: str, unless: asyncio.Event | None = None) -> bool:
    return stream.state in states or (unless is not None and unless.is_set())


def _pid(question: Mapping[str, object]) -> int:
    pid = question["pid"]
    assert isinstance(pid, int)
    return pid
