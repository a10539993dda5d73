"""Names of requests, for answers and log lines: drawn for each, and no secret."""

from __future__ import annotations

import random
from typing import Final

_DRAWN: Final = random.Random()  # noqa: S311  they open nothing, and the kernel is not asked for every request
"""Begins at another place in every process."""


def drawn(length: int) -> str:
    """So many bytes in hex digits."""
    return _DRAWN.randbytes(length).hex()
