"""How each fault of a schedule is done to real processes and connections, and how it is taken back."""

from __future__ import annotations

import asyncio
import resource
import struct
from typing import TYPE_CHECKING, Any

from tests.fault.places import FilePlace
from tests.fault.schedule import BOTH, CONTROL, HOLDER, OTHER, SOURCE, STREAMS, Fault, Kind
from tests.fault.streams import UNANSWERED, Stuck
from tests.support.client import Client
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AsyncExitStack

    from tests.fault.places import Place, Server
    from tests.fault.streams import Stream, Usable, Watch
    from tests.support.proxy import Action, FaultProxy
    from tests.support.service import ServiceProcess

PASSES_SECONDS = 40.0
"""Until a request comes by that a rule waits for."""
ENDS_SECONDS = 60.0
"""Until a verb has led to its state, or a service that was asked to end has ended."""
READY_SECONDS = 60.0
"""Until a service that has just been started can be told anything."""
SPARE_DESCRIPTORS = 2
_LOST: dict[Kind, Action] = {
    Kind.LOSE_REPLY: "swallow_reply",
    Kind.LOSE_REQUEST: "drop_request",
    Kind.CUT_REPLY: "cut_after",
    Kind.CUT_REQUEST: "cut_before",
}
MANY = 1_000_000
_CANCEL_REQUEST = struct.pack(">i", 80877102)
_ENDS = {"stopped", "aborted", "successful"}


