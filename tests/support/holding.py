"""A step of this process's engine that is held where a test wants it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.domain.steps import Lease
    from workers.signals import Point


class Holding:
    """Signals of this process: holds everybody who comes to one point."""

    def __init__(self, point: str) -> None:
        """`point` by its name; `go` lets go of everybody."""
        self.point = point
        self.reached_it = asyncio.Event()
        self.go = asyncio.Event()
        self.leases: list[Lease] = []

    async def reached(self, point: Point, lease: Lease) -> None:
        """As `workers.signals.Signals`."""
        if point.value == self.point:
            self.leases.append(lease)
            self.reached_it.set()
            await self.go.wait()
