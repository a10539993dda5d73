"""What sinks of files and objects share: how a chunk is named, repeated, and known again.

A prepared chunk may have several tries, all under one name; a repeat uses the name and the format of what it repeats.
Pure: every sink reads its own target, these functions say what it means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinks import naming
from sinks.base import Mark, PositionConflict, Restage, SinkRefused
from sinks.file_path import joined

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sinks.base import Cut, Owner, Prepared
    from sinks.formats import Format


def default_target(path: str, owner: Owner, cut: Cut, form: Format) -> str:
    """The whole name of a chunk that is cut for the first time, below `path`."""
    hashed = naming.range_hash(cut.lower, cut.last_key)
    name = naming.chunk_name(owner.job_id, owner.generation, owner.split, cut.sequence, hashed, form.extension)
    return joined(path, name)


class Numbers:
    """Where the numbers come from that names of the definition's own hold."""

    def __init__(self) -> None:
        self._draw: Callable[[int], Awaitable[int]] | None = None

    def by(self, draw: Callable[[int], Awaitable[int]]) -> None:
        """See `sinks.base.CountsOverJob`."""
        self._draw = draw

    async def name(self, template: str, owner: Owner, sequence: int, form: Format) -> str:
        """The name of a chunk that is cut for the first time."""
        if self._draw is None:
            raise SinkRefused(
                "number_unknown", f"chunk {sequence} has no number; only a split's own step numbers chunks"
            )
        number = await self._draw(sequence)
        return naming.own_name(template, owner.job_id, owner.split, number, form.extension)


def newest(prepared: Sequence[Prepared]) -> Prepared | None:
    """The try that a repeat repeats; None when nothing is prepared."""
    return max(prepared, key=lambda one: (one.epoch, one.attempt), default=None)


def adopted(owner: Owner, target: str, size: int, checksum: str | None, tries: Sequence[Prepared]) -> Mark:
    """Which try it is that has the name `target`; of several with the same content, the last one. Raises
    PositionConflict when it is none of them."""
    same = newest([one for one in tries if (one.bytes, one.checksum) == (size, checksum)])
    if same is None:
        raise PositionConflict(
            "position_conflict",
            f"{target!r} is there with {size} bytes and is none of the {len(tries)} prepared tries of its "
            "chunk: something else wrote it; move it away and start again, or PUT a checkpoint",
        )
    return Mark(owner.generation, same.epoch, same.sequence, same.attempt)


def check_repeated(repeat: Prepared | None, cut: Cut) -> None:
    """Refuse a cut that passes over the chunk which is prepared and not visible."""
    if repeat is not None and (cut.repeat_of is None or cut.repeat_of.target != repeat.target):
        raise SinkRefused(
            "repeat_expected",
            f"chunk {repeat.sequence} is prepared as {repeat.target!r} and not visible; cut it again "
            "as a repeat before anything else",
        )


def check_staged(cut: Cut, form: Format, rows: int) -> None:
    """Refuse a cut that is not about what was staged: `rows` in format `form`. Raises Restage where a repeat was staged
    in another format than it was prepared with, SinkRefused for another number of rows, and as `format_of`."""
    if cut.repeat_of is not None and form != format_of(cut.repeat_of, form):
        raise Restage("format_fixed", f"chunk {cut.sequence} is repeated in the format it was prepared with")
    if rows != cut.rows:
        raise SinkRefused("rows_differ", f"{rows} rows are staged and the cut has {cut.rows}")


def format_of(prepared: Prepared, otherwise: Format) -> Format:
    """The format that a chunk was prepared in, with the columns of `otherwise`. Raises SinkRefused where rows are read
    in a way that does not fit it any more."""
    try:
        return otherwise.again(prepared.details)
    except ValueError as error:
        raise SinkRefused(
            "format_changed",
            f"chunk {prepared.sequence} can not be repeated as {prepared.target!r}: {error}; put the format back, or "
            "start from the beginning",
        ) from error
