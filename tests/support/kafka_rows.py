"""Short words for tests of the Kafka sink: its definition, owners, rows and chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sinks.base import Batch, Cut, Owner
from sinks.kafka import KafkaSink
from sinks.specs import KafkaSinkSpec
from tests.support.topics import read_topic, topic_ends
from tests.support.waiting import until

if TYPE_CHECKING:
    from sinks.base import Prepared, Receipt, Writer
    from tests.support.kafka import KafkaServer
    from tests.support.topics import Record

OWNER = Owner(account="default", job_id="job1", job_name="orders", run_id="r1", generation=3, split="0", epoch=5)


def kafka_sink(bootstrap: str, topic: str, **changes: Any) -> KafkaSink:
    """A sink on a topic; `changes` are further fields of the definition, or `guard` and `topic_id`."""
    extra = {name: changes.pop(name) for name in ("guard", "topic_id") if name in changes}
    spec = {"kind": "kafka", "bootstrap_servers": bootstrap, "topic": topic} | changes
    return KafkaSink(KafkaSinkSpec.model_validate(spec), **extra)


def values(first: int, last: int, size: int = 0) -> list[bytes]:
    """One JSON row a number; `size` is its length at least."""
    return [(b'{"id":%d,"text":"' % number).ljust(size, b".") + b'"}' for number in range(first, last + 1)]


def cut(sequence: int, rows: int, attempt: int = 1) -> Cut:
    """A cut whose keys nobody looks at."""
    return Cut(sequence, attempt, rows, ("1",), (str(rows),), None)


async def prepared(writer: Writer, sequence: int, rows: list[bytes]) -> Prepared:
    """Stage and prepare one chunk."""
    await writer.stage(Batch(rows))
    return await writer.prepare(cut(sequence, len(rows)))


async def deliver(writer: Writer, sequence: int, rows: list[bytes]) -> Receipt:
    """One chunk, visible."""
    return await writer.make_visible(await prepared(writer, sequence, rows))


async def read_settled(server: KafkaServer, topic: str) -> list[Record]:
    """
    Every committed record, once no transaction is open any more.

    A commit is answered when the coordinator has decided it; its markers reach the partitions a moment later.
    """

    def no_open_transaction() -> bool:
        return all(end.stable == end.high for end in topic_ends(server.bootstrap, topic).values())

    await until(no_open_transaction, 20, f"{topic} has no open transaction")
    return read_topic(server.bootstrap, topic)
