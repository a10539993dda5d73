"""What a running step hears of its lease: by a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.control import MARGIN_SECONDS, Control, Ending
from service.domain.errors import Aborted, LeaseLost, Stopped
from service.domain.states import State
from service.domain.steps import Condition, Directive, Lease, StepKind

LEASE = Lease("job", 1, StepKind.SPLIT, 0, 4, "me", "run")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def directive(*, valid: bool = True, state: State = State.RUNNING, stop_in: float | None = None) -> Directive:
    return Directive(LEASE, valid, state, stop_in, 50.0, None, 12.0)


def make(clock: Clock, answers: list[Directive] | None = None, lease_seconds: float = 10.0) -> Control:
    async def renew(lease: Lease) -> Directive:
        return (answers or [directive()]).pop(0)

    async def report(lease: Lease, condition: Condition) -> None:
        raise AssertionError("nothing is reported here")

    return Control(LEASE, lease_seconds=lease_seconds, leased_at=clock.now, renew=renew, report=report, monotonic=clock)


async def test_the_holder_stops_itself_before_the_database_would_take_the_lease_away():
    clock = Clock()
    control = make(clock)
    clock.now += 10 - MARGIN_SECONDS - 0.01
    control.check()
    clock.now += 0.02
    with pytest.raises(LeaseLost):
        control.check()


async def test_a_renewal_counts_from_when_it_was_sent_not_from_when_it_was_answered():
    clock = Clock()
    control = make(clock)
    sent = clock.now
    clock.now += 6
    control.apply(directive(), sent)
    clock.now = sent + 10 - MARGIN_SECONDS + 0.01
    with pytest.raises(LeaseLost):
        control.check()


async def test_a_settle_brings_directives_but_does_not_extend_the_lease():
    clock = Clock()
    control = make(clock)
    before = control.expires_at
    clock.now += 5
    control.apply(directive())
    assert control.expires_at == before
    assert control.rows_per_second == 50.0
    assert control.max_without_progress_seconds == 12.0


async def test_stopping_and_failing_jobs_ask_the_step_to_park_within_the_time_given():
    for state in (State.STOPPING, State.FAILING):
        clock = Clock()
        control = make(clock)
        control.apply(directive(state=state, stop_in=7))
        assert control.stopping
        assert control.stop_at == clock.now + 7
        assert control.ending is None
        control.apply(directive(state=state, stop_in=30))
        assert control.stop_at == clock.now + 7


async def test_an_abort_cancels_the_task_at_once():
    control = make(Clock())
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    control.attach(task)
    await begun.wait()
    control.apply(directive(state=State.ABORTING))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert control.ending is Ending.ABORT


async def test_a_lost_lease_outweighs_an_abort():
    control = make(Clock())
    control.end(Ending.ABORT)
    control.apply(directive(valid=False))
    assert control.ending is Ending.LOST
    control.end(Ending.OVERDUE)
    assert control.ending is Ending.LOST


async def test_renewing_raises_what_the_store_says():
    with pytest.raises(LeaseLost):
        await make(Clock(), [directive(valid=False)]).renew()
    with pytest.raises(Aborted):
        await make(Clock(), [directive(state=State.ABORTING)]).renew()
    stopped = make(Clock(), [directive(state=State.STOPPING, stop_in=1)])
    await stopped.renew()
    assert stopped.stopping


async def test_a_stop_ends_a_pause():
    control = make(Clock())
    waiting = asyncio.create_task(control.pause(3600))
    control.park(1)
    with pytest.raises(Stopped):
        await waiting


async def test_a_step_that_has_ended_can_not_lose_its_lease():
    clock = Clock()
    control = make(clock)
    with control.last_write():
        control.apply(directive(valid=False), clock.now)
    control.end(Ending.LOST)
    assert control.ending is None
    control.end(Ending.OVERDUE)
    assert control.ending is Ending.OVERDUE


async def test_a_last_write_that_failed_ended_nothing():
    clock = Clock()
    control = make(clock)
    with pytest.raises(LeaseLost), control.last_write():
        raise LeaseLost
    control.apply(directive(valid=False), clock.now)
    assert control.ending is Ending.LOST


async def test_the_margin_of_a_short_lease_is_a_fifth_of_it():
    clock = Clock()
    control = make(clock, lease_seconds=1.0)
    assert control.expires_at == clock.now + 0.8