class Breaker:
    """Breaks one thing at a time; every `inject` is undone by the stack it was given."""

    def __init__(
        self,
        place: Place,
        proxies: Mapping[str, FaultProxy],
        servers: Mapping[str, Server],
        services: Sequence[ServiceProcess],
        watch: Watch,
        usable: Usable,
    ) -> None:
        """`proxies` and `servers`: those of the place, of the source and of the control database."""
        self._place, self._proxies, self._servers = place, proxies, servers
        self._services, self._watch, self._usable = services, watch, usable

    async def inject(self, fault: Fault, at_work: int | None, go: Callable[[], None], lift: AsyncExitStack) -> Kind:
        """Do it; `at_work` is the pid of the service at the named point, which `go` lets go on: called here where the
        fault itself waits for something. Returns what was done: a full disk takes a file system of our own, and
        without one descriptors run out instead."""
        kind, where = fault.kind, fault.where
        if kind is Kind.FULL and isinstance(self._place, FilePlace) and self._place.can_be_full:
            await self._place.lose()
            lift.push_async_callback(self._place.mend)
        elif kind in {Kind.FULL, Kind.STARVE}:
            await self._starve(self._victims(HOLDER, at_work), lift)
            return Kind.STARVE
        elif where in STREAMS:
            await self._verb(fault, go, lift)
        elif where in {HOLDER, OTHER, BOTH}:
            await self._service(kind, self._victims(where, at_work), go, lift)
        elif kind in {Kind.KILL, Kind.FREEZE}:
            self._server(kind, self._servers[where], lift)
        elif kind in _LOST:
            await self._lose(fault, go, lift)
        else:
            await self._on_the_way(fault, self._proxies[where], lift)
        return kind

    # -- connections ------------------------------------------------------------------------------------------------

    @staticmethod
    async def _on_the_way(fault: Fault, proxy: FaultProxy, lift: AsyncExitStack) -> None:
        lift.callback(proxy.heal)
        match fault.kind:
            case Kind.STALL:
                proxy.stall = True
            case Kind.DELAY:
                proxy.delay_seconds = fault.amount
            case Kind.THROTTLE:
                proxy.bytes_per_second = fault.amount
            case Kind.REFUSE:
                await proxy.refuse()
                lift.push_async_callback(proxy.accept_again)
                proxy.cut()
            case _:
                proxy.cut()

    async def _lose(self, fault: Fault, go: Callable[[], None], lift: AsyncExitStack) -> None:
        """The next request: of a database any, of a sink one that makes a chunk visible, or, where a server never sees
        those, any."""
        proxy = self._proxies[fault.where]
        wanted: Callable[[bytes], bool] = _is_answered
        if fault.where not in {SOURCE, CONTROL} and proxy is self._place.shown_through:
            wanted = self._place.shows
        lift.callback(proxy.heal)
        # One that is chosen may lose its connection before it is answered: then the next is taken.
        rule = proxy.on_request(_LOST[fault.kind], predicate=wanted, count=MANY)
        go()
        await happened(rule.triggered, PASSES_SECONDS, f"a request comes by for {fault}")
        rule.count = 0

    # -- processes --------------------------------------------------------------------------------------------------

    @staticmethod
    def _server(kind: Kind, server: Server, lift: AsyncExitStack) -> None:
        if kind is Kind.KILL:
            server.kill()
            lift.push_async_callback(server.start_async)
        else:
            server.freeze()
            lift.callback(server.thaw)

    def _victims(self, where: str, at_work: int | None) -> list[ServiceProcess]:
        running = [one for one in self._services if self._usable(one)]
        holder = next((one for one in running if one.process.pid == at_work), running[0])
        others = [one for one in running if one is not holder]
        return {HOLDER: [holder], OTHER: others[:1] or [holder], BOTH: running}[where]

    async def _service(
        self, kind: Kind, victims: Sequence[ServiceProcess], go: Callable[[], None], lift: AsyncExitStack
    ) -> None:
        for victim in victims:
            if kind is Kind.FREEZE:
                self._usable.frozen.add(victim)
                victim.freeze()
                lift.callback(self._thaw, victim)
            elif kind is Kind.KILL:
                victim.kill()
                victim.launch()
            else:
                await self._terminate(victim, go)

    async def _terminate(self, victim: ServiceProcess, go: Callable[[], None]) -> None:
        await victim.wait_ready(READY_SECONDS)
        self._usable.ending.add(victim)
        ending = asyncio.create_task(victim.terminate(ENDS_SECONDS))
        go()
        code = await ending
        if code != 0:
            raise Stuck(f"{victim.name} was asked to end and ended with {code}\n{victim.process.log_tail()}")
        victim.launch()
        self._usable.ending.discard(victim)

    def _thaw(self, victim: ServiceProcess) -> None:
        victim.thaw()
        self._usable.frozen.discard(victim)

    @staticmethod
    async def _starve(victims: Sequence[ServiceProcess], lift: AsyncExitStack) -> None:
        for victim in victims:
            await victim.wait_ready(READY_SECONDS)
            pid = victim.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            # Whatever is open stays open; the limit counts numbers, of which a few below the largest are free.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (victim.open_files() + SPARE_DESCRIPTORS, before[1]))
            lift.callback(_restore, pid, before)

    # -- verbs ------------------------------------------------------------------------------------------------------

    async def _verb(self, fault: Fault, go: Callable[[], None], lift: AsyncExitStack) -> None:
        """The other faults of the moment come while the verb is under way, and are lifted before it must have ended."""
        stream = next(one for one in self._watch.streams if one.mode == fault.where)
        await self.end(stream, fault.kind, lift)
        lift.push_async_callback(self._ended, stream, str(fault))
        go()

    async def _ended(self, stream: Stream, fault: str) -> None:
        await self._watch.fresh(ENDS_SECONDS)
        await self._watch.until(lambda: stream.state in _ENDS, ENDS_SECONDS, f"{fault} has led to its state")

    async def end(self, stream: Stream, kind: Kind, lift: AsyncExitStack) -> None:
        """Ask for the verb, until a service has taken it; the stream is started again after the lift."""
        stream.held = True
        lift.callback(_let_go, stream)
        verb = "stop" if kind is Kind.STOP else "abort"
        await self.ask("POST", f"/v1/jobs/{stream.job.name}/{verb}")

    async def ask(self, method: str, path: str, **arguments: Any) -> None:
        """One call, through whichever service takes it."""

        async def taken() -> bool:
            for service in [one for one in self._services if self._usable(one)]:
                try:
                    async with Client(service.url, service.admin_token, timeout_seconds=5.0) as api:
                        await api.call(method, path, **arguments)
                    return True
                except UNANSWERED:
                    continue
            return False

        await until(taken, ENDS_SECONDS, f"{method} {path} is taken")


def _is_answered(request: bytes) -> bool:
    """Nobody answers Postgres's Terminate and CancelRequest."""
    return request[:1] != b"X" and request[4:8] != _CANCEL_REQUEST


def _restore(pid: int, limits: tuple[int, int]) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    except ProcessLookupError:
        return  # another fault has killed it


def _let_go(stream: Stream) -> None:
    stream.held = False
