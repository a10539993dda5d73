"""How rows are written in the modes that can be read while they come, and what is said when something goes wrong after
the first byte has gone out: by then the status is 200, and only the place in the body is left to say it.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from service.api.dialects.devo_answers import dumps, now_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.api.dialects.devo_values import OutputColumn

Rows = "Sequence[list[Any]]"
_SPACES: Final = b"    "


class Mode(Protocol):
    """One way to write rows. `begin`, then `rows` and `filler` in any order, then `end` or `error`."""

    content_type: str

    def begin(self) -> bytes:
        """What stands before the first row."""

    def rows(self, rows: Sequence[list[Any]]) -> bytes:
        """Some rows."""

    def progress(self, at_ms: int) -> bytes:
        """How far the rows have come, where a mode can say that."""

    def filler(self) -> bytes:
        """Something that means nothing, so that nobody in between takes the stream for dead."""

    def end(self) -> bytes:
        """What stands behind the last row."""

    def error(self, code: int, message: str) -> bytes:
        """What stands there when the last row was not reached."""


class Json:
    """One JSON document, rows as objects."""

    content_type = "application/json"

    def __init__(self, columns: Sequence[OutputColumn], cid: str) -> None:
        self._names = [column.name for column in columns]
        self._cid = cid
        self._any = False

    def begin(self) -> bytes:
        """See the protocol."""
        head = dumps({"msg": "", "status": 0, "timestamp": now_ms(), "cid": self._cid})
        return head.removesuffix(b"}") + b', "object": ' + self._opening()

    def rows(self, rows: Sequence[list[Any]]) -> bytes:
        """See the protocol."""
        text = b", ".join(dumps(self._row(row)) for row in rows)
        before, self._any = (b", " if self._any else b""), True
        return before + text

    def progress(self, at_ms: int) -> bytes:  # noqa: ARG002 - the protocol's
        """Nothing: the document has no place for it."""
        return b""

    def filler(self) -> bytes:
        """See the protocol."""
        return _SPACES

    def end(self) -> bytes:
        """See the protocol."""
        return self._closing() + b"}"

    def error(self, code: int, message: str) -> bytes:
        """See the protocol. The Python client looks for a blank behind the colon and none behind the comma."""
        return self._closing() + f', "{self._error}": [{code},"{_plain(message)}"]}}'.encode()

    _error = "error"

    def _row(self, row: list[Any]) -> Any:
        return dict(zip(self._names, row, strict=True))

    def _opening(self) -> bytes:
        return b"["

    def _closing(self) -> bytes:
        return b"]"


class JsonCompact(Json):
    """One JSON document, rows as arrays behind a description of their columns."""

    _error = "e"

    def __init__(self, columns: Sequence[OutputColumn], cid: str) -> None:
        super().__init__(columns, cid)
        self._columns = columns

    def _row(self, row: list[Any]) -> Any:
        return row

    def _opening(self) -> bytes:
        return dumps(described(self._columns)).removesuffix(b"}") + b', "d": ['

    def _closing(self) -> bytes:
        return b"]}"


class JsonSimple:
    """An object a row, a line each."""

    content_type = "application/json"

    def __init__(self, columns: Sequence[OutputColumn]) -> None:
        self._names = [column.name for column in columns]

    def begin(self) -> bytes:
        """See the protocol."""
        return b""

    def rows(self, rows: Sequence[list[Any]]) -> bytes:
        """See the protocol."""
        return b"".join(_line(dict(zip(self._names, row, strict=True))) for row in rows)

    def progress(self, at_ms: int) -> bytes:  # noqa: ARG002 - the protocol's
        """Nothing: every line is a row."""
        return b""

    def filler(self) -> bytes:
        """See the protocol."""
        return _SPACES

    def end(self) -> bytes:
        """See the protocol."""
        return b""

    def error(self, code: int, message: str) -> bytes:
        """See the protocol."""
        return _line(["error", code, _plain(message)])


class JsonSimpleCompact(JsonSimple):
    """An array a row, a line each, behind a line that describes the columns."""

    def __init__(self, columns: Sequence[OutputColumn], *, progress: bool) -> None:
        super().__init__(columns)
        self._columns = columns
        self._progress = progress

    def begin(self) -> bytes:
        """See the protocol."""
        return _line(described(self._columns))

    def rows(self, rows: Sequence[list[Any]]) -> bytes:
        """See the protocol."""
        return b"".join(_line({"d": row}) for row in rows)

    def progress(self, at_ms: int) -> bytes:
        """See the protocol."""
        return _line({"p": [at_ms]}) if self._progress else b""

    def error(self, code: int, message: str) -> bytes:
        """See the protocol."""
        return _line({"e": [code, _plain(message)]})


class Separated:
    """A line a row, values separated by commas or tabs, quoted where they hold one (RFC 4180); behind a line of
    names."""

    def __init__(self, columns: Sequence[OutputColumn], separator: str, keep_alive: str | None) -> None:
        """`keep_alive` fills an idle stream; empty: a row of nothing but separators."""
        self.content_type = "text/csv" if separator == "," else "text/tab-separated-values"
        self._columns = columns
        self._separator = separator
        self._keep_alive = "\n" if keep_alive is None else keep_alive

    def begin(self) -> bytes:
        """See the protocol."""
        return self._lines([[column.name for column in self._columns]])

    def rows(self, rows: Sequence[list[Any]]) -> bytes:
        """See the protocol."""
        return self._lines([[_text(value) for value in row] for row in rows])

    def progress(self, at_ms: int) -> bytes:  # noqa: ARG002 - the protocol's
        """Nothing: every line is a row."""
        return b""

    def filler(self) -> bytes:
        """See the protocol."""
        return (self._keep_alive or self._separator * (len(self._columns) - 1) + "\n").encode()

    def end(self) -> bytes:
        """See the protocol."""
        return b""

    def error(self, code: int, message: str) -> bytes:
        """See the protocol."""
        said = _plain(message).replace(",", ";").replace("\t", " ")
        return self._separator.join(["devo.api.error", str(code), said]).encode() + b"\n"

    def _lines(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=self._separator, lineterminator="\n").writerows(rows)
        return text.getvalue().encode("utf-8", "replace")


def described(columns: Sequence[OutputColumn]) -> dict[str, Any]:
    """The columns of a compact answer."""
    return {
        "m": {column.name: {"type": column.type, "index": index} for index, column in enumerate(columns)},
        "metadata": [{"name": column.name, "type": column.type} for column in columns],
    }


def _line(value: Any) -> bytes:
    """Without blanks: that is how the Python client knows an error."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\r\n"


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value


def _plain(message: str) -> str:
    """A text that can stand in quotes as it is: clients look for it with patterns."""
    return " ".join(message.replace('"', "'").replace("\\", "/").split())
