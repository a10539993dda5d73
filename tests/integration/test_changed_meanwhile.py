"""Rows that are changed and deleted between a chunk's first try and what its next owner does about it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from service.domain.states import Event, State
from tests.support.holding import Holding
from tests.support.reconcile import Delivered, file_rows, kafka_rows, lines_of
from tests.support.waiting import happened
from tests.support.workshop import ACCOUNT, Workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


@pytest.fixture
async def shop(database: str, control_database: str) -> AsyncIterator[Workshop]:
    async with Workshop(control_database, database) as workshop:
        yield workshop


class Target:
    """Where the job delivers to, and another client that reads it."""

    def __init__(self, kind: str, request: pytest.FixtureRequest, shop: Workshop) -> None:
        self.sink: dict[str, Any] = {"kind": "file", "path": "orders"}
        self.rows = lambda: file_rows(shop.folder / "files" / ACCOUNT / "orders")
        if kind == "kafka":
            kafka, topic = request.getfixturevalue("kafka_server"), request.getfixturevalue("topic")
            self.sink = {"kind": "kafka", "bootstrap_servers": kafka.bootstrap, "topic": topic, "key": ["id"]}
            self.rows = lambda: kafka_rows(kafka.bootstrap, topic)
        if kind == "s3":
            store, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
            self.sink = store.definition(bucket)
            self.rows = lambda: _objects({key: store.read(bucket, key) for key in store.objects(bucket)})


def _objects(found: dict[str, bytes]) -> Iterable[Delivered]:
    for key, content in found.items():
        if "_manifest-" not in key:
            for line in lines_of(key, content):
                yield Delivered(key, (str(json.loads(line)["id"]),), line)


@pytest.mark.parametrize("kind", ["file", "s3", pytest.param("kafka", marks=pytest.mark.kafka)])
@pytest.mark.parametrize(("point", "adopted"), [("visible", True), ("prepared", False)])
async def test_a_chunk_is_adopted_as_it_is_or_repeated_as_its_rows_are(
    shop: Workshop, request: pytest.FixtureRequest, kind: str, point: str, adopted: bool
) -> None:
    target = Target(kind, request, shop)
    await shop.rows(300)
    holding = Holding(point)
    dead = shop.engine("dead", signals=holding)
    await dead.start()
    job = await shop.job("orders", sink=target.sink, options={"chunk": {"rows": 100}})
    await shop.verb(job, Event.START)
    await happened(holding.reached_it, 20, f"a chunk {point}")
    for loop in dead._loops:
        loop.cancel()
    await shop.source.execute("DELETE FROM orders WHERE id IN (7, 100); UPDATE orders SET note = 'new' WHERE id = 8")
    await shop.engine("living").start()
    await shop.expire_leases()
    job = await shop.state(job)
    holding.go.set()
    gone = [] if adopted else [7, 100]
    assert (job.state, job.totals.rows_sent, job.last_id) == (State.SUCCESSFUL, 300 - len(gone), ("300",))
    found = await asyncio.to_thread(lambda: [(int(row.key[0]), json.loads(row.value)["note"]) for row in target.rows()])
    assert [number for number, _ in sorted(found)] == [number for number in range(1, 301) if number not in gone]
    assert dict(found)[8] == ("note 8" if adopted else "new")
    outputs, _ = await shop.store.outputs(ACCOUNT, job.id, limit=50, after=None)
    assert sorted(one.rows for one in outputs) == ([100, 100, 100] if adopted else [98, 100, 100])
