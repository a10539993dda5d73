"""Folders and files relative to an open folder: a link that somebody swaps in can not lead outside.

Every function blocks and belongs into a thread. All raise OSError; `refusal` says what it means to the runner.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from sinks import naming
from sinks.base import SinkError, SinkRefused, SinkUnavailable, TargetGone
from sinks.file_path import components

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDER_MODE = 0o750
FILE_MODE = 0o640
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BLOCK = 1 << 20


class Interrupted(Exception):
    """The writer was closed while its thread was reading."""


class FolderMissing(FileNotFoundError):
    """A folder of the path does not exist, as opposed to a file in it."""


def open_root(root: Path, *, create: bool = False) -> int:
    """Open an account's folder, which the operator owns: links on the way to it are theirs and are followed."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()] if create else []
    for folder in reversed(missing):
        folder.mkdir(FOLDER_MODE, exist_ok=True)
        parent = os.open(folder.parent, _FOLDER)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    return os.open(root, _FOLDER)


def open_folder(root: Path, relative: str, *, create: bool = False, below: str | None = None) -> int:
    """Open `relative` below `root`, component by component, following no link; empty, it is `root` itself. Made folders
    are durable; with `below` only what lies below that folder is made.

    Raises FolderMissing, and ValueError for a path that `check_path` refuses: `..` needs no link to lead outside.
    """
    if relative:
        naming.check_path(relative)
    kept = 0 if below is None else len(components(below))
    try:
        folder = open_root(root, create=create and below is None)
    except FileNotFoundError as error:
        raise FolderMissing(*error.args) from error
    try:
        for depth, component in enumerate(components(relative)):
            inner = enter(folder, component, create=create and depth >= kept)
            os.close(folder)
            folder = inner
    except FileNotFoundError as error:
        os.close(folder)
        raise FolderMissing(*error.args) from error
    except BaseException:
        os.close(folder)
        raise
    return folder


def enter(folder: int, name: str, *, create: bool = False) -> int:
    """Open the folder `name` inside `folder`; a link raises OSError(ELOOP)."""
    try:
        return _open_inner(folder, name)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=folder)
    os.fsync(folder)
    return _open_inner(folder, name)


def _open_inner(folder: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        # Linux says the same for a link and for a file; who mends it needs to know which.
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from error
        raise


def create_file(folder: int, name: str) -> int:
    """Make the new file `name` for writing; raises FileExistsError when the name is taken by anything."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, FILE_MODE, dir_fd=folder)


def write_all(file: int, data: bytes) -> None:
    """Write every byte of `data`, however often the file system takes only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def link(source: int, temporary: str, target: int, name: str) -> None:
    """Give the file its final name. Atomic, and never replaces: raises FileExistsError."""
    os.link(temporary, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)


def forget(folder: int, name: str) -> None:
    """Remove the file `name`; it may be gone already."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def names_in(folder: int) -> list[str]:
    """The names directly inside `folder`."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def empty(folder: int) -> None:
    """Remove every file directly inside `folder`."""
    for name in names_in(folder):
        forget(folder, name)


def remove_folder(folder: int, name: str) -> None:
    """Remove the folder `name` with the files directly inside it; it may be gone already."""
    try:
        inner = enter(folder, name)
    except FileNotFoundError:
        return
    try:
        empty(inner)
    finally:
        os.close(inner)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=folder)


def remove_temporaries(folder: int, hidden: str, mine: Callable[[str], bool]) -> None:
    """Remove the folders inside `hidden` that are `mine`, and `hidden` itself where nothing is left in it. Probes
    are removed too: they live for the length of two calls, so one that is found was left by a process that died."""
    inner = enter(folder, hidden)
    try:
        for name in names_in(inner):
            if mine(name):
                remove_folder(inner, name)
            elif name.startswith(naming.PROBE):
                forget(inner, name)
    finally:
        os.close(inner)
    with suppress(OSError):  # other jobs and generations have theirs in it
        os.rmdir(hidden, dir_fd=folder)


