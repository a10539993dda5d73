"""What a new owner does about its predecessors' last chunk (docs/decisions/0003-chunk-protocol.md). Pure.

Let s be the settled sequence and p = s + 1 the one prepared and unsettled chunk, where there is one. Nothing is made
visible before its prepare, so only p can be visible beyond s.

| shown | no p | with p |
|---|---|---|
| p, by an epoch that prepared it | conflict | settle that try |
| s | go on | target holds positions: drop p, cut anew |
| nothing | go on | positions: unknown; names: repeat as cut; shows nothing: send again |
| a higher epoch | ask the store | ask the store |
| anything else | conflict | conflict |

A mark of another generation is nothing shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from sinks.base import Shows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.steps import ChunkRecord
    from sinks.base import Mark


class Action(Enum):
    """What to do before the first page is read."""

    GO_ON = auto()
    SETTLE = auto()
    """The chunk is visible: make it final."""
    DROP = auto()
    """The chunk can not become visible any more: read on from the position."""
    REPEAT = auto()
    """Read and write the same range under the same name and format."""
    SEND_AGAIN = auto()
    """Whether it is visible can not be known: read the range again, rows may double."""
    ASK_STORE = auto()
    """The target shows a younger owner: only the store says who is right."""
    CONFLICT = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, and the try it is about for `SETTLE` and `REPEAT`."""

    action: Action
    chunk: ChunkRecord | None = None


def decide(
    shows: Shows, mark: Mark | None, *, generation: int, epoch: int, settled: int, prepared: Sequence[ChunkRecord]
) -> Decision:
    """The line of the table above that fits; `prepared` are the tries of p, any order."""
    if mark is not None and mark.generation != generation:
        mark = None
    if mark is None:
        return _nothing_shown(shows, prepared)
    if mark.epoch > epoch:
        return Decision(Action.ASK_STORE)
    if prepared and mark.sequence == settled + 1:
        tries = [c for c in prepared if c.epoch == mark.epoch and mark.attempt in {None, c.attempt}]
        if tries:
            return Decision(Action.SETTLE, max(tries, key=lambda c: c.attempt))
    elif mark.sequence == settled:
        return Decision(Action.DROP if prepared else Action.GO_ON)
    return Decision(Action.CONFLICT)


def _nothing_shown(shows: Shows, prepared: Sequence[ChunkRecord]) -> Decision:
    if not prepared:
        return Decision(Action.GO_ON)
    match shows:
        case Shows.POSITION:
            return Decision(Action.UNKNOWN)
        case Shows.NAMES:
            return Decision(Action.REPEAT, max(prepared, key=lambda c: (c.epoch, c.attempt)))
        case Shows.NOTHING:
            return Decision(Action.SEND_AGAIN)
