"""How the process's memory is given back: glibc's allocator told to keep little.

By itself it gives each thread an arena of its own, and after the first large block that is freed it takes the next ones
from these arenas, which keep what is freed. Pages and parts of megabytes that wander from the event loop to a split's
thread and back then leave 20 to 50 MB behind for good. https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache
from typing import Final

_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1
ARENAS: Final = 2
LARGE_BYTES: Final = 9 << 19
"""From here on a block is a mapping of its own, and gone when it is freed: more than a page, which would cost a fifth
of the processor's time if each came with fresh memory."""
KEPT_BYTES: Final = 16 << 20
"""That the heap may keep at its end."""
PARQUET_BYTES: Final = 512 << 10
"""Both, once there was a Parquet file: its library takes 40 MB, and its conversions cost more than fresh memory."""


def keep_little() -> None:
    """To be called once, before there are threads. Does nothing without glibc, and where the environment has its own
    idea (`MALLOC_ARENA_MAX`, `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`)."""
    _tell(("MALLOC_ARENA_MAX", _ARENA_MAX, ARENAS))
    _tell(
        ("MALLOC_MMAP_THRESHOLD_", _MMAP_THRESHOLD, LARGE_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", _TRIM_THRESHOLD, KEPT_BYTES),
    )


@cache
def keep_least() -> None:
    """From now on nothing large is kept that is not used, at a price; for processes that write Parquet."""
    _tell(
        ("MALLOC_MMAP_THRESHOLD_", _MMAP_THRESHOLD, PARQUET_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", _TRIM_THRESHOLD, PARQUET_BYTES),
    )


def _tell(*options: tuple[str, int, int]) -> None:
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl has mallopt too, and it does nothing
        for name, option, value in options:
            if name not in os.environ:
                libc.mallopt(option, value)
