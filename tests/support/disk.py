"""A small file system in memory, for those who may mount one, and a file that takes all its space."""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DISK_BYTES = 128 << 20
BALLAST = "_ballast"
_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


def mounted(folder: Path, size: int = DISK_BYTES) -> bool:
    """Put an empty file system of `size` bytes over `folder`, with the folder's attributes. False, and nothing is
    done, where we have not the right to, or where it can not hold those attributes."""
    if os.geteuid() != 0:
        return False
    names = {name: os.getxattr(folder, name) for name in os.listxattr(folder)}
    if _libc.mount(b"rowferry-test", os.fsencode(folder), b"tmpfs", 0, f"size={size},mode=755".encode()):
        return False
    try:
        for name, value in names.items():
            os.setxattr(folder, name, value)
    except OSError:  # Linux before 6.6
        unmounted(folder)
        return False
    return True


def unmounted(folder: Path) -> None:
    """End of `mounted`: what was in it is gone."""
    _libc.umount2(os.fsencode(folder), _MNT_DETACH)


def fill(folder: Path) -> None:
    """Take all the space of the file system of `folder` with the file `BALLAST` in it. Blocks."""
    room = shutil.disk_usage(folder).total
    with (folder / BALLAST).open("ab", buffering=0) as ballast, suppress(OSError):
        while room > 0:
            room -= ballast.write(bytes(1 << 16))


def make_room(folder: Path) -> None:
    """End of `fill`."""
    (folder / BALLAST).unlink(missing_ok=True)
