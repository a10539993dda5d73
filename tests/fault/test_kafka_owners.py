"""An owner that froze and wakes up after another has taken its place: it makes nothing visible beyond what it prepared,
and what it sent before it froze and that arrives late does no harm either."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    INIT_PRODUCER_ID,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    Rule,
)
from tests.support.waiting import happened, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fault.scenario import FaultJob, Scenario
    from tests.support.proxy import FaultProxy
    from tests.support.reconcile import Delivered

pytestmark = [pytest.mark.kafka, pytest.mark.fault, pytest.mark.timeout(240)]

FROZEN_AT = {
    # name: point, how many pass before
    "leased": ("leased", 1),
    "opened": ("opened", 0),
    "read": ("read", 0),
    "staged": ("staged", 0),
    "staged-later": ("staged", 2),
    "complete": ("complete", 2),
    "prepared": ("prepared", 0),
    "prepared-later": ("prepared", 2),
    "visible": ("visible", 2),
    "settled": ("settled", 2),
}
ON_ITS_WAY = {
    # name: the request that has left the frozen owner and arrives when the other one is in the middle of a chunk
    "late-fence": INIT_PRODUCER_ID,
    "late-records": PRODUCE,
    "late-partition": ADD_PARTITIONS_TO_TXN,
    "late-group": ADD_OFFSETS_TO_TXN,
    "late-offset": TXN_OFFSET_COMMIT,
    "late-commit": END_TXN,
}
COMMIT_BEFORE_FENCE = "commit-before-fence"
"""The commit arrives when the other one has the lease and has not fenced yet: the prepared cut, and nothing else."""


async def test_an_owner_that_wakes_up_late_makes_nothing_visible_beyond_the_prepared_cut(
    proxied_scenario: Scenario, kafka_proxy: FaultProxy
) -> None:
    scenario, old = proxied_scenario, proxied_scenario.service
    jobs = {name: await scenario.create(name) for name in [*FROZEN_AT, *ON_ITS_WAY, COMMIT_BEFORE_FENCE]}
    held = [scenario.points.hold(at, job_id=jobs[name].id, skip=skip) for name, (at, skip) in FROZEN_AT.items()]
    requests = await _begin_with_requests_held(scenario, kafka_proxy, jobs)
    await scenario.reach(*held)
    old.freeze()

    new = scenario.second().launch()
    pid = new.process.pid
    points = {name: "leased" if name == COMMIT_BEFORE_FENCE else "staged" for name in jobs}
    taken = {n: scenario.points.hold(point, pid=pid, job_id=jobs[n].id) for n, point in points.items()}
    await new.wait_ready()
    await scenario.reach(*taken.values())

    before = await scenario.visible(*jobs.values())
    for hold in held:
        hold.release()
    for request in requests.values():
        request.release()
    old.thaw()
    await asyncio.gather(*(scenario.logged(old, "lease_lost", job, epoch=1, step="split") for job in jobs.values()))
    await until(lambda: _prepared_cut_alone(scenario, jobs, before), 10, "the late commit is visible, and nothing else")

    for hold in taken.values():
        hold.release()
    await scenario.finish_and_reconcile(*jobs.values(), service=new)
    # Proof that the late request came through and did what it can do: it fenced the valid owner, who asked and stayed.
    await scenario.logged(new, "retrying", jobs["late-fence"], code="fenced")


async def _prepared_cut_alone(
    scenario: Scenario, jobs: dict[str, FaultJob], before: dict[str, list[Delivered]]
) -> bool:
    """Whether the commit that came before the fence has shown its chunk; AssertionError when anything else is new."""
    after = await scenario.visible(*jobs.values())
    late = after[COMMIT_BEFORE_FENCE][len(before[COMMIT_BEFORE_FENCE]) :]
    assert {**after, COMMIT_BEFORE_FENCE: before[COMMIT_BEFORE_FENCE]} == before
    assert [int(row.key[0] or 0) for row in late] == list(range(401, 601))[: len(late)]
    return bool(late)


async def _begin_with_requests_held(
    scenario: Scenario, proxy: FaultProxy, jobs: dict[str, FaultJob]
) -> dict[str, Rule]:
    """Start all jobs; one request of each job of `ON_ITS_WAY` has left the service and is held by the network."""
    wanted = {**ON_ITS_WAY, COMMIT_BEFORE_FENCE: END_TXN}
    early = {INIT_PRODUCER_ID: None, PRODUCE: "read", ADD_PARTITIONS_TO_TXN: "read"}
    rules, holds = {}, {}
    for name, api_key in wanted.items():
        point = early.get(api_key, "prepared")
        if point is not None:
            skip = 2 if point == "prepared" else 0
            holds[name] = scenario.points.hold(point, job_id=jobs[name].id, skip=skip)
    rules["late-fence"] = proxy.on_request("hold_request", predicate=of(jobs["late-fence"], INIT_PRODUCER_ID))
    await scenario.start(*jobs.values())
    await scenario.reach(*holds.values())
    for name, hold in holds.items():
        rules[name] = proxy.on_request("hold_request", predicate=of(jobs[name], wanted[name]))
        hold.release()
    await asyncio.gather(*(happened(rule.triggered, 20, f"the request of {name}") for name, rule in rules.items()))
    return rules


def of(job: FaultJob, api_key: int) -> Callable[[bytes], bool]:
    """Requests of one kind that name the job: all of them carry its transactional id or its group."""

    def matches(request: bytes) -> bool:
        return bool(struct.unpack_from(">h", request)[0] == api_key) and job.id.encode() in request

    return matches
