"""The HTTP side's own metrics, under the names of `config.names`, in the process's registry."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from config import names

_REQUESTS: Final = Counter(names.HTTP_REQUESTS.name, names.HTTP_REQUESTS.help, names.HTTP_REQUESTS.labels)
_SECONDS: Final = Histogram(names.HTTP_SECONDS.name, names.HTTP_SECONDS.help, names.HTTP_SECONDS.labels)
STREAMS: Final = Gauge(names.HTTP_STREAMS.name, names.HTTP_STREAMS.help)
"""Open event streams."""


def answered(method: str, route: str, status: int, seconds: float | None) -> None:
    """One answer; `seconds` None for a stream, whose length says nothing. Counted by route, never by path: a path
    names jobs."""
    _REQUESTS.labels(method=method, route=route, status=str(status)).inc()
    if seconds is not None:
        _SECONDS.labels(method=method, route=route).observe(seconds)
