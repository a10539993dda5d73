"""The finish step of the file sink: every file is compared with its chunk record, then listed in a manifest."""

from __future__ import annotations

import os
import secrets
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from sinks import folders, naming
from sinks.base import Fenced
from sinks.lanes import Lane, answered
from sinks.manifest_file import ManifestFile
from sinks.manifest_text import ManifestText, differs, gone

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sinks.base import Owner, Prepared

LANES: Final = 2
"""Threads that read files at the same time."""
AHEAD: Final = 8
"""Chunk records that are held while their files are read."""
SLOWEST: Final = 8 << 20
"""As in the writer: bytes a second below which the file system counts as hanging."""


async def close_generation(
    root: Path, path: str, owner: Owner, chunks: AsyncIterator[Prepared], patience: float
) -> None:
    """Compare, write the manifest, remove temporary files. Memory does not grow with the number of chunks.

    Raises PositionConflict naming the first file that is gone or differs, or telling that there are files of this
    generation without a chunk; SinkUnavailable and SinkRefused as the writer does; Fenced when a newer owner of the
    finish step has taken over.
    """
    closing = _Closing(root, path, owner)
    lanes = [Lane(f"files-finish-{number}") for number in range(LANES)]
    try:
        await lanes[0].run(closing.open, patience)
        await _compare(closing, lanes, chunks, patience)
        await lanes[0].run(closing.publish, patience)
    except FileNotFoundError as error:
        raise Fenced("temporary_gone", f"the manifest's temporary file in sink.path {path!r} was removed") from error
    except OSError as error:
        raise folders.refusal(error, path, "finishing") from error
    finally:
        closing.leave()
        lanes[0].submit(closing.close)
        for lane in lanes:
            await lane.close(0)


async def _compare(closing: _Closing, lanes: list[Lane], chunks: AsyncIterator[Prepared], patience: float) -> None:
    window: deque[tuple[Prepared, asyncio.Future[None]]] = deque()

    async def first_done() -> None:
        chunk, future = window.popleft()
        await answered(future, patience + chunk.bytes / SLOWEST)
        await lanes[0].run(partial(closing.add, chunk), patience)

    number = 0
    async for chunk in chunks:
        window.append((chunk, lanes[number % LANES].submit(partial(closing.compare, chunk))))
        number += 1
        if len(window) >= AHEAD:
            await first_done()
    while window:
        await first_done()


class _Closing:
    """The thread's side of one finish step. Only `compare` is called from several threads."""

    def __init__(self, root: Path, path: str, owner: Owner) -> None:
        self._root = root
        self._path = path
        self._owner = owner
        own = naming.finish_folder(owner.job_id, owner.generation)
        self._file = ManifestFile(root, path, own, f"manifest-{secrets.token_hex(4)}.part")
        self._text = ManifestText(owner, path)

    def leave(self) -> None:
        """What is being compared is of no use any more."""
        self._file.leaving = True

    def open(self) -> None:
        self._file.open(lambda _: True)
        self._file.write(self._text.head())

    def compare(self, chunk: Prepared) -> None:
        parent, _, name = chunk.target.rpartition("/")
        try:
            folder = folders.open_folder(self._root, parent)
        except folders.FolderMissing:
            raise gone(chunk) from None
        try:
            status = folders.status_of(folder, name)
            if status is None:
                raise gone(chunk)
            if status.st_size != chunk.bytes:
                raise differs(chunk, f"has {status.st_size} bytes, not {chunk.bytes}")
            if folders.identity(status) == chunk.details.get("identity"):
                return  # not written to since it was hashed on its way: a terabyte is not read again for that
            if folders.checksum_of(folder, name, lambda: self._file.leaving) != chunk.checksum:
                raise differs(chunk, "has another checksum")
        finally:
            os.close(folder)

    def add(self, chunk: Prepared) -> None:
        self._file.write(self._text.entry(chunk))

    def publish(self) -> None:
        folder = self._file.folder
        assert folder is not None
        for place in self._text.folders:
            self._text.check_nothing_else(place, self._planned(place))
        self._file.write(self._text.tail())
        self._file.publish(naming.manifest_name(self._owner.job_id, self._owner.generation))
        # The generation is closed: nothing of its planned splits can become visible any more.
        mine = naming.planned_folders(self._owner.job_id, self._owner.generation)
        with suppress(OSError):
            folders.remove_temporaries(folder, naming.HIDDEN, lambda found: mine.fullmatch(found) is not None)

    def _planned(self, place: str) -> int:
        folder = folders.open_folder(self._root, place)
        try:
            with os.scandir(folder) as entries:
                return sum(self._text.is_planned(entry.name) for entry in entries)
        finally:
            os.close(folder)

    def close(self) -> None:
        self._file.close()
