"""The late window: how far behind its position a job looks for rows that commit late (`options.late_window`).

One split of a generation looks back, its last: it remembers the keys it has read, as far as its window goes, and what
is there without being remembered has arrived late. What is remembered is kept with each try of a chunk and final with
its settle, so a row that was found late is in the memory when it is in the sink, and not before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.records import Key
    from service.domain.spec import SourceSpec
    from service.domain.steps import Lease

MOST_LATE_KEYS: Final = 100_000
"""A split holds and keeps about twice as many keys, and a look reads them all."""


@dataclass(frozen=True, slots=True)
class SeenKeys:
    """A part of what a split with a window has read, in the order of the keys."""

    number: int
    """Its own within the split; never given twice while one of them is kept."""
    last_key: Key
    keys: int
    packed: bytes = field(repr=False)
    """The keys as `workers.window` packs them."""


@dataclass(frozen=True, slots=True)
class WindowState:
    """What a split remembers of the keys behind its position."""

    floor: Key | None
    """Every key above it that was read is remembered; None: every key."""
    seen: Sequence[SeenKeys] = ()
    """Settled, in the order of their numbers."""
    next_number: int = 1
    """Above that of every part, settled or not."""


class WindowSteps(Protocol):
    """The part of `StepStore` that is about windows."""

    async def move_window(self, lease: Lease, floor: Key, forgotten: Sequence[int]) -> None:
        """Rows at or below `floor` are not looked for any more, and the parts with these numbers, none of which holds
        a key above it, not remembered. Raises Conflict `chunk_unsettled` while a chunk is prepared."""


def refuse_window(source: SourceSpec, mode: str) -> None:
    """Raises ValueError where a definition can not look back."""
    if mode not in {"incremental", "continuous"}:
        raise ValueError(
            f"late_window is for modes that go on behind their last row, and mode {mode} reads what is there at its "
            "start; use incremental or continuous, or leave late_window out"
        )
    for name in ("limit", "template"):
        if getattr(source, name) is not None:
            raise ValueError(
                f"late_window does not go with source.{name}: what a run reads need not follow what the last one read; "
                "leave one of them out"
            )
