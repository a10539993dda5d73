"""The text of a manifest, of a generation or of one of its days, piece by piece, and what a finish step finds wrong.

One JSON document: who and where, `files` with one entry a line, then counts. The same chunks give the same text.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Final

from sinks import naming
from sinks.base import PositionConflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import date

    from sinks.base import Owner, Prepared


PIECE_BYTES: Final = 64 << 10


class ManifestText:
    """The pieces in their order: `head`, `entry` for each chunk, `tail`. Holds counts only, whatever the number, and
    one a folder."""

    def __init__(self, owner: Owner, path: str, day: date | None = None) -> None:
        """`day`: of chunks that became final on this day (UTC) alone."""
        self._owner = owner
        self._path = path
        self._day = day
        self._planned = naming.planned_files(owner.job_id, owner.generation)
        self.files = self.rows = self.bytes = 0
        self._expected: Counter[str] = Counter()
        """How many files of the generation's planned splits lie in each folder, by the records."""

    @property
    def folders(self) -> set[str]:
        """Where files of the generation may lie, without a slash at the end."""
        return {self._path, *self._expected}

    def head(self) -> bytes:
        """The beginning."""
        head: dict[str, object] = {
            "job_id": self._owner.job_id,
            "job": self._owner.job_name,
            "generation": self._owner.generation,
            "path": self._path,
        }
        if self._day is not None:
            head["day"] = self._day.isoformat()
        return _line(head)[:-1] + b',"files":['

    def entry(self, chunk: Prepared) -> bytes:
        """One chunk; its name is relative where it lies in `path`."""
        parent, _, name = chunk.target.rpartition("/")
        beside = parent == self._path
        entry = {
            "file": name if beside else "/" + chunk.target.lstrip("/"),
            "rows": chunk.rows,
            "bytes": chunk.bytes,
            "checksum": chunk.checksum,
            "first_key": chunk.first_key,
            "last_key": chunk.last_key,
            "format": chunk.details.get("format"),
            "compression": chunk.details.get("compression"),
        }
        separator = b",\n" if self.files else b"\n"
        self.files += 1
        self.rows += chunk.rows
        self.bytes += chunk.bytes
        self._expected[parent] += self.is_planned(name)
        return separator + _line(entry)

    def is_planned(self, name: str) -> bool:
        """Whether a file of this name belongs to a planned split of the generation."""
        return self._planned.fullmatch(name) is not None

    def tail(self) -> bytes:
        """The end."""
        tail = {"file_count": self.files, "rows": self.rows, "bytes": self.bytes}
        return b"\n]," + _line(tail)[1:] + b"\n"

    async def pieces(self, chunks: AsyncIterator[Prepared]) -> AsyncIterator[bytes]:
        """The whole, in pieces of some `PIECE_BYTES`."""
        piece = bytearray(self.head())
        async for chunk in chunks:
            piece += self.entry(chunk)
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece + self.tail())

    def check_nothing_else(self, folder: str, there: int) -> None:
        """Raises PositionConflict when `there`, the planned files that lie in `folder`, are not the recorded ones."""
        if there != self._expected[folder]:
            raise PositionConflict(
                "output_unknown",
                f"folder {folder!r} has {there} files of generation {self._owner.generation} of the job, and "
                f"{self._expected[folder]} chunks are recorded; move away the files that the job's outputs do not list",
            )


def gone(chunk: Prepared) -> PositionConflict:
    """A file of the record is not there."""
    return PositionConflict(
        "output_missing",
        f"{chunk.target!r} ({chunk.rows} rows) is gone; bring the file back, or start from the beginning",
    )


def differs(chunk: Prepared, how: str) -> PositionConflict:
    """A file of the record is another one."""
    return PositionConflict(
        "output_differs", f"{chunk.target!r} {how}; bring the file back as it was, or start from the beginning"
    )


def _line(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
