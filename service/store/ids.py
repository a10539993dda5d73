"""UUIDv7 as text (RFC 9562 §5.7): ids that sort by the time they were made."""

from __future__ import annotations

import secrets
import time
import uuid


def uuid7() -> str:
    """A fresh id. Python before 3.14 has none of its own."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
