"""How many splits a generation gets where the definition says `auto`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from service.domain.spec import JobSpec
    from workers.sources.base import Size

ROWS_A_SPLIT: Final = 500_000
BYTES_A_SPLIT: Final = 128 * 1024 * 1024
"""Below either, opening one more reader and writer costs more than it wins."""
SPLITS_A_CORE: Final = 2
"""One waits for its source or its sink while the other works."""
MOST_OF_A_SINK: Final = {"elasticsearch": 4}
"""Its nodes share a queue of bulk requests among all who write: more writers only wait in it."""


def auto_splits(spec: JobSpec, size: Size, *, cores: int | None = None) -> int:
    """As many as the rows and bytes are worth, and no more than cores, connections and sink can use at a time."""
    if spec.source.limit is not None or getattr(spec.sink, "name", None):
        return 1  # a limit is counted by one reader; names of a definition's own do not tell splits apart
    worth = max(-(-(size.rows or 0) // ROWS_A_SPLIT), -(-(size.bytes or 0) // BYTES_A_SPLIT))
    able = SPLITS_A_CORE * (cores or usable_cores())
    if size.connections is not None:
        able = min(able, size.connections)
    return max(1, min(worth, able, MOST_OF_A_SINK.get(spec.sink.kind, able)))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
