"""Reading a topic back with another client than the product's (librdkafka), to its stable end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from tests.support.waiting import until_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator


_NO_LEADER_YET = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_LEADER_EPOCH})


class Record(NamedTuple):
    """One record of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Ends(NamedTuple):
    """Where a partition ends: for `read_committed` readers, and altogether."""

    stable: int
    high: int


def topic_ends(bootstrap: str, topic: str, *, admin: AdminClient | None = None) -> dict[int, Ends]:
    """
    Last stable offset and high watermark of every partition; they differ while a transaction is open.

    KeyError when there is no such topic.
    """
    admin = admin or AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    if not partitions:
        raise KeyError(topic)
    asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in partitions}  # type: ignore[no-untyped-call]
    levels = (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    stable, high = (_offsets(admin, asked, level) for level in levels)
    return {number: Ends(stable[number], high[number]) for number in sorted(partitions)}


def _offsets(admin: AdminClient, asked: Any, level: IsolationLevel) -> dict[int, int]:
    """Asked until every partition of a topic just made, or of a broker just started, has a leader that knows it."""

    def ask() -> dict[int, int] | None:
        try:
            answers = admin.list_offsets(asked, isolation_level=level, request_timeout=10)
            return {where.partition: answer.result(15).offset for where, answer in answers.items()}
        except KafkaException as error:
            if error.args[0].code() in _NO_LEADER_YET:
                return None
            raise

    found = until_blocking(ask, 15, "the ends of every partition")
    assert found is not None, "until_blocking answers what is true"
    return found


def _reader(bootstrap: str, isolation: str) -> Consumer:
    """A consumer of nobody's group that says where a partition ends."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "never-committed",
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "log_level": 0,
            "fetch.wait.max.ms": 50,
        }
    )


def iterate_topic(
    bootstrap: str, topic: str, *, isolation: str = "read_committed", timeout: float = 120.0, headers: bool = True
) -> Iterator[Record]:
    """
    Every record from the beginning up to the end that `isolation` had at the call; blocks.

    TimeoutError when the end is not reached within `timeout` seconds. A record of an open transaction is
    beyond the end of `read_committed`.
    """
    ends = topic_ends(bootstrap, topic)
    todo = {n: (e.stable if isolation == "read_committed" else e.high) for n, e in ends.items()}
    todo = {number: end for number, end in todo.items() if end > 0}
    if not todo:
        return
    consumer = _reader(bootstrap, isolation)
    deadline = time.monotonic() + timeout
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in todo])
        while todo:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic}: partitions {sorted(todo)} were not read to the end in {timeout} s")
            for message in consumer.consume(5000, 0.2):
                error = message.error()
                number, offset = cast("int", message.partition()), cast("int", message.offset())
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                end = todo.get(number)
                if end is None:
                    continue
                if error is not None or offset >= end:
                    if offset >= end:
                        del todo[number]
                    continue
                found = cast("list[tuple[str, bytes]]", (message.headers() or []) if headers else [])
                yield Record(number, offset, message.key(), message.value(), found)
    finally:
        consumer.close()


def read_topic(
    bootstrap: str, topic: str, *, isolation: str = "read_committed", timeout: float = 120.0
) -> list[Record]:
    """All of `iterate_topic`, ordered by partition and offset."""
    return sorted(iterate_topic(bootstrap, topic, isolation=isolation, timeout=timeout), key=lambda r: r[:2])


class StallWatch:
    """
    Watches how long `read_committed` readers of a topic are held back by one open transaction.

    A reader is stalled while the last stable offset of a partition stands still below the high watermark.
    Use as a context manager; `longest_seconds` is right after it is left, to about `interval` seconds.
    """

    def __init__(self, bootstrap: str, topic: str, *, interval: float = 0.1) -> None:
        self.longest_seconds = 0.0
        self.errors = 0
        self._bootstrap, self._topic, self._interval = bootstrap, topic, interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._done.set()
        self._thread.join(40)

    def _watch(self) -> None:
        since: dict[int, tuple[int, float]] = {}
        admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 0})
        while not self._done.wait(self._interval):
            try:
                ends = topic_ends(self._bootstrap, self._topic, admin=admin)
            except (KafkaException, KeyError, TimeoutError):
                self.errors += 1  # the broker is down or frozen: nobody reads, nobody is held back by us
                since.clear()
                continue
            self._note(ends, since)

    def _note(self, ends: dict[int, Ends], since: dict[int, tuple[int, float]]) -> None:
        now = time.monotonic()
        for number, end in ends.items():
            stable, began = since.get(number, (-1, now))
            if end.stable >= end.high:
                since.pop(number, None)
            elif end.stable != stable:
                since[number] = (end.stable, now)
            else:
                self.longest_seconds = max(self.longest_seconds, now - began)
