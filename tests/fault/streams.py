"""Jobs that are kept going while everything around them breaks, and a watch that never lets one of them be silent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from tests.support.client import ApiError, Client
from tests.support.reconcile import split_uppers
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.fault.scenario import FaultJob
    from tests.support.service import ServiceProcess

LOOK_EVERY_SECONDS = 0.25
ANSWER_SECONDS = 3.0
AT_WORK = "running"
Json = dict[str, Any]
UNANSWERED = (aiohttp.ClientError, OSError, TimeoutError, ApiError)
"""What a call of a service may end with that is killed, frozen, or cut off from its control database."""


class Stuck(AssertionError):
    """A job neither goes on nor says what it waits for, or it gave up."""


@dataclass(eq=False)
class Stream:
    """A job that is started again whenever its run has ended."""

    job: FaultJob
    mode: str
    answer: Json = field(default_factory=dict)
    """As it answered last."""
    held: bool = False
    """Somebody else decides whether it runs."""
    last: bool = False
    """Not started again once it is successful."""
    spoke_at: float = field(default_factory=time.monotonic)
    """When it last moved, or said what it waits for."""
    longest_silence: float = 0.0
    said: set[str] = field(default_factory=set)
    """What it ever waited for."""
    _mark: tuple[int, int, int] = (0, 0, 0)

    @property
    def state(self) -> str:
        """As it answered last."""
        return str(self.answer.get("state", ""))

    @property
    def rows(self) -> int:
        """Delivered and settled, over all its runs."""
        return int(self.answer["totals"]["rows_sent"]) if self.answer else 0

    @property
    def generation(self) -> int:
        """Of the plan it works on."""
        return int(self.answer["generation"]) if self.answer else 0

    def says(self) -> str | None:
        """What it waits for; None while it runs and says nothing."""
        if self.state != AT_WORK:
            return self.state
        if (retrying := self.answer["retrying"]) is not None:
            return str(retrying["cause"]["code"])
        return self.answer["waiting_for"] or ("stalled" if self.answer["stalled"] else None)

    def take_in(self, answer: Json) -> None:
        """A new answer. Raises Stuck when the job gave up."""
        if answer["state"] in {"error", "failing"}:
            raise Stuck(f"{self.job.name} gave up: {answer['errors']} {answer['retrying']}")
        self.answer = answer
        self.job.uppers.update(split_uppers(answer))
        mark = (self.generation, self.rows, int(answer["totals"]["rows_read"]))
        now, says = time.monotonic(), self.says()
        self.longest_silence = max(self.longest_silence, now - self.spoke_at)
        if mark != self._mark or says is not None:
            self._mark, self.spoke_at = mark, now
        if answer["retrying"] is not None and says is not None:
            self.said.add(says)


class Watch:
    """Looks at all streams all the time, through whichever service answers, and starts what has ended."""

    def __init__(self, streams: Sequence[Stream], services: Sequence[ServiceProcess], usable: Usable) -> None:
        self.streams, self._services, self._usable = streams, services, usable
        self.looks = 0
        self.problem: Stuck | None = None
        self._answered: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        """No more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while self.problem is None:
            try:
                self._supervise()
                if await self._look():
                    self.looks += 1
            except Stuck as problem:
                self.problem = problem
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _supervise(self) -> None:
        """As whoever keeps services running: one that could not start without its control database is started again;
        one that has worked ends when it is told to, and never by itself."""
        for service in self._services:
            if service.running or service in self._usable.ending:
                continue
            if service.process.pid in self._answered:
                raise Stuck(f"{service.name} ended by itself: {service.process.exit_code}")
            service.launch()

    async def _look(self) -> bool:
        """Whether somebody answered."""
        for service in [one for one in self._services if self._usable(one)]:
            with contextlib.suppress(*UNANSWERED):
                async with Client(service.url, service.admin_token, timeout_seconds=ANSWER_SECONDS) as api:
                    jobs = {job["id"]: job for job in (await api.call("GET", "/v1/jobs", 200))["jobs"]}
                    self._answered.add(service.process.pid)
                    for stream in self.streams:
                        if stream.job.id in jobs:
                            stream.take_in(jobs[stream.job.id])
                            await self._keep_going(api, stream)
                    return True
        # Nobody could be asked: silence that is no job's.
        for stream in self.streams:
            stream.spoke_at = time.monotonic()
        return False

    @staticmethod
    async def _keep_going(api: Client, stream: Stream) -> None:
        over = stream.state == "successful"
        if stream.held or (over and stream.last) or stream.state not in {"created", "stopped", "aborted", "successful"}:
            return
        with contextlib.suppress(*UNANSWERED):
            await api.start(stream.job.name, beginning=over and stream.mode == "once")

    async def until(self, condition: Callable[[], bool], seconds: float, describe: str) -> None:
        """Until it holds by the newest answers. Raises Stuck, with what every job says, when it does not in time."""

        def holds() -> bool:
            if self.problem is not None:
                raise self.problem
            return condition()

        try:
            await until(holds, seconds, describe)
        except TimeoutError:
            said = "; ".join(f"{one.job.name} {one.state} {one.rows} rows, says {one.says()}" for one in self.streams)
            raise Stuck(f"not within {seconds} s: {describe}. {said}") from None

    async def fresh(self, seconds: float) -> None:
        """A look that began after now has been answered."""
        looks = self.looks
        await self.until(lambda: self.looks >= looks + 2, seconds, "a service answers")

    async def moved(self, streams: Iterable[Stream], seconds: float) -> None:
        """Each of them has delivered something since a look from now on."""
        await self.fresh(seconds)
        before = {stream: stream.rows for stream in streams}
        await self.until(lambda: all(one.rows > rows for one, rows in before.items()), seconds, "every job goes on")


class Usable:
    """Which services can be asked at all."""

    def __init__(self) -> None:
        self.frozen: set[ServiceProcess] = set()
        self.ending: set[ServiceProcess] = set()
        """Asked to end."""

    def __call__(self, service: ServiceProcess) -> bool:
        """It runs, and is neither frozen nor ended by us."""
        return service.running and service not in self.frozen | self.ending
