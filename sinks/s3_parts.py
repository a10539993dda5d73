"""A stream of bytes cut into the parts of an upload, and a part as the body of a request.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html: parts of 5 MiB to 5 GiB but for the last, at
most 10,000 of them. What a stream has encoded goes to the socket as it is: a part is the pieces that were put, so that
memory is the bytes themselves and no copy of them.
"""

from __future__ import annotations

import hashlib
import io
import os
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

PART_BYTES: Final = 5 << 20
"""The least that there is: three of them are a split's share of memory."""
PARTS_OF_A_SIZE: Final = 650
"""After so many parts they grow by another `PART_BYTES`: 10,000 parts hold 400 GiB, and the part in hand is at most
80 MiB."""
_SMALL: Final = 64 << 10
"""Bytes below which a piece is not worth its own place: many of them are joined."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part, with what is needed to send it and to compare."""

    number: int
    pieces: tuple[bytes, ...]
    sha256: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.pieces))

    def md5(self) -> bytes:
        """Takes a while: for a thread."""
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self.pieces:
            digest.update(piece)
        return digest.digest()


class Cutter:
    """Cuts a stream of bytes into parts. For one thread at a time."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._small = bytearray()
        """Behind the pieces."""
        self._waiting = 0
        self._parts = 0

    @property
    def checksum(self) -> str:
        """Of everything so far, as `Prepared.checksum`."""
        return f"sha256:{self._digest.hexdigest()}"

    def put(self, data: bytes) -> list[Part]:
        """The parts that are full now. One that is just full waits: it may be the last."""
        self._digest.update(data)
        self.size += len(data)
        self._waiting += len(data)
        if len(data) < _SMALL:
            self._small += data
        if len(data) >= _SMALL or len(self._small) >= _SMALL:
            self._flush()
        if len(data) >= _SMALL:
            self._pieces.append(data)
        full = []
        while self._waiting > (size := part_bytes(self._parts + 1)):
            full.append(self._part(size))
        return full

    def end(self) -> Part:
        """The last part; the only one, maybe empty, where there was none before."""
        return self._part(self._waiting)

    def _flush(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()

    def _part(self, size: int) -> Part:
        self._flush()
        taken, room = [], size
        for piece in self._pieces:
            if not room:
                break
            taken.append(piece[:room])
            room -= len(taken[-1])
        if taken and (rest := self._pieces[len(taken) - 1][len(taken[-1]) :]):
            # Both sides of a cut are copied: neither part keeps the other's bytes.
            self._pieces[len(taken) - 1] = rest
            del self._pieces[: len(taken) - 1]
        else:
            del self._pieces[: len(taken)]
        self._waiting -= size
        self._parts += 1
        digest = hashlib.sha256()
        for piece in taken:
            digest.update(piece)
        return Part(self._parts, tuple(taken), digest.digest())


def part_bytes(number: int) -> int:
    """The size of part `number`, counted from 1."""
    return PART_BYTES * (1 + (number - 1) // PARTS_OF_A_SIZE)


class Body(io.RawIOBase):
    """A part as a file that is read. `sha256`, in hexadecimal digits, is of all that it holds; `compared`: the store
    compares it with a header of the request."""

    def __init__(self, part: Part, *, compared: bool = False) -> None:
        self.sha256 = part.sha256.hex()
        self.compared = compared
        self.pieces = part.pieces
        self._ends = list(accumulate(map(len, part.pieces)))
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any raw file: at most `size` bytes, maybe fewer, none at the end."""
        index = bisect_right(self._ends, self._at)
        if index == len(self.pieces):
            return b""
        piece = self.pieces[index]
        start = self._at - self._ends[index] + len(piece)
        found = piece[start:] if size is None or size < 0 else piece[start : start + size]
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """To a place within the part."""
        size = self._ends[-1] if self._ends else 0
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at
