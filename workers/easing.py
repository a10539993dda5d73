"""A job gives way while its source has much else to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from service.domain.steps import Condition

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.domain.control import Control
    from workers.sources.base import Source

LOOK_EVERY_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.5


class Easing:
    """Looks at the source's own load now and then, for one step; where the job does not ask for it, it never does."""

    def __init__(self, source: Source, control: Control, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Source and control stay the caller's."""
        self._source, self._control, self._monotonic = source, control, monotonic
        self._next_look = 0.0
        self._busy = False

    async def delay(self) -> float:
        """Seconds to wait before more is read; then ask again. No transaction is open meanwhile. Raises what asking
        the source raises."""
        if self._control.active_sessions is None:
            self._next_look = 0.0  # once it is asked for, there is no second to be lost
        if self._busy or self._control.active_sessions is not None:
            await self._look()
        return PAUSE_SECONDS if self._busy else 0.0

    async def _look(self) -> None:
        if self._monotonic() < self._next_look:
            return
        most, before = self._control.active_sessions, self._busy
        self._busy = most is not None and await self._source.active_sessions() > most
        self._next_look = self._monotonic() + LOOK_EVERY_SECONDS
        if self._busy:
            await self._control.report(Condition(waiting_for="source", progressed=True))
        elif before:
            await self._control.report(Condition(progressed=True))

    async def wait(self) -> None:
        """Until more may be read. Raises Stopped when a stop is wanted, and what asking the source raises."""
        while (delay := await self.delay()) > 0:
            await self._control.pause(delay)
