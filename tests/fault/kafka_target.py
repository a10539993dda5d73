"""Kafka as the target of a fault scenario: one topic a job, read back with librdkafka, its readers watched."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from tests.support.reconcile import Delivered, kafka_rows
from tests.support.topics import read_topic, topic_ends

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.kafka import KafkaServer

WATCH_SECONDS = 0.25
BROKER_SECONDS = 1.5
"""What the broker takes to end a transaction whose time is over, and the watch to see it."""
PARTITION = 0


class Readers:
    """Watches how long read_committed readers of many topics are held back by one open transaction: while the last
    stable offset stands still below the high watermark. `StallWatch` for many topics in one thread."""

    def __init__(self, kafka: KafkaServer) -> None:
        self.longest: dict[str, float] = {}
        self._admin = kafka.admin()
        self._since: dict[str, tuple[int, float]] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def watch(self, topic: str) -> None:
        """From now on."""
        self.longest[topic] = 0.0
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """No more."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join(40)

    def _watch(self) -> None:
        while not self._done.wait(WATCH_SECONDS):
            try:
                stable = self._ends(IsolationLevel.READ_COMMITTED)
                high = self._ends(IsolationLevel.READ_UNCOMMITTED)
            except KafkaException:
                self._since.clear()  # the broker is away: nobody reads, nobody is held back by us
                continue
            now = time.monotonic()
            for topic, end in high.items():
                self._note(topic, stable.get(topic, end), end, now)

    def _ends(self, isolation: IsolationLevel) -> dict[str, int]:
        asked = {TopicPartition(topic, PARTITION): OffsetSpec.latest() for topic in list(self.longest)}  # type: ignore[no-untyped-call]
        answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=5)
        return {where.topic: answer.result(6).offset for where, answer in answers.items()}

    def _note(self, topic: str, stable: int, high: int, now: float) -> None:
        seen, began = self._since.get(topic, (-1, now))
        if stable >= high:
            self._since.pop(topic, None)
        elif stable != seen:
            self._since[topic] = (stable, now)
        else:
            self.longest[topic] = max(self.longest[topic], now - began)


class KafkaTarget:
    """Topics of one broker, of one partition each; jobs reach it at `bootstrap`, readers always directly."""

    def __init__(self, kafka: KafkaServer, bootstrap: str | None = None, *, transaction_timeout: float = 15.0) -> None:
        self._kafka = kafka
        self._bootstrap = bootstrap or kafka.bootstrap
        self.transaction_timeout = transaction_timeout
        self.readers = Readers(kafka)
        self.topics: dict[str, str] = {}

    @property
    def kafka(self) -> KafkaServer:
        """Where the topics are."""
        return self._kafka

    def sink(self, job: str) -> dict[str, Any]:
        """A topic of its own."""
        # Small batches: a chunk has several, so that some are sent while it is still being staged.
        config = {"max.message.bytes": "4096"}
        self.topics[job] = self._kafka.create_topic(f"{job}-{uuid.uuid4().hex[:8]}", config=config)
        self.readers.watch(self.topics[job])
        return {
            "kind": "kafka",
            "bootstrap_servers": self._bootstrap,
            "topic": self.topics[job],
            "key": ["id"],
            "transaction_timeout_seconds": self.transaction_timeout,
        }

    def rows(self, job: str) -> Sequence[Delivered]:
        """What read_committed readers get."""
        return list(kafka_rows(self._kafka.bootstrap, self.topics[job]))

    def check_outputs(self, job: str, outputs: Sequence[dict[str, Any]], *, finished: bool = True) -> None:
        """Each output's range of offsets holds its rows: as many, the first and the last at its ends."""
        del finished  # the finish step leaves nothing in a topic
        records = read_topic(self._kafka.bootstrap, self.topics[job])
        left = {record.offset: int(json.loads(record.value or b"")["id"]) for record in records}
        for output in outputs:
            first, last = output["first_offset"], output["last_offset"]
            assert output["target"] == self.topics[job], output
            assert first is not None, f"{job}: an output without its offsets: {output}"
            low, high = int(output["first_id"]), int(output["last_id"])
            mine = {at: left.pop(at) for at in range(first, last + 1) if low <= left.get(at, -1) <= high}
            assert len(mine) == output["rows"], f"{job}: {len(mine)} records in the range of {output}"
            assert (mine.get(first), mine.get(last), output["partition"]) == (low, high, PARTITION), f"{job}: {output}"
        assert not left, f"{job}: records without an output: {sorted(left)[:5]}"

    def check_watch(self, job: str) -> None:
        """No reader was held back longer than the transaction timeout, and nobody is now."""
        topic = self.topics[job]
        longest = self.readers.longest[topic]
        assert longest <= self.transaction_timeout + BROKER_SECONDS, f"{job}: readers stood still for {longest} s"
        ends = topic_ends(self._kafka.bootstrap, topic)
        assert all(end.stable == end.high for end in ends.values()), f"{job}: a transaction is still open: {ends}"

    def close(self) -> None:
        """End the watch."""
        self.readers.close()
