"""Loopback ports for servers that are to be restarted on the same port."""

from __future__ import annotations

import os
import random
import socket

LOOPBACK = "127.0.0.1"
# Below Linux's ephemeral range (32768 up): between a kill and a restart no client's own port can take ours.
_LOWEST, _HIGHEST = 20000, 32000
_random = random.SystemRandom()


def _own_range() -> tuple[int, int]:
    """Tests that run side by side (pytest-xdist) have ports of their own, since none knows what the others gave out."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    share = (_HIGHEST - _LOWEST) // int(count)
    lowest = _LOWEST + int(worker.removeprefix("gw")) * share
    return lowest, lowest + share - 1


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
    lowest, highest = _own_range()
    for _ in range(200):
        port = _random.randint(lowest, highest)
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port found on {LOOPBACK} between {lowest} and {highest}")
