"""The HTTP side's own metrics, under the names of `config.names`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Gauge, Histogram

from config import names

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from config.names import Metric


class HttpMetrics:
    """Counts requests by route, never by path: a path names jobs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests: Counter = _made(Counter, names.HTTP_REQUESTS, registry)
        self._seconds: Histogram = _made(Histogram, names.HTTP_SECONDS, registry)
        self.streams: Gauge = _made(Gauge, names.HTTP_STREAMS, registry)

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """One answer; `seconds` None for a stream, whose length says nothing."""
        self._requests.labels(method=method, route=route, status=str(status)).inc()
        if seconds is not None:
            self._seconds.labels(method=method, route=route).observe(seconds)


def _made(kind: Any, metric: Metric, registry: CollectorRegistry) -> Any:
    return kind(metric.name, metric.help, metric.labels, registry=registry)
