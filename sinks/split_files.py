"""The files of one split, seen from the thread that writes them. Every method blocks and may raise OSError.

A chunk is written under a temporary name in the split's own hidden folder, then gets its final name by link(), which
can not overwrite. Fencing is the removal of the older owners' temporary files: a chunk was complete under its
temporary name before it was prepared, and the store takes no prepare of an owner that has lost its lease. So when a
new owner has emptied the folder, the link() of every older one fails for want of its source, however late it comes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from sinks import file_path, folders, naming
from sinks.base import Fenced

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from sinks.base import Owner
    from sinks.formats import Format


class SplitFiles:
    """What one owner does in the folder of its split. For one thread."""

    def __init__(self, root: Path, path: str, owner: Owner) -> None:
        self._root = root
        self._path = file_path.shared(path, owner)
        self._known = file_path.known(path)
        self._owner = owner
        self._temporaries: int | None = None
        self._begun = 0
        self._token = secrets.token_hex(4)
        self.leaving = False
        """Set from outside to end a long comparison early."""

    def open(self) -> None:
        """Fence. Raises Fenced when a newer owner was here, FolderMissing when the job's folder is gone."""
        folder = folders.open_folder(self._root, self._path, create=True, below=self._known)
        try:
            self._temporaries = self._enter(folder)
        finally:
            os.close(folder)
        names = folders.names_in(self._temporaries)
        newest = max((naming.epoch_of(name) or 0 for name in names), default=0)
        if newest > self._owner.epoch:
            raise Fenced(
                "newer_owner",
                f"split {self._owner.split} of sink.path {self._path!r} holds a temporary file of epoch {newest}, "
                f"above our {self._owner.epoch}; when the lease is still ours, remove that file",
            )
        for name in names:
            folders.forget(self._temporaries, name)

    def _enter(self, folder: int) -> int:
        own = naming.split_folder(self._owner.job_id, self._owner.generation, self._owner.split)
        for last in (False, True):
            hidden = folders.enter(folder, naming.HIDDEN, create=True)
            try:
                return folders.enter(hidden, own, create=True)
            except FileNotFoundError:
                # The finish step of another generation has just removed the hidden folder, which was empty.
                if last:
                    raise
            finally:
                os.close(hidden)
        raise AssertionError

    def begin(self, form: Format) -> Spool:
        """A new chunk. Touches no file yet, so it may be called from anywhere."""
        self._begun += 1
        return Spool(self, naming.temporary_name(self._owner.epoch, self._begun, self._token), form)

    def create(self, temporary: str) -> int:
        """Make a temporary file; FileNotFoundError when the split's folder was removed by the job's clean-up."""
        return folders.create_file(self._opened(), temporary)

    def drop(self, temporary: str) -> None:
        """Remove a temporary file."""
        folders.forget(self._opened(), temporary)

    def show(self, temporary: str, target: str) -> None:
        """Give the chunk its final name and make that durable. FileNotFoundError: the temporary file is gone."""
        parent, _, name = target.rpartition("/")
        folder = folders.open_folder(self._root, parent, create=True, below=self._path)
        try:
            folders.link(self._opened(), temporary, folder, name)
            os.fsync(folder)
        finally:
            os.close(folder)
        # The chunk is visible: what is left over is the next owner's or the clean-up's to remove.
        with suppress(OSError):
            self.drop(temporary)

    def find(self, target: str, sizes: Collection[int]) -> tuple[int, str | None] | None:
        """Size and checksum of what has the name, None for nothing. The checksum is None, unread, where the size is
        none of `sizes`. What is reported is durable: its owner may have died before its fsync of the folder."""
        parent, _, name = target.rpartition("/")
        try:
            folder = folders.open_folder(self._root, parent)
        except folders.FolderMissing:
            return None
        try:
            status = folders.status_of(folder, name)
            if status is None:
                return None
            size = status.st_size
            checksum = folders.checksum_of(folder, name, lambda: self.leaving) if size in sizes else None
            os.fsync(folder)
            return size, checksum
        finally:
            os.close(folder)

    def close(self) -> None:
        """Give back the folder. Repeatable."""
        if self._temporaries is not None:
            os.close(self._temporaries)
            self._temporaries = None

    def _opened(self) -> int:
        if self._temporaries is None:
            raise ValueError("the writer is not open")
        return self._temporaries


class Spool:
    """One chunk on its way into its temporary file."""

    def __init__(self, files: SplitFiles, name: str, form: Format) -> None:
        self.name = name
        self.form = form
        self.rows = 0
        """Rows handed over, counted by who hands them over."""
        self.abandoned = False
        """Set from outside: blocks that still wait in the queue are not written."""
        self._files = files
        self._stream = form.stream()
        self._digest = hashlib.sha256()
        self.size = 0
        """Bytes in the file so far."""
        self._file: int | None = None

    def write(self, values: Sequence[bytes]) -> None:
        """Encode, compress and write rows. Raises as `formats.Stream.encode`."""
        if not self.abandoned:
            self._put(self._stream.encode(values))

    def finish(self) -> tuple[int, str, list[int]]:
        """End the file, also one without rows, and make its content durable; returns size, checksum and the file's
        `folders.identity`."""
        self._put(self._stream.end())
        file = self._opened()
        os.fsync(file)
        identity = folders.identity(os.fstat(file))
        self._release()
        return self.size, f"sha256:{self._digest.hexdigest()}", identity

    def drop(self) -> None:
        """Close and remove the temporary file. Never raises: what can not be removed is the next owner's to remove."""
        self.abandoned = True
        with suppress(OSError, ValueError):
            self._release()
            self._files.drop(self.name)

    def _put(self, data: bytes) -> None:
        file = self._opened()
        if data:
            self._digest.update(data)
            self.size += len(data)
            folders.write_all(file, data)

    def _opened(self) -> int:
        if self._file is None:
            self._file = self._files.create(self.name)
        return self._file

    def _release(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)
