"""The file sink: each chunk is one file below the account's folder, whole from the moment it has its name.

https://man7.org/linux/man-pages/man2/link.2.html: link() fails with EEXIST instead of replacing, which makes it the
one step that no late owner can take twice.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sinks import file_path, folders, naming
from sinks.base import Finding, Guarantee, Promise, Receipt, Shows, SinkError, SinkRefused
from sinks.file_reader import FileReader
from sinks.file_writer import FileWriter
from sinks.lanes import Lane
from sinks.manifest import close_generation
from sinks.manifest_file import list_day

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from sinks.base import Owner, Prepared
    from sinks.formats import Format
    from sinks.reading import Wanted
    from sinks.specs import FileSinkSpec

T = TypeVar("T")

LITTLE_SPACE = 1 << 30


class FileSink:
    """Writes below `root`, the account's own folder. Raises ValueError for a path that leads elsewhere.

    `patience`: seconds that one call of the file system may take before it counts as hanging.
    """

    kind = "file"
    shows = Shows.NAMES
    needs_anchor = False
    settles_with_prepare = False
    upserts = False

    def __init__(self, spec: FileSinkSpec, form: Format, root: Path, patience: float = 30.0) -> None:
        self._path = file_path.check_path(spec.path)
        self._known = file_path.known(spec.path)
        self._form = form
        self._root = root
        self._patience = patience

    def promise(self) -> Promise:
        """Exactly once: what has a name is whole, and no name is given twice."""
        return Promise(Guarantee.EXACTLY_ONCE, "files appear whole by a link that cannot overwrite")

    async def check(self) -> list[Finding]:
        """Whether the folder can be made and written, and how much space is left. Changes nothing."""
        try:
            return await self._run(self._look, "checking")
        except SinkError as error:
            return [Finding("/sink/path", "error", error.code, error.message)]

    async def prepare_target(self) -> Mapping[str, object]:
        """Make the folder, as far as it is known without a job, and try whether its file system has hard links.
        Repeatable."""
        await self._run(self._make, "making the folder")
        return {}

    def writer(self, owner: Owner) -> FileWriter:
        """A writer with its own thread, which starts at `open`."""
        return FileWriter(self._root, self._path, self._form, owner, self._patience)

    def receipt(self, prepared: Prepared) -> Receipt:
        """The name says it all."""
        return Receipt(target=prepared.target)

    def reader(self, owner: Owner, wanted: Wanted) -> FileReader:
        """A reader with threads of its own, which start with the first chunk."""
        del owner
        return FileReader(self._root, self._path, self._form, wanted, self._patience)

    async def finish(self, owner: Owner, chunks: AsyncIterator[Prepared]) -> None:
        """Compare every file with its chunk, then write `_manifest-<job>-g<generation>.json` beside them and remove
        the generation's temporary files. The same chunks give the same manifest."""
        await close_generation(self._root, self._shared(owner), owner, chunks, self._patience)

    async def list_day(self, owner: Owner, day: date, chunks: AsyncIterator[Prepared]) -> None:
        """Write `_manifest-<job>-g<generation>-<day>.json` into the job's folder."""
        await list_day(self._root, self._shared(owner), owner, day, chunks, self._patience)

    async def clean_up(self, owners: Sequence[Owner]) -> None:
        """Remove the temporary files of these splits, which fences them, and of their finish steps."""
        await self._run(partial(self._clean, owners), "cleaning up")

    async def close(self) -> None:
        """Nothing is held: every call has its own thread and descriptors."""

    def _shared(self, owner: Owner) -> str:
        return file_path.shared(self._path, owner)

    async def _run(self, call: Callable[[], T], doing: str) -> T:
        lane = Lane("files-sink")
        try:
            return await lane.run(call, self._patience)
        except OSError as error:
            raise folders.refusal(error, self._path, doing) from error
        finally:
            await lane.close(0)

    def _make(self) -> None:
        folder = folders.open_folder(self._root, self._known, create=True)
        try:
            hidden = folders.enter(folder, naming.HIDDEN, create=True)
            try:
                self._try_link(hidden)
            finally:
                os.close(hidden)
            if self._known != self._path:  # temporary files will lie in folders below it
                with suppress(OSError):
                    os.rmdir(naming.HIDDEN, dir_fd=folder)
        finally:
            os.close(folder)

    def _try_link(self, hidden: int) -> None:
        name = f"{naming.PROBE}{secrets.token_hex(4)}"
        os.close(folders.create_file(hidden, name))
        try:
            folders.link(hidden, name, hidden, f"{name}-link")
        except PermissionError as error:
            # The file is ours, so this is no matter of rights: vfat and some network file systems say EPERM.
            raise SinkRefused(
                "links_not_supported",
                f"sink.path {self._path!r} lies on a file system without hard links; choose one that has them",
            ) from error
        finally:
            folders.forget(hidden, f"{name}-link")
            folders.forget(hidden, name)

    def _look(self) -> list[Finding]:
        folder = self._deepest()
        try:
            findings = [_space(folder)]
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
                message = f"sink.path {self._path!r} can not be written by the service's user"
                hint = "give it the right to write and enter the folder, and mount the file system for writing"
                findings.insert(0, Finding("/sink/path", "error", "folder_not_writable", message, hint))
            return findings
        finally:
            os.close(folder)

    def _deepest(self) -> int:
        """The last folder of the path that exists: what is missing would be made inside it."""
        root = self._root.absolute()
        while not root.exists():
            root = root.parent
        folder = folders.open_root(root)
        if root != self._root.absolute():
            return folder
        for component in file_path.components(self._known):
            try:
                inner = folders.enter(folder, component)
            except FileNotFoundError:
                break
            except OSError:
                os.close(folder)
                raise
            os.close(folder)
            folder = inner
        return folder

    def _clean(self, owners: Sequence[Owner]) -> None:
        names = {naming.split_folder(owner.job_id, owner.generation, owner.split) for owner in owners}
        names |= {naming.finish_folder(owner.job_id, owner.generation) for owner in owners}
        names |= {naming.days_folder(owner.job_id, owner.generation) for owner in owners}
        for place in {self._shared(owner) for owner in owners}:
            self._clean_folder(place, names)

    def _clean_folder(self, place: str, names: Collection[str]) -> None:
        try:
            folder = folders.open_folder(self._root, place)
        except folders.FolderMissing:
            return
        try:
            with suppress(FileNotFoundError):
                folders.remove_temporaries(folder, naming.HIDDEN, names.__contains__)
        finally:
            os.close(folder)


def _space(folder: int) -> Finding:
    figures = os.fstatvfs(folder)
    free = figures.f_bavail * figures.f_frsize
    message = f"{free / (1 << 20):.0f} MiB are free for sink.path"
    if free < LITTLE_SPACE:
        hint = "a full disk only makes the job wait, but it waits until somebody makes room"
        return Finding("/sink/path", "warning", "little_space", message, hint)
    return Finding("/sink/path", "info", "free_space", message)
