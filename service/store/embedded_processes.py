"""Other people's processes, as /proc and the kernel show them."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path


async def ended(pid: int) -> None:
    """Wait until a process ends, whoever's child it is."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def reap(pid: int) -> None:
    """In a container the service may be process 1, and inherits what pg_ctl started."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def works_in(pid: int, folder: Path) -> bool | None:
    """Whether the process has `folder` as its current one, as all of a cluster's have; None: may not be looked at."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except PermissionError:
        return None
    except OSError:
        return False


def processes_in(folder: Path) -> list[int]:
    """The pids of all that have `folder` as their current one and may be looked at."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if works_in(pid, folder)]
