"""The columns that a generation was planned with, held against those that the source has now.

What was added since is left out, so that nothing shifts. What is gone, or of another type, can not stand in the same
files any more. Another length or precision can: whether a value fits is the format's to say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from service.domain.inspection import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sinks.formats.columns import Column as ExactColumn
    from workers.sources.catalog import Column

COLUMN_GONE: Final = "column_gone"
COLUMN_CHANGED: Final = "column_changed"
_REMEDY = "bring the column back as it was, or start the job from the beginning: its new files have the new columns"


def findings(what: str, fixed: Iterable[ExactColumn], there: Sequence[Column]) -> list[Finding]:
    """An error for each column of `what` that is not as it was."""
    now = {column.name: column.exact for column in there}
    found = []
    for column in fixed:
        other = now.get(column.name)
        if other is None:
            said = f"{what} has no column {column.name!r} any more, and the files of this generation do"
            found.append(Finding("/source", "error", COLUMN_GONE, said, _REMEDY))
        elif (_plain(other.type), other.dimensions > 0) != (_plain(column.type), column.dimensions > 0):
            said = f"column {column.name!r} of {what} is {other.type} now, in this generation's files {column.type}"
            found.append(Finding("/source", "error", COLUMN_CHANGED, said, _REMEDY))
    return found


def _plain(written: str) -> str:
    """A type without its modifier: `numeric(12,2)[]` is `numeric[]`."""
    return re.sub(r"\(\d[^)]*\)", "", written)
