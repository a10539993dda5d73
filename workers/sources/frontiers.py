"""The moving bound of a `continuous` job: candidates in a queue, let go from the front when they are final."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.domain.errors import Permanent
from workers.sources.barrier import still_held
from workers.sources.base import Horizon

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.sources.barrier import Barrier
    from workers.sources.base import Frontier, Key, KnownTables
    from workers.sources.current import CurrentDefinition
    from workers.sources.safety import Safety

_MOST_CANDIDATES = 64
"""More would only make the list longer while somebody holds the first."""
_SECOND_LOOK_SECONDS = 0.015
"""Most writers hold for a few milliseconds: a candidate need not wait a whole poll for them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bound, and who may still write below it."""

    bound: Key
    holders: frozenset[str]
    drawn_at: float


class CommitFrontier:
    """The moving bound: a queue of candidates, one a poll, let go from the front.

    Virtual transactions keep their names however often our own connection is opened anew. A restart of the server
    ends all of them but the prepared ones, and those hold every candidate.
    """

    def __init__(self, barrier: Barrier, position: Key | None) -> None:
        self._barrier = barrier
        self._bound = position
        self._queue: deque[Candidate] = deque()
        self._ended: deque[tuple[Key, str | None]] = deque()
        """Bounds that nobody holds any more, and what a standby has to replay before they count."""

    async def advance(self) -> Horizon:
        """One look: three short statements, two when nothing was written; one more for a candidate that is held."""
        drawn = await self._barrier.draw(self._newest(), self._bound)
        if drawn.key is None and not self._queue and not self._ended:
            return Horizon(self._bound, (), drawn.ahead)
        now = await self._barrier.holders()
        if drawn.key is not None and len(self._queue) < _MOST_CANDIDATES:
            self._queue.append(Candidate(drawn.key, frozenset(now), time.monotonic()))
        await self._let_go(now)
        if drawn.key is not None and self._queue:
            await asyncio.sleep(_SECOND_LOOK_SECONDS)
            now = await self._barrier.holders()
            await self._let_go(now)
        if not self._queue:
            return Horizon(self._bound, (), drawn.ahead)
        first = self._queue[0]
        held = await self._barrier.described(still_held(first.holders, now))
        self._barrier.refuse_waiting(first.drawn_at, held)
        return Horizon(self._bound, held, drawn.ahead)

    async def _let_go(self, now: dict[str, int | None]) -> None:
        if self._queue and not still_held(self._queue[0].holders, now):
            written = await self._barrier.written()
            while self._queue and not still_held(self._queue[0].holders, now):
                self._ended.append((self._queue.popleft().bound, written))
        while self._ended and await self._barrier.replayed(self._ended[0][1]):
            self._bound = self._ended.popleft()[0]

    def _newest(self) -> Key | None:
        if self._queue:
            return self._queue[-1].bound
        return self._ended[-1][0] if self._ended else self._bound

    async def close(self) -> None:
        """Nothing is held."""


class DelayFrontier:
    """A candidate is final a fixed time after it was drawn; zero: at once."""

    def __init__(
        self, barrier: Barrier, position: Key | None, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._barrier = barrier
        self._bound = position
        self._seconds = seconds
        self._clock = clock
        self._queue: deque[Candidate] = deque()

    async def advance(self) -> Horizon:
        """One look at the largest key."""
        newest = self._queue[-1].bound if self._queue else self._bound
        # the candidates of a long delay would pile up: one for each 64th of it is enough
        if not self._queue or self._clock() - self._queue[-1].drawn_at >= self._seconds / _MOST_CANDIDATES:
            drawn = await self._barrier.draw(newest, self._bound)
            if drawn.key is not None:
                self._queue.append(Candidate(drawn.key, frozenset(), self._clock()))
        while self._queue and self._clock() - self._queue[0].drawn_at >= self._seconds:
            self._bound = self._queue.popleft().bound
        return Horizon(self._bound)

    async def close(self) -> None:
        """Nothing is held."""


class LazyFrontier:
    """The frontier that `options.safety` asks for, looked up on the first advance."""

    def __init__(
        self, safety: Safety, current: CurrentDefinition, position: Key | None, tables: KnownTables | None
    ) -> None:
        self._safety, self._current = safety, current
        self._position, self._tables = position, tables
        self._frontier: Frontier | None = None

    async def advance(self) -> Horizon:
        """As the frontier's; a change of the source that it meets is named as a page would name it."""
        if self._frontier is None:
            definition = await self._current.required()
            self._frontier = await self._safety.frontier(definition, self._position, self._tables)
        try:
            return await self._frontier.advance()
        except Permanent as error:
            await self._current.lost(error)
            raise

    async def close(self) -> None:
        """Nothing is held."""
