"""The workers' metrics, under the names of `config.names`, in the process's registry."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram

from config import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config.names import Metric


def _counter(metric: Metric) -> Counter:
    return Counter(metric.name, metric.help, metric.labels)


ROWS_READ: Final = _counter(names.ROWS_READ)
ROWS_SENT: Final = _counter(names.ROWS_SENT)
ROWS_DEAD: Final = _counter(names.ROWS_DEAD)
ROWS_LATE: Final = _counter(names.ROWS_LATE)
DEAD_LETTERS_RETRIED: Final = _counter(names.DEAD_LETTERS_RETRIED)
BYTES_SENT: Final = _counter(names.BYTES_SENT)
CHUNKS_SETTLED: Final = _counter(names.CHUNKS_SETTLED)
RETRIES: Final = _counter(names.RETRIES)
VERIFIED_ROWS: Final = _counter(names.VERIFIED_ROWS)
VERIFY_DIFFERENCES: Final = _counter(names.VERIFY_DIFFERENCES)
STEPS_ENDED: Final = _counter(names.STEPS_ENDED)
STEPS_RUNNING: Final = Gauge(names.STEPS_RUNNING.name, names.STEPS_RUNNING.help, names.STEPS_RUNNING.labels)
MEMORY_HELD: Final = Gauge(names.MEMORY_HELD.name, names.MEMORY_HELD.help)
SNAPSHOTS_HELD: Final = Gauge(names.SNAPSHOTS_HELD.name, names.SNAPSHOTS_HELD.help)
SNAPSHOTS_ENDED: Final = _counter(names.SNAPSHOTS_ENDED)
PAGE_SECONDS: Final = Histogram(names.PAGE_SECONDS.name, names.PAGE_SECONDS.help)
CHUNK_SECONDS: Final = Histogram(names.CHUNK_SECONDS.name, names.CHUNK_SECONDS.help, names.CHUNK_SECONDS.labels)


@contextmanager
def timed(sink: str, step: str) -> Iterator[None]:
    """Observe how long one step of a chunk took, when it succeeded."""
    begun = time.monotonic()
    yield
    CHUNK_SECONDS.labels(sink=sink, step=step).observe(time.monotonic() - begun)


def settled(sink: str, rows: int, size: int, dead: int = 0) -> None:
    """Count a settled chunk."""
    CHUNKS_SETTLED.labels(sink=sink).inc()
    ROWS_READ.labels(sink=sink).inc(rows)
    ROWS_SENT.labels(sink=sink).inc(rows)
    BYTES_SENT.labels(sink=sink).inc(size)
    set_aside(sink, dead)


def set_aside(sink: str, dead: int) -> None:
    """Count rows that were read and became dead letters."""
    ROWS_READ.labels(sink=sink).inc(dead)
    ROWS_DEAD.labels(sink=sink).inc(dead)


def sent_again(sink: str, rows: int, size: int, stays: int) -> None:
    """Count what became of dead letters that were sent again."""
    ROWS_SENT.labels(sink=sink).inc(rows)
    BYTES_SENT.labels(sink=sink).inc(size)
    DEAD_LETTERS_RETRIED.labels(sink=sink, outcome="sent").inc(rows)
    DEAD_LETTERS_RETRIED.labels(sink=sink, outcome="stays").inc(stays)
