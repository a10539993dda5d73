"""A job held at every place between two steps of a run, all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fault.scenario import FaultJob, Scenario
    from tests.support.signalled import Hold

BETWEEN_STEPS = {
    # name: point, how many pass before
    "plan-leased": ("leased", 0),
    "bounded": ("bounded", 0),
    "planned": ("planned", 0),
    "split-leased": ("leased", 1),
    "opened": ("opened", 0),
    "read": ("read", 0),
    "staged": ("staged", 0),
    "complete": ("complete", 0),
    "prepared": ("prepared", 0),
    "visible": ("visible", 0),
    "settled": ("settled", 0),
    "read-later": ("read", 1),
    "staged-later": ("staged", 3),
    "complete-later": ("complete", 3),
    "prepared-later": ("prepared", 3),
    "visible-later": ("visible", 3),
    "settled-later": ("settled", 3),
    "last-settled": ("settled", 5),
    "split-done": ("split_done", 0),
    "finish-leased": ("leased", 2),
    "checked": ("checked", 0),
    "finished": ("finished", 0),
}
AND_THE_NEXT_STEP = {"planned": ("leased", 1), "split-done": ("leased", 2)}
"""Held too: when a step has ended the next one is anybody's."""


async def held_between_steps(scenario: Scenario, **changes: Any) -> tuple[list[FaultJob], list[Hold]]:
    """A job for each line of `BETWEEN_STEPS`, each of them held there; `changes` as `Scenario.create` takes them."""
    jobs, holds = [], []
    for name, (point, skip) in BETWEEN_STEPS.items():
        job = await scenario.create(name, **changes)
        jobs.append(job)
        holds.append(scenario.points.hold(point, job_id=job.id, skip=skip))
        if name in AND_THE_NEXT_STEP:
            following, passed = AND_THE_NEXT_STEP[name]
            holds.append(scenario.points.hold(following, job_id=job.id, skip=passed))
    await scenario.start(*jobs)
    await scenario.reach(*holds)
    return jobs, holds
