"""Named points between the steps of a run. Production passes them by; a test may hold the worker at one of them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from service.domain.steps import Lease


class Point(StrEnum):
    """Where a worker can be held, killed or frozen. Each is reached after what its name says."""

    LEASED = "leased"
    OPENED = "opened"
    """The sink is open and older owners are fenced."""
    READ = "read"
    STAGED = "staged"
    COMPLETE = "complete"
    """Everything staged is acknowledged; the chunk is not stored as prepared yet."""
    PREPARED = "prepared"
    VISIBLE = "visible"
    SETTLED = "settled"
    DAY_WRITTEN = "day_written"
    """The manifest of a day is there; the store does not know it yet."""
    CLOSED = "closed"
    """An older generation was closed."""
    BOUNDED = "bounded"
    """Bounds and splits are known but not saved."""
    PLANNED = "planned"
    SPLIT_DONE = "split_done"
    CHECKED = "checked"
    """The finish step has compared everything, but is not settled."""
    FINISHED = "finished"
    COMPARED = "compared"
    """A verification has compared a chunk, or the end of a split."""
    PARKED = "parked"


class Signals(Protocol):
    """Told about every point that a worker reaches."""

    async def reached(self, point: Point, lease: Lease) -> None:
        """Returns when the worker may go on."""


class NoSignals:
    """Production: nobody waits."""

    async def reached(self, point: Point, lease: Lease) -> None:
        """Goes on at once."""
