"""What a worker shows of a source, as the API shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.domain.records import Key
    from workers.sources.base import Horizon


def described(horizon: Horizon) -> dict[str, object]:
    """How far it is safe to read, and what holds the next bound back, as the API shows it."""
    return {
        "bound": shown(horizon.bound),
        "held_by": [{"pid": h.pid, "age_seconds": h.age_seconds, "query": h.query} for h in horizon.held_by],
        "ahead_of_generator": horizon.ahead_of_generator,
    }


def shown(key: Key | None) -> object:
    """A key as the API writes it: text, or a list of texts for a composite key."""
    if key is None:
        return None
    return key[0] if len(key) == 1 else list(key)
