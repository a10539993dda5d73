"""JSON lines: one record, one line, each ended by a line feed, also the last. https://jsonlines.org"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTENSION = ".jsonl"


def encode(values: Sequence[bytes]) -> bytes:
    """The records with their line ends. Raises ValueError when a record holds a line feed itself: a reader would
    see two records, and no check by count or checksum could find it later."""
    if not values:
        return b""
    block = b"\n".join([*values, b""])
    if block.count(b"\n") != len(values):
        index = next(index for index, value in enumerate(values) if b"\n" in value)
        raise ValueError(f"record {index} of the batch holds a line feed; one record has to be one line")
    return block
