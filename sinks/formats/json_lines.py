"""JSON lines: one record, one line, each ended by a line feed, also the last. https://jsonlines.org"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTENSION = ".jsonl"


def encode(values: Sequence[bytes]) -> bytes:
    """The records with their line ends. Raises ValueError when a record holds a line feed itself: a reader would
    see two records, and no check by count or checksum could find it later."""
    if not values:
        return b""
    if b"\n" in b"".join(values):  # in half the time that counting those of the block takes
        index = next(index for index, value in enumerate(values) if b"\n" in value)
        raise ValueError(f"record {index} of the batch holds a line feed; one record has to be one line")
    return b"\n".join([*values, b""])


def tokens(records: Sequence[bytes], key: Sequence[str]) -> list[bytes | None]:
    """The values of the columns `key` of each record as one canonical JSON array, numbers as the text they are written
    with; None for what is no JSON object with these columns."""
    found: list[bytes | None] = []
    for record in records:
        try:
            row = json.loads(record, parse_int=str, parse_float=str, parse_constant=str)
            values = [row[name] for name in key]
            found.append(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode())
        except (ValueError, KeyError, TypeError, RecursionError):
            found.append(None)
    return found
