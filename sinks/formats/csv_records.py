"""CSV: records as Postgres's own COPY wrote them, under a header that reads as COPY's. RFC 4180, but for its CRLF."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EXTENSION = ".csv"


def encode(records: Sequence[bytes]) -> bytes:
    """The records with their line ends. One may hold line feeds itself, inside quotes."""
    return b"\n".join([*records, b""]) if records else b""


def header(names: Iterable[str], delimiter: str, null: str) -> bytes:
    """The line of names. As COPY does, a name is quoted where it would read as something else."""
    given = list(names)
    alone = len(given) == 1
    return delimiter.join(_field(name, delimiter, null, alone=alone) for name in given).encode() + b"\n"


def check_options(delimiter: str, null: str) -> None:
    """Raises ValueError for what Postgres's COPY refuses, and for what no reader could tell apart."""
    check_delimiter(delimiter)
    check_null(null, delimiter)


def check_delimiter(delimiter: str) -> None:
    """Raises ValueError for what can not stand between two fields."""
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise ValueError(
            "a delimiter is one ASCII character, and no quote, line feed or carriage return; give ',', ';' or a tab"
        )


def check_null(null: str, delimiter: str) -> None:
    """Raises ValueError for what can not stand for NULL."""
    if any(character in null for character in '"\r\n\0') or delimiter in null:
        raise ValueError(
            "what stands for NULL holds no quote, no line end and not the delimiter; leave it empty, or give \\N"
        )


def _field(name: str, delimiter: str, null: str, *, alone: bool) -> str:
    special = any(character in name for character in (delimiter, '"', "\r", "\n"))
    if special or name == null or (alone and name == "\\."):
        return '"' + name.replace('"', '""') + '"'
    return name
