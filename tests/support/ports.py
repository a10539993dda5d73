"""Loopback ports for servers that are to be restarted on the same port."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
# Below Linux's ephemeral range (32768 up): between a kill and a restart no client's own port can take ours.
_LOWEST, _HIGHEST = 20000, 32000
_random = random.SystemRandom()
_given: set[int] = set()
"""A proxy's port may stay without a listener for most of a run: nobody else of this run gets it."""


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nobody listens on now. Starters still check that the listener is their child."""
    for _ in range(200):
        port = _random.randint(_LOWEST, _HIGHEST)
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port found on {LOOPBACK} between {_LOWEST} and {_HIGHEST}")
