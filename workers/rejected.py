"""Rows that can not be delivered: found while a batch is staged, told by the target, or not readable at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from service.domain.dead_letters import DeadLetter
from service.domain.errors import RowsRejected
from sinks.base import Batch, RowRejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.records import Key
    from sinks.base import Rejected, Writer

PAYLOAD_BYTES = 1024 * 1024
"""What is kept of a payload. A longer record is kept to here and told by its size; it can only be read again."""
MESSAGE_CHARACTERS = 2000
FEWEST_ROWS = 16
"""After a rejected first row so many are tried together: what is wasted on a batch with many of them stays a small
multiple of the batch."""


def letter(
    key: Key,
    code: str,
    message: str,
    value: bytes | None = None,
    message_key: bytes | None = None,
    version: int | None = None,
) -> DeadLetter:
    """What is kept of a rejected row; `value` is the record as it was to be sent."""
    return DeadLetter(
        key=key,
        code=code,
        message=message[:MESSAGE_CHARACTERS],
        payload=None if value is None else value[:PAYLOAD_BYTES],
        payload_bytes=None if value is None else len(value),
        message_key=message_key,
        version=version,
    )


def refused_by_target(rejected: Sequence[Rejected], version: int | None) -> list[DeadLetter]:
    """What a receipt says, as dead letters; `version` is the chunk's."""
    return [letter(tuple(json.loads(r.id)), r.code, r.reason, r.value, r.key, version) for r in rejected]


def named(one: DeadLetter) -> RowsRejected:
    """The dead letter as the error that it was: the cause of a run that ends by it."""
    shown = one.key[0] if len(one.key) == 1 else list(one.key)
    return RowsRejected(one.code, f"the row with key {shown} can not be delivered: {one.message}", key=one.key)


async def stage_what_can_be(writer: Writer, batch: Batch) -> dict[int, RowRejected]:
    """Stage a batch without the rows that the writer rejects; these by their place in it.

    After a rejection the rows before it are staged by themselves, then more and more of the rest at once: a writer that
    names one row at a time encodes each row a few times, not once for every rejected one.
    """
    refused: dict[int, RowRejected] = {}
    left, size = list(range(batch.rows)), batch.rows
    while left:
        head = left[:size]
        try:
            await writer.stage(_part(batch, head))
        except RowRejected as error:
            found = {head[one.index]: one for one in (error, *error.others)}
            refused |= found
            left = [place for place in left if place not in found] if error.others else left
            if not error.others:
                del left[error.index]
            size = len(left) if error.others else error.index or FEWEST_ROWS
        else:
            del left[:size]
            size *= 2
    return refused


def _part(batch: Batch, places: Sequence[int]) -> Batch:
    if len(places) == batch.rows:
        return batch
    keys, ids = batch.keys, batch.ids
    return Batch(
        [batch.values[place] for place in places],
        None if keys is None else [keys[place] for place in places],
        None if ids is None else [ids[place] for place in places],
    )
