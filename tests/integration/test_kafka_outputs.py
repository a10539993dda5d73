"""`outputs` of a job into Kafka say where each chunk's rows lie, in however many partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.api_cases import ApiCase, definition
from tests.support.topics import read_topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.kafka import KafkaServer


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as made:
        await made.shop()
        await made.rows(250)
        await made.engine.start()
        yield made


async def outputs(api: ApiCase, sink: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a job that has delivered all rows in chunks of 100."""
    await api.ok("POST", "/v1/jobs?start=true", definition(sink=sink, options={"chunk": {"rows": 100}}), 201)
    job = await api.until_state("j", "successful", "error")
    assert job["state"] == "successful", job["errors"]
    found: list[dict[str, Any]] = (await api.ok("GET", "/v1/jobs/j/outputs"))["outputs"]
    assert [one["rows"] for one in found] == [100, 100, 50]
    return found


@pytest.mark.kafka
@pytest.mark.parametrize(("partitions", "delivery"), [(1, "exactly_once"), (3, "exactly_once"), (3, "at_least_once")])
async def test_each_partitions_first_and_last_offset_hold_the_chunks_rows(
    api: ApiCase, kafka_server: KafkaServer, partitions: int, delivery: str
) -> None:
    topic = kafka_server.create_topic(partitions=partitions)
    sink = {"kind": "kafka", "bootstrap_servers": kafka_server.bootstrap, "topic": topic, "key": ["id"]}
    found = await outputs(api, sink | {"delivery": delivery})
    lying = {(one.partition, one.offset): int(one.key or b"") for one in read_topic(kafka_server.bootstrap, topic)}
    for one in found:
        spans = one["partitions"]
        assert [span["partition"] for span in spans] == list(range(partitions))
        there = [
            lying.pop((span["partition"], offset), None)
            for span in spans
            for offset in range(span["first_offset"], span["last_offset"] + 1)
        ]
        assert sorted(filter(None, there)) == list(range(int(one["first_id"]), int(one["last_id"]) + 1))
        alone = {name: one[name] for name in ("partition", "first_offset", "last_offset")}
        assert alone == (spans[0] if partitions == 1 else dict.fromkeys(alone))
    assert not lying


async def test_a_target_without_partitions_has_none(api: ApiCase) -> None:
    found = await outputs(api, {"kind": "file", "path": "j"})
    assert [(one["partitions"], one["partition"]) for one in found] == [(None, None)] * 3
