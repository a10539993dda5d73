"""The HTTP side's own metrics, under the names of `config.names`, in the process's registry."""

from __future__ import annotations

from functools import lru_cache
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
    _counted(method, route, status).inc()
    if seconds is not None:
        _timed(method, route).observe(seconds)


# Looking a series up by its labels takes longer than counting in it. Routes and methods are few: what is no route is
# one.
@lru_cache(maxsize=4096)
def _counted(method: str, route: str, status: int) -> Counter:
    return _REQUESTS.labels(method=method, route=route, status=str(status))


@lru_cache(maxsize=4096)
def _timed(method: str, route: str) -> Histogram:
    return _SECONDS.labels(method=method, route=route)
