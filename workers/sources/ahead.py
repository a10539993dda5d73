"""What one statement has read ahead of what was asked: the rows behind one that can not be read, and what follows.

A page ends before a row that is too large, and the next call tells that row; the statement went on. Kept in the order
of the keys, given out as long as the caller goes on where it stood, forgotten as soon as it does not.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from workers.sources.base import Page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.sources.base import Key
    from workers.sources.definition import Definition

Part = tuple["Key | None", "Page | Key"]
"""What comes behind a key: rows, or the key of the one that is too large."""


class ReadAhead:
    """Of one reader. Holds a page at most, in parts."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._asked: tuple[Definition, Key | None] | None = None

    def keep(self, definition: Definition, upper: Key | None, parts: Iterable[Part]) -> None:
        """Instead of what was kept before."""
        self._parts, self._asked = deque(parts), (definition, upper)

    def next(self, definition: Definition, after: Key | None, upper: Key | None, most: int | None) -> Page | Key | None:
        """What comes behind `after` up to `upper`, of at most so many rows; None where it has to be read."""
        if not self._parts:
            return None
        behind, part = self._parts[0]
        fits = most is None or not isinstance(part, Page) or len(part.values) <= most
        if fits and behind == after and self._asked == (definition, upper):
            self._parts.popleft()
            return part
        self._parts.clear()
        return None
