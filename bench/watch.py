"""What a run did to the source, from the source's own log: its longest statement and its longest transaction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: Every statement of the source is logged with its duration; the other databases of the server are not.
SETTINGS: Final[Mapping[str, str]] = {"log_line_prefix": "%m|%p|%d|", "log_timezone": "UTC"}
DATABASE_SETTINGS: Final[Mapping[str, str]] = {"log_min_duration_statement": "0", "log_error_verbosity": "terse"}

_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC\|(\d+)\|([^|]*)\|(\w+):  (.*)$")
_DURATION = re.compile(r"duration: ([\d.]+) ms(?:  (?:statement|execute [^:]*): *(.*))?$")
_BEGIN = re.compile(r"(?:BEGIN|START TRANSACTION)\b", re.IGNORECASE)
_END = re.compile(r"(?:COMMIT|ROLLBACK|END|ABORT)\b(?! *TO)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Longest:
    """Seconds. A statement outside a transaction is one of its own."""

    statement: float = 0.0
    transaction: float = 0.0


class SourceLog:
    """Reads the log from where it ended when this was made."""

    def __init__(self, log: Path, database: str) -> None:
        self._log, self._database = log, database
        self._begin = log.stat().st_size

    def longest(self) -> Longest:
        """Over everything that has ended since."""
        with self._log.open(encoding="utf-8", errors="replace") as handle:
            handle.seek(self._begin)
            return longest(handle, self._database)


def longest(lines: Iterable[str], database: str) -> Longest:
    """
    The longest statement and transaction of a database in log lines written under `SETTINGS`.

    A statement that was cancelled has no duration in the log: it counts from the line before it of its process.
    """
    statement = transaction = 0.0
    began: dict[str, float] = {}
    before: dict[str, float] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None or match[3] != database:
            continue
        at, pid = datetime.fromisoformat(match[1] + "+00:00").timestamp(), match[2]
        duration = _DURATION.match(match[5])
        if duration is not None:
            took = float(duration[1]) / 1000
        elif match[4] == "ERROR":
            took = at - before.get(pid, at)
        else:
            continue
        before[pid] = at
        statement = max(statement, took)
        text = (duration[2] or "") if duration is not None else ""
        if _BEGIN.match(text):
            began[pid] = at - took
        elif _END.match(text) and pid in began:
            transaction = max(transaction, at - began.pop(pid))
        elif pid not in began:
            transaction = max(transaction, took)
    return Longest(statement, transaction)
