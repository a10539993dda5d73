"""How a part goes into its request: its pieces straight to the socket.

aiohttp reads what looks like a file 64 KiB at a time, each in a thread, because a disk may hold it up. A part lies in
memory: the way to the thread and back took a quarter of what a row costs on its way to S3.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from aiohttp import payload

from sinks.s3_parts import Body

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

_AT_ONCE: Final = 256 << 10
"""Bytes given to the socket before it is asked whether it takes more: what it does not take at once is copied."""


class PartPayload(payload.Payload):
    """A `s3_parts.Body`, sent as often as it is asked for, without reading it."""

    _autoclose = True  # memory: there is nothing to close

    def __init__(self, value: Body, *args: Any, **kwargs: Any) -> None:
        super().__init__(value, *args, **kwargs)
        self._size = sum(map(len, value.pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """As aiohttp asks of every payload."""
        return b"".join(self._value.pieces).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """All of it, no faster than the other side takes it."""
        for piece in self._value.pieces:
            view = memoryview(piece)
            for start in range(0, len(view), _AT_ONCE):
                await writer.write(view[start : start + _AT_ONCE])


@cache
def send_parts() -> None:
    """From now on aiohttp sends parts so."""
    # Before io.IOBase, which a Body is for botocore's sake.
    payload.PAYLOAD_REGISTRY.register(PartPayload, Body, order=payload.Order.try_first)
