"""Where servers of the tests keep their data: in memory where there is plenty of it.

A test makes and drops databases, topics and indices by the thousand and wants none of them tomorrow; on a disk, most of
what that costs is the file system's books. A server in memory is told nothing else than one on a disk.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

VARIABLE = "ROWFERRY_TEST_SERVERS"
"""Names the folder below which servers make theirs; empty: the temporary folder."""
_MEMORY = Path("/dev/shm")
_PLENTY = 8 << 30
"""Bytes. A run of the whole suite takes about 3 GB of files, and its processes about 8."""
_OURS = re.compile(r"rowferry-tests-(\d+)")


def claim() -> Path | None:
    """The folder of this run of the tests, made, and named to whoever it starts; None where something is named already
    or memory is short, and nothing is done. What runs that were killed have left behind is removed first."""
    if VARIABLE in os.environ or not _MEMORY.is_dir():
        return None
    for left in _MEMORY.iterdir():
        pid = _OURS.fullmatch(left.name)
        if pid is not None and not Path(f"/proc/{pid[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    if min(shutil.disk_usage(_MEMORY).free, _available()) < _PLENTY:
        return None
    folder = _MEMORY / f"rowferry-tests-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o711)  # Postgres runs as another user where we are root
    os.environ[VARIABLE] = str(folder)
    return folder


def give_back(folder: Path) -> None:
    """Remove the folder that `claim` made."""
    os.environ.pop(VARIABLE, None)
    shutil.rmtree(folder, ignore_errors=True)


def _available() -> int:
    """Bytes that programs can still take without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
