"""How many connections all jobs of this process may hold on one datasource, first come first served.

A connection is kept between pages because opening one costs more than reading a small page. When somebody waits, the
one that has been idle longest is asked back, so a job that only polls never starves another.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.domain.datasource import Datasource

_Waiting = deque["asyncio.Future[None]"]


@dataclass(slots=True)
class _Account:
    held: int = 0
    waiters: _Waiting = field(default_factory=deque)
    idle: OrderedDict[Slot, Callable[[], None]] = field(default_factory=OrderedDict)


class Slot:
    """The right to hold one connection. `release` once, at any time; more often does nothing."""

    def __init__(
        self, budget: ConnectionBudget, key: tuple[str, str], released: Callable[[], None] | None = None
    ) -> None:
        self._budget = budget
        self._key = key
        self._told = released
        self._released = False

    def idle(self, give_back: Callable[[], None]) -> None:
        """The connection is not in use: `give_back` may be called, once, from the event loop, until `busy`."""
        self._budget._idle(self._key, self, give_back)  # noqa: SLF001  # the two are one thing in two classes

    def busy(self) -> None:
        """The connection is in use again."""
        self._budget._busy(self._key, self)  # noqa: SLF001  # as idle

    def release(self) -> None:
        """Give the right back to the one who has waited longest."""
        if not self._released:
            self._released = True
            self._budget._release(self._key, self)  # noqa: SLF001  # as idle
            if self._told is not None:
                self._told()


class ConnectionBudget:
    """One for the whole process. `default` holds where the datasource says nothing."""

    def __init__(self, default: int = 8) -> None:
        if default < 1:
            raise ValueError("max_connections_per_datasource must be at least 1")
        self._default = default
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._lasting: dict[tuple[str, str, int], asyncio.Semaphore] = {}

    def held(self, datasource: Datasource) -> int:
        """Connections held now."""
        account = self._accounts.get((datasource.account, datasource.name))
        return account.held if account else 0

    def limit(self, datasource: Datasource) -> int:
        """Connections that may be held at a time."""
        return datasource.max_connections or self._default

    async def acquire(self, datasource: Datasource, waiting: Callable[[bool], None] | None = None) -> Slot:
        """A slot; calls `waiting(True)` when it has to wait and `waiting(False)` afterwards, cancelled or not."""
        return await self._acquire(datasource, waiting)

    async def acquire_lasting(self, datasource: Datasource, waiting: Callable[[bool], None] | None = None) -> Slot:
        """As `acquire`, for a connection that is held for as long as a run reads by others, and is never idle. All of
        these together leave one to the others, or each run would wait for the end of another. Needs a limit of 2."""
        limit = self.limit(datasource)
        if limit < 2:  # as said
            raise ValueError("a lasting connection needs another beside it")
        gate = self._lasting.setdefault((datasource.account, datasource.name, limit), asyncio.Semaphore(limit - 1))
        waits = waiting is not None and gate.locked()
        if waits and waiting is not None:
            waiting(True)
        try:
            await gate.acquire()
        finally:
            if waits and waiting is not None:
                waiting(False)
        try:
            return await self._acquire(datasource, waiting, gate.release)
        except BaseException:
            gate.release()
            raise

    async def _acquire(
        self,
        datasource: Datasource,
        waiting: Callable[[bool], None] | None,
        released: Callable[[], None] | None = None,
    ) -> Slot:
        key = (datasource.account, datasource.name)
        account = self._accounts.setdefault(key, _Account())
        if account.held < self.limit(datasource) and not account.waiters:
            account.held += 1
            return Slot(self, key, released)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        account.waiters.append(turn)
        self._ask_back(account)
        if waiting:
            waiting(True)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on(key, account)
            elif turn in account.waiters:
                account.waiters.remove(turn)
            raise
        finally:
            if waiting:
                waiting(False)
        return Slot(self, key, released)

    @staticmethod
    def _ask_back(account: _Account) -> None:
        if account.idle:
            _, give_back = account.idle.popitem(last=False)
            give_back()

    def _idle(self, key: tuple[str, str], slot: Slot, give_back: Callable[[], None]) -> None:
        account = self._accounts[key]
        if account.waiters:
            give_back()
        else:
            account.idle[slot] = give_back

    def _busy(self, key: tuple[str, str], slot: Slot) -> None:
        self._accounts[key].idle.pop(slot, None)

    def _release(self, key: tuple[str, str], slot: Slot) -> None:
        account = self._accounts[key]
        account.idle.pop(slot, None)
        self._pass_on(key, account)

    def _pass_on(self, key: tuple[str, str], account: _Account) -> None:
        """The slot goes to the next in the queue without ever being free, so nobody can step in between."""
        while account.waiters:
            turn = account.waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        account.held -= 1
        if not account.held:
            del self._accounts[key]
