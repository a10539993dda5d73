"""CSV files back into records and fields, as `csv_records` and Postgres's COPY wrote them."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUOTE: Final = b'"'


class Records:
    """Lines put together to records: one ends at a line feed that no quotes enclose. The first may be a header."""

    def __init__(self, *, header: bool) -> None:
        self._header = header
        self.header: bytes | None = None
        """The first record, once it was read, where it names the columns."""
        self._open: list[bytes] = []
        self.held = 0
        """Bytes of the record that is open."""

    def of(self, lines: Sequence[bytes]) -> list[bytes]:
        """The records that are whole with these lines."""
        found: list[bytes] = []
        for line in lines:
            odd = line.count(_QUOTE) % 2 == 1
            if not self._open and not odd:
                found.append(line)
            elif not self._open or not odd:
                self._open.append(line)
                self.held += len(line)
            else:
                found.append(b"\n".join([*self._open, line]))
                self._open, self.held = [], 0
        if self._header and found:
            self._header = False
            self.header = found.pop(0)
        return found


def fields(record: bytes, delimiter: str) -> list[str] | None:
    """The fields of one record; None when it is none. What stands for NULL is not told apart: no key is NULL."""
    try:
        text = record.decode()
    except UnicodeDecodeError:
        return None
    if '"' not in text:
        return text.split(delimiter)
    found, at = [], 0
    pattern = _pattern(delimiter)
    while True:
        match = pattern.match(text, at)
        if match is None:
            return None
        quoted, plain, end = match.groups()
        found.append(plain if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if not end:
            return found


def tokens(records: Sequence[bytes], key: Sequence[str], columns: Sequence[str], delimiter: str) -> list[bytes | None]:
    """The texts of the columns `key` of each record as a canonical JSON array; None for what has not these columns."""
    places = [columns.index(name) for name in key]
    found: list[bytes | None] = []
    for record in records:
        row = fields(record, delimiter)
        if row is None or len(row) != len(columns):
            found.append(None)
        else:
            values = [row[place] for place in places]
            found.append(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode())
    return found


@cache
def _pattern(delimiter: str) -> re.Pattern[str]:
    """One field and what follows it: a delimiter, or the end."""
    escaped = re.escape(delimiter)
    return re.compile(rf'(?:"((?:[^"]|"")*)"|([^"{escaped}]*))({escaped}|\Z)')
