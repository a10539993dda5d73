"""Reads the file sink's chunks back, for a verification."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from sinks import folders
from sinks.contents import LEAVING, Decoding, gone
from sinks.lanes import Lane

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

    from sinks.base import Prepared
    from sinks.formats import Format
    from sinks.reading import Flaw, Records, Wanted

T = TypeVar("T")

_BLOCK: Final = 1 << 20


class FileReader:
    """Promises of the methods: `sinks.reading.ContentReader`."""

    def __init__(self, root: Path, path: str, form: Format, wanted: Wanted, patience: float) -> None:
        self._root, self._path, self._patience = root, path, patience
        self._decoding = Decoding(form, wanted, "files-decode")
        self._lane = Lane("files-read")

    async def contents(self, chunk: Prepared) -> AsyncGenerator[Records | Flaw]:
        """The records of the chunk's file."""
        file = await self._told(partial(_open, self._root, chunk.target))
        if file is None:
            yield gone(chunk)
            return
        try:
            async for item in self._decoding.read(chunk, self._blocks(file)):
                yield item
        finally:
            self._lane.submit(partial(os.close, file))

    async def tokens(self, chunk: Prepared, records: list[bytes]) -> list[bytes | None]:
        """By the chunk's format."""
        return await self._decoding.tokens(chunk, records)

    async def close(self) -> None:
        """Give the threads back."""
        await self._decoding.close()
        await self._lane.close(LEAVING)

    async def _blocks(self, file: int) -> AsyncIterator[bytes]:
        while block := await self._told(partial(os.read, file, _BLOCK)):
            yield block

    async def _told(self, call: Callable[[], T]) -> T:
        try:
            return await self._lane.run(call, self._patience)
        except OSError as error:
            raise folders.refusal(error, self._path, "reading") from error


def _open(root: Path, target: str) -> int | None:
    """Open a chunk's file; None when there is none."""
    parent, _, name = target.rpartition("/")
    try:
        folder = folders.open_folder(root, parent)
    except folders.FolderMissing:
        return None
    try:
        if folders.status_of(folder, name) is None:
            return None
        return folders.open_file(folder, name)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)
