"""Answers of the broker that never come, and transactions that it ends by itself: unknown is never taken for failed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.proxy import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    INIT_PRODUCER_ID,
    OFFSET_FETCH,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    Action,
)
from tests.support.topics import topic_ends
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fault.kafka_target import KafkaTarget
    from tests.fault.scenario import FaultJob, Scenario
    from tests.support.kafka import KafkaServer
    from tests.support.proxy import FaultProxy, Rule

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(240)]


class Lost(NamedTuple):
    """A request of one job that is lost on its way there or back; `chunk`: once that many are prepared, 0 at once."""

    api_key: int
    action: Action
    chunk: int


LOST = {
    "commit-executed": Lost(END_TXN, "swallow_reply", 3),
    "commit-not-executed": Lost(END_TXN, "drop_request", 3),
    "commit-executed-and-cut": Lost(END_TXN, "cut_after", 3),
    "commit-not-executed-and-cut": Lost(END_TXN, "cut_before", 3),
    "first-commit-executed": Lost(END_TXN, "swallow_reply", 1),
    "first-commit-not-executed": Lost(END_TXN, "drop_request", 1),
    "anchor-executed": Lost(END_TXN, "swallow_reply", 0),
    "anchor-not-executed": Lost(END_TXN, "drop_request", 0),
    "offset-executed": Lost(TXN_OFFSET_COMMIT, "swallow_reply", 3),
    "offset-not-executed": Lost(TXN_OFFSET_COMMIT, "drop_request", 3),
    "group-executed": Lost(ADD_OFFSETS_TO_TXN, "swallow_reply", 3),
    "group-not-executed": Lost(ADD_OFFSETS_TO_TXN, "drop_request", 3),
    "fence-executed": Lost(INIT_PRODUCER_ID, "swallow_reply", 0),
    "fence-not-executed": Lost(INIT_PRODUCER_ID, "drop_request", 0),
    "position-cut": Lost(OFFSET_FETCH, "cut_after", 0),
    "partition-executed": Lost(ADD_PARTITIONS_TO_TXN, "swallow_reply", 3),
    "partition-not-executed": Lost(ADD_PARTITIONS_TO_TXN, "drop_request", 3),
    "records-executed": Lost(PRODUCE, "swallow_reply", 3),
    "records-not-executed": Lost(PRODUCE, "drop_request", 3),
}
"""By name of the job. A swallowed answer costs the client's ten seconds, all of them at the same time."""


def of(job: FaultJob, api_key: int) -> Callable[[bytes], bool]:
    """Requests of one kind that name the job: all of them carry its transactional id or its group."""

    def matches(request: bytes) -> bool:
        return bool(struct.unpack_from(">h", request)[0] == api_key) and job.id.encode() in request

    return matches


async def test_an_answer_that_never_comes_is_looked_up_and_never_guessed(
    proxied_scenario: Scenario, kafka_proxy: FaultProxy
) -> None:
    scenario, held = proxied_scenario, {}
    rules: dict[str, Rule] = {}
    jobs = [await scenario.create(name) for name in LOST]
    for job in jobs:
        lost = LOST[job.name]
        if lost.chunk == 0:
            rules[job.name] = kafka_proxy.on_request(lost.action, predicate=of(job, lost.api_key))
        else:
            point = "read" if lost.api_key in {PRODUCE, ADD_PARTITIONS_TO_TXN} else "prepared"
            skip = 0 if point == "read" else lost.chunk - 1
            held[job.name] = scenario.points.hold(point, job_id=job.id, skip=skip)
    await scenario.start(*jobs)
    for job in jobs:
        if job.name in held:
            await scenario.reach(held[job.name])
            lost = LOST[job.name]
            rules[job.name] = kafka_proxy.on_request(lost.action, predicate=of(job, lost.api_key))
            held[job.name].release()
    await scenario.finish_and_reconcile(*jobs)
    assert {name: rule.hits for name, rule in rules.items()} == dict.fromkeys(LOST, 1)


async def test_a_transaction_that_times_out_is_dropped_and_cut_anew_by_the_same_owner(
    kafka_scenario: Scenario, kafka_target: KafkaTarget, kafka_server: KafkaServer
) -> None:
    scenario = kafka_scenario
    kafka_target.transaction_timeout = 10.0
    jobs, holds = [], []
    for point in ("staged", "complete", "prepared"):
        for name, skip in ((point, 0), (f"{point}-later", 2)):
            jobs.append(await scenario.create(name))
            holds.append(scenario.points.hold(point, job_id=jobs[-1].id, skip=skip))
    await scenario.start(*jobs)
    await scenario.reach(*holds)
    for job in jobs:
        topic = kafka_target.topics[job.name]

        def ended(topic: str = topic) -> bool:
            return all(end.stable == end.high for end in topic_ends(kafka_server.bootstrap, topic).values())

        await until(ended, 20, f"the broker has ended the transaction of {job.name}")
    for hold in holds:
        hold.release()
    await scenario.finish_and_reconcile(*jobs)
    for job in jobs:
        lines = [line for line in scenario.service.log_events("retrying") if line["job_id"] == job.id]
        codes = {line["code"] for line in lines}
        assert codes & {"fenced", "outcome_unknown"}, f"{job.name} was not hit: {lines}"
        assert not [line for line in scenario.service.log_events("lease_lost") if line["job_id"] == job.id]
