"""The modes whose answer can only be written when the last row is known: MessagePack counts an array's members before
the first, and a workbook is an archive with its table of contents at the end.

Rows go to a temporary file as they are read, so memory is that of a page here too; the answer begins when all is there,
and what goes wrong before has its own status.
"""

from __future__ import annotations

import json
import math
import tempfile
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import msgpack

from service.api.dialects.devo_answers import invalid, now_ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from service.api.dialects.devo_values import OutputColumn

MODES: Final = frozenset({"msgpack", "xls"})


def document(mode: str, columns: Sequence[OutputColumn], cid: str, folder: Path) -> Document:
    """An empty one. `folder` (made if it is missing) takes its temporary files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return MessagePack(columns, cid, folder) if mode == "msgpack" else Workbook(columns, folder)


class Document(Protocol):
    """One answer in the making. Not for the event loop's thread: all of it is file work."""

    content_type: str

    def rows(self, rows: Sequence[list[Any]]) -> None:
        """Some rows. Raises Failure for one that the document can not hold."""

    def finish(self) -> tuple[bytes, IO[bytes]]:
        """The whole answer: these bytes, then this file from where it stands. No more rows."""

    def close(self) -> None:
        """Remove what is on the disk. May be called at any time, more than once."""


class MessagePack:
    """The structure of mode `json` as one MessagePack map."""

    content_type = "application/msgpack"

    def __init__(self, columns: Sequence[OutputColumn], cid: str, folder: Path) -> None:
        self._names = [column.name for column in columns]
        self._cid = cid
        # An integer over 64 bits can only be a numeric: a float8 of Devo's.
        self._packer = msgpack.Packer(default=float, unicode_errors="replace")
        self._body = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._count = 0

    def rows(self, rows: Sequence[list[Any]]) -> None:
        """See the protocol."""
        pack = self._packer.pack
        self._body.write(b"".join(pack(dict(zip(self._names, row, strict=True))) for row in rows))
        self._count += len(rows)

    def finish(self) -> tuple[bytes, IO[bytes]]:
        """See the protocol."""
        pack = self._packer.pack
        members = {"msg": "", "status": 0, "timestamp": now_ms(), "cid": self._cid}
        head = self._packer.pack_map_header(len(members) + 1)
        head += b"".join(pack(name) + pack(value) for name, value in members.items())
        head += pack("object") + self._packer.pack_array_header(self._count)
        self._body.seek(0)
        return head, self._body

    def close(self) -> None:
        """See the protocol."""
        self._body.close()


class Workbook:
    """One sheet, a line of names and a row a row. Nothing in it is a formula or a link, whatever a text begins with."""

    content_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

    def __init__(self, columns: Sequence[OutputColumn], folder: Path) -> None:
        # Here: it is a tenth of what the service would load at its start.
        import xlsxwriter  # noqa: PLC0415

        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._book = xlsxwriter.Workbook(self._file, {"constant_memory": True, "tmpdir": str(folder)})
        self._sheet = self._book.add_worksheet("rows")
        self._columns = columns
        self._written = 0
        self._add([column.name for column in columns])

    def rows(self, rows: Sequence[list[Any]]) -> None:
        """See the protocol."""
        for row in rows:
            self._add(row)

    def finish(self) -> tuple[bytes, IO[bytes]]:
        """See the protocol."""
        self._book.close()
        self._file.seek(0)
        return b"", self._file

    def close(self) -> None:
        """See the protocol."""
        # The library keeps a sheet's rows in a file of its own until the book is closed.
        if not self._book.fileclosed:
            self._book.close()
        self._file.close()

    def _add(self, row: Sequence[Any]) -> None:
        if self._written == _SHEET_ROWS:
            raise invalid(f"mode.type 'xls' holds {_SHEET_ROWS - 1:,} rows and there are more; set limit, or use csv")
        for at, value in enumerate(row):
            self._cell(at, value)
        self._written += 1

    def _cell(self, at: int, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool):
            self._sheet.write_boolean(self._written, at, value)
        elif isinstance(value, int | float) and _exact(value):
            self._sheet.write_number(self._written, at, value)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if len(text) > _CELL_CHARACTERS:
                raise invalid(
                    f"mode.type 'xls' holds {_CELL_CHARACTERS:,} characters a cell; column "
                    f"{self._columns[at].name!r} of row {self._written:,} has {len(text):,}; leave it out, or use csv"
                )
            self._sheet.write_string(self._written, at, text)


_SHEET_ROWS: Final = 1_048_576
_CELL_CHARACTERS: Final = 32_767
_EXACT_INTEGERS: Final = 2**53


def _exact(value: float) -> bool:
    """Whether a cell, which is a double, holds this number as it is."""
    return math.isfinite(value) and (isinstance(value, float) or abs(value) <= _EXACT_INTEGERS)
