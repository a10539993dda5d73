"""A job gives way while its source has much else to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from service.domain.records import Condition

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.domain.control import Control
    from service.domain.spec import EaseOptions
    from workers.sources.base import Source

LOOK_EVERY_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.5


class Easing:
    """Looks at the source's own load now and then, for one split; without `options` it never does."""

    def __init__(
        self,
        options: EaseOptions | None,
        source: Source,
        control: Control,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Source and control stay the caller's."""
        self._options, self._source, self._control, self._monotonic = options, source, control, monotonic
        self._next_look = 0.0
        self._busy = False

    async def delay(self) -> float:
        """Seconds to wait before more is read; then ask again. No transaction is open meanwhile. Raises what asking
        the source raises."""
        if self._options is None:
            return 0.0
        if self._monotonic() >= self._next_look:
            busy = await self._source.active_sessions() > self._options.active_sessions
            self._next_look = self._monotonic() + LOOK_EVERY_SECONDS
            if busy:
                await self._control.report(Condition(waiting_for="source", progressed=True))
            self._busy = busy
        return PAUSE_SECONDS if self._busy else 0.0