def status_of(folder: int, name: str) -> os.stat_result | None:
    """Of the file `name`, None when there is nothing. Raises OSError(ELOOP or EISDIR) for other things."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode):
        return found
    code = errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EISDIR
    raise OSError(code, os.strerror(code), name)


def identity(status: os.stat_result) -> list[int]:
    """What is another as soon as a file is replaced or written to: its number and the time, in nanoseconds, of the
    last write. A new name changes neither."""
    return [status.st_ino, status.st_mtime_ns]


def open_file(folder: int, name: str) -> int:
    """Open the file `name` for reading; a link raises OSError(ELOOP)."""
    # O_NONBLOCK: a pipe put in the file's place would hold the thread for ever.
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)


def checksum_of(folder: int, name: str, leave: Callable[[], bool]) -> str:
    """`sha256:<hex>` of the file's bytes, in constant memory. Raises Interrupted soon after `leave()` is true."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    file = open_file(folder, name)
    try:
        while count := os.readv(file, [block]):
            if leave():
                raise Interrupted
            digest.update(block[:count])
    finally:
        os.close(file)
    return f"sha256:{digest.hexdigest()}"


_REFUSALS = {
    errno.EACCES: ("folder_not_writable", "give the service's user the right to read and write this folder"),
    errno.EPERM: ("folder_not_writable", "give the service's user the right to read and write this folder"),
    errno.EROFS: ("folder_not_writable", "the file system is mounted read-only; mount it for writing"),
    errno.ENOTDIR: ("folder_not_writable", "a file stands where a folder is needed; remove it or choose another path"),
    errno.EISDIR: ("folder_not_writable", "a folder stands where a file is needed; remove it"),
    errno.ELOOP: ("path_not_allowed", "a component is a symbolic link, which is never followed; make it a real folder"),
    errno.ENAMETOOLONG: ("path_not_allowed", "a name is too long for this file system; choose a shorter path"),
    errno.EINVAL: ("path_not_allowed", "this file system does not take such a name; choose another path"),
    errno.EILSEQ: ("path_not_allowed", "this file system does not take such a name; choose another path"),
    errno.EXDEV: ("path_not_allowed", "the folder spans two file systems; keep it on one"),
    errno.EFBIG: ("file_too_large", "the file is larger than this file system or process may write; lower chunk.bytes"),
    errno.EMLINK: ("links_not_supported", "this file system has no hard links; choose a folder on one that has"),
    errno.ENOTSUP: ("links_not_supported", "this file system has no hard links; choose a folder on one that has"),
}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def refusal(error: OSError, path: str, doing: str) -> SinkError:
    """What an OSError means: full and failing disks come back (SinkUnavailable), rights and paths do not
    (SinkRefused). The message names the path below the account's folder, never where that folder lies."""
    code = error.errno or 0
    said = f"{doing} in sink.path {path!r} failed: {os.strerror(code) if code else type(error).__name__}"
    if isinstance(error, TimeoutError) or code == errno.ETIMEDOUT:
        return SinkUnavailable("folder_timeout", f"{said}; the file system does not answer in time, check the disk")
    if isinstance(error, FolderMissing):
        return TargetGone(
            "folder_missing",
            f"{said}; mount it or bring it back with its files, and share it between all machines that run jobs, or "
            "start from the beginning",
        )
    if code in _NO_SPACE:
        return SinkUnavailable("no_space", f"{said}; free space or raise the quota, the job goes on by itself")
    if code in _REFUSALS:
        name, remedy = _REFUSALS[code]
        return SinkRefused(name, f"{said}; {remedy}")
    return SinkUnavailable("folder_unavailable", f"{said}; check the disk, the mount and the process's limits")


def taken(path: str, doing: str) -> SinkUnavailable:
    """What an existing name means: unknown until it is compared with the prepared tries."""
    said = f"{doing} in sink.path {path!r} found the name taken"
    return SinkUnavailable("name_taken", f"{said}; it is compared with the prepared tries at the next open")
