"""The HTTP side's own metrics, under the names of `config.names`, in the process's registry."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from config import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

STREAMS: Final = Gauge(names.HTTP_STREAMS.name, names.HTTP_STREAMS.help)
"""Open event streams."""
_BOUNDS: Final = Histogram.DEFAULT_BUCKETS
_BUCKETS: Final = [*map(str, _BOUNDS[:-1]), "+Inf"]


class _Times:
    """How long the answers of one method and route took."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.seconds = 0.0


class Answers(Collector):
    """Counts answers, and shows them when metrics are asked for, from whatever thread. Only the event loop counts: it
    needs none of the locks and checks that a metric of the library has, which took longer than all else here."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._times: dict[tuple[str, str], _Times] = {}

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """One answer; `seconds` None for a stream, whose length says nothing. Counted by route, never by path: a path
        names jobs."""
        counted = (method, route, status)
        self._requests[counted] = self._requests.get(counted, 0) + 1
        if seconds is None:
            return
        times = self._times.get((method, route))
        if times is None:
            times = self._times[method, route] = _Times()
        times.counts[bisect_left(_BOUNDS, seconds)] += 1
        times.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """As the library's registry asks for it."""
        requests = CounterMetricFamily(
            names.HTTP_REQUESTS.name, names.HTTP_REQUESTS.help, None, names.HTTP_REQUESTS.labels
        )
        for (method, route, status), count in list(self._requests.items()):
            requests.add_metric([method, route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            names.HTTP_SECONDS.name, names.HTTP_SECONDS.help, None, None, names.HTTP_SECONDS.labels
        )
        for labels, times in list(self._times.items()):
            upto = accumulate(list(times.counts))
            seconds.add_metric(labels, list(zip(_BUCKETS, upto, strict=True)), times.seconds)
        yield seconds


_ANSWERS: Final = Answers()
REGISTRY.register(_ANSWERS)
answered: Final = _ANSWERS.answered
"""One answer of this process."""
