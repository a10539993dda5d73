"""A manifest as a file: written under a temporary name in a hidden folder, then renamed over the one before it."""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import partial
from typing import TYPE_CHECKING

from sinks import folders, naming
from sinks.base import Fenced
from sinks.lanes import Lane
from sinks.manifest_text import ManifestText

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import date
    from pathlib import Path

    from sinks.base import Owner, Prepared


class ManifestFile:
    """One manifest on its way. For one thread at a time."""

    def __init__(self, root: Path, path: str, own: str, temporary: str) -> None:
        """`path` is the job's folder below `root`, `own` the folder of the temporary file below the hidden one."""
        self._root, self._path, self._own_name, self._temporary = root, path, own, temporary
        self._digest = hashlib.sha256()
        self._size = 0
        self._own: int | None = None
        self._file: int | None = None
        self.folder: int | None = None
        self.leaving = False

    def open(self, left: Callable[[str], bool]) -> None:
        """Remove the temporary files that are `left` by others, and begin one."""
        self.folder = folders.open_folder(self._root, self._path, create=True)
        hidden = folders.enter(self.folder, naming.HIDDEN, create=True)
        try:
            self._own = folders.enter(hidden, self._own_name, create=True)
        finally:
            os.close(hidden)
        for name in filter(left, folders.names_in(self._own)):
            folders.forget(self._own, name)
        self._file = folders.create_file(self._own, self._temporary)

    def write(self, data: bytes) -> None:
        """Append."""
        assert self._file is not None
        self._digest.update(data)
        self._size += len(data)
        folders.write_all(self._file, data)

    def publish(self, name: str) -> None:
        """Let it be seen; one that is there with the same bytes stays as it is. Raises FileNotFoundError when somebody
        has removed the temporary file."""
        assert self._file is not None
        assert self._own is not None
        assert self.folder is not None
        os.fsync(self._file)
        if self._is_there(self.folder, name):
            os.unlink(self._temporary, dir_fd=self._own)
            return
        os.rename(self._temporary, name, src_dir_fd=self._own, dst_dir_fd=self.folder)
        os.fsync(self.folder)

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._file, self._own, self.folder):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._own = self.folder = None

    def _is_there(self, folder: int, name: str) -> bool:
        found = folders.status_of(folder, name)
        if found is None or found.st_size != self._size:
            return False
        return folders.checksum_of(folder, name, lambda: self.leaving) == f"sha256:{self._digest.hexdigest()}"


async def list_day(
    root: Path, path: str, owner: Owner, day: date, chunks: AsyncIterator[Prepared], patience: float
) -> None:
    """As `sinks.base.ListsDays`. Raises SinkUnavailable, SinkRefused; Fenced when a newer owner has taken over."""
    temporary = naming.day_temporary(owner.split, secrets.token_hex(4))
    file = ManifestFile(root, path, naming.days_folder(owner.job_id, owner.generation), temporary)
    lane = Lane("files-day")
    try:
        await lane.run(partial(file.open, lambda name: name.startswith(naming.day_temporaries(owner.split))), patience)
        async for piece in ManifestText(owner, path, day).pieces(chunks):
            await lane.run(partial(file.write, piece), patience)
        name = naming.day_manifest_name(owner.job_id, owner.generation, day)
        await lane.run(partial(file.publish, name), patience)
    except FileNotFoundError as error:
        raise Fenced("temporary_gone", f"the manifest's temporary file in sink.path {path!r} was removed") from error
    except OSError as error:
        raise folders.refusal(error, path, f"listing {day}") from error
    finally:
        file.leaving = True
        lane.submit(file.close)
        await lane.close(0)
