"""A token bucket a caller: `ROWFERRY_RATE_LIMIT` requests a second, as many at once."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from service.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_CALLERS = 10_000


class RateLimit:
    """Counts by key; forgets who was not seen for longest."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._clock = clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def take(self, key: bytes) -> None:
        """One request of this caller. Raises Problem 429 with Retry-After in whole seconds."""
        now = self._clock()
        left, seen = self._buckets.pop(key, (self._rate, now))
        left = min(self._rate, left + (now - seen) * self._rate)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = max(1, math.ceil((1 - left) / self._rate))
            raise Problem(
                429,
                "too_many_requests",
                f"more than {self._rate:g} requests a second; try again in {wait} s",
                headers={"Retry-After": str(wait)},
            )
